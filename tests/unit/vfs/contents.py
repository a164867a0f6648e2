"""Contents for tests of their cache, and the cache itself."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from devboxfs.core.chunks import ContentKey
from devboxfs.vfs.content_cache import ContentCache

MIB = 1024 * 1024


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
