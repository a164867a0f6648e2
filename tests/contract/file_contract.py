"""What the file API promises, whichever way leads to the box.

A test module subclasses FileContract and gives the fixture `files`: an object with the methods of
AsyncFiles on an empty workspace. Nothing here looks at the box by another way.
"""

import errno
import os
from collections.abc import Awaitable
from pathlib import Path

import anyio
import pytest

from sealos_devbox import (
    AsyncFiles,
    BoxFileError,
    BoxFileExistsError,
    BoxFileNotFoundError,
    BoxIsADirectoryError,
    BoxNotADirectoryError,
    ConflictError,
)
from tests.contract.file_transfer import TransferContract
from tests.contract.file_watching import FileWatchContract

ODD_NAMES = [
    "with space",
    "new\nline",
    "tab\tand\rreturn",
    "'single' and \"double\"",
    "-rf",
    "--help",
    "$HOME `id` $(id) ; & | > <",
    "back\\slash",
    "*?[a]{b}",
    "~",
    "ünïcödé",
    "\U0001f600",
    "e\u0301",  # not the same name as the next one, though it looks the same
    "\u00e9",
    "not utf-8: \udcff\udc80",
    "\x01\x7f",
    "x" * 255,
]


async def errno_of(call: Awaitable[object]) -> int | None:
    with pytest.raises(BoxFileError) as caught:
        await call
    assert isinstance(caught.value, OSError)
    return caught.value.errno


