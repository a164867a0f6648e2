"""The file contract on a mounted directory: what the file API promises, by system calls."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from anyio import to_thread

from sealos_devbox import AsyncFiles, FileInfo, file_error
from sealos_devbox._async.values import file_info
from sealos_devbox.paths import box_path, path_text
from sealos_devbox.types import Attributes
from tests.contract.file_contract import FileContract
from tests.support.accounts import ACCOUNTS, LAUNCHER
from tests.support.mounts import MountedBox

pytestmark = pytest.mark.slow

T = TypeVar("T")
_numbers = itertools.count(1)

WHAT = frozenset(
    (
        "test_what_was_written_is_read",
        "test_ranges",
        "test_overwriting_keeps_the_mode_unless_told",
        "test_directories_on_the_way_are_made",
        "test_create_only",
        "test_odd_names",
        "test_ways_to_write_a_path",
        "test_what_is_not_there",
        "test_files_and_directories_are_not_the_same",
        "test_names_that_are_too_long",
        "test_listing",
        "test_a_large_directory_is_listed_whole",
        "test_making_directories",
        "test_removing_directories",
        "test_moving",
        "test_copying",
        "test_copying_a_directory",
    )
)
"""What means something for system calls, which have no versions, transfers and watches, and which
write in place."""


@contextmanager
def _ours(*paths: bytes) -> Iterator[None]:
    """Raise the error that the file API would have raised."""
    try:
        yield
    except OSError as error:
        ours = file_error(error.errno or errno.EIO, path_text(paths[0]))
        if len(paths) > 1:
            ours.filename2 = path_text(paths[1])
        raise ours from error


class FilesBySystemCalls:
    """The file API over a directory, each call in a thread."""

    def __init__(self, root: Path) -> None:
        self._root = os.fsencode(root)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self, f"_{name}")

        async def call(*args: object, **options: object) -> object:
            return await to_thread.run_sync(lambda: method(*args, **options))

        return call

    def _wire(self, path: Any) -> bytes:
        return box_path(path, self._root)

    def _here(self, wire: bytes) -> bytes:
        return self._root + b"/" + wire if wire else self._root

    def _info(self, wire: bytes) -> FileInfo:
        seen = os.lstat(self._here(wire))
        return file_info(
            wire,
            Attributes(
                mode=seen.st_mode,
                nlink=seen.st_nlink,
                uid=seen.st_uid,
                gid=seen.st_gid,
                size=seen.st_size,
                ino=seen.st_ino,
                mtime_ns=seen.st_mtime_ns,
                ctime_ns=seen.st_ctime_ns,
                atime_ns=seen.st_atime_ns,
                blocks=seen.st_blocks,
                target=None,
            ),
        )

    def _make(self, wire: bytes) -> None:
        """Make a directory and those above it."""
        missing = []
        while wire and not os.path.isdir(self._here(wire)):
            missing.append(wire)
            wire = wire.rpartition(b"/")[0]
        for one in reversed(missing):
            try:
                os.mkdir(self._here(one))
            except FileExistsError:
                raise NotADirectoryError(errno.ENOTDIR, "") from None

    def _write_file(
        self,
        path: Any,
        data: bytes | str,
        *,
        mode: int | None = None,
        create_only: bool = False,
        parents: bool = True,
    ) -> FileInfo:
        wire = self._wire(path)
        content = data.encode() if isinstance(data, str) else data
        flags = os.O_WRONLY | os.O_CREAT | (os.O_EXCL if create_only else os.O_TRUNC)
        with _ours(wire):
            if parents and len(wire) < 4096:
                self._make(wire.rpartition(b"/")[0])
            descriptor = os.open(self._here(wire), flags, 0o666)
            try:
                view = memoryview(content)
                while view:
                    view = view[os.write(descriptor, view) :]
                if mode is not None:
                    os.fchmod(descriptor, mode)
            finally:
                os.close(descriptor)
            return self._info(wire)

    def _read_file(self, path: Any, *, offset: int = 0, length: int | None = None) -> bytes:
        if offset < 0 or (length or 0) < 0:
            raise ValueError("offset and length cannot be negative")
        wire = self._wire(path)
        with _ours(wire), open(self._here(wire), "rb") as file:
            file.seek(offset)
            return file.read(-1 if length is None else length)

    def _get_file_info(self, path: Any) -> FileInfo:
        wire = self._wire(path)
        with _ours(wire):
            return self._info(wire)

    def _exists(self, path: Any) -> bool:
        return os.path.lexists(self._here(self._wire(path)))

    def _list_dir(self, path: Any = ".") -> list[FileInfo]:
        wire = self._wire(path)
        with _ours(wire):
            prefix = wire + b"/" if wire else b""
            return [self._info(prefix + name) for name in sorted(os.listdir(self._here(wire)))]

    def _make_dir(
        self, path: Any, *, mode: int | None = None, parents: bool = True, exist_ok: bool = True
    ) -> None:
        wire = self._wire(path)
        here = self._here(wire)
        with _ours(wire):
            if len(here) < 4096 and os.path.isdir(here):
                if not exist_ok:
                    raise FileExistsError(errno.EEXIST, "")
                return
            if parents and len(here) < 4096:
                self._make(wire.rpartition(b"/")[0])
            os.mkdir(here)
            if mode is not None:
                os.chmod(here, mode)

    def _remove_dir(self, path: Any, *, recursive: bool = False) -> None:
        wire = self._wire(path)
        with _ours(wire):
            if not wire:
                raise OSError(errno.EBUSY, "")
            (shutil.rmtree if recursive else os.rmdir)(self._here(wire))

    def _delete(self, path: Any, *, missing_ok: bool = False) -> None:
        wire = self._wire(path)
        with _ours(wire):
            try:
                os.unlink(self._here(wire))
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def _move_path(self, source: Any, target: Any, *, overwrite: bool = False) -> None:
        wires = self._wire(source), self._wire(target)
        here, there = map(self._here, wires)
        with _ours(*wires):
            if not overwrite and os.path.lexists(there):
                os.lstat(here)
                raise FileExistsError(errno.EEXIST, "")
            os.rename(here, there)

    def _copy_path(
        self, source: Any, target: Any, *, overwrite: bool = False, recursive: bool = False
    ) -> None:
        wires = self._wire(source), self._wire(target)
        here, there = map(self._here, wires)
        with _ours(*wires):
            if not overwrite and os.path.lexists(there):
                raise FileExistsError(errno.EEXIST, "")
            if recursive:
                shutil.copytree(here, there)
            else:
                shutil.copy2(here, there)

    def _upload_files(self, files: list[tuple[bytes, str]]) -> None:
        for content, path in files:
            self._write_file(path, content)


@pytest.fixture(scope="module")
def mounted() -> Iterator[MountedBox]:
    [account] = [account for account in ACCOUNTS if account.uid == LAUNCHER]
    box = MountedBox(account)
    try:
        box.start()
        yield box
    finally:
        log = box.log_tail()
        complaints = box.close()
        assert not complaints, log


class TestMounted(FileContract):
    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def files(self, mounted: MountedBox) -> AsyncFiles:
        root = mounted.mount / f"contract-{next(_numbers)}"
        root.mkdir()
        return cast("AsyncFiles", FilesBySystemCalls(root))


for _name in dir(FileContract):
    if _name.startswith("test_") and _name not in WHAT:
        setattr(TestMounted, _name, None)
