"""The file API of a box."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

from sealos_devbox._async import transfer
from sealos_devbox._async.connection import Connection, Link
from sealos_devbox._async.deadline import (
    IDLE_TIMEOUT,
    TIMEOUT,
    Progress,
    deadline,
    run_while_advancing,
)
from sealos_devbox._async.reading import read_all
from sealos_devbox._async.transfer import Source, SourceT
from sealos_devbox._async.values import FileInfo, TransferResult, file_info
from sealos_devbox._async.watch import AsyncWatch
from sealos_devbox._async.writing import (
    Builder,
    MemoryContent,
    Write,
    apply_resolving,
    look,
    write_whole,
)
from sealos_devbox.batch import ABSENT, ANY, Batch, is_version
from sealos_devbox.errors import BoxFileError, file_error
from sealos_devbox.paths import BoxPath, parent
from sealos_devbox.types import Attributes, Outcome, Version

__all__ = ["AsyncFiles"]


class AsyncFiles:
    """Files in a box's workspace.

    A path is relative to the workspace, or absolute: below the workspace's own path in the box, or
    below ``/workspace``, which means the workspace of any box that has no such directory itself.
    ValueError is raised for one that leads out of it. Symbolic links are followed, beneath the
    workspace only. Names that are not UTF-8 are str with surrogate escapes.

    What the box refuses is raised as BoxFileError, which is also the OSError that a local file
    would have given, with errno and filename; what breaks on the way as TransportError. A call
    that takes longer than `timeout` seconds, or makes no progress for `idle_timeout` seconds,
    raises DeadlineExceededError; a change may have happened all the same after either.
    """

    def __init__(self, connection: Connection, connect: Callable[[], Connection]) -> None:
        self._connection = connection
        self._connect = connect

    async def read_file(
        self,
        path: BoxPath,
        *,
        offset: int = 0,
        length: int | None = None,
        if_match: Version | None = None,
        timeout: float | None = None,
        idle_timeout: float | None = IDLE_TIMEOUT,
    ) -> bytes:
        """Return a file's content, or `length` bytes of it from `offset`.

        Never returns parts of two versions: a file that is changed while it is read is read again.
        With `if_match`, raises ConflictError when the file is of another version. One round trip
        for up to 1 MiB; then three, with the pieces under way at once.
        """
        if offset < 0 or (length is not None and length < 0):
            raise ValueError("offset and length cannot be negative")
        async with self._operation("Reading the file", timeout, path) as link:
            wire = await link.wire(path)
            try:
                return await read_all(
                    link,
                    wire,
                    offset=offset,
                    length=length,
                    version=if_match,
                    idle_timeout=idle_timeout,
                )
            except BoxFileError as error:
                if if_match is not None and error.errno == errno.ESTALE:
                    raise file_error(errno.ESTALE, wire, conflict=True) from None
                raise

    async def read_text(
        self,
        path: BoxPath,
        *,
        encoding: str = "utf-8",
        errors: str = "strict",
        timeout: float | None = None,
        idle_timeout: float | None = IDLE_TIMEOUT,
    ) -> str:
        """Return a file's content as text; line ends are left as they are."""
        content = await self.read_file(path, timeout=timeout, idle_timeout=idle_timeout)
        return content.decode(encoding, errors)

    async def write_file(
        self,
        path: BoxPath,
        data: str | bytes,
        *,
        mode: int | None = None,
        if_match: Version | None = None,
        create_only: bool = False,
        parents: bool = True,
        timeout: float | None = None,
        idle_timeout: float | None = IDLE_TIMEOUT,
    ) -> FileInfo:
        """Write a whole file and return what it is then; text is written as UTF-8.

        Readers in the box see the old content or the new one, never a part. An existing file keeps
        its mode unless `mode` is given, and stays the file that symbolic links lead to; one that
        has several names, or another owner, is written in place instead, without that guarantee.

        `if_match`: only over that version, else ConflictError. `create_only`: only where there is
        nothing, else BoxFileExistsError. `parents`: make the directories on the way. One round trip
        for a new file of up to 64 KiB, two otherwise; links cost more.
        """
        if if_match is not None and create_only:
            raise ValueError("a file cannot both be new and match a version")
        # Not bytes(data): that makes zeros of a number.
        content = data.encode() if isinstance(data, str) else bytes(memoryview(data))
        progress = Progress()
        write = Write(
            MemoryContent(content, progress),
            mode=mode,
            if_match=if_match,
            create_only=create_only,
            parents=parents,
        )
        async with self._operation("Writing the file", timeout, path) as link:
            wire = await link.wire(path)
            found, attr = await run_while_advancing(
                lambda: write_whole(link, wire, write), progress, idle_timeout, "Writing the file"
            )
        return file_info(found, attr)

    async def list_dir(
        self, path: BoxPath = ".", *, timeout: float | None = TIMEOUT
    ) -> list[FileInfo]:
        """Return what a directory holds, by name, links themselves. One round trip."""
        async with self._operation("Listing the directory", timeout, path) as link:
            wire = await link.wire(path)
            _, _, entries = await link.transport.list(wire, follow=True)
        below = wire + b"/" if wire else b""
        return [file_info(below + name, attr) for name, attr in sorted(entries)]

    async def make_dir(
        self,
        path: BoxPath,
        *,
        mode: int = 0o777,
        parents: bool = True,
        exist_ok: bool = True,
        timeout: float | None = TIMEOUT,
    ) -> None:
        """Make a directory, and with `parents` those on the way to it. One round trip.

        The box's umask is applied to `mode`, which is that of the last directory only. With
        `exist_ok` a directory that is there already is success; anything else there, or without
        `exist_ok` anything at all, raises BoxFileExistsError.
        """
        async with self._operation("Making the directory", timeout, path) as link:
            wire = await link.wire(path)
            if not wire:
                if exist_ok:
                    return
                raise file_error(errno.EEXIST, wire)
            umask = link.transport.peer.umask

            def build(batch: Batch, paths: list[bytes]) -> None:
                if parents and parent(paths[0]):
                    batch.mkdir(1, parent(paths[0]), ANY, 0o777 & ~umask, parents=True)
                batch.mkdir(2, paths[0], ABSENT, mode & ~umask)

            outcomes = await apply_resolving(link, [wire], build)
            refused = next((outcome for outcome in outcomes if outcome.errno), None)
            if refused is None:
                return
            if exist_ok and refused.seq == 2 and refused.errno == errno.EEXIST:
                there = refused.attr
                if there is not None and there.is_symlink:
                    _, there = await link.transport.stat(wire, follow=True)
                if there is not None and there.is_dir:
                    return
            # A file on the way: mkdir -p says EEXIST of it, everybody else ENOTDIR.
            on_the_way = refused.seq == 1 and refused.errno == errno.EEXIST
            raise file_error(errno.ENOTDIR if on_the_way else refused.errno, wire)

    async def remove_dir(
        self, path: BoxPath, *, recursive: bool = False, timeout: float | None = TIMEOUT
    ) -> None:
        """Remove an empty directory, or with `recursive` one with all it holds. One round trip."""

        def build(batch: Batch, paths: list[bytes]) -> None:
            if recursive:
                batch.rmtree(1, paths[0], ANY)
            else:
                batch.rmdir(1, paths[0], ANY)

        async with self._operation("Removing the directory", timeout, path) as link:
            wire = await link.wire(path)
            if not wire:
                raise file_error(errno.EBUSY, wire)
            _check(await apply_resolving(link, [wire], build), wire)

    async def delete(
        self,
        path: BoxPath,
        *,
        missing_ok: bool = False,
        if_match: Version | None = None,
        timeout: float | None = TIMEOUT,
    ) -> None:
        """Remove a file or a symbolic link itself; for a directory see `remove_dir`.

        `missing_ok`: having nothing there is success. `if_match`: only that version, else
        ConflictError. One round trip.
        """
        pre = ANY if if_match is None else is_version(if_match)

        def build(batch: Batch, paths: list[bytes]) -> None:
            batch.unlink(1, paths[0], pre)

        async with self._operation("Deleting the file", timeout, path) as link:
            wire = await link.wire(path)
            outcomes = await apply_resolving(link, [wire], build)
            if missing_ok and outcomes[0].errno == errno.ENOENT:
                return
            _check(outcomes, wire, conflict=if_match is not None)

    async def exists(
        self, path: BoxPath, *, follow_symlinks: bool = True, timeout: float | None = TIMEOUT
    ) -> bool:
        """Say whether there is anything; False for a link that leads nowhere. One round trip."""
        try:
            await self.get_file_info(path, follow_symlinks=follow_symlinks, timeout=timeout)
        except BoxFileError as error:
            # As os.path.exists(), but that what may not be looked at is not said to be absent.
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
                return False
            raise
        return True

    async def get_file_info(
        self, path: BoxPath, *, follow_symlinks: bool = True, timeout: float | None = TIMEOUT
    ) -> FileInfo:
        """Return what an object is; of a link itself without `follow_symlinks`. One round trip."""
        async with self._operation("Looking at the file", timeout, path) as link:
            wire = await link.wire(path)
            attr: Attributes | None
            if follow_symlinks:
                _, attr = await link.transport.stat(wire, follow=True)
            else:
                wire, attr = await look(link, wire, final=False)
        if attr is None:
            raise file_error(errno.ENOENT, wire)
        return file_info(wire, attr)

    async def move_path(
        self,
        source: BoxPath,
        destination: BoxPath,
        *,
        overwrite: bool = False,
        timeout: float | None = TIMEOUT,
    ) -> None:
        """Rename a file or directory; `destination` is its new path, not a directory to put it in.

        What is at `destination` raises BoxFileExistsError; with `overwrite` a file there is
        replaced in one step, and so is an empty directory by a directory. One round trip.
        """
        pre = ANY if overwrite else ABSENT

        def build(batch: Batch, paths: list[bytes]) -> None:
            batch.rename(1, paths[1], pre, paths[0], ANY)

        await self._two_paths("Moving the file", timeout, source, destination, build)

    async def copy_path(
        self,
        source: BoxPath,
        destination: BoxPath,
        *,
        recursive: bool = False,
        overwrite: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Copy within the box: content, mode, times, links and extended attributes.

        A directory needs `recursive`. `destination` is the path of the copy, which appears there
        all at once; what is there raises BoxFileExistsError, or with `overwrite` is replaced if it
        is a file. A symbolic link is copied as a link. One round trip.
        """
        pre = ANY if overwrite else ABSENT

        def build(batch: Batch, paths: list[bytes]) -> None:
            batch.copy(1, paths[1], pre, paths[0], ANY, recursive=recursive)

        await self._two_paths("Copying the file", timeout, source, destination, build)

    async def upload_files(
        self,
        files: Mapping[SourceT, BoxPath] | Iterable[tuple[Source, BoxPath]],
        *,
        parents: bool = True,
        preserve_mtime: bool = False,
        check: bool = True,
        timeout: float | None = None,
        idle_timeout: float | None = IDLE_TIMEOUT,
    ) -> list[TransferResult]:
        """Write many files: local ones (str or path object) or contents (bytes), each to its path.

        Every file is written as `write_file` would, but a local one brings its permission bits,
        and with `preserve_mtime` its mtime. Two round trips for each 8 MiB or 1,000 files; contents
        are read while they are sent. A file that fails does not stop the others: the error of the
        first is raised at the end, with a note of how many there were; with ``check=False`` the
        errors are in the results, which are in the order of `files`.
        """
        pairs: Iterable[tuple[Source, BoxPath]]
        pairs = files.items() if isinstance(files, Mapping) else files
        async with self._operation("The upload", timeout) as link:
            wanted = [(source, await link.wire(path)) for source, path in pairs]
            results = await transfer.upload(
                link,
                wanted,
                parents=parents,
                preserve_mtime=preserve_mtime,
                idle_timeout=idle_timeout,
            )
        return _checked(results) if check else results

    async def download_files(
        self,
        paths: Iterable[BoxPath],
        local_dir: str | os.PathLike[str],
        *,
        preserve_mtime: bool = False,
        check: bool = True,
        timeout: float | None = None,
        idle_timeout: float | None = IDLE_TIMEOUT,
    ) -> list[TransferResult]:
        """Copy files to this machine, each to its path in the workspace, below `local_dir`.

        Directories on the way are made. A file appears under its name when it is complete, with
        its permission bits as far as this process's umask leaves them; nothing is ever written
        outside of `local_dir`. One round trip for all files of up to 64 KiB; one more for each of
        up to 1 MiB, of which eight are under way at once; three in a row for each larger one, which
        is read in pieces. Errors as in `upload_files`.
        """
        if isinstance(paths, (str, bytes, os.PathLike)):
            raise TypeError("paths must be several paths, such as a list")
        async with self._operation("The download", timeout) as link:
            results = await transfer.download(
                link,
                [await link.wire(path) for path in paths],
                local_dir,
                preserve_mtime=preserve_mtime,
                idle_timeout=idle_timeout,
            )
        return _checked(results) if check else results

    def watch(
        self,
        path: BoxPath = ".",
        *,
        recursive: bool = True,
        timeout: float | None = TIMEOUT,
    ) -> AsyncWatch:
        """Watch a directory, with all below it unless `recursive` is false.

        Changes count from when the ``async with`` block is entered, those made by this client too.
        `timeout` is for entering.
        """
        return AsyncWatch(self._connect, path, recursive=recursive, timeout=timeout)

    @asynccontextmanager
    async def _operation(
        self, what: str, timeout: float | None, path: BoxPath | None = None
    ) -> AsyncIterator[Link]:
        with deadline(timeout, what), _named(path):
            async with self._connection.use() as link:
                yield link

    async def _two_paths(
        self,
        what: str,
        timeout: float | None,
        source: BoxPath,
        destination: BoxPath,
        build: Builder,
    ) -> None:
        with deadline(timeout, what), _named(source, destination):
            async with self._connection.use() as link:
                paths = [await link.wire(source), await link.wire(destination)]
                if not all(paths):
                    raise file_error(errno.EBUSY, b"")
                _check(await apply_resolving(link, paths, build), paths[0])


@contextmanager
def _named(path: BoxPath | None, second: BoxPath | None = None) -> Iterator[None]:
    """Give a file's error the name that the caller used, as the os module does."""
    try:
        yield
    except BoxFileError as error:
        if path is not None:
            error.filename = os.fspath(path)
        if second is not None:
            error.filename2 = os.fspath(second)
        raise


def _check(outcomes: list[Outcome], path: bytes, *, conflict: bool = False) -> None:
    for outcome in outcomes:
        if outcome.errno:
            raise file_error(outcome.errno, path, conflict=conflict and outcome.conflict)


def _checked(results: list[TransferResult]) -> list[TransferResult]:
    failed = [result for result in results if result.error is not None]
    if not failed:
        return results
    error = failed[0].error
    assert error is not None  # noqa: S101 - just selected by it
    error.add_note(f"{len(failed)} of {len(results)} files were not transferred")
    raise error
