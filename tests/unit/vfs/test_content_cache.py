"""The cache of contents: memory, disk, several processes, damage."""

import errno
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from devboxfs.core.chunks import BLOCK, MEDIUM, ContentKey
from devboxfs.core.extents import ExtentMap
from devboxfs.vfs import content_database
from devboxfs.vfs.content_cache import ContentCache
from devboxfs.vfs.content_store import ASIDE, ContentStore, Piece

MIB = 1024 * 1024


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@asynccontextmanager
async def opened(
    directory: Path, *, disk_limit: int = 64 * MIB, memory_limit: int = 16 * MIB
) -> AsyncIterator[ContentCache]:
    cache = ContentCache.open(directory, disk_limit=disk_limit, memory_limit=memory_limit)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cache.run)
        yield cache
        nursery.cancel_scope.cancel()
    await cache.aclose()


def content(number: int, size: int) -> tuple[ContentKey, bytes]:
    return ContentKey(number, 2, 3, size), random.Random(number).randbytes(size)


SIZES = [1, 4096, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5, MEDIUM + BLOCK + 1]


@pytest.mark.parametrize("size", SIZES)
async def test_what_was_put_is_there_and_still_there_after_reopening(
    tmp_path: Path, size: int
) -> None:
    key, data = content(1, size)
    async with opened(tmp_path) as cache:
        assert cache.get(key, 0, size) is None
        assert await cache.load(key, 0, size) is None
        cache.put(key, 0, data, size)
        assert cache.has(key)
        assert cache.get(key, 0, size + 100) == data
    async with opened(tmp_path) as cache:
        assert cache.get(key, 0, size) is None
        assert cache.has(key)
        statistics = cache.statistics()
        assert (statistics.disk_bytes, statistics.disk_contents) == (size, 1)
        for offset, length in ((0, size), (0, 1), (size - 1, 5), (size // 2, BLOCK)):
            assert await cache.load(key, offset, length) == data[offset : offset + length]
        assert cache.get(key, 0, size) == data


async def test_an_empty_content_needs_nothing(tmp_path: Path) -> None:
    key = ContentKey(1, 2, 3, 0)
    async with opened(tmp_path) as cache:
        assert cache.has(key)
        assert cache.get(key, 0, 100) == b""
        cache.put(key, 0, b"", 0)
        assert await cache.load(key, 0, 10) == b""


async def test_every_number_and_the_digest_tell_contents_apart(tmp_path: Path) -> None:
    keys = [
        ContentKey(1, 2, 3, 4),
        ContentKey(9, 2, 3, 4),
        ContentKey(1, 9, 3, 4),
        ContentKey(1, 2, 9, 4),
        ContentKey(1, 2, 3, 4, b"x" * 32),
        ContentKey(2**64 - 1, -5, -6, 4),
    ]
    async with opened(tmp_path) as cache:
        for number, key in enumerate(keys):
            assert not cache.has(key)
            cache.put(key, 0, b"%04d" % number, 4)
    async with opened(tmp_path) as cache:
        found = await cache.load_many(keys)
        assert found == {key: b"%04d" % number for number, key in enumerate(keys)}


async def test_a_part_is_no_whole(tmp_path: Path) -> None:
    key, data = content(1, 4 * BLOCK)
    async with opened(tmp_path) as cache:
        cache.put(key, BLOCK, data[BLOCK : 2 * BLOCK], key.size)
        assert not cache.has(key)
        assert cache.get(key, BLOCK + 1, 10) == data[BLOCK + 1 : BLOCK + 11]
        assert cache.get(key, BLOCK - 1, 10) is None
    async with opened(tmp_path) as cache:
        assert not cache.has(key)
        assert await cache.load(key, BLOCK, BLOCK) == data[BLOCK : 2 * BLOCK]
        assert await cache.load(key, 0, BLOCK) is None
        for block in (0, 2, 3):
            cache.put(key, block * BLOCK, data[block * BLOCK : (block + 1) * BLOCK], key.size)
    async with opened(tmp_path) as cache:
        assert cache.has(key)
        assert await cache.load(key, 0, key.size) == data


async def test_pieces_of_blocks_are_not_kept(tmp_path: Path) -> None:
    key, data = content(1, 3 * BLOCK)
    async with opened(tmp_path) as cache:
        cache.put(key, 10, data[10 : 2 * BLOCK + 10], key.size)
        assert cache.get(key, 10, 5) is None
        assert cache.get(key, BLOCK, BLOCK) == data[BLOCK : 2 * BLOCK]
        assert cache.get(key, 2 * BLOCK, 5) is None
        with pytest.raises(ValueError, match="bytes for a content"):
            cache.put(key, 0, data, 17)


async def test_memory_is_bounded_and_the_oldest_go_first(tmp_path: Path) -> None:
    limit = 8 * BLOCK
    cache = ContentCache(None, limit)
    keys = [content(number, BLOCK) for number in range(10)]
    for key, data in keys:
        cache.put(key, 0, data, BLOCK)
        cache.get(keys[0][0], 0, 1)
    assert cache.statistics().memory_bytes <= limit
    assert cache.get(keys[0][0], 0, BLOCK) == keys[0][1]
    assert cache.get(keys[1][0], 0, BLOCK) is None
    assert cache.get(keys[9][0], 0, BLOCK) == keys[9][1]


async def test_a_large_file_does_not_push_out_all_the_small_ones() -> None:
    cache = ContentCache(None, 16 * BLOCK)
    small = [content(number, BLOCK) for number in range(8)]
    for key, data in small:
        cache.put(key, 0, data, BLOCK)
    large, data = content(99, 40 * MIB)
    for offset in range(0, large.size, MIB):
        cache.put(large, offset, data[offset : offset + MIB], large.size)
    assert all(cache.get(key, 0, 1) is not None for key, _ in small)


async def test_disk_is_bounded_and_the_least_recently_used_go_first(tmp_path: Path) -> None:
    contents = [content(number, 3 * BLOCK) for number in range(20)]
    limit = 30 * BLOCK
    async with opened(tmp_path, disk_limit=limit) as cache:
        for key, data in contents[:8]:
            cache.put(key, 0, data, key.size)
    async with opened(tmp_path, disk_limit=limit) as cache:
        assert await cache.load(contents[0][0], 0, 10) == contents[0][1][:10]
        for key, data in contents[8:]:
            cache.put(key, 0, data, key.size)
            await cache._write_batch()
        assert cache.statistics().disk_bytes <= limit
    assert stored(tmp_path) <= limit
    async with opened(tmp_path, disk_limit=limit) as cache:
        there = [cache.has(key) for key, _ in contents]
        assert there[-3:] == [True] * 3
        assert not any(there[1:5])


def stored(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("files/*"))


async def test_forgotten_is_gone_everywhere(tmp_path: Path) -> None:
    small, small_data = content(1, 100)
    large, large_data = content(2, 3 * BLOCK)
    async with opened(tmp_path) as cache:
        for key, data in ((small, small_data), (large, large_data)):
            cache.put(key, 0, data, key.size)
    async with opened(tmp_path) as cache:
        for key, data in ((small, small_data), (large, large_data)):
            assert await cache.load(key, 0, key.size) == data
            cache.forget(key)
            assert not cache.has(key)
            assert cache.get(key, 0, 1) is None
            assert await cache.load(key, 0, 1) is None
    async with opened(tmp_path) as cache:
        assert not cache.has(small)
        assert not cache.has(large)
        assert list((tmp_path / "content-1" / "files").iterdir()) == []
        cache.put(small, 0, small_data, small.size)
        cache.forget(small)
        cache.put(small, 0, small_data, small.size)
    async with opened(tmp_path) as cache:
        assert await cache.load(small, 0, 100) == small_data


async def test_damaged_contents_are_misses(tmp_path: Path) -> None:
    small, small_data = content(1, 5000)
    large, large_data = content(2, 3 * BLOCK)
    async with opened(tmp_path) as cache:
        for key, data in ((small, small_data), (large, large_data)):
            cache.put(key, 0, data, key.size)
    [file] = (tmp_path / "content-1" / "files").iterdir()
    with file.open("r+b") as handle:
        handle.seek(BLOCK + 77)
        handle.write(bytes([large_data[BLOCK + 77] ^ 1]))
    database = sqlite3.connect(tmp_path / "content-1" / "index.sqlite")
    database.execute("UPDATE body SET data = ?", (small_data[:-1] + b"\0",))
    database.commit()
    database.close()
    async with opened(tmp_path) as cache:
        assert await cache.load(small, 0, 100) is None
        assert await cache.load(large, BLOCK, BLOCK) is None
        assert not cache.has(small)
        assert not cache.has(large)
        cache.put(large, 0, large_data, large.size)
    async with opened(tmp_path) as cache:
        assert await cache.load(large, 0, large.size) == large_data


@pytest.mark.parametrize("damage", ["lost", "short", "link"])
async def test_a_damaged_file_is_a_miss(tmp_path: Path, damage: str) -> None:
    key, data = content(2, 3 * BLOCK)
    async with opened(tmp_path) as cache:
        cache.put(key, 0, data, key.size)
    [file] = (tmp_path / "content-1" / "files").iterdir()
    if damage == "short":
        os.truncate(file, BLOCK + 5)
    else:
        file.unlink()
    if damage == "link":
        (tmp_path / "elsewhere").write_bytes(data)
        file.symlink_to(tmp_path / "elsewhere")
    async with opened(tmp_path) as cache:
        assert await cache.load(key, 2 * BLOCK, 10) is None


async def test_what_does_not_belong_there_is_removed(tmp_path: Path) -> None:
    key, data = content(1, 3 * BLOCK)
    async with opened(tmp_path) as cache:
        cache.put(key, 0, data, key.size)
    place = tmp_path / "content-1"
    (place / "foreign").mkdir()
    (place / "foreign" / "file").write_bytes(b"x")
    (place / "files" / "orphan").write_bytes(b"x" * 100)
    async with opened(tmp_path) as cache:
        assert await cache.load(key, 0, key.size) == data
        assert not (place / "foreign").exists()
        assert not (place / "files" / "orphan").exists()


@pytest.mark.parametrize("damage", [b"no database at all" * 500, b"", None])
async def test_a_damaged_database_is_begun_anew(
    tmp_path: Path, damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    keys = [content(number, 3000) for number in range(50)]
    async with opened(tmp_path) as cache:
        for key, data in keys:
            cache.put(key, 0, data, key.size)
    database = tmp_path / "content-1" / "index.sqlite"
    if damage is None:
        whole = database.read_bytes()
        database.write_bytes(whole[:4096] + bytes(len(whole) - 4096))
    else:
        database.write_bytes(damage)
    async with opened(tmp_path) as cache:
        key, data = keys[0]
        if await cache.load(key, 0, 3000) is None:
            cache.put(key, 0, data, 3000)
        await cache._write_batch()
        for number in range(100, 110):
            cache.put(*_put(number))
        await cache._write_batch()
    async with opened(tmp_path) as cache:
        for number in range(100, 110):
            key, data = content(number, 3000)
            found = await cache.load(key, 0, 3000)
            assert found in (None, data)
    async with opened(tmp_path) as cache:
        cache.put(*_put(200))
    async with opened(tmp_path) as cache:
        assert await cache.load(content(200, 3000)[0], 0, 3000) == content(200, 3000)[1]


def _put(number: int) -> tuple[ContentKey, int, bytes, int]:
    key, data = content(number, 3000)
    return key, 0, data, 3000


async def test_a_directory_that_cannot_be_used_leaves_the_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    async with opened(tmp_path / "file") as cache:
        key, data = content(1, 100)
        cache.put(key, 0, data, 100)
        assert cache.get(key, 0, 100) == data
        assert not cache.statistics().disk_ok
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small tmpfs")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


async def test_a_full_disk_is_no_error(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    contents = [content(number, 3 * BLOCK) for number in range(20)]
    async with opened(small_disk) as cache:
        for key, data in contents:
            cache.put(key, 0, data, key.size)
            await cache._write_batch()
        assert all(cache.get(key, 0, key.size) == data for key, data in contents)
        assert not cache.statistics().disk_ok
    assert len([r for r in caplog.records if "set aside" in r.getMessage()]) == 1
    async with opened(small_disk) as cache:
        for key, data in contents:
            assert await cache.load(key, 0, key.size) in (None, data)


async def test_the_queue_is_bounded() -> None:
    # Nothing writes it here.
    cache = ContentCache(None, 8 * BLOCK)
    cache._store = object()  # type: ignore[assignment]
    for number in range(20):
        key, data = content(number, BLOCK)
        cache.put(key, 0, data, BLOCK)
    statistics = cache.statistics()
    assert statistics.queued_bytes <= 4 * BLOCK
    assert statistics.dropped_bytes == 16 * BLOCK


WRITER = """
import random, sys
from pathlib import Path
from devboxfs.core.chunks import ContentKey
from devboxfs.vfs import content_database
from devboxfs.vfs.content_store import ContentStore, Piece
content_database.BUSY_TIMEOUT = 60
store = ContentStore.open(Path(sys.argv[1]), 1 << 30)
who = int(sys.argv[2])
for step in range(60):
    number = step if step % 2 else who * 1000 + step
    data = random.Random(number).randbytes(3000)
    store.write([Piece(ContentKey(number, 2, 3, 3000), 0, data)], [])
    large = random.Random(number).randbytes(300000)
    key = ContentKey(number, 2, 4, 300000)
    pieces = [Piece(key, n, large[n * 131072 : (n + 1) * 131072]) for n in range(3)]
    store.write(pieces, [ContentKey(number - 20, 2, 4, 300000)])
store.close()
"""


@pytest.mark.slow
def test_processes_share_it(tmp_path: Path) -> None:
    path = os.pathsep.join(sys.path)
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, tmp_path, str(who)],
            env={**os.environ, "PYTHONPATH": path},
        )
        for who in (1, 2, 3)
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    store = ContentStore.open(tmp_path, 1 << 30)
    whole, partial = store.rows()
    assert partial == []
    for who in (1, 2, 3):
        for step in range(0, 60, 2):
            key, data = content(who * 1000 + step, 3000)
            assert store.load(key, 0, 3000) == data
    for step in range(41, 60, 2):
        key = ContentKey(step, 2, 4, 300000)
        assert store.load(key, 0, 300000) == random.Random(step).randbytes(300000)
    names = {path.name for path in (tmp_path / "content-1" / "files").iterdir()}
    assert len(names) == sum(1 for row in whole if row[3] == 300000)
    store.close()


def test_one_process_hears_of_the_other(tmp_path: Path) -> None:
    one = ContentStore.open(tmp_path, 1 << 30)
    two = ContentStore.open(tmp_path, 1 << 30)
    one.write([Piece(ContentKey(1, 2, 3, 4), 0, b"data")], [])
    told = two.write([Piece(ContentKey(2, 2, 3, 4), 0, b"data")], [])
    assert {row[0] for row in told.whole} == {1, 2}
    one.close()
    two.close()


class Bytes:
    """A blob."""

    def __init__(self, data: bytes, *, broken: bool = False) -> None:
        self.data = data
        self.broken = broken

    def read(self, offset: int, length: int) -> bytes:
        if self.broken:
            raise OSError(errno.EIO, "gone")
        return self.data[offset : offset + length]


async def test_a_small_image_is_there_at_once(tmp_path: Path) -> None:
    image = ExtentMap(0)
    image.write(0, 5, Bytes(b"..hello"), 2)
    image.write(8, 3, Bytes(b"end"), 0)
    key = ContentKey(1, 2, 3, 11, b"d" * 32)
    async with opened(tmp_path) as cache:
        cache.put_image(key, image)
        assert cache.get(key, 0, 100) == b"hello\0\0\0end"
    async with opened(tmp_path) as cache:
        assert await cache.load(key, 0, 100) == b"hello\0\0\0end"


async def test_an_image_over_a_base(tmp_path: Path) -> None:
    base, data = content(1, 1000)
    image = ExtentMap(1000)
    image.write(10, 5, Bytes(b"hello"), 0)
    key = ContentKey(1, 5, 5, 1000)
    expected = data[:10] + b"hello" + data[15:]
    async with opened(tmp_path) as cache:
        cache.put_image(key, image, base=base)
        cache.put_image(key, image)
        assert not cache.has(key)
        cache.put(base, 0, data, 1000)
        cache.put_image(key, image, base=base)
        assert cache.get(key, 0, 1000) == expected


async def test_an_image_that_cannot_be_read_is_dropped(tmp_path: Path) -> None:
    image = ExtentMap(0)
    image.write(0, 5, Bytes(b"", broken=True), 0)
    async with opened(tmp_path) as cache:
        cache.put_image(ContentKey(1, 2, 3, 5), image)
        cache.put_image(ContentKey(1, 2, 3, 99), image)
        assert not cache.has(ContentKey(1, 2, 3, 5))
        assert not cache.has(ContentKey(1, 2, 3, 99))


async def test_a_large_image_comes_later(tmp_path: Path) -> None:
    size = 3 * MIB + 5
    base, data = content(1, size)
    written = random.Random(7).randbytes(MIB)
    image = ExtentMap(size)
    image.write(MIB + 7, MIB, Bytes(written), 0)
    key = ContentKey(1, 9, 9, size)
    # Without run(): the test takes the place of its task.
    cache = ContentCache.open(tmp_path, disk_limit=64 * MIB, memory_limit=16 * MIB)
    cache.put(base, 0, data, size)
    cache.put_image(key, image, base=base)
    assert not cache.has(key)
    await cache._keep_image(cache._images.popleft())
    assert cache.get(key, 0, size) == data[: MIB + 7] + written + data[2 * MIB + 7 :]
    await cache.aclose()
    async with opened(tmp_path) as cache:
        assert cache.has(key)


async def test_a_busy_database_drops_what_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content_database, "BUSY_TIMEOUT", 0.01)
    key, data = content(1, 5000)
    async with opened(tmp_path) as cache:
        cache._store._database._idle.pop().close()  # type: ignore[union-attr]
        other = sqlite3.connect(tmp_path / "content-1" / "index.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        cache.put(key, 0, data, key.size)
        await cache._write_batch()
        assert cache.statistics().dropped_bytes == 5000
        assert cache.get(key, 0, 5000) == data
        other.execute("ROLLBACK")
        other.close()
        cache.put(key, 0, data, key.size)
    assert caplog.records == []
    async with opened(tmp_path) as cache:
        assert await cache.load(key, 0, 5000) == data


async def test_giving_way_waits_for_nobody(tmp_path: Path) -> None:
    """What was laid aside goes at once, contents go in a thread, and writers may wait for them."""
    key, data = content(1, 5000)
    async with opened(tmp_path) as cache:
        store = cache._store
        assert store is not None
        cache.put(key, 0, data, key.size)
        await until(lambda: cache.on_disk(key) and cache._aside)
        assert not await cache.relieved()  # nobody asked for room
        [aside] = store._aside.parent.glob("aside-*")
        assert aside.stat().st_blocks * 512 >= ASIDE
        # Another process writes into the database: eviction has to wait for it.
        other = sqlite3.connect(tmp_path / "content-1" / "index.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert cache.give_way(100)
        assert not aside.exists()
        assert not cache.give_way(100)  # nothing is left that could go at once
        with trio.move_on_after(0.05) as scope:
            await cache.relieved()
        assert scope.cancelled_caught
        assert cache.on_disk(key)
        other.execute("ROLLBACK")
        other.close()
        await cache.relieved()
        assert not cache.on_disk(key)
        assert cache.statistics().disk_bytes == 0
        await until(lambda: cache._aside)  # for the next time
        assert cache.get(key, 0, 5000) == data
    assert not list(tmp_path.rglob("aside-*"))


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not condition():
            await trio.sleep(0.005)


async def test_closing_twice_is_fine(tmp_path: Path) -> None:
    async with opened(tmp_path) as cache:
        pass
    await cache.aclose()
    key, data = content(1, 100)
    cache.put(key, 0, data, 100)
    assert await cache.load(key, 0, 100) == data