class FileContract(TransferContract, FileWatchContract):
    """Run for every transport, the synchronous facade, and mounted directories."""

    many = 3_000
    """Files in a large directory."""

    # ------------------------------------------------------------------------ whole files

    @pytest.mark.parametrize("size", [0, 1, 65536, 65537, (1 << 20), (1 << 20) + 1, 5_000_000])
    async def test_what_was_written_is_read(self, files: AsyncFiles, size: int) -> None:
        data = os.urandom(size)
        written = await files.write_file("data", data)
        assert await files.read_file("data") == data
        info = await files.get_file_info("data")
        assert info == written
        assert info.version.matches(written.version)
        assert (info.path, info.name, info.type, info.size) == ("data", "data", "file", size)
        assert (info.link_count, info.target) == (1, None)

    async def test_text(self, files: AsyncFiles) -> None:
        await files.write_file("main.py", 'print("hällo")\r\n')
        assert await files.read_file("main.py") == 'print("hällo")\r\n'.encode()
        assert await files.read_text("main.py") == 'print("hällo")\r\n'
        await files.write_file("latin", b"\xe4")
        assert await files.read_text("latin", encoding="latin-1") == "ä"
        with pytest.raises(UnicodeDecodeError):
            await files.read_text("latin")

    @pytest.mark.parametrize("size", [10, 3_000_000])
    async def test_ranges(self, files: AsyncFiles, size: int) -> None:
        data = os.urandom(size)
        await files.write_file("data", data)
        for offset, length in [(0, 3), (2, 4), (size - 2, 100), (size, 5), (size + 9, 1), (0, 0)]:
            assert (
                await files.read_file("data", offset=offset, length=length)
                == (data[offset : offset + length])
            )
        assert await files.read_file("data", offset=3) == data[3:]
        assert await files.read_file("data", offset=size - 1) == data[-1:]
        with pytest.raises(ValueError, match="negative"):
            await files.read_file("data", offset=-1)

    async def test_overwriting_keeps_the_mode_unless_told(self, files: AsyncFiles) -> None:
        await files.write_file("script", "1", mode=0o750)
        assert (await files.get_file_info("script")).mode == 0o750
        await files.write_file("script", "2")
        assert (await files.get_file_info("script")).mode == 0o750
        await files.write_file("script", bytes(100_000))
        assert (await files.get_file_info("script")).mode == 0o750
        written = await files.write_file("script", "3", mode=0o600)
        assert written.mode == 0o600
        assert await files.read_file("script") == b"3"

    async def test_directories_on_the_way_are_made(self, files: AsyncFiles) -> None:
        await files.write_file("a/b/c/file", "x")
        assert await files.read_file("a/b/c/file") == b"x"
        assert await errno_of(files.write_file("d/e/file", "x", parents=False)) == errno.ENOENT
        assert not await files.exists("d")

    async def test_create_only(self, files: AsyncFiles) -> None:
        await files.write_file("new", "1", create_only=True)
        for data in ("2", bytes(100_000)):
            with pytest.raises(BoxFileExistsError) as caught:
                await files.write_file("new", data, create_only=True)
            assert caught.value.filename == "new"
        assert await files.read_file("new") == b"1"

    async def test_only_over_the_version_that_was_seen(self, files: AsyncFiles) -> None:
        first = await files.write_file("shared", "first")
        assert await files.read_file("shared", if_match=first.version) == b"first"
        second = await files.write_file("shared", "second", if_match=first.version)
        for stale in (
            files.write_file("shared", "third", if_match=first.version),
            files.read_file("shared", if_match=first.version),
            files.delete("shared", if_match=first.version),
        ):
            with pytest.raises(ConflictError) as caught:
                await stale
            assert caught.value.filename == "shared"
        assert await files.read_file("shared") == b"second"
        await files.delete("shared", if_match=second.version)
        with pytest.raises(ConflictError):
            await files.write_file("shared", "fourth", if_match=second.version)
        assert not await files.exists("shared")
        with pytest.raises(ValueError, match="both"):
            await files.write_file("x", "", if_match=second.version, create_only=True)

    async def test_writers_do_not_mix(self, files: AsyncFiles) -> None:
        contents = [bytes([number]) * 200_000 for number in range(8)]
        async with anyio.create_task_group() as tasks:
            for content in contents:
                tasks.start_soon(files.write_file, "contended", content)
        assert await files.read_file("contended") in contents
        assert [info.name for info in await files.list_dir()] == ["contended"]

    # ---------------------------------------------------------------------- names, errors

    @pytest.mark.parametrize("name", ODD_NAMES)
    async def test_odd_names(self, files: AsyncFiles, name: str) -> None:
        await files.write_file(f"{name}/{name}", name.encode("utf-8", "surrogateescape"))
        assert [info.name for info in await files.list_dir()] == [name]
        (inner,) = await files.list_dir(name)
        assert inner.path == f"{name}/{name}"
        assert await files.read_file(inner.path) == name.encode("utf-8", "surrogateescape")
        await files.copy_path(inner.path, f"{name}/copy")
        await files.move_path(f"{name}/copy", "moved")
        await files.delete("moved")
        await files.delete(os.fsencode(inner.path))
        await files.remove_dir(name)
        assert await files.list_dir() == []

    async def test_ways_to_write_a_path(self, files: AsyncFiles) -> None:
        await files.write_file("/workspace/dir/file", "x")
        for path in ("dir/file", "./dir//file", "dir/../dir/file", Path("dir/file"), b"dir/file"):
            assert await files.read_file(path) == b"x"
        assert [info.path for info in await files.list_dir("/workspace")] == ["dir"]
        assert (await files.get_file_info(".")).path == "."

    @pytest.mark.parametrize("path", ["..", "a/../../x", "/etc/passwd", "", "nul\0"])
    async def test_paths_that_lead_out(self, files: AsyncFiles, path: str) -> None:
        for call in (
            files.read_file(path),
            files.write_file(path, "x"),
            files.list_dir(path),
            files.delete(path),
            files.move_path("x", path),
            files.upload_files([(b"x", path)]),
        ):
            with pytest.raises(ValueError, match=r"path|outside|leads out"):
                await call

    async def test_what_is_not_there(self, files: AsyncFiles) -> None:
        for call in (
            files.read_file("nothing"),
            files.list_dir("nothing"),
            files.get_file_info("nothing"),
            files.delete("nothing"),
            files.remove_dir("nothing"),
            files.remove_dir("nothing", recursive=True),
            files.move_path("nothing", "x"),
            files.copy_path("nothing", "x"),
        ):
            with pytest.raises(FileNotFoundError) as caught:
                await call
            assert isinstance(caught.value, BoxFileNotFoundError)
            assert caught.value.filename == "nothing"
        assert not await files.exists("nothing")
        await files.delete("nothing", missing_ok=True)

    async def test_files_and_directories_are_not_the_same(self, files: AsyncFiles) -> None:
        await files.write_file("file", "x")
        await files.make_dir("dir")
        with pytest.raises(BoxIsADirectoryError):
            await files.read_file("dir")
        with pytest.raises(BoxIsADirectoryError):
            await files.write_file("dir", "x")
        with pytest.raises(BoxIsADirectoryError):
            await files.write_file("dir", bytes(100_000))
        with pytest.raises(BoxIsADirectoryError):
            await files.write_file(".", "x")
        with pytest.raises(BoxIsADirectoryError):
            await files.delete("dir")
        for call in (
            files.list_dir("file"),
            files.remove_dir("file"),
            files.remove_dir("file", recursive=True),
            files.read_file("file/below"),
            files.write_file("file/below", "x"),
            files.make_dir("file/below"),
        ):
            with pytest.raises(BoxNotADirectoryError):
                await call
        assert await files.read_file("file") == b"x"

    async def test_names_that_are_too_long(self, files: AsyncFiles) -> None:
        too_long = "n" * 256
        assert await errno_of(files.write_file(too_long, "x")) == errno.ENAMETOOLONG
        assert await errno_of(files.read_file(too_long)) == errno.ENAMETOOLONG
        assert await errno_of(files.make_dir("d/" * 2600)) == errno.ENAMETOOLONG

    # ------------------------------------------------------------------------- directories

    async def test_listing(self, files: AsyncFiles) -> None:
        assert await files.list_dir() == []
        await files.write_file("b", "12345")
        await files.write_file("a", "")
        await files.make_dir("c/inner")
        listed = await files.list_dir(".")
        assert [(info.path, info.type) for info in listed] == [
            ("a", "file"),
            ("b", "file"),
            ("c", "directory"),
        ]
        assert listed[1] == await files.get_file_info("b")
        assert [info.path for info in await files.list_dir("c")] == ["c/inner"]
        assert [info.is_dir for info in listed] == [False, False, True]
        assert [info.is_file for info in listed] == [True, True, False]

    @pytest.mark.slow
    async def test_a_large_directory_is_listed_whole(self, files: AsyncFiles) -> None:
        names = [f"name-{number:05}-{'x' * 60}" for number in range(self.many)]
        await files.upload_files([(b"", f"many/{name}") for name in names])
        assert [info.name for info in await files.list_dir("many")] == names

    async def test_making_directories(self, files: AsyncFiles) -> None:
        await files.make_dir("a/b", mode=0o700)
        assert (await files.get_file_info("a/b")).mode == 0o700
        assert (await files.get_file_info("a")).mode != 0o700
        await files.make_dir("a/b")
        await files.make_dir(".")
        with pytest.raises(BoxFileExistsError):
            await files.make_dir("a/b", exist_ok=False)
        with pytest.raises(BoxFileExistsError):
            await files.make_dir(".", exist_ok=False)
        with pytest.raises(BoxFileNotFoundError):
            await files.make_dir("c/d", parents=False)
        await files.write_file("file", "x")
        with pytest.raises(BoxFileExistsError):
            await files.make_dir("file")

    async def test_removing_directories(self, files: AsyncFiles) -> None:
        await files.write_file("a/b/c", "x")
        assert await errno_of(files.remove_dir("a")) == errno.ENOTEMPTY
        await files.remove_dir("a", recursive=True)
        assert await files.list_dir() == []
        await files.make_dir("empty")
        await files.remove_dir("empty")
        assert await files.list_dir() == []
        assert await errno_of(files.remove_dir(".", recursive=True)) == errno.EBUSY

    # -------------------------------------------------------------------- moving, copying

    async def test_moving(self, files: AsyncFiles) -> None:
        before = await files.write_file("a/file", "x", mode=0o640)
        await files.move_path("a/file", "b")
        assert not await files.exists("a/file")
        after = await files.get_file_info("b")
        assert (after.mode, after.mtime_ns) == (before.mode, before.mtime_ns)
        await files.write_file("other", "y")
        with pytest.raises(BoxFileExistsError) as caught:
            await files.move_path("b", "other")
        assert (caught.value.filename, caught.value.filename2) == ("b", "other")
        assert await files.read_file("other") == b"y"
        await files.move_path("b", "other", overwrite=True)
        assert await files.read_file("other") == b"x"
        assert not await files.exists("b")
        await files.make_dir("dir/sub")
        await files.move_path("dir", "renamed")
        assert [info.path for info in await files.list_dir("renamed")] == ["renamed/sub"]
        assert await errno_of(files.move_path("renamed", "renamed/sub/x")) == errno.EINVAL

    async def test_copying(self, files: AsyncFiles) -> None:
        before = await files.write_file("file", b"\0" * 300_000, mode=0o640)
        await files.copy_path("file", "copy")
        after = await files.get_file_info("copy")
        assert (after.mode, after.mtime_ns, after.size) == (
            before.mode,
            before.mtime_ns,
            before.size,
        )
        assert await files.read_file("copy") == await files.read_file("file")
        await files.write_file("other", "y")
        with pytest.raises(BoxFileExistsError):
            await files.copy_path("file", "other")
        await files.copy_path("copy", "other", overwrite=True)
        assert (await files.get_file_info("other")).size == 300_000

    async def test_copying_a_directory(self, files: AsyncFiles) -> None:
        await files.write_file("dir/a/file", "x")
        await files.make_dir("dir/empty")
        with pytest.raises(BoxIsADirectoryError):
            await files.copy_path("dir", "copy")
        await files.copy_path("dir", "copy", recursive=True)
        assert [info.path for info in await files.list_dir("copy")] == ["copy/a", "copy/empty"]
        assert await files.read_file("copy/a/file") == b"x"
        assert await files.read_file("dir/a/file") == b"x"


class WeakFileContract(FileContract):
    """What the box's own tools keep of it: changes are found by looking, in any order."""

    many = 300  # each costs some ten processes

    async def test_changes_are_seen(self, files: AsyncFiles) -> None:
        async def seen(*wanted: tuple[str, str]) -> None:
            missing = set(wanted)
            while missing:
                event = await watch.receive()
                assert event is not None
                missing.discard((event.kind, event.path))

        await files.make_dir("dir")
        with anyio.fail_after(50):
            async with files.watch() as watch:
                await files.write_file("dir/file", "x")
                await seen(("created", "dir/file"))
                await files.move_path("dir/file", "moved")
                # Two things to who was not there.
                await seen(("deleted", "dir/file"), ("created", "moved"))
                await files.delete("moved")
                await files.write_file("new/file", "y")
                await seen(("deleted", "moved"), ("created", "new"), ("created", "new/file"))
