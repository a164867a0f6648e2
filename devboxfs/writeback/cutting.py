"""When the next batch is cut, and how far it goes."""

from __future__ import annotations

from devboxfs.core.deferral import Blocked
from devboxfs.writeback import faults
from devboxfs.writeback.in_flight import InFlight
from devboxfs.writeback.ledger import Ledger
from devboxfs.writeback.limits import Limits
from devboxfs.writeback.requests import SyncRequest, SyncRequests
from devboxfs.writeback.setbacks import Setbacks, Trouble

__all__ = ["Cutter"]


class Cutter:
    """See the module. Nothing here awaits."""

    def __init__(
        self, ledger: Ledger, requests: SyncRequests, setbacks: Setbacks, limits: Limits
    ) -> None:
        self.hurry = False
        """Nothing is kept back, nothing waits for company."""
        self.suspect: Blocked | None = None
        """What a batch had refused while others are in flight: their answers come first."""
        self._recorded_first = bool(ledger.batches)
        """What recorded batches leave is known when they have settled."""
        self._ledger = ledger
        self._requests = requests
        self._setbacks = setbacks
        self._limits = limits

    def due(self, now: float) -> float | None:
        """Return when the next batch is to be cut; None: when something happens.

        Small changes wait for company: until it is quiet, and not for long. `hurry` ends that, and
        so does a sync.
        """
        ledger, limits = self._ledger, self._limits
        if not self._may_cut:
            return None
        if ledger.more or (self.hurry and ledger.waiting and not ledger.stuck):
            return now
        if self._requests.uncut or ledger.trying_again:
            return now
        arrivals = ledger.arrivals
        if arrivals.enough:
            return now
        due: float | None = None
        if arrivals.first is not None:
            due = min(arrivals.last + limits.quiet, arrivals.first + limits.longest_wait)
        if ledger.waiting:
            kept, until = ledger.open_files(now)
            if until is not None:
                due = until if due is None else min(due, until)
            elif due is None and not kept and not ledger.refused:
                due = now
        if ledger.refused:
            again = self._setbacks.refused_until
            due = again if due is None else min(due, again)
        return due

    @property
    def _may_cut(self) -> bool:
        batches = self._ledger.batches
        if not batches:
            self._recorded_first = False
        comes_first = self._recorded_first or self.suspect is not None
        return not comes_first and len(batches) < self._limits.batches_in_flight

    def cut(self, now: float) -> InFlight | None:
        """Cut the batch that is due; None when nothing may go, and who waited for it was told."""
        self._setbacks.retry_refused(now)
        waiting = self._requests.uncut
        upto = max((request.upto for request in waiting), default=None)
        kept_back: set[int] = set()
        if not waiting and not self.hurry:
            kept_back, _ = self._ledger.open_files(now)
        batch = self._cut(upto, kept_back, waiting)
        if batch is None:
            for request in waiting:
                self._requests.expect_nothing_new(request)
        return batch

    def cut_in_trouble(self, now: float, trouble: Trouble, free_bytes: int) -> InFlight | None:
        """Cut an attempt if it is time for one, else what makes room in the box."""
        ledger = self._ledger
        if trouble.is_worth_a_try(now, free_bytes):
            trouble.free_bytes = free_bytes
            return self._cut(None, set(), [])
        if trouble.tried < ledger.journal.next_seq:
            trouble.tried = ledger.journal.next_seq
            return ledger.cut_bypass()
        return None

    def _cut(
        self, upto: int | None, kept_back: set[int], waiting: list[SyncRequest]
    ) -> InFlight | None:
        faults.passing("batch-before")
        batch = self._ledger.cut(upto, kept_back, self._requests.wanted())
        faults.passing("batch-after")
        if batch is not None and (upto is None or not self._requests.has_upto(upto)):
            for request in waiting:
                request.batch = batch.number
        return batch
