"""What the box does not take for now, and when it is asked again.

*Trouble* is about the whole box (no space, a broken disk): the journal stands still. What is
*refused* is about one place (a permission): it waits with what depends on it, the rest goes on.
Both are tried again after a delay that doubles as long as nothing changes. A *pause* is for what
says nothing about changes: this machine's disk, a box that does not take the journal.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

from devboxfs.writeback.decisions import Decision
from devboxfs.writeback.ledger import Ledger
from devboxfs.writeback.limits import Limits

__all__ = ["ROOM", "Setbacks", "Trouble"]

_log = logging.getLogger(__name__)

ROOM = 1 << 20
"""So many bytes more than there were make a full box worth another attempt."""


@dataclass(slots=True)
class Trouble:
    """The box refuses changes."""

    errno: int
    free_bytes: int
    delay: float
    retry_at: float
    tried: int = 0
    """The last seq that was looked at for something that makes room."""

    def is_worth_a_try(self, now: float, free_bytes: int) -> bool:
        """Whether its time has come, or there is more room than when it began."""
        self.free_bytes = self.free_bytes or free_bytes
        return now >= self.retry_at or free_bytes > self.free_bytes + ROOM


class Setbacks:
    """See the module. One per journal; says nothing to anybody."""

    def __init__(self, ledger: Ledger, limits: Limits, monotonic: Callable[[], float]) -> None:
        self.trouble: Trouble | None = None
        self.refused_until = 0.0
        """When what is refused is tried again."""
        self.pause_until = 0.0
        """Nothing is sent or settled before."""
        self.last_error: str | None = None
        """For people, of any of these."""
        self._ledger = ledger
        self._limits = limits
        self._monotonic = monotonic
        self._refused_delay = limits.retry_first

    def begin_trouble(self, number: int, free_bytes: int) -> None:
        """Note that the box refuses changes, or still does."""
        delay = self._limits.retry_first
        if self.trouble is not None:
            delay = min(self.trouble.delay * 2, self._limits.retry_last)
        else:
            _log.warning("box refuses changes, journal waits: %s", os.strerror(number))
        self.trouble = Trouble(number, free_bytes, delay, self._monotonic() + delay)
        self.last_error = f"box refuses changes: {os.strerror(number)}"

    def hold_back(self, decision: Decision) -> dict[int, int]:
        """Let what the box refuses wait; returns the objects (oid -> errno) of which that is news.

        A success that leaves nothing refused makes the next delay the first again.
        """
        ledger = self._ledger
        if not decision.refused:
            if not ledger.refused:
                self._refused_delay = self._limits.retry_first
            return {}
        fresh = ledger.hold_back(decision.refused)
        if fresh:
            self._refused_delay = self._limits.retry_first
        self.refused_until = self._monotonic() + self._refused_delay
        self._refused_delay = min(self._refused_delay * 2, self._limits.retry_last)
        for op in ledger.waiting:
            if op.oid in fresh and op.seq in decision.refused:
                text = os.strerror(decision.refused[op.seq])
                self.last_error = f"box refuses a change: {text}: {os.fsdecode(op.path)}"
                _log.warning("box refuses a change of %r, it waits: %s", op.path, text)
        return fresh

    def pause(self) -> None:
        """Do nothing for a moment."""
        self.pause_until = self._monotonic() + self._limits.retry_first

    def pause_in_trouble(self) -> None:
        """Do nothing until the trouble is worth another attempt."""
        if self.trouble is not None:
            self.pause_until = self.trouble.retry_at

    def local_failure(self, error: OSError) -> None:
        """Note that the journal cannot be used; nothing has changed, so it is tried again."""
        self.last_error = f"local disk: {error}"
        _log.error("journal cannot be used, trying again: %s", error)
        self.pause()

    def retry_refused(self, now: float) -> None:
        """Let the next batch take along what is refused, if its time has come."""
        if self._ledger.refused and now >= self.refused_until:
            self._ledger.try_again()
            # Until it is known what becomes of it.
            self.refused_until = now + self._refused_delay

    def retry_now(self) -> None:
        """Let everything be tried again at once."""
        if self.trouble is not None:
            self.trouble.retry_at = self._monotonic()
            self.pause_until = 0.0
        self._ledger.try_again()
