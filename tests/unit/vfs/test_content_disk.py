"""The disk behind the cache of contents: damage, others that use it, and no room."""

import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from devboxfs.core.chunks import BLOCK, ContentKey
from devboxfs.vfs import content_database
from devboxfs.vfs.content_cache import ContentCache
from devboxfs.vfs.content_store import ASIDE
from tests.unit.vfs.contents import content, opened


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


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
        await cache._disk.write_batch()
        for number in range(100, 110):
            cache.put(*_put(number))
        await cache._disk.write_batch()
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
            await cache._disk.write_batch()
        assert all(cache.get(key, 0, key.size) == data for key, data in contents)
        assert not cache.statistics().disk_ok
    assert len([r for r in caplog.records if "set aside" in r.getMessage()]) == 1
    async with opened(small_disk) as cache:
        for key, data in contents:
            assert await cache.load(key, 0, key.size) in (None, data)


async def test_the_queue_is_bounded(tmp_path: Path) -> None:
    # Without run(): nothing writes it here.
    cache = ContentCache.open(tmp_path, memory_limit=8 * BLOCK)
    for number in range(20):
        key, data = content(number, BLOCK)
        cache.put(key, 0, data, BLOCK)
    statistics = cache.statistics()
    assert statistics.queued_bytes <= 4 * BLOCK
    assert statistics.dropped_bytes == 16 * BLOCK
    await cache.aclose()


async def test_a_busy_database_drops_what_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content_database, "BUSY_TIMEOUT", 0.01)
    key, data = content(1, 5000)
    async with opened(tmp_path) as cache:
        cache._disk.store._database._idle.pop().close()  # type: ignore[union-attr]
        other = sqlite3.connect(tmp_path / "content-1" / "index.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        cache.put(key, 0, data, key.size)
        await cache._disk.write_batch()
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
        store = cache._disk.store
        assert store is not None
        cache.put(key, 0, data, key.size)
        await until(lambda: cache.on_disk(key) and cache.giving_way.aside)
        assert not await cache.giving_way.relieved()  # nobody asked for room
        [aside] = store._aside.parent.glob("aside-*")
        assert aside.stat().st_blocks * 512 >= ASIDE
        # Another process writes into the database: eviction has to wait for it.
        other = sqlite3.connect(tmp_path / "content-1" / "index.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert cache.giving_way.give_way(100)
        assert not aside.exists()
        assert not cache.giving_way.give_way(100)  # nothing is left that could go at once
        with trio.move_on_after(0.05) as scope:
            await cache.giving_way.relieved()
        assert scope.cancelled_caught
        assert cache.on_disk(key)
        other.execute("ROLLBACK")
        other.close()
        await cache.giving_way.relieved()
        assert not cache.on_disk(key)
        assert cache.statistics().disk_bytes == 0
        await until(lambda: cache.giving_way.aside)  # for the next time
        assert cache.get(key, 0, 5000) == data
    assert not list(tmp_path.rglob("aside-*"))


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not condition():
            await trio.sleep(0.005)
