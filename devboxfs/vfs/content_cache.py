"""The cache of file contents: memory in front, the disk behind it, shared by mounts of one box.

The disk is a convenience: whatever goes wrong there makes a miss, never an error. What is queued
for it is readable meanwhile, so nothing that was put is lost from sight before it is evicted.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import trio

from devboxfs.core.chunks import (
    BLOCK,
    MEDIUM,
    RANGE,
    ContentKey,
    block_count,
    block_length,
)
from devboxfs.core.extents import BasePiece, BlobPiece, ExtentMap, Piece
from devboxfs.vfs.block_pool import BlockId, BlockPool
from devboxfs.vfs.content_store import ContentStore, Row, Written, row_of
from devboxfs.vfs.content_store import Piece as StoredPiece

__all__ = ["DISK_LIMIT", "MEMORY_LIMIT", "CacheStatistics", "ContentCache", "ContentKey"]

_logger = logging.getLogger(__name__)

DISK_LIMIT = 4 * 1024**3
MEMORY_LIMIT = 64 * 1024**2

INLINE_IMAGE = 256 * 1024
"""Images up to this size are read from the journal at once: it is in the page cache."""

BATCH = 4 * 1024 * 1024
"""Bytes of one transaction."""

GATHER = 0.05
"""Seconds that the writer waits for more; a guess."""

REST = 3
"""The writer rests so many times as long as it wrote. Writing 100 MB into ext4's page cache took
0.35 s on two cores, and without rests halved the rate at which the same bytes were read; a link of
60 MB/s is still kept up with."""

IMAGES = 64
"""Large images that wait to be read; each holds its journal's blobs open."""

PAUSE = 60.0
"""Seconds without writing after the disk was full."""

ROOM = 4 * 1024 * 1024
"""Given back at least when the journal has no room: the next records want some, too."""

GIVE_AGAIN = 5.0
"""Seconds after everything was given back before it is tried again."""

RELIEF_TIMEOUT = 10.0
"""Seconds that a writer waits for contents to go from a full disk."""

CLOSE_TIMEOUT = 5.0

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """Figures of a cache at one moment."""

    memory_bytes: int
    disk_bytes: int
    disk_contents: int
    queued_bytes: int
    dropped_bytes: int
    disk_ok: bool


@dataclass(frozen=True, slots=True)
class _Image:
    key: ContentKey
    image: ExtentMap
    base: ContentKey | None


@dataclass(slots=True)
class _Given:
    """What a full disk was given back."""

    removed: list[Row] = field(default_factory=list)
    everything: bool = False
    totals: tuple[int, int] | None = None
    more: bool = False


class _Relief:
    """One time that contents go because the disk is full."""

    def __init__(self, nbytes: int, *, wanted: bool = True) -> None:
        self.nbytes = nbytes
        self.wanted = wanted
        self.gave = False
        self.done = trio.Event()


