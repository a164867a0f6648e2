"""Sends an object's operations on to another name. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from devboxfs.core.batch_records import RelocationRecord
from devboxfs.core.ops import Kind, Operation

__all__ = ["redirect"]


def redirect(
    operations: Iterable[Operation], relocation: RelocationRecord, *, absent: bool
) -> None:
    """Change the paths of operations, which ascend by seq, as a relocation says.

    From `first_seq` on, until the object is renamed away; with a `subtree` also what is below.
    `absent`: the box does not have the object, so nothing of it rests upon a version there.
    """
    old, new, oid = relocation.old, relocation.new, relocation.oid
    below = old + b"/"
    for op in operations:
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
        if absent:
            op.base = None
