"""One journal with what is pending in it, and what carries that to the box."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import trio

from devboxfs.core.ops import Operation
from devboxfs.writeback.conflict_log import ConflictLog
from devboxfs.writeback.conflicts import ConflictStore
from devboxfs.writeback.flusher import Flusher
from devboxfs.writeback.journal import Journal
from devboxfs.writeback.journal_reading import Control
from devboxfs.writeback.keeping import Keeper
from devboxfs.writeback.ledger import Ledger
from devboxfs.writeback.limits import Limits
from devboxfs.writeback.restoring import restore
from devboxfs.writeback.seams import Link, Listener

__all__ = ["OneJournal"]


class OneJournal:
    """See the module. This process owns the journal until close()."""

    def __init__(
        self,
        journal: Journal,
        found: list[Operation | Control],
        limits: Limits,
        monotonic: Callable[[], float],
    ) -> None:
        """`found` is what the journal holds; raises RecordError for what is not known of it."""
        directory = journal.path.parent
        self.journal = journal
        self.ledger = Ledger(journal, limits, monotonic)
        restore(self.ledger, found)
        keeper = Keeper(self.ledger, ConflictStore(directory / "conflicts"), ConflictLog(directory))
        self.flusher = Flusher(self.ledger, keeper, limits, monotonic)
        # A journal that was in use may be known to the box.
        self.flusher.attachment.detached = not found
        self.flusher.setbacks.last_error = journal.damage
        self._closed = False

    @classmethod
    def adopt(cls, path: Path, limits: Limits, monotonic: Callable[[], float]) -> OneJournal:
        """Take over a journal whose owner is dead; raises as Journal.adopt() does."""
        journal, found = Journal.adopt(path, limits)
        try:
            return cls(journal, found, limits, monotonic)
        except BaseException:
            journal.close()
            raise

    def next_oid(self) -> int:
        """Return a number for a new object that no operation of this journal has ever used."""
        oid = self.journal.next_oid
        self.journal.next_oid = oid + 1
        return oid

    async def drain(self, progress: Callable[[int, int], None] | None = None) -> bool:
        """See WriteBack.drain()."""
        flusher, ledger = self.flusher, self.ledger
        start = flusher.settled_count
        flusher.cutter.hurry = flusher.draining = True
        ledger.try_again()
        flusher.nudge()
        try:
            while ledger.pending or not flusher.attachment.detached:
                if ledger.stuck:
                    return False
                await flusher.wait_progress()
                if progress is not None:
                    done = flusher.settled_count - start
                    progress(done, done + ledger.unsettled)
        finally:
            flusher.cutter.hurry = flusher.draining = False
        return True

    async def flush_with(self, link: Link, listener: Listener, *, drain: bool) -> None:
        """Run until nothing is pending; `drain`: and the box has forgotten the journal.

        Raises OSError with the box's errno when it refuses changes; they stay in the journal then.
        """
        flusher, ledger = self.flusher, self.ledger
        setbacks = flusher.setbacks
        flusher.cutter.hurry = True
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(flusher.run, link, listener)
                while ledger.pending and setbacks.trouble is None and not ledger.stuck:
                    await flusher.wait_progress()
                if drain and setbacks.trouble is None and not ledger.stuck:
                    await self.drain()
                nursery.cancel_scope.cancel()
        except ExceptionGroup as group:
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from None
            raise
        finally:
            flusher.cutter.hurry = False
        number = 0
        if setbacks.trouble is not None:
            number = setbacks.trouble.errno
            setbacks.trouble = None
        elif ledger.stuck:
            number = next(iter(ledger.held_numbers().values()))
        if number:
            raise OSError(number, os.strerror(number))

    def close(self) -> None:
        """Sync the journal and release its lock; one that is finished is removed."""
        if not self._closed:
            self._closed = True
            finished = not self.ledger.pending and self.flusher.attachment.detached
            self.journal.close(remove=finished)
