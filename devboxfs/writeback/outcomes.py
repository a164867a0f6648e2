"""What a batch's outcomes mean: settled, to be done again, or ours to keep elsewhere.

This decides, and does nothing. The first operation that the box refuses is refused for good. What
is about the same objects or names, in the same batch or in those sent meanwhile, may have failed
only because of that: it waits again, and is judged by what the box says when it comes back alone.
"""

from __future__ import annotations

import errno

from devboxfs.core.batch_records import RelocationRecord
from devboxfs.core.deferral import Blocked
from devboxfs.core.event_log import UNDATED
from devboxfs.core.extents import BasePiece
from devboxfs.core.ops import Kind, Operation
from devboxfs.core.planned import Left, Owner
from devboxfs.writeback.conflicts import conflict_name, is_conflict_name
from devboxfs.writeback.decisions import REFUSED, TROUBLE, Decision, Keep
from devboxfs.writeback.in_flight import InFlight, Result
from devboxfs.writeback.ledger import Ledger
from devboxfs.writeback.seams import ConflictReport, Settled
from sealos_devbox import ApplyResult, Attributes, Outcome

__all__ = ["decide"]

_ATTRIBUTES = frozenset({"setattr", "setxattr", "mknod"})


REPLAYED = 2
"""Flag of an outcome from the helper's log: without an event, nobody knows when it came about."""


def decide(
    ledger: Ledger,
    batch: InFlight,
    result: ApplyResult,
    suspect: Blocked | None,
    *,
    read_only: bool = False,
    passed_over: bool = False,
) -> Decision:
    """Judge the outcomes of the oldest batch.

    `suspect` is what earlier ones in flight with it had refused, `passed_over`: one of them made
    the box cancel what followed, which is to go on; `read_only`: the whole box is, not only a part
    of it.
    """
    return _Judge(ledger, batch, result, suspect, read_only, passed_over).run()


