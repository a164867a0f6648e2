"""The cache of file contents: memory in front, the disk behind it, shared by mounts of one box.

Blocks in memory, and the calls of the cache. content_disk.py has what is on disk and on its way
there, content_images.py the contents of flushed files, giving_way.py what a full disk is given
back.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trio

from devboxfs.core.chunks import BLOCK, MEDIUM, ContentKey, block_count, block_length
from devboxfs.core.extents import ExtentMap
from devboxfs.vfs.block_pool import BlockPool
from devboxfs.vfs.content_disk import ContentDisk
from devboxfs.vfs.content_images import ImageKeeper
from devboxfs.vfs.giving_way import GivingWay

__all__ = ["DISK_LIMIT", "MEMORY_LIMIT", "CacheStatistics", "ContentCache", "ContentKey"]

DISK_LIMIT = 4 * 1024**3
MEMORY_LIMIT = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """Figures of a cache at one moment."""

    memory_bytes: int
    disk_bytes: int
    disk_contents: int
    queued_bytes: int
    dropped_bytes: int
    disk_ok: bool


class ContentCache:
    """Contents of one box by key. Not for use from several threads."""

    def __init__(self, disk: ContentDisk | None, memory_limit: int) -> None:
        """Use `open()`; without a disk it is a cache in memory."""
        self.memory_limit = memory_limit
        # Blocks of large files have a pool of their own, at most half of memory as soon as others
        # need it: a large file read once must not push out all the small ones.
        self._small = BlockPool()
        self._large = BlockPool()
        self._disk = disk or ContentDisk(None, _queue_limit(memory_limit))
        self._queue = self._disk.queue
        self._images = ImageKeeper(self, self._disk)
        self.giving_way = GivingWay(self._disk)

    @classmethod
    def open(
        cls, directory: Path, *, disk_limit: int = DISK_LIMIT, memory_limit: int = MEMORY_LIMIT
    ) -> ContentCache:
        """Open the cache of one box, made if need be; reads the index of what is on disk.

        Without a usable directory it is a cache in memory.
        """
        disk = ContentDisk.open(directory, disk_limit, _queue_limit(memory_limit))
        return cls(disk, memory_limit)

    async def run(self) -> None:
        """Write behind until cancelled; contents are written only while this runs."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._images.run)
            nursery.start_soon(self.giving_way.run)
            await self._disk.run()

    async def aclose(self) -> None:
        """Write what is queued, within a few seconds, and close the disk's part. Idempotent."""
        await self._disk.aclose()

    # Memory

    def get(self, key: ContentKey, offset: int, length: int) -> bytes | None:
        """Return that part of a content if it is in memory; cut at the end. Never waits."""
        end = min(offset + length, key.size)
        if offset >= end:
            return b""
        first, last = offset // BLOCK, (end - 1) // BLOCK
        if first == last:
            block = self._block(key, first)
            if block is None:
                return None
            start = offset - first * BLOCK
            if start == 0 and end - offset == len(block):
                return block
            return block[start : start + end - offset]
        parts: list[bytes | memoryview] = []
        for number in range(first, last + 1):
            block = self._block(key, number)
            if block is None:
                return None
            start = number * BLOCK
            if start < offset or start + len(block) > end:
                parts.append(memoryview(block)[max(0, offset - start) : end - start])
            else:
                parts.append(block)
        return b"".join(parts)

    def _block(self, key: ContentKey, number: int) -> bytes | None:
        pool = self._large if key.size > MEDIUM else self._small
        block = (key, number)
        data = pool.items.get(block)
        if data is None:
            return self._queue.items.get(block)
        pool.items.move_to_end(block)
        return data

    def holds(self, key: ContentKey, block: int) -> bool:
        """Whether a block is in memory; leaves the order of use as it is."""
        pool = self._large if key.size > MEDIUM else self._small
        return (key, block) in pool.items or (key, block) in self._queue.items

    def in_memory(self, key: ContentKey) -> bool:
        """Whether the whole content is in memory."""
        if 0 < key.size <= BLOCK:
            return self.holds(key, 0)
        return all(self.holds(key, number) for number in range(block_count(key.size)))

    def on_disk(self, key: ContentKey) -> bool:
        """Whether the content, or a part of it, is believed to be on disk."""
        return self._disk.index.holds_some(key)

    def has(self, key: ContentKey) -> bool:
        """Whether the whole content is known to be in memory or on disk."""
        return key.size == 0 or self._disk.index.holds_whole(key) or self.in_memory(key)

    def put(self, key: ContentKey, offset: int, data: bytes, size: int) -> None:
        """Keep a part of a content whose whole size is `size`; written to disk behind.

        Only whole blocks are kept. Raises ValueError when `size` is not the key's.
        """
        self._put(key, offset, data, size, to_disk=True)

    def _put(self, key: ContentKey, offset: int, data: bytes, size: int, *, to_disk: bool) -> None:
        if size != key.size:
            raise ValueError(f"{size} bytes for a content of {key.size}")
        pool = self._large if size > MEDIUM else self._small
        end = min(offset + len(data), size)
        number = -(-offset // BLOCK)
        while number * BLOCK < end:
            start = number * BLOCK
            stop = start + block_length(size, number)
            if stop > end:
                break
            whole = start == offset and stop - start == len(data)
            block = (key, number)
            content = data if whole else data[start - offset : stop - offset]
            pool.add(block, content)
            if to_disk:
                self._disk.enqueue(block, content)
            number += 1
        self._trim()

    def _trim(self) -> None:
        small, large = self._small, self._large
        while small.bytes + large.bytes > self.memory_limit:
            crowded = large.bytes > self.memory_limit // 2 or not small.items
            (large if crowded else small).pop_oldest()

    def forget(self, key: ContentKey) -> None:
        """Drop a content everywhere."""
        self._small.discard_content(key)
        self._large.discard_content(key)
        self._disk.forget(key)

    def statistics(self) -> CacheStatistics:
        """Return the figures of this moment."""
        return CacheStatistics(
            memory_bytes=self._small.bytes + self._large.bytes,
            disk_bytes=self._disk.index.bytes,
            disk_contents=self._disk.index.contents,
            queued_bytes=self._queue.bytes,
            dropped_bytes=self._disk.dropped_bytes,
            disk_ok=self._disk.ok,
        )

    def put_image(
        self, key: ContentKey, image: ExtentMap, *, base: ContentKey | None = None
    ) -> None:
        """Keep the content of a file that was just flushed; `image` must not change afterwards.

        `base` is the key of what lies below the extents, for images that need it. Kept at once
        when it is small, later in a thread otherwise; dropped when that cannot keep up, or when
        the base is not cached.
        """
        self._images.put(key, image, base=base)

    # Memory and disk

    async def load(self, key: ContentKey, offset: int, length: int) -> bytes | None:
        """Return that part of a content if it is in memory or on disk."""
        found = self.get(key, offset, length)
        if found is not None or not self.on_disk(key):
            return found
        start = offset // BLOCK * BLOCK
        end = min(key.size, -(-(offset + length) // BLOCK) * BLOCK)
        data = await self._disk.load(key, start, end - start)
        if data is None:
            return None
        self._put(key, start, data, key.size, to_disk=False)
        if start == offset and length >= len(data):
            return data
        return data[offset - start : offset - start + length]

    async def load_many(self, keys: list[ContentKey]) -> dict[ContentKey, bytes]:
        """Return those whole contents of at most one block that are on disk, in one go."""
        wanted = [key for key in keys if key.size <= BLOCK and self.on_disk(key)]
        if not wanted:
            return {}
        found = await self._disk.load_many(wanted)
        for key, data in found.items():
            self._put(key, 0, data, key.size, to_disk=False)
        return found


def _queue_limit(memory_limit: int) -> int:
    return min(memory_limit // 2, 32 * 1024**2)
