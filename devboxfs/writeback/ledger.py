"""What is pending, what is in flight, and what the box has: the flusher's state without its tasks.

Nothing here awaits, so every method is atomic. restoring.py brings back from the journal the state
that these methods had led to; arrivals.py knows when operations came, selection.py chooses what
goes, in_flight.py is a batch on its way.

One file although it is long: all of it keeps the invariants over the same few collections.

Invariants:

* An accepted operation is in `waiting`, or in exactly one batch of `batches`, until it is settled.
* `waiting` ascends by seq. `batches` ascend by number, and settle in that order.
* What is `refused`, and what depends on it, stays in `waiting` until it is tried again.
* `settled_left` is what the box is known to have of objects with unsettled operations; `flying` is
  what batches in flight will leave, with the batch's number. A batch is planned upon the latter.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from devboxfs.core import records
from devboxfs.core.batch_records import LeftRecord, RelocationRecord, ResultRecord
from devboxfs.core.deferral import Blocked, bypassing, stuck
from devboxfs.core.ops import Kind, Operation
from devboxfs.core.plan import plan
from devboxfs.core.planned import Left
from devboxfs.core.relocation import redirect
from devboxfs.writeback.arrivals import Arrivals
from devboxfs.writeback.in_flight import InFlight, Result, record_of
from devboxfs.writeback.journal import Journal
from devboxfs.writeback.limits import Limits
from devboxfs.writeback.new_files import NewFiles
from devboxfs.writeback.selection import select
from sealos_devbox import Version

__all__ = ["Ledger", "Refused"]

_REMOVING = frozenset({Kind.UNLINK, Kind.RMDIR, Kind.RENAME})

_ENCODER = msgspec.msgpack.Encoder()


@dataclass(frozen=True, slots=True)
class Refused:
    """An operation that the box does not take for now."""

    errno: int
    since: float


class Ledger:
    """See the module."""

    def __init__(self, journal: Journal, limits: Limits, monotonic: Callable[[], float]) -> None:
        self.journal = journal
        self.waiting: list[Operation] = []
        self.batches: deque[InFlight] = deque()
        self.retained: deque[InFlight] = deque()
        """Settled, but not known to be on the box's stable storage."""
        self.flying: dict[int, tuple[int, Left]] = {}
        self.settled_left: dict[int, Left] = {}
        self.relocated: dict[int, RelocationRecord] = {}
        """Objects whose operations go to a conflict name and have not arrived there yet."""
        self.pending_bytes = 0
        self.unsettled = 0
        self.boot_id = ""
        self.resume: int | None = None
        self.arrivals = Arrivals(limits)
        self.more = False
        """The last cut left operations that could have gone."""
        self.refused: dict[int, Refused] = {}
        """By seq: what the box does not take for now, see `hold_back`."""
        self.refused_locks: set[int] = set()
        """Objects that the box never had: what was done with them is nothing."""
        self.trying_again = False
        """The next cut takes what is refused along."""
        self.owed: dict[bytes, int] = {}
        """Times that directories should have been given and were not."""
        self._new_files = NewFiles(limits)
        self._dirtimes: dict[bytes, int] = {}
        self._durable = 0
        self._results: deque[tuple[int, int]] = deque()
        self._limits = limits
        self._monotonic = monotonic

    # -- operations come in

    def accept(self, op: Operation) -> None:
        """Take note of an operation that the journal has."""
        now = self._monotonic()
        self.waiting.append(op)
        self.unsettled += 1
        if op.kind is Kind.WRITE:
            self.pending_bytes += op.length
        self.arrivals.accept(op, now)
        self._new_files.accept(op, now)
        if self.refused and op.kind in _REMOVING:
            # Perhaps of what is refused, which then vanishes.
            held = self.held_back()
            self.trying_again = self.trying_again or (held is not None and held.meets(op))

    def file_opened(self, oid: int) -> None:
        """Count a writer of a new file."""
        self._new_files.opened(oid)

    def file_closed(self, oid: int) -> bool:
        """Count a writer less; returns whether that lets something go."""
        if not self._new_files.closed(oid):
            return False
        self.arrivals.touch(self._monotonic())
        return True

    # -- questions

    @property
    def pending(self) -> bool:
        """Whether anything is not settled."""
        return bool(self.waiting or self.batches)

    def oldest_age(self) -> float | None:
        """Return how long ago the oldest unsettled operation was accepted, to a second."""
        return self.arrivals.age(self._oldest_seq(), self._monotonic()) if self.unsettled else None

    def open_files(self, now: float) -> tuple[set[int], float | None]:
        """Return the new files that are kept back, and until when the first of them is."""
        return self._new_files.kept_back(now)

    def now(self) -> float:
        """Return the monotonic time."""
        return self._monotonic()

    def hold_back(self, refused: dict[int, int]) -> dict[int, int]:
        """Keep operations (seq -> errno) that the box has refused, until `try_again`.

        Returns the objects (oid -> errno) of which that was not known.
        """
        now = self._monotonic()
        known = {op.oid for op in self.waiting if op.seq in self.refused}
        fresh: dict[int, int] = {}
        for op in self.waiting:
            if op.seq in refused:
                before = self.refused.get(op.seq)
                since = now if before is None else before.since
                self.refused[op.seq] = Refused(refused[op.seq], since)
                if op.oid not in known:
                    fresh.setdefault(op.oid, refused[op.seq])
        return fresh

    def try_again(self) -> bool:
        """Let the next batch take along what was refused; returns whether there is anything."""
        self.trying_again = bool(self.refused)
        return self.trying_again

    def held_back(self) -> Blocked | None:
        """Return what waits for something that is refused; None when nothing is."""
        return stuck(self.waiting, self.refused) if self.refused else None

    def held_numbers(self) -> dict[int, int]:
        """Return the errno for each operation (by seq) that is refused or waits for that."""
        if not self.refused:
            return {}
        blocked = stuck(self.waiting, self.refused)
        first = next(iter(self.refused.values())).errno
        return {
            op.seq: self.refused[op.seq].errno if op.seq in self.refused else first
            for op in self.waiting
            if op.seq in self.refused or blocked.meets(op)
        }

    @property
    def stuck(self) -> bool:
        """Whether all that is pending waits for something that the box refuses."""
        if not self.waiting or self.batches or not self.refused or self.trying_again:
            return False
        return len(self.held_numbers()) == len(self.waiting)

    def unsettled_operations(self) -> Iterable[Operation]:
        """Yield every operation that is not settled."""
        for batch in self.batches:
            yield from batch.operations.values()
        yield from self.waiting

    def _oldest_seq(self) -> int:
        oldest = self.waiting[0].seq if self.waiting else self.journal.next_seq
        for batch in self.batches:
            if batch.operations:
                oldest = min(oldest, batch.oldest_seq)
        return oldest

    # -- batches go out

    def cut(
        self, upto: int | None, keep_back: set[int], sync: list[bytes] | bool | None
    ) -> InFlight | None:
        """Plan and journal the next batch; None when nothing may go and nothing is to be synced.

        `upto` is the last seq that may go, `sync` what to make durable after it: that belongs to
        the batch which leaves nothing up to `upto` behind, and is dropped from any other. Raises
        OSError when the journal cannot be written; nothing has changed then.
        """
        refused = () if self.trying_again else self.refused
        chosen = select(self.waiting, self._limits, upto=upto, kept_back=keep_back, refused=refused)
        whole = chosen.whole
        if not chosen.go and not (sync and whole):
            self._no_longer_fresh(more=False, upto=upto)
            self.trying_again = False
            return None
        sync = sync if whole else None
        batch = self._plan(chosen.go, chosen.stay, sync, resume=self.resume)
        self.resume = None
        if whole:
            self.trying_again = False
        self._no_longer_fresh(more=not whole, upto=upto)
        return batch

    def cut_bypass(self) -> InFlight | None:
        """Plan and journal a batch of what makes room in a box that is full.

        None when nothing does.
        """
        go = bypassing(self.waiting)
        if not go:
            return None
        seqs = {op.seq for op in go}
        rest = [op for op in self.waiting if op.seq not in seqs]
        return self._plan(go, rest, None, bypass=True)

    def _no_longer_fresh(self, *, more: bool, upto: int | None) -> None:
        all_went = upto is None or not self.waiting or self.waiting[-1].seq <= upto
        self.arrivals.cut(all_went=all_went)
        self.more = more

    def _plan(
        self,
        go: list[Operation],
        rest: list[Operation],
        sync: list[bytes] | bool | None,
        *,
        resume: int | None = None,
        bypass: bool = False,
    ) -> InFlight:
        journal = self.journal
        left = dict(self.settled_left) if len(self.settled_left) < len(go) else self.settled_left
        if self.flying:
            left = {**left, **{oid: value for oid, (_, value) in self.flying.items()}}
        planned = plan(go, left, journal.next_wire, self._dirtimes, self.owed)
        record = record_of(
            planned,
            number=journal.next_batch,
            incarnation=journal.incarnation,
            first_wire=journal.next_wire,
            sync=sync,
            resume=resume,
            bypass=bypass,
        )
        journal.append_control(records.BATCH, record.number, _ENCODER.encode(record))
        batch = InFlight(
            record,
            planned.operations,
            planned.owners,
            planned.images,
            {op.seq: op for op in go},
            acked=self._acked(),
            floor=self.batches[0].number if self.batches else record.number,
            size=sum(member.length for member in planned.members),
            oldest_seq=go[0].seq if go else 0,
        )
        self.owed = {}
        journal.next_batch = record.number + 1
        journal.next_wire = record.next_wire
        self.batches.append(batch)
        self.waiting = rest
        for oid, value in planned.left.items():
            self.flying[oid] = (record.number, value)
        for op in go:
            if op.base is not None:
                # A later operation that goes with another batch may have to go back to it.
                self.settled_left[op.oid] = Left(op.base, op.base.size, ino=op.base.ino)
            if op.kind is Kind.CREATE:
                self._new_files.published(op.oid)
        # Only for directories in which something stayed behind.
        self._dirtimes = planned.dirtimes if rest else {}
        return batch

    def _acked(self) -> int:
        """Return up to which batch the box may forget outcomes.

        Not those that a batch in flight refers to: the box reads this when the request arrives, and
        that may be before the earlier batch is applied. A batch keeps the number when it is sent
        again.
        """
        while self._results and self.journal.is_durable(self._results[0][1]):
            self.journal.acked = max(self.journal.acked, self._results.popleft()[0])
        if self.batches:
            return min(self.journal.acked, self.batches[0].floor - 1)
        return self.journal.acked

    # -- outcomes come back

    def settle(self, batch: InFlight, result: Result) -> None:
        """Journal what became of the oldest batch, and take it over.

        Raises OSError; nothing has changed then.
        """
        record = ResultRecord(
            batch.number,
            result.settled,
            [_left_record(oid, value) for oid, value in result.left.items()],
            result.relocations,
            result.resume,
        )
        position = self.write_down(record)
        self._results.append((batch.number, position))
        self.apply(batch, record)

    def settle_waiting(self, seqs: list[int], left: dict[int, Left]) -> None:
        """As settle(), for operations that never went to the box."""
        record = ResultRecord(
            0, seqs, [_left_record(oid, value) for oid, value in left.items()], []
        )
        self.write_down(record)
        self.apply(None, record)

    def withdraw(self, batch: InFlight) -> None:
        """Take back the newest batch, of which the box has applied nothing.

        Its number is free again.
        """
        record = ResultRecord(batch.number, [], [], [], withdrawn=True)
        self.write_down(record)
        self.apply(batch, record)

    def write_down(self, record: ResultRecord) -> int:
        """Journal a result; returns the position for Journal.is_durable(). Raises OSError."""
        return self.journal.append_control(records.RESULT, record.number, _ENCODER.encode(record))

    def apply(self, batch: InFlight | None, record: ResultRecord) -> None:
        """Take over a result that the journal has; without a batch, of what is waiting."""
        if batch is None:
            gone = set(record.settled)
            settled = [op for op in self.waiting if op.seq in gone]
            self.waiting = [op for op in self.waiting if op.seq not in gone]
        else:
            begun = {left.oid for left in record.left}
            settled = [
                op for seq in record.settled if (op := batch.operations.pop(seq, None)) is not None
            ]
            for op in batch.operations.values():
                if op.oid in begun:
                    # What is known to be in the box counts, not what had been shown before.
                    op.base = None
                if op.replaced in begun:
                    op.replaced_base = None
            self._return(batch)
            if batch in self.batches:
                self.batches.remove(batch)
            if record.withdrawn:
                self.journal.next_batch = batch.number
                self.resume = batch.record.resume
            else:
                self.retained.append(batch)
            for oid in [oid for oid, (number, _) in self.flying.items() if number <= batch.number]:
                del self.flying[oid]
        for op in settled:
            self.refused.pop(op.seq, None)
        self.unsettled -= len(settled)
        self.pending_bytes -= sum(op.length for op in settled if op.kind is Kind.WRITE)
        for left in record.left:
            self.settled_left[left.oid] = Left(
                left.version, left.size, absent=left.absent, ino=left.ino, lost=left.lost
            )
        moved = {relocation.oid for relocation in record.relocations}
        for relocation in record.relocations:
            if relocation.errno:
                self.relocated[relocation.oid] = relocation
            absent = self.settled_left.get(relocation.oid, _NOTHING).absent
            redirect(sorted(self.unsettled_operations(), key=_seq), relocation, absent=absent)
        if record.resume is not None:
            self.resume = record.resume
        # Of other objects the next operation says its base.
        needed: set[int] = set()
        for op in self.unsettled_operations():
            needed.add(op.oid)
            needed.add(op.replaced)
        self.settled_left = {
            oid: left for oid, left in self.settled_left.items() if oid in needed or left.lost
        }
        self.relocated = {
            oid: to for oid, to in self.relocated.items() if oid in needed or oid in moved
        }

    def _return(self, batch: InFlight) -> None:
        """Let the operations of a batch that were not applied wait again."""
        for op in batch.operations.values():
            at = bisect_left(self.waiting, op.seq, key=_seq)
            self.waiting.insert(at, op)
        if batch.operations:
            self.more = True
        batch.operations = {}

    def note_durable(self, number: int) -> None:
        """Let go of what is covered by the highest batch that the box has on stable storage."""
        self._durable = max(self._durable, number)
        while self.retained and self.retained[0].number <= self._durable:
            self.retained.popleft()
        self.release()

    def release(self) -> None:
        """Remove the files of the journal that are not needed any more."""
        oldest_seq = self._oldest_seq()
        oldest_batch = self.journal.next_batch
        for batch in (*self.retained, *self.batches):
            oldest_batch = min(oldest_batch, batch.number)
            if batch.oldest_seq:
                oldest_seq = min(oldest_seq, batch.oldest_seq)
        self.journal.release(oldest_seq, oldest_batch)

    def replay_after(self, number: int) -> int:
        """Send what was settled after batch `number` again: the box lost it.

        Returns how many batches.
        """
        lost = [batch for batch in self.retained if batch.number > number]
        for batch in reversed(lost):
            batch.replay = True
            batch.sent = batch.result = None
            self.retained.remove(batch)
            self.batches.appendleft(batch)
        return len(lost)

    def rebase(self, oid: int, old: Version | None, new: Version) -> None:
        """Let waiting operations expect what a replay left, not what the lost change had left."""
        for op in self.waiting:
            if op.oid == oid and op.base is not None and (old is None or op.base.matches(old)):
                op.base = new

    # -- after a restart

    def note_age(self, seq: int) -> None:
        """Take note of an operation that is older than this process; its age counts from now."""
        self.arrivals.note_age(seq, self._monotonic())

    def recount(self) -> None:
        """Count what was restored."""
        self.unsettled = sum(1 for _ in self.unsettled_operations())
        self.pending_bytes = sum(
            op.length for op in self.unsettled_operations() if op.kind is Kind.WRITE
        )
        self.more = bool(self.waiting)


_NOTHING = Left()


def _seq(op: Operation) -> int:
    return op.seq


def _left_record(oid: int, left: Left) -> LeftRecord:
    return LeftRecord(oid, left.version, left.size, left.absent, left.ino, left.lost)
