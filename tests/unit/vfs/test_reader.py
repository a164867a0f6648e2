"""Reading through a real helper: contents, round trips, pinned files, reconnecting."""

import errno
import os
import random
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from devboxfs.core.chunks import BLOCK, MEDIUM, SMALL, ContentKey
from devboxfs.core.prefetch import PrefetchSource
from devboxfs.vfs.content_cache import ContentCache
from devboxfs.vfs.reader import Reader
from sealos_devbox import FileTransport
from tests.support.reading import DiskTree, File, Line, NoTree, make_tree, open_box

MIB = 1024 * 1024


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@dataclass
class Setting:
    root: Path
    transport: FileTransport
    line: Line
    cache: ContentCache
    reader: Reader

    async def whole(self, file: File, piece: int = BLOCK) -> bytes:
        """Read a file as the kernel does."""
        parts = []
        for offset in range(0, file.version.size, piece):
            parts.append(await self.reader.read(file, offset, piece))
        return b"".join(parts)

    async def check(self, files: list[File]) -> int:
        """Read files and compare; returns the round trips that it took."""
        before = self.transport.round_trips
        for file in files:
            expected = (self.root / os.fsdecode(file.path)).read_bytes()
            assert await self.whole(file) == expected
        return self.transport.round_trips - before


@asynccontextmanager
async def reading(
    root: Path, tree: PrefetchSource, state: Path, *, memory_limit: int = 64 * MIB
) -> AsyncIterator[Setting]:
    async with open_box(root) as transport, trio.open_nursery() as nursery:
        cache = ContentCache.open(state, disk_limit=1024 * MIB, memory_limit=memory_limit)
        nursery.start_soon(cache.run)
        line = Line(transport)
        reader = Reader(line, cache, tree)
        await nursery.start(reader.run)
        yield Setting(root, transport, line, cache, reader)
        nursery.cancel_scope.cancel()
    await cache.aclose()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree") / "box"
    make_tree(root, files=2000, directories=122, total=8_000_000, seed=1)
    return root


@pytest.mark.slow
async def test_a_cold_grep_over_2000_files(repository: Path, tmp_path: Path) -> None:
    tree = DiskTree(repository)
    async with reading(repository, tree, tmp_path) as setting:
        assert await setting.check(list(tree.walk())) <= 8
        statistics = setting.reader.statistics()
        assert statistics.prefetched_files == statistics.prefetched_used == 1999


@pytest.mark.slow
async def test_a_grep_that_lists_files_first(repository: Path, tmp_path: Path) -> None:
    tree = DiskTree(repository)
    files = [File(each.path, each.version) for each in tree.inside(b"", recursive=True)]
    async with reading(repository, tree, tmp_path) as setting:
        assert await setting.check(files) <= 8


@pytest.mark.slow
async def test_four_greps_at_once(repository: Path, tmp_path: Path) -> None:
    tree = DiskTree(repository)
    files = list(tree.walk())
    async with reading(repository, tree, tmp_path) as setting:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(setting.check, files)
        assert setting.transport.round_trips <= 8
        assert setting.reader.statistics().fetched_bytes == sum(f.version.size for f in files)


@pytest.mark.slow
async def test_a_copy_of_500_files(repository: Path, tmp_path: Path) -> None:
    tree = DiskTree(repository)
    async with reading(repository, tree, tmp_path) as setting:
        assert await setting.check(list(tree.walk())[:500]) <= 5
        assert setting.reader.statistics().prefetched_files < 1000


@pytest.mark.slow
async def test_after_remounting_the_disk_answers(repository: Path, tmp_path: Path) -> None:
    tree = DiskTree(repository)
    files = list(tree.walk())
    async with reading(repository, tree, tmp_path) as setting:
        await setting.check(files)
    async with reading(repository, tree, tmp_path) as setting:
        assert await setting.check(files) == 0
        assert setting.reader.statistics().disk_hits >= 2000


