"""Which of the waiting operations go with the next batch. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from devboxfs.core.deferral import Blocked, git_directory
from devboxfs.core.ops import Kind, Operation
from devboxfs.writeback.limits import Limits

__all__ = ["ON_CONTENT", "Selection", "select"]

ON_CONTENT = frozenset({Kind.WRITE, Kind.TRUNCATE, Kind.SETATTR, Kind.SETXATTR})
"""What is not an operation on names."""
_PLANNED_AT_ONCE = 8000
"""Operations in one batch: planning them takes about 30 ms of the event loop."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What goes and what stays, both ascending."""

    go: list[Operation]
    stay: list[Operation]
    whole: bool
    """Only what must stay does: the batch is not merely full."""


def select(
    waiting: Sequence[Operation],
    limits: Limits,
    *,
    upto: int | None,
    kept_back: set[int],
    refused: Collection[int],
) -> Selection:
    """Choose from operations in order.

    `upto` is the last seq that may go; objects in `kept_back` and operations (seqs) in `refused`
    stay, with what depends on them.
    """
    blocked = Blocked(kept_back) if kept_back else None
    if refused:
        blocked = blocked or Blocked()
    go: list[Operation] = []
    stay: list[Operation] = []
    names = size = 0
    made: set[int] = set()
    for index, op in enumerate(waiting):
        if upto is not None and op.seq > upto:
            return Selection(go, [*stay, *waiting[index:]], whole=True)
        if blocked is not None and (op.seq in refused or blocked.meets(op)):
            blocked.add(op)
            if refused and (inside := git_directory(op.path)) is not None:
                blocked.add_name(inside)
            stay.append(op)
            continue
        if names >= limits.batch_operations or len(go) >= _PLANNED_AT_ONCE:
            return Selection(go, [*stay, *waiting[index:]], whole=False)
        if op.kind is Kind.WRITE:
            size += op.length
            # A new file that is complete is published in one piece, if it is not too large.
            if (
                size > limits.batch_bytes
                and go
                and (op.oid not in made or size > limits.file_bytes)
            ):
                return Selection(go, [*stay, *waiting[index:]], whole=False)
        elif op.kind not in ON_CONTENT:
            names += 1
            if op.kind is Kind.CREATE:
                made.add(op.oid)
        go.append(op)
    return Selection(go, stay, whole=True)
