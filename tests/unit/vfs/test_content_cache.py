"""The cache of contents: what was put is there, in memory and after reopening, within bounds."""

from pathlib import Path

import pytest

from devboxfs.core.chunks import BLOCK, MEDIUM, ContentKey
from devboxfs.vfs.content_cache import ContentCache
from tests.unit.vfs.contents import MIB, content, opened


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


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
            await cache._disk.write_batch()
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


async def test_closing_twice_is_fine(tmp_path: Path) -> None:
    async with opened(tmp_path) as cache:
        pass
    await cache.aclose()
    key, data = content(1, 100)
    cache.put(key, 0, data, 100)
    assert await cache.load(key, 0, 100) == data
