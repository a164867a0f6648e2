"""The disk behind the memory of the content cache: what is believed to be on it, and the writer.

The disk is a convenience: whatever goes wrong there makes a miss, never an error. What is queued
for it is readable meanwhile, so nothing that was put is lost from sight before it is evicted.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import trio

from devboxfs.core.chunks import ContentKey
from devboxfs.vfs.block_pool import BlockId, BlockPool
from devboxfs.vfs.content_store import ContentStore, Piece, Row, Written, row_of

__all__ = ["ContentDisk", "StoredIndex"]

_logger = logging.getLogger(__name__)

BATCH = 4 * 1024 * 1024
"""Bytes of one transaction."""

GATHER = 0.05
"""Seconds that the writer waits for more; a guess."""

REST = 3
"""The writer rests so many times as long as it wrote. Writing 100 MB into ext4's page cache took
0.35 s on two cores, and without rests halved the rate at which the same bytes were read; a link of
60 MB/s is still kept up with."""

PAUSE = 60.0
"""Seconds without writing after the disk was full."""

CLOSE_TIMEOUT = 5.0

_T = TypeVar("_T")


class StoredIndex:
    """What is believed to be on disk; keys by their hashes, which take less memory."""

    def __init__(self) -> None:
        self.bytes = 0
        self.contents = 0
        self._whole: set[int] = set()
        self._partial: set[int] = set()

    def holds_whole(self, key: ContentKey) -> bool:
        """Whether all of a content is there."""
        return hash(row_of(key)) in self._whole

    def holds_some(self, key: ContentKey) -> bool:
        """Whether a content, or a part of it, is there."""
        mark = hash(row_of(key))
        return mark in self._whole or mark in self._partial

    def add(self, whole: list[Row], partial: list[Row]) -> None:
        """Take note of what was written."""
        marks = set(map(hash, whole))
        self._whole |= marks
        self._partial |= set(map(hash, partial))
        self._partial -= marks

    def remove(self, rows: list[Row]) -> None:
        """Take note of what has gone."""
        for row in rows:
            self._whole.discard(hash(row))
            self._partial.discard(hash(row))

    def miss(self, key: ContentKey) -> None:
        """Take note that a content was not found, or only a part of it."""
        self._whole.discard(hash(row_of(key)))

    def clear(self) -> None:
        """Take note that nothing is left."""
        self._whole.clear()
        self._partial.clear()


class ContentDisk:
    """The contents of one box on disk, and what is on its way there."""

    def __init__(self, store: ContentStore | None, queue_limit: int) -> None:
        """Use `open()`."""
        self.store = store
        """None: there is no disk, or no longer one."""
        self.index = StoredIndex()
        self.queue = BlockPool()
        self.dropped_bytes = 0
        self.writing = trio.Lock()
        """Held while the store is written to or made smaller."""
        self.threads = trio.CapacityLimiter(2)
        """For what reads."""
        self._queue_limit = queue_limit
        self._forgotten: list[ContentKey] = []
        self._wake = trio.Event()
        self._drained = trio.Event()
        self._paused_until = 0.0
        self._told = False

    @classmethod
    def open(cls, directory: Path, limit: int, queue_limit: int) -> ContentDisk:
        """Open what is in `directory`, made if need be; without a store when it is of no use."""
        store: ContentStore | None = None
        disk = cls(None, queue_limit)
        try:
            store = ContentStore.open(directory, limit)
            disk.index.add(*store.rows())
            disk.index.bytes, disk.index.contents = store.totals()
        except (OSError, sqlite3.Error) as error:
            _logger.warning("no content cache on disk in %s: %s", directory, error)
            if store is not None:
                store.close()
        else:
            disk.store = store
        return disk

    @property
    def ok(self) -> bool:
        """Whether it is written to."""
        return self.store is not None and trio.current_time() >= self._paused_until

    def pause(self) -> None:
        """Leave the disk alone for a while: it is full."""
        self._paused_until = trio.current_time() + PAUSE

    def tell_once(self, message: str, *facts: object) -> None:
        """Log a warning, the first of a life only."""
        if not self._told:
            self._told = True
            _logger.warning(message, *facts)

    # What goes there

    def enqueue(self, block: BlockId, data: bytes) -> None:
        """Have a block written behind, or drop it when the disk cannot keep up."""
        if self.store is None:
            return
        if self.queue.bytes + len(data) > self._queue_limit:
            # The new one goes: what is queued already makes contents whole on disk.
            self.dropped_bytes += len(data)
            return
        self.queue.add(block, data)
        self._wake.set()

    async def wait_room(self, nbytes: int) -> None:
        """Wait until the queue takes so much more, or is empty."""
        while self.queue.bytes + nbytes > self._queue_limit and self.queue.items:
            await self._drained.wait()

    def forget(self, key: ContentKey) -> None:
        """Drop a content."""
        self.queue.discard_content(key)
        self.index.remove([row_of(key)])
        if self.store is not None:
            # Even if the index does not know it: it may be on its way to the disk.
            self._forgotten.append(key)
            self._wake.set()

    # What is there

    async def load(self, key: ContentKey, offset: int, length: int) -> bytes | None:
        """Return that part of a content, None when it is not there."""
        data = await self._use(lambda store: store.load(key, offset, length))
        if data is None:
            self.index.miss(key)
        return data

    async def load_many(self, keys: list[ContentKey]) -> dict[ContentKey, bytes]:
        """Return those contents of at most one block that are there, in one go."""
        found = await self._use(lambda store: store.load_many(keys)) or {}
        for key in keys:
            if key not in found:
                self.index.miss(key)
        return found

    async def _use(self, work: Callable[[ContentStore], _T]) -> _T | None:
        """Do something with the store in a thread; None when the disk is of no use."""
        store = self.store
        if store is None:
            return None
        try:
            return await trio.to_thread.run_sync(work, store, limiter=self.threads)
        except (OSError, sqlite3.Error) as error:
            await self._failed(store, error)
            return None

    # The writer

    async def run(self) -> None:
        """Write behind until cancelled."""
        while True:
            await self._wake.wait()
            await trio.sleep(GATHER)
            while self.queue.items or self._forgotten:
                began = trio.current_time()
                await self.write_batch()
                await trio.sleep((trio.current_time() - began) * REST)
            self._wake = trio.Event()

    async def write_batch(self) -> None:
        """Write some of what is queued."""
        async with self.writing:
            pieces: list[Piece] = []
            taken = 0
            for (key, number), data in self.queue.items.items():
                pieces.append(Piece(key, number, data))
                taken += len(data)
                if taken >= BATCH:
                    break
            forgotten, self._forgotten = self._forgotten, []
            if not pieces and not forgotten:
                return
            written = None
            if self.store is not None and self.ok:
                written = await self._write(self.store, pieces, forgotten)
            # What was forgotten while the thread wrote it is in self._forgotten again.
            for piece in pieces:
                self.queue.discard((piece.key, piece.block))
            if written is None:
                self.dropped_bytes += taken
            else:
                self.index.remove(written.removed)
                self.index.add(written.whole, written.partial)
                self.index.remove([row_of(key) for key in self._forgotten])
                self.index.bytes, self.index.contents = written.bytes, written.entries
            self._drained.set()
            self._drained = trio.Event()

    async def _write(
        self, store: ContentStore, pieces: list[Piece], forgotten: list[ContentKey]
    ) -> Written | None:
        try:
            return await trio.to_thread.run_sync(store.write, pieces, forgotten)
        except (OSError, sqlite3.Error) as error:
            await self._failed(store, error)
            return None

    async def _failed(self, store: ContentStore, error: OSError | sqlite3.Error) -> None:
        """Give way: a full disk is left alone for a while, a damaged database is begun anew."""
        code = getattr(error, "sqlite_errorcode", None)
        if code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return
        self.tell_once("the content cache on disk is set aside: %s", error)
        if code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            work: Callable[[], object] = store.discard
            self.index.clear()
        else:
            self.pause()
            work = store.shrink
        try:
            await trio.to_thread.run_sync(work)
        except (OSError, sqlite3.Error) as again:
            _logger.debug("the content cache on disk is of no use: %s", again)

    async def aclose(self) -> None:
        """Write what is queued, within a few seconds, and close the store. Idempotent."""
        with trio.move_on_after(CLOSE_TIMEOUT):
            while self.store is not None and (self.queue.items or self._forgotten):
                await self.write_batch()
        store, self.store = self.store, None
        if store is not None:
            store.close()
