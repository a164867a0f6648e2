"""What is pending, what is in flight, and what the box has: the flusher's state without its tasks.

Nothing here awaits, so every method is atomic. `restore` brings back from the journal the state
that these methods had led to.

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
from dataclasses import dataclass, field

import msgspec

from devboxfs.core import records
from devboxfs.core.deferral import Blocked, bypassing, git_directory, stuck
from devboxfs.core.extents import ExtentMap
from devboxfs.core.ops import Kind, Operation
from devboxfs.core.plan import Left, Owner, plan
from devboxfs.core.records import BatchRecord, LeftRecord, RelocationRecord, ResultRecord
from devboxfs.writeback.contents import ImageContent, image_from_record, image_to_record
from devboxfs.writeback.journal import Journal
from devboxfs.writeback.journal_reading import Control
from devboxfs.writeback.limits import Limits
from sealos_devbox import ApplyResult, Batch, ContentMember, Version

__all__ = ["InFlight", "Ledger", "Refused", "Result"]

_ON_CONTENT = frozenset({Kind.WRITE, Kind.TRUNCATE, Kind.SETATTR, Kind.SETXATTR})
_REMOVING = frozenset({Kind.UNLINK, Kind.RMDIR, Kind.RENAME})
_PLANNED_AT_ONCE = 8000
"""Operations in one batch: planning them takes about 30 ms of the event loop."""

_ENCODER = msgspec.msgpack.Encoder()


@dataclass(slots=True, eq=False)
class InFlight:
    """A batch between its record and its result, and after that until the box has it on disk."""

    record: BatchRecord
    wire: list[tuple[object, ...]]
    owners: list[Owner]
    images: dict[int, ExtentMap]
    operations: dict[int, Operation]
    """Those that are not settled, by seq."""
    acked: int = 0
    floor: int = 1
    """The oldest batch whose outcomes it may refer to."""
    size: int = 0
    """Bytes of content."""
    sent: float | None = None
    result: ApplyResult | None = None
    refused: int = 0
    """The errno with which the box refused the batch as a whole: nothing of it was applied."""
    replay: bool = False
    """It was settled before; the box lost it with its power."""
    oldest_seq: int = 0

    @property
    def number(self) -> int:
        """The batch's number."""
        return self.record.number

    def batch(self, journal: bytes, generation: int) -> Batch:
        """Return what is sent."""
        members = [
            ContentMember(
                ImageContent(self.images[member.oid], member.offset, member.length),
                member.mode,
                member.mtime_ns,
            )
            for member in self.record.members
        ]
        return Batch(
            journal=journal,
            incarnation=self.record.incarnation,
            generation=generation,
            number=self.number,
            acked=self.acked,
            resume=self.record.resume,
            bypass=self.record.bypass,
            operations=self.wire,
            members=members,
            sync=self.record.sync,
        )


@dataclass(frozen=True, slots=True)
class Refused:
    """An operation that the box does not take for now."""

    errno: int
    since: float


@dataclass(slots=True)
class _NewFile:
    """A new file that was not published yet."""

    since: float
    size: int = 0