@pytest.mark.slow
async def test_random_reads_do_not_download_the_tree(repository: Path, tmp_path: Path) -> None:
    tree = DiskTree(repository)
    files = random.Random(3).sample(list(tree.walk()), 200)
    async with reading(repository, tree, tmp_path) as setting:
        await setting.check(files)
        assert setting.reader.statistics().prefetched_files < 1000


def git(where: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=where, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def make_repository(root: Path, *, packed: bool) -> list[File]:
    """Make a repository; returns what `git status` reads in it, in that order."""
    make_tree(root, files=2000, directories=122, total=4_000_000, seed=2)
    for number, place in enumerate(sorted(root.rglob("dir*"))):
        if number % 10 == 0:
            (place / ".gitignore").write_text("*.o\n")
    (root / ".gitignore").write_text("build/\n")
    git(root, "init", "-q", "-b", "main")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "one")
    tree = git(root, "rev-parse", "HEAD^{tree}")
    commit = git(root, "rev-parse", "HEAD")
    names = ["HEAD", "config", "info/exclude", "index", "refs/heads/main", "packed-refs"]
    wanted = [root / ".git" / name for name in names]
    wanted += sorted(root.rglob(".gitignore"))
    if packed:
        git(root, "gc", "-q")
        [pack] = (root / ".git/objects/pack").glob("*.pack")
        wanted += [pack.with_suffix(".idx"), pack]
    else:
        wanted += [root / ".git/objects" / sha[:2] / sha[2:] for sha in (commit, tree)]
    return [File.at(root, str(path.relative_to(root))) for path in wanted if path.exists()]


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
async def test_the_first_git_status(tmp_path: Path, packed: bool) -> None:
    root = tmp_path / "box"
    files = make_repository(root, packed=packed)
    assert len(files) > 15
    async with reading(root, DiskTree(root), tmp_path / "cache") as setting:
        for file in files:
            # The first 128 KiB: what git maps of a pack to begin with.
            data = await setting.reader.read(file, 0, BLOCK)
            assert data == (root / os.fsdecode(file.path)).read_bytes()[:BLOCK]
        assert setting.reader.statistics().misses <= 5
        assert setting.transport.round_trips <= 8


async def test_medium_files_come_whole(tmp_path: Path) -> None:
    root = tmp_path / "box"
    root.mkdir()
    data = random.Random(1).randbytes(3 * MIB + 5)
    (root / "medium").write_bytes(data)
    file = File.at(root, "medium")
    async with reading(root, NoTree(), tmp_path / "cache") as setting:
        assert (
            await setting.reader.read(file, 2 * MIB + 3, 100) == data[2 * MIB + 3 : 2 * MIB + 103]
        )
        assert await setting.whole(file) == data
        assert setting.transport.round_trips == 4


@pytest.mark.parametrize(
    "size", [SMALL - 1, SMALL, SMALL + 1, BLOCK, BLOCK + 1, MEDIUM, MEDIUM + 1]
)
async def test_sizes_at_the_borders(tmp_path: Path, size: int) -> None:
    root = tmp_path / "box"
    root.mkdir()
    data = random.Random(size).randbytes(size)
    (root / "file").write_bytes(data)
    file = File.at(root, "file")
    async with reading(root, NoTree(), tmp_path / "cache") as setting:
        assert await setting.whole(file, 100_000) == data
        assert await setting.reader.read(file, size - 1, 10) == data[-1:]
        assert await setting.reader.read(file, size, 10) == b""
        assert await setting.reader.read(file, 0, size + MIB) == data


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    root = tmp_path_factory.mktemp("large")
    data = random.Random(9).randbytes(24 * MIB + 77)
    (root / "large").write_bytes(data)
    return root, data