class ContentCache:
    """Contents of one box by key. Not for use from several threads."""

    def __init__(self, store: ContentStore | None, memory_limit: int) -> None:
        """Use `open()`."""
        self._store = store
        self.memory_limit = memory_limit
        # Blocks of large files have a pool of their own, at most half of memory as soon as others
        # need it: a large file read once must not push out all the small ones.
        self._small = BlockPool()
        self._large = BlockPool()
        self._queue = BlockPool()
        self._queue_limit = min(memory_limit // 2, 32 * 1024**2)
        self._forgotten: list[ContentKey] = []
        self._images: deque[_Image] = deque()
        self._whole: set[int] = set()
        self._partial: set[int] = set()
        self._wake = trio.Event()
        self._drained = trio.Event()
        self._image_wake = trio.Event()
        self._writing = trio.Lock()
        self._loaders = trio.CapacityLimiter(2)
        self._disk_bytes = 0
        self._disk_contents = 0
        self._dropped = 0
        self._paused_until = 0.0
        self._gave_all = 0.0
        """Until then there is nothing to give way with."""
        self._told = False
        self._running = False
        self._aside = False
        """Some room is laid aside."""
        self._relief = _Relief(0, wanted=False)
        self._room_wanted = trio.Event()

    @classmethod
    def open(
        cls, directory: Path, *, disk_limit: int = DISK_LIMIT, memory_limit: int = MEMORY_LIMIT
    ) -> ContentCache:
        """Open the cache of one box, made if need be; reads the index of what is on disk.

        Without a usable directory it is a cache in memory.
        """
        store: ContentStore | None = None
        cache = cls(None, memory_limit)
        try:
            store = ContentStore.open(directory, disk_limit)
            cache._learn(*store.rows())
            cache._disk_bytes, cache._disk_contents = store.totals()
        except (OSError, sqlite3.Error) as error:
            _logger.warning("no content cache on disk in %s: %s", directory, error)
            if store is not None:
                store.close()
        else:
            cache._store = store
        return cache

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
        mark = hash(row_of(key))
        return mark in self._whole or mark in self._partial

    def has(self, key: ContentKey) -> bool:
        """Whether the whole content is known to be in memory or on disk."""
        return key.size == 0 or hash(row_of(key)) in self._whole or self.in_memory(key)

    def put(self, key: ContentKey, offset: int, data: bytes, size: int) -> None:
        """Keep a part of a content whose whole size is `size`; written to disk behind.

        Only whole blocks are kept. Raises ValueError when `size` is not the key's.
        """
        self._put(key, offset, data, size, to_disk=True)

    def _put(self, key: ContentKey, offset: int, data: bytes, size: int, *, to_disk: bool) -> None:
        if size != key.size:
            raise ValueError(f"{size} bytes for a content of {key.size}")
        to_disk = to_disk and self._store is not None
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
                self._enqueue(block, content)
            number += 1
        self._trim()

    def _trim(self) -> None:
        small, large = self._small, self._large
        while small.bytes + large.bytes > self.memory_limit:
            crowded = large.bytes > self.memory_limit // 2 or not small.items
            (large if crowded else small).pop_oldest()

    def _enqueue(self, block: BlockId, data: bytes) -> None:
        if self._queue.bytes + len(data) > self._queue_limit:
            # The new one goes: what is queued already makes contents whole on disk.
            self._dropped += len(data)
            return
        self._queue.add(block, data)
        self._wake.set()

    def forget(self, key: ContentKey) -> None:
        """Drop a content everywhere."""
        for pool in (self._small, self._large, self._queue):
            pool.discard_content(key)
        mark = hash(row_of(key))
        self._whole.discard(mark)
        self._partial.discard(mark)
        if self._store is not None:
            # Even if the index does not know it: it may be on its way to the disk.
            self._forgotten.append(key)
            self._wake.set()

    def statistics(self) -> CacheStatistics:
        """Return the figures of this moment."""
        return CacheStatistics(
            memory_bytes=self._small.bytes + self._large.bytes,
            disk_bytes=self._disk_bytes,
            disk_contents=self._disk_contents,
            queued_bytes=self._queue.bytes,
            dropped_bytes=self._dropped,
            disk_ok=self._store is not None and trio.current_time() >= self._paused_until,
        )

    # Images of flushed files

    def put_image(
        self, key: ContentKey, image: ExtentMap, *, base: ContentKey | None = None
    ) -> None:
        """Keep the content of a file that was just flushed; `image` must not change afterwards.

        `base` is the key of what lies below the extents, for images that need it. Kept at once
        when it is small, later in a thread otherwise; dropped when that cannot keep up, or when
        the base is not cached.
        """
        if image.size != key.size or key.size == 0:
            return
        pieces = image.pieces(0, image.size)
        needs_base = any(isinstance(piece, BasePiece) for piece in pieces)
        if needs_base and (base is None or not self.has(base)):
            return
        if key.size > INLINE_IMAGE:
            if len(self._images) < IMAGES:
                self._images.append(_Image(key, image, base))
                self._image_wake.set()
            return
        parts: list[bytes] = []
        for piece in pieces:
            part = self._small_piece(piece, base)
            if part is None:
                return
            parts.append(part)
        self.put(key, 0, b"".join(parts), key.size)

    def _small_piece(self, piece: Piece, base: ContentKey | None) -> bytes | None:
        if isinstance(piece, BasePiece):
            found = None if base is None else self.get(base, piece.offset, piece.length)
            return found if found is not None and len(found) == piece.length else None
        return _read_piece(piece)

    async def _image_loop(self) -> None:
        while True:
            await self._image_wake.wait()
            if not self._images:
                self._image_wake = trio.Event()
                continue
            await self._keep_image(self._images.popleft())

    async def _keep_image(self, image: _Image) -> None:
        size = image.key.size
        for offset in range(0, size, RANGE):
            parts: list[bytes] = []
            for piece in image.image.pieces(offset, RANGE):
                if isinstance(piece, BasePiece):
                    part = None
                    if image.base is not None:
                        part = await self.load(image.base, piece.offset, piece.length)
                else:
                    part = await trio.to_thread.run_sync(_read_piece, piece, limiter=self._loaders)
                if part is None or len(part) != piece.length:
                    return
                parts.append(part)
            # Slower than the disk is fine here: nobody waits, and what is dropped is fetched again.
            while self._queue.bytes + RANGE > self._queue_limit and self._queue.items:
                await self._drained.wait()
            self.put(image.key, offset, b"".join(parts), size)

    # Disk

    async def load(self, key: ContentKey, offset: int, length: int) -> bytes | None:
        """Return that part of a content if it is in memory or on disk."""
        found = self.get(key, offset, length)
        if found is not None or not self.on_disk(key):
            return found
        start = offset // BLOCK * BLOCK
        end = min(key.size, -(-(offset + length) // BLOCK) * BLOCK)
        data = await self._on_disk(lambda store: store.load(key, start, end - start))
        if data is None:
            self._whole.discard(hash(row_of(key)))
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
        found = await self._on_disk(lambda store: store.load_many(wanted)) or {}
        for key in wanted:
            data = found.get(key)
            if data is None:
                self._whole.discard(hash(row_of(key)))
            else:
                self._put(key, 0, data, key.size, to_disk=False)
        return found

    async def _on_disk(self, work: Callable[[ContentStore], _T]) -> _T | None:
        """Do something with the store in a thread; None when the disk is of no use."""
        store = self._store
        if store is None:
            return None
        try:
            return await trio.to_thread.run_sync(work, store, limiter=self._loaders)
        except (OSError, sqlite3.Error) as error:
            await self._failed(store, error)
            return None

    async def run(self) -> None:
        """Write behind until cancelled; contents are written only while this runs."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._image_loop)
            nursery.start_soon(self._relieve)
            self._running = True
            try:
                await self._write_behind()
            finally:
                self._running = False

    async def _write_behind(self) -> None:
        if self._store is not None:
            self._aside = await trio.to_thread.run_sync(self._store.lay_aside)
        while True:
            await self._wake.wait()
            await trio.sleep(GATHER)
            while self._queue.items or self._forgotten:
                began = trio.current_time()
                await self._write_batch()
                await trio.sleep((trio.current_time() - began) * REST)
            self._wake = trio.Event()

    async def _write_batch(self) -> None:
        """Write some of what is queued."""
        async with self._writing:
            pieces: list[StoredPiece] = []
            taken = 0
            for (key, number), data in self._queue.items.items():
                pieces.append(StoredPiece(key, number, data))
                taken += len(data)
                if taken >= BATCH:
                    break
            forgotten, self._forgotten = self._forgotten, []
            if not pieces and not forgotten:
                return
            if self._store is not None and trio.current_time() >= self._paused_until:
                written = await self._write(self._store, pieces, forgotten)
            else:
                written = None
            # What was forgotten while the thread wrote it is in self._forgotten again.
            for piece in pieces:
                self._queue.discard((piece.key, piece.block))
            if written is None:
                self._dropped += taken
            else:
                for row in written.removed:
                    self._whole.discard(hash(row))
                    self._partial.discard(hash(row))
                self._learn(written.whole, written.partial)
                for key in self._forgotten:
                    self._whole.discard(hash(row_of(key)))
                    self._partial.discard(hash(row_of(key)))
                self._disk_bytes, self._disk_contents = written.bytes, written.entries
            self._drained.set()
            self._drained = trio.Event()

    async def _write(
        self, store: ContentStore, pieces: list[StoredPiece], forgotten: list[ContentKey]
    ) -> Written | None:
        try:
            return await trio.to_thread.run_sync(store.write, pieces, forgotten)
        except (OSError, sqlite3.Error) as error:
            await self._failed(store, error)
            return None

    def _learn(self, whole: list[Row], partial: list[Row]) -> None:
        marks = set(map(hash, whole))
        self._whole |= marks
        self._partial |= set(map(hash, partial))
        self._partial -= marks

    async def _failed(self, store: ContentStore, error: OSError | sqlite3.Error) -> None:
        """Give way: a full disk is left alone for a while, a damaged database is begun anew."""
        code = getattr(error, "sqlite_errorcode", None)
        if code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return
        if not self._told:
            self._told = True
            _logger.warning("the content cache on disk is set aside: %s", error)
        if code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            work: Callable[[], object] = store.discard
            self._whole.clear()
            self._partial.clear()
        else:
            self._paused_until = trio.current_time() + PAUSE
            work = store.shrink
        try:
            await trio.to_thread.run_sync(work)
        except (OSError, sqlite3.Error) as again:
            _logger.debug("the content cache on disk is of no use: %s", again)

    def give_way(self, nbytes: int) -> bool:
        """Give back room on a full disk that is not ours alone; whether there is more now.

        At once what was laid aside for that; contents go in a thread, see relieved(). Where nobody
        is served yet, they go here.
        """
        store, now = self._store, trio.current_time()
        if store is None:
            return False
        self._paused_until = now + PAUSE
        if not self._running:
            return now >= self._gave_all and self._took(_give(store, nbytes))
        if now >= self._gave_all and not self._relief.wanted:
            self._relief = _Relief(nbytes)
            self._room_wanted.set()
        given = self._aside and store.give_aside()
        self._aside = False
        return given

    async def relieved(self) -> bool:
        """Wait for contents that are on their way out of a full disk; whether there is room now."""
        relief = self._relief
        if not relief.wanted:
            return False
        with trio.move_on_after(RELIEF_TIMEOUT):
            await relief.done.wait()
        return relief.gave

    async def _relieve(self) -> None:
        """Give back contents when that is wanted."""
        while True:
            await self._room_wanted.wait()
            self._room_wanted = trio.Event()
            relief, store = self._relief, self._store
            try:
                if store is not None:
                    async with self._writing:
                        given = await trio.to_thread.run_sync(_give, store, relief.nbytes)
                        relief.gave = self._took(given)
                        self._aside = await trio.to_thread.run_sync(store.lay_aside)
            finally:
                relief.wanted = False
                relief.done.set()

    def _took(self, given: _Given) -> bool:
        """Take note of what has gone; whether there is more room."""
        for row in given.removed:
            self._whole.discard(hash(row))
            self._partial.discard(hash(row))
        if given.everything:
            self._gave_all = trio.current_time() + GIVE_AGAIN
            self._whole.clear()
            self._partial.clear()
        if given.totals is not None:
            self._disk_bytes, self._disk_contents = given.totals
        if given.more and not self._told:
            self._told = True
            _logger.warning("the disk is full: the content cache gives way to the journal")
        return given.more

    async def aclose(self) -> None:
        """Write what is queued, within a few seconds, and close the disk's part. Idempotent."""
        with trio.move_on_after(CLOSE_TIMEOUT):
            while self._store is not None and (self._queue.items or self._forgotten):
                await self._write_batch()
        store, self._store = self._store, None
        if store is not None:
            store.close()


def _give(store: ContentStore, nbytes: int) -> _Given:
    """Give back half of what is on disk, everything if that was not enough. Blocks."""
    given = _Given()
    try:
        before = store.free()
        try:
            given.removed = store.shrink()
            given.totals = store.totals()
        except sqlite3.Error as error:
            # To delete rows it has to write, and there is no room for that.
            _logger.debug("the content cache on disk does not become smaller: %s", error)
        if store.free() < before + max(nbytes, ROOM):
            given.everything = True
            store.discard()
            given.totals = (0, 0)
        given.more = store.free() > before
    except (OSError, sqlite3.Error) as error:
        _logger.warning("the content cache cannot give way: %s", error)
    return given


def _read_piece(piece: Piece) -> bytes | None:
    """Read a piece that is no base; None when its blob cannot be read."""
    if isinstance(piece, BlobPiece):
        try:
            return piece.blob.read(piece.blob_offset, piece.length)
        except OSError:
            return None
    return bytes(piece.length)