@dataclass(slots=True)
class Result:
    """What is to be done about a batch's outcomes, decided by outcomes.py."""

    settled: list[int]
    left: dict[int, Left] = field(default_factory=dict)
    relocations: list[RelocationRecord] = field(default_factory=list)
    resume: int | None = None


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
        self.first_fresh: float | None = None
        self.last_fresh = 0.0
        self.fresh_names = 0
        self.fresh_bytes = 0
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
        self._new: dict[int, _NewFile] = {}
        self._writers: dict[int, int] = {}
        self._dirtimes: dict[bytes, int] = {}
        self._durable = 0
        self._results: deque[tuple[int, int]] = deque()
        self._accepted: deque[tuple[int, float]] = deque()
        self._limits = limits
        self._monotonic = monotonic

    # -- operations come in

    def accept(self, op: Operation) -> None:
        """Take note of an operation that the journal has."""
        now = self._monotonic()
        self.waiting.append(op)
        self.unsettled += 1
        kind = op.kind
        if kind is Kind.WRITE:
            self.pending_bytes += op.length
            self.fresh_bytes += op.length
            new = self._new.get(op.oid)
            if new is not None:
                new.size += op.length
        elif kind not in _ON_CONTENT:
            self.fresh_names += 1
            if kind is Kind.CREATE:
                self._new[op.oid] = _NewFile(now)
            elif kind is Kind.UNLINK:
                self._new.pop(op.oid, None)
            elif kind is Kind.RENAME:
                self._new.pop(op.replaced, None)
        if self.refused and kind in _REMOVING:
            # Perhaps of what is refused, which then vanishes.
            held = self.held_back()
            self.trying_again = self.trying_again or (held is not None and held.meets(op))
        if self.first_fresh is None:
            self.first_fresh = now
        self.last_fresh = now
        if not self._accepted or now - self._accepted[-1][1] >= 1.0:
            self._accepted.append((op.seq, now))

    def file_opened(self, oid: int) -> None:
        """Count a writer of a new file."""
        self._writers[oid] = self._writers.get(oid, 0) + 1

    def file_closed(self, oid: int) -> bool:
        """Count a writer less; returns whether that lets something go."""
        count = self._writers.get(oid, 0) - 1
        if count > 0:
            self._writers[oid] = count
            return False
        self._writers.pop(oid, None)
        if oid not in self._new:
            return False
        self.last_fresh = self._monotonic()
        if self.first_fresh is None:
            self.first_fresh = self.last_fresh
        return True

    # -- questions

    @property
    def pending(self) -> bool:
        """Whether anything is not settled."""
        return bool(self.waiting or self.batches)

    def oldest_age(self) -> float | None:
        """Return how long ago the oldest unsettled operation was accepted, to a second."""
        if not self.unsettled or not self._accepted:
            return None
        oldest = self._oldest_seq()
        while len(self._accepted) > 1 and self._accepted[1][0] <= oldest:
            self._accepted.popleft()
        return self._monotonic() - self._accepted[0][1]

    def open_files(self, now: float) -> tuple[set[int], float | None]:
        """Return the new files that are kept back, and until when the first of them is."""
        kept: set[int] = set()
        until: float | None = None
        grace = self._limits.open_grace
        for oid, new in self._new.items():
            if (
                self._writers.get(oid)
                and now - new.since < grace
                and new.size < self._limits.batch_bytes
            ):
                kept.add(oid)
                until = new.since + grace if until is None else min(until, new.since + grace)
        return kept, until

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
        go, rest, whole = self._select(upto, keep_back)
        if not go and not (sync and whole):
            self._no_longer_fresh(more=False, upto=upto)
            self.trying_again = False
            return None
        batch = self._plan(go, rest, sync if whole else None, resume=self.resume)
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
        if upto is None or not self.waiting or self.waiting[-1].seq <= upto:
            self.first_fresh = None
        self.fresh_names = self.fresh_bytes = 0
        self.more = more

    def _select(
        self, upto: int | None, keep_back: set[int]
    ) -> tuple[list[Operation], list[Operation], bool]:
        """Return (what goes, what stays, whether only what must stay does)."""
        limits = self._limits
        blocked = Blocked(keep_back) if keep_back else None
        refused = {} if self.trying_again else self.refused
        if refused:
            blocked = blocked or Blocked()
        go: list[Operation] = []
        stay: list[Operation] = []
        names = size = 0
        made: set[int] = set()
        for index, op in enumerate(self.waiting):
            if upto is not None and op.seq > upto:
                return go, stay + self.waiting[index:], True
            if blocked is not None and (op.seq in refused or blocked.meets(op)):
                blocked.add(op)
                if refused and (inside := git_directory(op.path)) is not None:
                    blocked.add_name(inside)
                stay.append(op)
                continue
            if names >= limits.batch_operations or len(go) >= _PLANNED_AT_ONCE:
                return go, stay + self.waiting[index:], False
            if op.kind is Kind.WRITE:
                size += op.length
                # A new file that is complete is published in one piece, if it is not too large.
                if (
                    size > limits.batch_bytes
                    and go
                    and (op.oid not in made or size > limits.file_bytes)
                ):
                    return go, stay + self.waiting[index:], False
            elif op.kind not in _ON_CONTENT:
                names += 1
                if op.kind is Kind.CREATE:
                    made.add(op.oid)
            go.append(op)
        return go, stay, True

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
        record = BatchRecord(
            number=journal.next_batch,
            incarnation=journal.incarnation,
            first_wire=journal.next_wire,
            next_wire=planned.next_wire,
            operations=msgspec.Raw(_ENCODER.encode(planned.operations)),
            members=[
                records.MemberRecord(m.oid, m.offset, m.length, m.mode, m.mtime_ns)
                for m in planned.members
            ],
            images=[image_to_record(oid, image) for oid, image in planned.images.items()],
            owners=[records.OwnerRecord(o.wire, o.oid, o.seqs, o.other) for o in planned.owners],
            vanished=planned.vanished,
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
                self._new.pop(op.oid, None)
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
        position = self.journal.append_control(
            records.RESULT, batch.number, _ENCODER.encode(record)
        )
        self._results.append((batch.number, position))
        self._apply(batch, record)

    def settle_waiting(self, seqs: list[int], left: dict[int, Left]) -> None:
        """As settle(), for operations that never went to the box."""
        record = ResultRecord(
            0, seqs, [_left_record(oid, value) for oid, value in left.items()], []
        )
        self.journal.append_control(records.RESULT, 0, _ENCODER.encode(record))
        self._apply(None, record)

    def withdraw(self, batch: InFlight) -> None:
        """Take back the newest batch, of which the box has applied nothing.

        Its number is free again.
        """
        record = ResultRecord(batch.number, [], [], [], withdrawn=True)
        self.journal.append_control(records.RESULT, batch.number, _ENCODER.encode(record))
        self._apply(batch, record)

    def _apply(self, batch: InFlight | None, record: ResultRecord) -> None:
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
            self._relocate(relocation)
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

    def _relocate(self, relocation: RelocationRecord) -> None:
        """Send an object's operations from `first_seq` on to another name, until it is renamed."""
        old, new, oid = relocation.old, relocation.new, relocation.oid
        below = old + b"/"
        if relocation.errno:
            self.relocated[oid] = relocation
        for op in sorted(self.unsettled_operations(), key=_seq):
            if op.seq < relocation.first_seq:
                continue
            if relocation.subtree:
                if op.path.startswith(below):
                    op.path = new + op.path[len(old) :]
                if op.other.startswith(below):
                    op.other = new + op.other[len(old) :]
            if op.oid != oid:
                continue
            away = op.kind is Kind.RENAME and op.other == old
            if op.other == old:
                op.other = new
            if away:
                break
            if op.path == old:
                op.path = new
                if op.kind is Kind.RENAME:
                    op.replaced, op.replaced_base, op.flags = 0, None, 0
            if self.settled_left.get(oid, _NOTHING).absent:
                op.base = None

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

    def restore(self, found: Iterable[Operation | Control]) -> None:
        """Rebuild the state from what the journal holds."""
        now = self._monotonic()
        batches: dict[int, InFlight] = {}
        waiting: dict[int, Operation] = {}
        for item in found:
            if isinstance(item, Operation):
                waiting[item.seq] = item
                self._accepted.append((item.seq, now)) if not self._accepted else None
            elif item.kind == records.BATCH:
                record = msgspec.msgpack.decode(item.payload, type=BatchRecord)
                batch = self._restore_batch(record, waiting)
                batches[batch.number] = batch
                self.batches.append(batch)
                self.journal.next_batch = max(self.journal.next_batch, record.number + 1)
                self.journal.next_wire = max(self.journal.next_wire, record.next_wire)
            elif item.kind == records.RESULT:
                result = msgspec.msgpack.decode(item.payload, type=ResultRecord)
                self.waiting = sorted(waiting.values(), key=_seq)
                if result.number == 0 or result.number in batches:
                    self._apply(batches.get(result.number), result)
                waiting = {op.seq: op for op in self.waiting}
                if not result.withdrawn:
                    self.journal.next_batch = max(self.journal.next_batch, result.number + 1)
            elif item.kind == records.LINK:
                link = msgspec.msgpack.decode(item.payload, type=records.LinkRecord)
                self.journal.generation = max(self.journal.generation, link.generation)
                self.boot_id = link.boot_id or self.boot_id
        self.waiting = sorted(waiting.values(), key=_seq)
        self._drop_unheld_locks()
        self.unsettled = sum(1 for _ in self.unsettled_operations())
        self.pending_bytes = sum(
            op.length for op in self.unsettled_operations() if op.kind is Kind.WRITE
        )
        self.more = bool(self.waiting)

    def _drop_unheld_locks(self) -> None:
        """Forget locks that never went to the box: who wanted them died with the mount."""
        made = {op.oid for op in self.waiting if op.kind is Kind.LOCK}
        if made:
            gone = [op.seq for op in self.waiting if op.oid in made]
            record = ResultRecord(0, gone, [], [])
            self.journal.append_control(records.RESULT, 0, _ENCODER.encode(record))
            self.waiting = [op for op in self.waiting if op.oid not in made]

    def _restore_batch(self, record: BatchRecord, waiting: dict[int, Operation]) -> InFlight:
        seqs = [seq for owner in record.owners for seq in owner.seqs] + record.vanished
        operations = {seq: waiting.pop(seq) for seq in sorted(seqs) if seq in waiting}
        for op in operations.values():
            if op.base is not None:
                self.settled_left[op.oid] = Left(op.base, op.base.size, ino=op.base.ino)
        wire = msgspec.msgpack.decode(record.operations, type=list[tuple[object, ...]])
        return InFlight(
            record,
            wire,
            [Owner(owner.wire, owner.oid, owner.seqs, owner.other) for owner in record.owners],
            {image.oid: image_from_record(image, self.journal.blob) for image in record.images},
            operations,
            size=sum(member.length for member in record.members),
            oldest_seq=min(operations, default=0),
        )


_NOTHING = Left()


def _seq(op: Operation) -> int:
    return op.seq


def _left_record(oid: int, left: Left) -> LeftRecord:
    return LeftRecord(oid, left.version, left.size, left.absent, left.ino, left.lost)