async def test_a_large_file_in_sequence(large: tuple[Path, bytes], tmp_path: Path) -> None:
    root, data = large
    file = File.at(root, "large")
    async with reading(root, NoTree(), tmp_path) as setting:
        assert await setting.whole(file) == data
        # One request for each MiB, and the one that opens it.
        assert setting.transport.round_trips <= 26
        assert setting.reader.statistics().fetched_bytes == len(data)


async def test_a_large_file_by_concurrent_pieces(large: tuple[Path, bytes], tmp_path: Path) -> None:
    root, data = large
    file = File.at(root, "large")
    async with reading(root, NoTree(), tmp_path) as setting:
        found: dict[int, bytes] = {}

        async def piece(offset: int) -> None:
            found[offset] = await setting.reader.read(file, offset, BLOCK)

        offsets = list(range(0, len(data), BLOCK))
        rng = random.Random(1)
        for start in range(0, len(offsets), 12):
            group = offsets[start : start + 12]
            rng.shuffle(group)
            async with trio.open_nursery() as nursery:
                for offset in group:
                    nursery.start_soon(piece, offset)
        assert b"".join(found[offset] for offset in offsets) == data
        assert setting.reader.statistics().fetched_bytes == len(data)


async def test_a_large_file_at_random(large: tuple[Path, bytes], tmp_path: Path) -> None:
    root, data = large
    file = File.at(root, "large")
    rng = random.Random(2)
    async with reading(root, NoTree(), tmp_path) as setting:
        for _ in range(30):
            offset = rng.randrange(2 * MIB, len(data))
            length = rng.randrange(1, 50_000)
            expected = data[offset : offset + length]
            assert await setting.reader.read(file, offset, length) == expected
        assert setting.reader.statistics().fetched_bytes <= 30 * 2 * BLOCK


async def test_a_memory_smaller_than_the_file(large: tuple[Path, bytes], tmp_path: Path) -> None:
    root, data = large
    file = File.at(root, "large")
    async with reading(root, NoTree(), tmp_path, memory_limit=4 * MIB) as setting:
        assert await setting.whole(file) == data
        assert setting.reader.statistics().fetched_bytes <= 1.1 * len(data)
        assert setting.cache.statistics().memory_bytes <= 4 * MIB


async def test_an_open_large_file_is_pinned(tmp_path: Path) -> None:
    root = tmp_path / "box"
    root.mkdir()
    old = random.Random(1).randbytes(20 * MIB)
    (root / "large").write_bytes(old)
    file = File.at(root, "large")
    async with reading(root, NoTree(), tmp_path / "cache") as setting:
        await setting.reader.pin(file)
        assert await setting.reader.read(file, 0, BLOCK) == old[:BLOCK]
        (root / "new").write_bytes(b"new" * MIB)
        (root / "new").rename(root / "large")
        assert await setting.whole(file) == old
        assert setting.transport.round_trips >= 20
        setting.reader.release(file.version)
        setting.cache.forget(ContentKey.of(file.version))
        with pytest.raises(OSError, match="tale") as caught:
            await setting.reader.read(file, 0, BLOCK)
        assert caught.value.errno == errno.ESTALE


async def test_a_pinned_file_without_a_name(tmp_path: Path) -> None:
    root = tmp_path / "box"
    root.mkdir()
    for name, size in (("small", 100), ("medium", MIB)):
        (root / name).write_bytes(b"x" * size)
        file = File.at(root, name)
        async with reading(root, NoTree(), tmp_path / "cache") as setting:
            await setting.reader.pin(file)
            (root / name).unlink()
            assert await setting.whole(file) == b"x" * size


async def test_written_in_place_is_stale(tmp_path: Path) -> None:
    root = tmp_path / "box"
    root.mkdir()
    (root / "large").write_bytes(bytes(20 * MIB))
    file = File.at(root, "large")
    async with reading(root, NoTree(), tmp_path / "cache") as setting:
        await setting.reader.pin(file)
        with (root / "large").open("r+b") as handle:
            handle.write(b"new")
        os.utime(root / "large", ns=(1, 1))
        with pytest.raises(OSError, match="tale") as caught:
            await setting.reader.read(file, 10 * MIB, 10)
        assert caught.value.errno == errno.ESTALE