class _Judge:
    def __init__(
        self,
        ledger: Ledger,
        batch: InFlight,
        result: ApplyResult,
        suspect: Blocked | None,
        read_only: bool,
        passed_over: bool,
    ) -> None:
        self._ledger = ledger
        self._read_only = read_only
        self._passed_over = passed_over
        self._batch = batch
        self._suspect = suspect
        self._wire = {operation[0]: operation for operation in batch.wire}
        self._outcomes = {outcome.seq: outcome for outcome in result.outcomes}
        self._returned: set[int] = set()
        self._inos: dict[int, int] = {}
        settled = Settled([], {}, {}, event=result.event, seen=result.seen)
        self._to = Decision(Result([]), settled)

    def run(self) -> Decision:
        batch, to = self._batch, self._to
        for owner in batch.owners:
            operations = [batch.operations[s] for s in owner.seqs if s in batch.operations]
            outcome = self._outcome(owner)
            if outcome.event or outcome.flags & REPLAYED:
                event = outcome.event or UNDATED
                to.settled.events.update((op.seq, event) for op in operations)
            if outcome.errno == 0:
                self._done(owner, operations, outcome)
                continue
            if batch.replay:
                self._lost_again(owner, outcome)
                continue
            self._partly_done(owner)
            if self._waits(owner, outcome):
                self._passed_over = self._passed_over or outcome.errno in TROUBLE
                if outcome.errno in TROUBLE and not batch.record.bypass:
                    to.result.resume = owner.wire
                self._again(operations, outcome.errno)
                to.refused.update((op.seq, outcome.errno) for op in operations)
            elif outcome.errno in TROUBLE:
                if not to.trouble and not batch.record.bypass:
                    to.result.resume = owner.wire
                to.trouble = to.trouble or outcome.errno
                self._again(operations, outcome.errno)
            elif self._is_suspect(operations):
                self._again(operations, to.trouble or next(iter(to.refused.values()), errno.EIO))
            elif outcome.errno == errno.ECANCELED:
                passed_over = self._passed_over and not to.trouble
                self._again(operations, 0 if passed_over else to.trouble or errno.EIO)
                if passed_over:
                    continue
            else:
                self._refused(owner, operations, outcome)
            suspect = self._suspect = self._suspect or Blocked()
            for op in operations:
                suspect.add(op)
        self._vanished()
        for operation in batch.wire:
            if operation[1] == "dirtime":
                outcome = self._outcomes[_int(operation[0])]
                to.settled.directories[_bytes(operation[2])] = outcome.event
                if outcome.errno:
                    to.owed[_bytes(operation[2])] = _int(operation[4])
        to.suspect = self._suspect
        to.passed_over = self._passed_over
        to.result.settled = sorted(set(to.result.settled))
        to.settled.seqs.extend([] if batch.replay else to.result.settled)
        return to

    def _waits(self, owner: Owner, outcome: Outcome) -> bool:
        """Whether only this, and what depends on it, has to wait."""
        number = outcome.errno
        if outcome.conflict or number not in REFUSED or (number == errno.EROFS and self._read_only):
            return False
        # A change of attributes that is not permitted will not be: nothing is lost with it.
        return number != errno.EPERM or self._wire[owner.wire][1] not in _ATTRIBUTES

    def _partly_done(self, owner: Owner) -> None:
        """Note what a content that came half way has left in the box: the rest builds on that."""
        kind = self._wire[owner.wire][1]
        if kind == "rename" and owner.other:
            there = self._outcomes[owner.wire]
            if there.attr is not None and not there.conflict:
                self._to.result.left[owner.other] = self._left(owner.other, there.attr)
        if kind not in {"put", "write"}:
            return
        left: Attributes | None = None
        for wire in (owner.wire - 1, owner.wire):
            outcome = self._outcomes.get(wire)
            if outcome is None or wire not in self._wire or outcome.conflict:
                continue
            if self._wire[wire][2] == self._wire[owner.wire][2] and (
                wire == owner.wire or self._belongs(wire)
            ):
                left = outcome.attr or left
        if left is not None:
            self._to.result.left[owner.oid] = Left(left.version, left.size, ino=left.ino)

    def _belongs(self, wire: int) -> bool:
        """Whether a wire operation is the first part of the one that follows it."""
        operation = self._wire[wire]
        if self._wire[wire + 1][1] != "write":
            return False
        if operation[1] == "put":
            return True
        # A truncation that had to come first.
        return (
            operation[1] == "write"
            and operation[5] is not None
            and operation[6] is None
            and not operation[4]
        )

    def _outcome(self, owner: Owner) -> Outcome:
        before = owner.wire - 1
        if (
            before in self._wire
            and self._wire[before][2] == self._wire[owner.wire][2]
            and self._belongs(before)
            and self._outcomes[before].errno
        ):
            return self._outcomes[before]
        return self._outcomes[owner.wire]

    def _done(self, owner: Owner, operations: list[Operation], outcome: Outcome) -> None:
        wire = self._wire[owner.wire]
        to, oid = self._to, owner.oid
        self._settle(operations)
        self._state(oid, outcome.attr)
        to.settled.touched.discard(oid)
        to.result.left[oid] = self._left(oid, outcome.attr)
        if wire[1] in {"put", "write"}:
            to.settled.contents[oid] = self._batch.images[oid]
        if owner.other and wire[1] == "rename":
            exchanged = _int(wire[6]) != 0
            to.result.left[owner.other] = self._left(owner.other, None)
            if not exchanged:
                self._state(owner.other, None)
            else:
                to.settled.touched.add(owner.other)

    def _state(self, oid: int, attr: Attributes | None) -> None:
        """Note what the box has of an object now; None: less one name of it."""
        settled = self._to.settled
        before = settled.objects.get(oid)
        if attr is None and before is not None:
            settled.before[oid] = before
        settled.objects[oid] = attr

    def _left(self, oid: int, attr: Attributes | None) -> Left:
        if attr is not None:
            self._inos[oid] = attr.ino
            return Left(attr.version, attr.size, ino=attr.ino)
        before = self._to.result.left.get(oid) or self._ledger.settled_left.get(oid)
        if before is None:
            return Left()
        ino = before.version.ino if before.version is not None else before.ino
        return Left(size=before.size, ino=ino)

    def _settle(self, operations: list[Operation]) -> None:
        self._to.result.settled += [op.seq for op in operations]

    def _again(self, operations: list[Operation], why: int) -> None:
        for op in operations:
            self._returned.add(op.oid)
            if why:
                self._hurt(op, why)
            else:
                self._to.again.update((op.oid, op.path, op.path.rpartition(b"/")[0]))

    def _hurt(self, op: Operation, why: int) -> None:
        self._to.hurt.setdefault(op.oid, why)
        self._to.hurt_paths.setdefault(op.path, why)

    def _is_suspect(self, operations: list[Operation]) -> bool:
        suspect = self._suspect
        return suspect is not None and any(suspect.meets(op) for op in operations)

    def _vanished(self) -> None:
        """Settle what crossed no network, but not without what it was planned together with."""
        operations, refused = self._batch.operations, self._to.refused
        numbers = {operations[seq].oid: number for seq, number in refused.items()}
        for seq in self._batch.record.vanished:
            if seq in operations and operations[seq].oid in numbers:
                refused[seq] = numbers[operations[seq].oid]
        self._settle(
            [
                operations[seq]
                for seq in self._batch.record.vanished
                if seq in operations and operations[seq].oid not in self._returned
            ]
        )

    def _lost_again(self, owner: Owner, outcome: Outcome) -> None:
        """Keep what was settled, was lost by the box, and is refused by it now."""
        wire = self._wire[owner.wire]
        image = self._batch.images.get(owner.oid)
        if wire[1] in {"put", "write"} and image is not None and outcome.errno != errno.ECANCELED:
            self._to.keeps.append(
                Keep(
                    owner.oid,
                    _bytes(wire[2]),
                    image,
                    outcome.errno,
                    0,
                    owner.wire,
                    outcome.conflict,
                    outcome.attr,
                )
            )

    # -- refusals

    def _refused(self, owner: Owner, operations: list[Operation], outcome: Outcome) -> None:
        for op in operations:
            self._hurt(op, errno.EIO if outcome.conflict else outcome.errno)
        kind = self._wire[owner.wire][1]
        if kind in {"put", "write"}:
            self._content_refused(owner, operations, outcome)
        elif kind in {"mkdir", "symlink", "mknod"}:
            self._making_refused(owner, operations, outcome)
        elif kind == "lock":
            self._lock_refused(owner, operations, outcome)
        elif kind in {"unlink", "rmdir"}:
            self._removal_refused(owner, operations, outcome)
        elif kind == "rename":
            self._rename_refused(owner, operations, outcome)
        else:
            if kind == "link":
                # What follows under the name that could not be made is meant for the object.
                link = operations[-1]
                self._relocate(owner.oid, link.path, link.other, link.seq + 1, None)
            self._settle(operations)
            self._report(owner, outcome)

    def _report(self, owner: Owner, outcome: Outcome, stored_at: str | None = None) -> None:
        path = _bytes(self._wire[owner.wire][2])
        if outcome.conflict:
            self._to.settled.conflicts.append(
                ConflictReport(owner.oid, path, outcome.errno, outcome.attr, None, stored_at)
            )
        else:
            self._to.settled.errors[owner.oid] = outcome.errno

    def _new_name(self, path: bytes, operations: list[Operation]) -> bytes | None:
        """Return the name for our version; None when it goes to the store."""
        if is_conflict_name(path):
            return None
        taken = {relocation.new for relocation in self._ledger.relocated.values()}
        taken.update(relocation.new for relocation in self._to.result.relocations)
        number = 0
        while True:
            name = conflict_name(path, operations[-1].time_ns, number)
            if name is None or name not in taken:
                return name
            number += 1

    def _relocate(
        self,
        oid: int,
        old: bytes,
        new: bytes,
        first_seq: int,
        outcome: Outcome | None,
        *,
        subtree: bool = False,
    ) -> None:
        if outcome is not None:
            self._to.settled.conflicts.append(
                ConflictReport(oid, old, outcome.errno, outcome.attr, new)
            )
        self._to.result.relocations.append(
            RelocationRecord(
                oid,
                old,
                new,
                first_seq,
                subtree,
                outcome.errno if outcome is not None else 0,
                outcome.attr if outcome is not None else None,
            )
        )

    def _content_refused(self, owner: Owner, operations: list[Operation], outcome: Outcome) -> None:
        oid, path = owner.oid, _bytes(self._wire[owner.wire][2])
        image = self._batch.images[oid]
        first = operations[0] if operations else None
        whole = not any(isinstance(p, BasePiece) for p in image.pieces(0, image.size))
        name = self._new_name(path, operations) if outcome.conflict and whole and first else None
        if name is not None and first is not None:
            self._relocate(oid, path, name, first.seq, outcome)
            self._to.result.left[oid] = Left(absent=True, size=0)
            self._returned.add(oid)
            return
        self._settle(operations)
        born = any(op.kind is Kind.CREATE for op in operations)
        known = self._ledger.settled_left.get(oid)
        if born or (known is not None and known.absent):
            self._to.result.left[oid] = Left(lost=True)
        self._to.keeps.append(
            Keep(
                oid,
                path,
                image,
                outcome.errno,
                operations[-1].time_ns if operations else 0,
                operations[-1].seq if operations else owner.wire,
                outcome.conflict,
                outcome.attr,
                (first.base if first else None) or (known.version if known else None),
                next((op.mode for op in reversed(operations) if op.mode is not None), 0o644),
            )
        )

    def _making_refused(self, owner: Owner, operations: list[Operation], outcome: Outcome) -> None:
        wire = self._wire[owner.wire]
        oid, path, there = owner.oid, _bytes(wire[2]), outcome.attr
        same = there is not None and (
            (wire[1] == "mkdir" and there.is_dir)
            or (wire[1] == "symlink" and there.is_symlink and there.target == wire[4])
        )
        if outcome.conflict and same and there is not None:
            # Both sides made it.
            for op in operations:
                self._to.hurt.pop(op.oid, None)
                self._to.hurt_paths.pop(op.path, None)
            self._settle(operations)
            self._to.settled.objects[oid] = there
            self._to.result.left[oid] = Left(there.version, there.size, ino=there.ino)
            return
        name = self._new_name(path, operations) if outcome.conflict else None
        if name is not None:
            self._relocate(oid, path, name, operations[0].seq, outcome, subtree=wire[1] == "mkdir")
            self._returned.add(oid)
            return
        self._settle(operations)
        self._to.result.left[oid] = Left(lost=True)
        self._report(owner, outcome)

    def _lock_refused(self, owner: Owner, operations: list[Operation], outcome: Outcome) -> None:
        """Somebody else has the lock: no conflict, it excludes."""
        for op in operations:
            self._to.hurt.pop(op.oid, None)
            self._to.hurt_paths.pop(op.path, None)
        self._settle(operations)
        self._to.settled.locks_refused[owner.oid] = outcome.errno
        self._to.result.left[owner.oid] = Left(lost=True)

    def _removal_refused(self, owner: Owner, operations: list[Operation], outcome: Outcome) -> None:
        self._settle(operations)
        if outcome.errno == errno.ENOENT and outcome.attr is None:
            # Both sides removed it.
            for op in operations:
                self._to.hurt.pop(op.oid, None)
                self._to.hurt_paths.pop(op.path, None)
            self._to.settled.objects[owner.oid] = None
            return
        if outcome.errno in {errno.ENOTEMPTY, errno.EEXIST}:
            # Somebody put something into the directory: the box's version stays.
            outcome = Outcome(outcome.seq, outcome.errno, outcome.attr, outcome.flags | 1)
        self._report(owner, outcome)

    def _rename_refused(self, owner: Owner, operations: list[Operation], outcome: Outcome) -> None:
        wire = self._wire[owner.wire]
        path, source = _bytes(wire[2]), _bytes(wire[4])
        rename = operations[-1]
        subtree = rename.is_dir or rename.replaced_is_dir
        target_taken = outcome.conflict and outcome.attr is not None and not _int(wire[6])
        name = self._new_name(path, operations) if target_taken else None
        if name is not None and rename.oid == owner.oid:
            self._relocate(owner.oid, path, name, rename.seq, outcome, subtree=subtree)
            self._returned.add(owner.oid)
            return
        # The object stays where it is, and what follows is meant for it there.
        self._settle(operations)
        self._relocate(owner.oid, path, source, rename.seq + 1, None, subtree=subtree)
        if owner.other and _int(wire[6]):
            self._relocate(owner.other, source, path, rename.seq + 1, None, subtree=subtree)
        self._report(owner, outcome)


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError(f"expected bytes in a wire operation, not {type(value).__name__}")
    return value


def _int(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"expected int in a wire operation, not {type(value).__name__}")
    return value
