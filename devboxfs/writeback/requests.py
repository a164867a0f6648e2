"""Those who wait until what they changed is in the box."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import trio

from devboxfs.core.ops import Operation
from devboxfs.writeback.decisions import Decision
from devboxfs.writeback.ledger import Ledger

__all__ = ["SyncRequest", "SyncRequests"]


@dataclass(slots=True, eq=False)
class SyncRequest:
    """Somebody waits for everything up to `upto`."""

    upto: int
    paths: list[bytes] | None
    """To fsync in the box; None: the whole file system."""
    oids: frozenset[int]
    sync_box: bool
    done: trio.Event = field(default_factory=trio.Event)
    errno: int = 0
    batch: int = 0
    """The batch that carries the sync; 0: it is still to be cut."""
    asked: int = 0
    """What `upto` was before copies that conflicts made were added to it."""

    def __post_init__(self) -> None:
        self.asked = self.upto

    @property
    def waits_for_conflicts(self) -> bool:
        """Whether what a conflict moved aside has to be in the box too: that is for all or none.

        Who syncs a file hears of the conflict at once: the file is not what was written.
        """
        return self.paths is None

    def finish(self, number: int = 0) -> None:
        """Wake who waits."""
        self.errno = self.errno or number
        self.done.set()

    def concerns(self, op: Operation) -> bool:
        """Whether the request fails when this operation is not in the box."""
        return (
            self.paths is None
            or op.oid in self.oids
            or op.path in self.paths
            or op.path.rpartition(b"/")[0] in self.paths
        )

    def concerns_again(self, decision: Decision) -> bool:
        """Whether it waits for something that goes once more although nothing is wrong with it."""
        if not self.paths:
            return True
        return bool(decision.again & self.oids) or any(
            path in decision.again for path in self.paths
        )


class SyncRequests:
    """The requests that are not answered yet."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._list: list[SyncRequest] = []

    def __iter__(self) -> Iterator[SyncRequest]:
        return iter(list(self._list))

    def __bool__(self) -> bool:
        return bool(self._list)

    def add(self, request: SyncRequest) -> None:
        """Note that somebody waits; what the box has refused of it is tried again."""
        self._list.append(request)
        ledger = self._ledger
        held = ledger.held_numbers()
        if any(op.seq in held and request.concerns(op) for op in ledger.waiting):
            ledger.try_again()

    def discard(self, request: SyncRequest) -> None:
        """Forget a request."""
        if request in self._list:
            self._list.remove(request)

    def finish(self, request: SyncRequest, number: int = 0) -> None:
        """Answer a request."""
        self._list.remove(request)
        request.finish(number)

    def finish_all(self, number: int) -> None:
        """Answer everybody."""
        for request in self:
            self.finish(request, number)

    def finish_uncut(self, number: int) -> None:
        """Answer those for which no batch has been cut."""
        for request in self.uncut:
            self.finish(request, number)

    def finish_batch(self, batch: int, number: int) -> None:
        """Answer those whom a batch would have answered."""
        for request in self:
            if request.batch == batch:
                self.finish(request, number)

    # -- before a batch

    @property
    def uncut(self) -> list[SyncRequest]:
        """Those for which no batch has been cut."""
        return [request for request in self._list if not request.batch]

    def wanted(self) -> list[bytes] | bool | None:
        """Return what the next batch makes durable: paths, everything, or nothing."""
        paths: dict[bytes, None] = {}
        for request in self.uncut:
            if not request.sync_box:
                continue
            if request.paths is None:
                return True
            paths.update(dict.fromkeys(request.paths))
        return list(paths) or None

    def has_upto(self, upto: int) -> bool:
        """Whether anything up to this seq waits and may go."""
        held = self._ledger.held_numbers()
        for op in self._ledger.waiting:
            if op.seq > upto:
                return False
            if op.seq not in held:
                return True
        return False

    def expect_nothing_new(self, request: SyncRequest) -> None:
        """There is nothing to send for it: it is done when what is in flight is."""
        ledger = self._ledger
        if ledger.batches:
            request.batch = ledger.batches[-1].number
        else:
            self._note_refused(request)
            self.finish(request)

    # -- after it

    def answer(self, batch: int, sync_errno: int, decision: Decision, *, in_trouble: bool) -> None:
        """Tell those who wait for the batch, and note for others what went wrong."""
        self._note(decision)
        for request in self:
            if request.batch == batch:
                if (
                    (request.errno == 0 or request.waits_for_conflicts)
                    and not in_trouble
                    and request.concerns_again(decision)
                    and self.has_upto(request.upto)
                ):
                    request.batch = 0
                    continue
                self._note_refused(request)
                self.finish(request, sync_errno)
            elif in_trouble and request.errno:
                # It will not get better soon.
                self.finish(request)

    def _note(self, decision: Decision) -> None:
        """Note what went wrong with what they wait for, and what is to come of it."""
        for request in self._list:
            if request.waits_for_conflicts:
                # Of what was asked for only: copies make no further copies, so this has an end.
                copies = [last for seq, last in decision.copies if seq <= request.asked]
                request.upto = max(request.upto, *copies) if copies else request.upto
            for oid, number in decision.hurt.items():
                if request.paths is None or oid in request.oids:
                    request.errno = request.errno or number
            for path in request.paths or ():
                request.errno = request.errno or decision.hurt_paths.get(path, 0)

    def _note_refused(self, request: SyncRequest) -> None:
        """Note what the box does not take for now."""
        held = self._ledger.held_numbers()
        for op in self._ledger.waiting:
            number = held.get(op.seq)
            if number is not None and op.seq <= request.upto and request.concerns(op):
                request.errno = request.errno or number