@pytest.mark.parametrize("size", [100, MIB, 20 * MIB])
@pytest.mark.parametrize("change", ["removed", "replaced", "grown", "directory", "fifo"])
async def test_another_version_is_stale(tmp_path: Path, size: int, change: str) -> None:
    root = tmp_path / "box"
    root.mkdir()
    path = root / "file"
    path.write_bytes(b"x" * size)
    file = File.at(root, "file")
    if change == "grown":
        with path.open("ab") as handle:
            handle.write(b"y" * 200_000)
    else:
        path.unlink()
    if change == "replaced":
        path.write_bytes(b"y" * size)
        os.utime(path, ns=(1, 1))
    elif change == "directory":
        path.mkdir()
    elif change == "fifo":
        os.mkfifo(path)
    async with reading(root, NoTree(), tmp_path / "cache") as setting:
        for _ in range(2):
            with pytest.raises(OSError, match="tale") as caught:
                await setting.reader.read(file, 0, 10)
            assert caught.value.errno == errno.ESTALE
        if change in ("replaced", "grown"):
            expected = path.read_bytes()
            assert await setting.whole(File.at(root, "file")) == expected


async def test_a_stale_guess_spoils_nothing(tmp_path: Path) -> None:
    root = tmp_path / "box"
    make_tree(root, files=30, directories=1, total=30_000, seed=3)
    tree = DiskTree(root)
    files = list(tree.walk())
    changed = range(3, 20, 4)
    for number in changed:
        (root / os.fsdecode(files[number].path)).write_bytes(b"changed" * 20_000)
    async with reading(root, tree, tmp_path / "cache") as setting:
        for number, file in enumerate(files):
            if number in changed:
                with pytest.raises(OSError, match="tale"):
                    await setting.whole(file)
            else:
                await setting.check([file])
        statistics = setting.reader.statistics()
        assert statistics.prefetched_files >= 25


async def test_many_readers_of_one_file_make_one_request(tmp_path: Path) -> None:
    root = tmp_path / "box"
    root.mkdir()
    (root / "file").write_bytes(b"content")
    file = File.at(root, "file")
    async with reading(root, NoTree(), tmp_path / "cache") as setting:
        found: list[bytes] = []

        async def one() -> None:
            found.append(await setting.reader.read(file, 0, 100))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(one)
        assert found == [b"content"] * 50
        assert setting.transport.round_trips == 1


async def test_after_a_reconnect_handles_are_opened_again(
    large: tuple[Path, bytes], tmp_path: Path
) -> None:
    root, data = large
    file = File.at(root, "large")
    async with reading(root, NoTree(), tmp_path) as setting:
        half = len(data) // BLOCK // 2 * BLOCK
        parts = [await setting.reader.read(file, at, BLOCK) for at in range(0, half, BLOCK)]
        await setting.transport.aclose()
        async with open_box(root) as second:
            setting.line.set(second)
            parts += [
                await setting.reader.read(file, at, BLOCK) for at in range(half, len(data), BLOCK)
            ]
            assert b"".join(parts) == data
            assert second.round_trips > 0


async def test_releasing_closes_the_handle(large: tuple[Path, bytes], tmp_path: Path) -> None:
    root, _ = large
    file = File.at(root, "large")
    async with reading(root, NoTree(), tmp_path) as setting:
        for _ in range(3):
            await setting.reader.pin(file)
            setting.reader.release(file.version)
            setting.reader.release(file.version)
        handle, _ = await setting.transport.open(b"large")
        with trio.fail_after(10):
            for other in range(handle):
                while await is_open(setting.transport, other):
                    pass


async def is_open(transport: FileTransport, handle: int) -> bool:
    try:
        await transport.pread(handle, 0, 1)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
        return False
    return True
