"""Which waiting operations never go to the box, and what is kept of them. Decides, does nothing."""

from __future__ import annotations

import errno
from collections.abc import Collection, Sequence

from devboxfs.core.deferral import stuck
from devboxfs.core.extents import ExtentMap
from devboxfs.core.ops import Kind, Operation
from devboxfs.writeback.decisions import Decision, Keep
from devboxfs.writeback.in_flight import Result
from devboxfs.writeback.ledger import Ledger
from devboxfs.writeback.seams import Settled

__all__ = ["discarded", "image_of", "meant_for_what_is_lost"]


def discarded(ledger: Ledger, paths: Collection[bytes]) -> list[Operation]:
    """Return what goes when changes of objects at these paths, which the box refuses, are given up.

    With what needs them. No paths: all that waits for something that is refused.
    """
    held = ledger.held_numbers()
    roots = {op.seq for op in ledger.waiting if op.seq in held and op.path in paths}
    doomed = stuck(ledger.waiting, roots) if paths else None
    return [
        op
        for op in ledger.waiting
        if op.seq in held and (doomed is None or op.seq in roots or doomed.meets(op))
    ]


def meant_for_what_is_lost(ledger: Ledger) -> Decision | None:
    """Decide what is kept of operations on objects that the box never took; None: there are none.

    What is done with a lock that the box refused is nothing, and is not kept.
    """
    gone = {oid for oid, left in ledger.settled_left.items() if left.lost}
    lost = [op for op in ledger.waiting if op.oid in gone] if gone else []
    if not lost:
        return None
    settled = Settled([op.seq for op in lost], {}, {})
    decision = Decision(Result([]), settled)
    for oid in {op.oid for op in lost} - ledger.refused_locks:
        operations = [op for op in lost if op.oid == oid]
        image = image_of(operations)
        settled.errors[oid] = errno.EIO
        if image is not None:
            last = max(op.seq for op in operations)
            path = operations[0].path
            decision.keeps.append(Keep(oid, path, image, errno.EIO, 0, last, False, None))
    return decision


def image_of(operations: Sequence[Operation]) -> ExtentMap | None:
    """Return what operations on one file wrote; None when they wrote nothing."""
    image = ExtentMap(0)
    wrote = False
    for op in operations:
        if op.kind is Kind.WRITE and op.source is not None:
            image.write(op.offset, op.length, op.source.blob, op.source.offset)
            wrote = True
        elif op.kind is Kind.TRUNCATE:
            image.truncate(op.size)
    return image if wrote else None
