"""How the content cache gives way to others on a disk that is full.

What was laid aside for that goes at once, so the one who writes need not wait. Contents go in a
thread: eviction writes, too, and may have to wait for another process.
"""

from __future__ import annotations

import logging
import sqlite3
from dataclasses import dataclass, field

import trio

from devboxfs.vfs.content_disk import ContentDisk
from devboxfs.vfs.content_store import ContentStore, Row

__all__ = ["GivingWay"]

_logger = logging.getLogger(__name__)

ROOM = 4 * 1024 * 1024
"""Given back at least when the journal has no room: the next records want some, too."""

GIVE_AGAIN = 5.0
"""Seconds after everything was given back before it is tried again."""

RELIEF_TIMEOUT = 10.0
"""Seconds that a writer waits for contents to go from a full disk."""


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


class GivingWay:
    """Who asks for room, and what was given."""

    def __init__(self, disk: ContentDisk) -> None:
        self.aside = False
        """Some room is laid aside."""
        self._disk = disk
        self._running = False
        self._gave_all = 0.0
        """Until then there is nothing to give way with."""
        self._relief = _Relief(0, wanted=False)
        self._room_wanted = trio.Event()

    def give_way(self, nbytes: int) -> bool:
        """Give back room on a full disk that is not ours alone; whether there is more now.

        At once what was laid aside for that; contents go in a thread, see relieved(). Where nobody
        is served yet, they go here.
        """
        store, now = self._disk.store, trio.current_time()
        if store is None:
            return False
        self._disk.pause()
        if not self._running:
            return now >= self._gave_all and self._took(_give(store, nbytes))
        if now >= self._gave_all and not self._relief.wanted:
            self._relief = _Relief(nbytes)
            self._room_wanted.set()
        given = self.aside and store.give_aside()
        self.aside = False
        return given

    async def relieved(self) -> bool:
        """Wait for contents that are on their way out of a full disk; whether there is room now."""
        relief = self._relief
        if not relief.wanted:
            return False
        with trio.move_on_after(RELIEF_TIMEOUT):
            await relief.done.wait()
        return relief.gave

    async def run(self) -> None:
        """Lay room aside, and give back contents when that is wanted, until cancelled."""
        self._running = True
        try:
            if self._disk.store is not None:
                self.aside = await trio.to_thread.run_sync(self._disk.store.lay_aside)
            while True:
                await self._room_wanted.wait()
                self._room_wanted = trio.Event()
                await self._relieve(self._relief)
        finally:
            self._running = False

    async def _relieve(self, relief: _Relief) -> None:
        store = self._disk.store
        try:
            if store is not None:
                async with self._disk.writing:
                    given = await trio.to_thread.run_sync(_give, store, relief.nbytes)
                    relief.gave = self._took(given)
                    self.aside = await trio.to_thread.run_sync(store.lay_aside)
        finally:
            relief.wanted = False
            relief.done.set()

    def _took(self, given: _Given) -> bool:
        """Take note of what has gone; whether there is more room."""
        index = self._disk.index
        index.remove(given.removed)
        if given.everything:
            self._gave_all = trio.current_time() + GIVE_AGAIN
            index.clear()
        if given.totals is not None:
            index.bytes, index.contents = given.totals
        if given.more:
            self._disk.tell_once("the disk is full: the content cache gives way to the journal")
        return given.more


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
