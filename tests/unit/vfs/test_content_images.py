"""Images of flushed files in the cache of contents."""

import errno
import random
from pathlib import Path

import pytest

from devboxfs.core.chunks import ContentKey
from devboxfs.core.extents import ExtentMap
from devboxfs.vfs.content_cache import ContentCache
from tests.unit.vfs.contents import MIB, content, opened


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


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
    await cache._images.keep_waiting()
    assert cache.get(key, 0, size) == data[: MIB + 7] + written + data[2 * MIB + 7 :]
    await cache.aclose()
    async with opened(tmp_path) as cache:
        assert cache.has(key)
