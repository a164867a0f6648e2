"""What becomes of each object over a run of operations, before any of them is planned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from devboxfs.core.ops import Kind, Operation
from devboxfs.core.path_tables import ancestors, move, swap
from devboxfs.core.planned import Left
from sealos_devbox import RENAME_EXCHANGE

__all__ = ["Fates", "fates_of"]

_MAKING = frozenset({Kind.CREATE, Kind.LOCK, Kind.MKDIR, Kind.SYMLINK, Kind.MKNOD})


@dataclass(frozen=True, slots=True)
class Fates:
    """By oid."""

    vanish: set[int]
    """Made in the run, and without a name at its end."""
    puts: set[int]
    """Their content is whole: it is sent as a new file."""
    doomed: set[int]
    """Of the box, and without their only name at the end: what is written to them has no effect."""


def fates_of(operations: Sequence[Operation], left: Mapping[int, Left]) -> Fates:
    """Survey the run; `left` is what earlier batches leave."""
    names: dict[int, int] = {}
    content: dict[int, bool] = {}
    linked: set[int] = set()
    fate: dict[int, bool] = {}
    puts = {oid for oid, before in left.items() if before.absent}
    kind_write, kind_truncate, kind_setxattr = Kind.WRITE, Kind.TRUNCATE, Kind.SETXATTR
    for op in operations:
        kind, oid = op.kind, op.oid
        fate[oid] = False
        if kind is kind_write:
            content.setdefault(oid, op.in_place)
        elif kind is kind_truncate:
            if not content.setdefault(oid, op.in_place) and op.size == 0:
                puts.add(oid)
        elif kind in _MAKING:
            names[oid] = 1
            if kind is Kind.CREATE:
                content[oid] = False
                puts.add(oid)
            elif kind is Kind.LOCK:
                content[oid] = True
        elif kind is Kind.LINK:
            linked.add(oid)
            if oid in names:
                names[oid] += 1
        elif kind is Kind.UNLINK or kind is Kind.RMDIR:
            fate[oid] = True
            if oid in names:
                names[oid] -= 1
        elif kind is Kind.RENAME:
            other = op.replaced
            if other and not op.flags & RENAME_EXCHANGE:
                fate[other] = True
                if other in names:
                    names[other] -= 1
            elif other:
                fate[other] = False
        elif kind is kind_setxattr:
            # A new inode would not have the attribute.
            content.setdefault(oid, True)
    vanish = {oid for oid, count in names.items() if count == 0}
    if any(op.kind is Kind.MKDIR and op.oid in vanish for op in operations):
        while used := _used_directories(operations, vanish):
            # A directory above one that stays has it in its own paths, so the next round finds it.
            vanish -= used
    doomed = {
        oid
        for oid, in_place in content.items()
        if fate[oid] and not in_place and oid not in linked and oid not in names
    }
    return Fates(vanish, puts, doomed)


def _used_directories(operations: Sequence[Operation], vanish: set[int]) -> set[int]:
    """Return directories that would vanish but through which something goes that does not."""
    at: dict[bytes, int] = {}
    used: set[int] = set()
    for op in operations:
        moved = op.replaced if op.flags & RENAME_EXCHANGE and op.kind is Kind.RENAME else 0
        if at and (op.oid not in vanish or (moved and moved not in vanish)):
            for path in (op.path, op.other):
                used.update(at[above] for above in ancestors(path) if above in at)
        if op.kind is Kind.RENAME:
            if op.flags & RENAME_EXCHANGE:
                swap(at, op.other, op.path)
            else:
                at.pop(op.path, None)
                if op.is_dir:
                    move(at, op.other, op.path)
        elif op.kind is Kind.MKDIR and op.oid in vanish:
            at[op.path] = op.oid
        elif op.kind is Kind.RMDIR:
            at.pop(op.path, None)
    return used
