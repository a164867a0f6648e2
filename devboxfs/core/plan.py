"""A run of operations as one batch of wire operations. Pure and deterministic.

The batch leaves the box as the run leaves the table, by fewer steps:

* All content of an object becomes one `put` or one `write`, at the place of its first content
  operation, under the name that it had then. Later renames follow at their own places.
* Modes and times that were set after that are folded into it; others follow at their places, for a
  directory's mode decides what may be done in it, and a file's whether it may be written.
* What was made and lost all its names again within the run vanishes; what it replaced meanwhile is
  removed instead, what it changed places with is renamed. A directory does not vanish when
  something that stays was in it.
* Directories get their times last: the box set them when it applied the changes.

Every operation is owned by at most one wire operation, whose outcome is its outcome; those that are
owned by none have vanished.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

from devboxfs.core.extents import ExtentMap
from devboxfs.core.ops import Kind, Operation
from sealos_devbox import (
    ABSENT,
    ANY,
    RENAME_EXCHANGE,
    Precondition,
    Version,
    as_left_by,
    is_inode,
    is_version,
)

__all__ = ["Left", "Member", "Owner", "Plan", "plan"]

_Value = TypeVar("_Value")

UNKNOWN_SIZE = 1 << 62
"""Stands for the size of a file that is only known to be there; larger than any."""

SPARSE = 1 << 20
"""Holes of that many bytes in all are worth two operations instead of one; a guess."""


@dataclass(frozen=True, slots=True)
class Left:
    """What an earlier batch leaves, or has left, of an object on which more is pending."""

    version: Version | None = None
    size: int = UNKNOWN_SIZE
    wire: int = 0
    """The last wire operation on it while that has no outcome yet, else 0."""
    incarnation: bytes | None = None
    """Of that wire operation when it is not the current one."""
    absent: bool = False
    """The box does not have it (ours was refused, and gets another name)."""
    ino: int = 0
    """When only this is known: one of several names was removed, which changes the version."""
    lost: bool = False
    """It failed for good: what follows is kept in the conflict store."""


@dataclass(frozen=True, slots=True)
class Member:
    """One content: a range of an object's image."""

    oid: int
    offset: int
    length: int
    mode: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Owner:
    """Which operations a wire operation stands for, and which objects it is about."""

    wire: int
    oid: int
    seqs: list[int]
    other: int = 0


@dataclass(slots=True)
class Plan:
    """A batch's wire operations and contents."""

    operations: list[tuple[object, ...]]
    """As `sealos_devbox.Batch.operations`."""
    members: list[Member]
    images: dict[int, ExtentMap]
    """By oid: the content that the batch gives to objects."""
    owners: list[Owner]
    """One for each wire operation with an owner, ascending."""
    vanished: list[int]
    next_wire: int
    left: dict[int, Left]
    """What the batch will leave of every object that it touches."""
    dirtimes: dict[bytes, int] = field(default_factory=dict)
    """The times that it gives to directories."""


class _Wire:
    """A wire operation that later operations may still be folded into."""

    __slots__ = ("kind", "mode", "mtime_ns", "oid", "other", "path", "pre", "seq", "seqs", "values")

    def __init__(self, seq: int, kind: str, path: bytes, pre: Precondition, oid: int) -> None:
        self.seq = seq
        self.kind = kind
        self.path = path
        self.pre = pre
        self.oid = oid
        self.other = 0
        self.seqs: list[int] = []
        self.values: tuple[object, ...] = ()
        self.mode: int | None = None
        self.mtime_ns: int | None = None


class _Object:
    """What the run has done to an object so far."""

    __slots__ = ("base", "content", "image", "ino", "last", "size", "skipped", "truncated", "vague")

    def __init__(self, ino: int, size: int, base: Version | None = None) -> None:
        self.base = base
        self.ino = ino
        self.size = size
        self.last: _Wire | None = None
        self.content: _Wire | None = None
        self.image: ExtentMap | None = None
        self.skipped: list[int] = []
        self.truncated = False
        self.vague = False


_MAKING = frozenset({Kind.CREATE, Kind.LOCK, Kind.MKDIR, Kind.SYMLINK, Kind.MKNOD})
_CONTENT = frozenset({Kind.CREATE, Kind.WRITE, Kind.TRUNCATE})


def plan(
    operations: Sequence[Operation],
    left: Mapping[int, Left],
    first_wire: int,
    dirtimes: Mapping[bytes, int] | None = None,
    owed: Mapping[bytes, int] | None = None,
) -> Plan:
    """Return the batch for a run of operations in order.

    `left` says what earlier batches leave of objects whose operations carry no base. `dirtimes` are
    times that directories have been given while operations in them stayed behind: they never go
    back. `owed` are times that directories still have to be given.
    """
    return _Planner(operations, left, first_wire, owed or {}).run(dirtimes or {})


class _Planner:
    def __init__(
        self,
        operations: Sequence[Operation],
        left: Mapping[int, Left],
        first_wire: int,
        owed: Mapping[bytes, int],
    ) -> None:
        self._operations = operations
        self._left = left
        self._next = first_wire
        self._wires: list[_Wire] = []
        self._objects: dict[int, _Object] = {}
        self._vanished: list[int] = []
        self._dirtimes: dict[bytes, tuple[int, bool]] = {
            path: (time_ns, False) for path, time_ns in owed.items()
        }
        """By path: the time, and whether it was set explicitly."""
        self._vanish: set[int] = set()
        self._puts: set[int] = set()
        self._doomed: set[int] = set()

    def run(self, floors: Mapping[bytes, int]) -> Plan:
        self._survey()
        for op in self._operations:
            if op.oid in self._vanish:
                self._vanishing(op)
            else:
                self._EMIT[op.kind](self, op)
            self._directory_times(op)
        return self._finish(floors)

    # -- what is to become of each object

    def _survey(self) -> None:
        names: dict[int, int] = {}
        content: dict[int, bool] = {}
        linked: set[int] = set()
        fate: dict[int, bool] = {}
        puts = self._puts
        puts.update(oid for oid, left in self._left.items() if left.absent)
        kind_write, kind_truncate, kind_setxattr = Kind.WRITE, Kind.TRUNCATE, Kind.SETXATTR
        for op in self._operations:
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
        self._vanish = {oid for oid, count in names.items() if count == 0}
        if any(op.kind is Kind.MKDIR and op.oid in self._vanish for op in self._operations):
            while self._keep_used_directories():
                pass
        # An object of the box that loses its only name: what was written to it before has no
        # effect.
        self._doomed = {
            oid
            for oid, in_place in content.items()
            if fate[oid] and not in_place and oid not in linked and oid not in names
        }

    def _keep_used_directories(self) -> bool:
        """Keep directories that would vanish but through which something goes that does not."""
        vanish = self._vanish
        at: dict[bytes, int] = {}
        used: set[int] = set()
        for op in self._operations:
            moved = op.replaced if op.flags & RENAME_EXCHANGE and op.kind is Kind.RENAME else 0
            if at and (op.oid not in vanish or (moved and moved not in vanish)):
                for path in (op.path, op.other):
                    used.update(at[above] for above in _ancestors(path) if above in at)
            if op.kind is Kind.RENAME:
                if op.flags & RENAME_EXCHANGE:
                    _swap(at, op.other, op.path)
                else:
                    at.pop(op.path, None)
                    if op.is_dir:
                        _move(at, op.other, op.path)
            elif op.kind is Kind.MKDIR and op.oid in vanish:
                at[op.path] = op.oid
            elif op.kind is Kind.RMDIR:
                at.pop(op.path, None)
        # A directory above one that stays has it in its own paths, so the next round finds that.
        vanish -= used
        return bool(used)

    # -- wire operations

    def _object(self, oid: int, base: Version | None) -> _Object:
        found = self._objects.get(oid)
        if found is None:
            if base is not None:
                found = _Object(base.ino, base.size, base)
            else:
                left = self._left.get(oid)
                if left is None:
                    found = _Object(0, UNKNOWN_SIZE)
                else:
                    found = _Object(left.version.ino if left.version else left.ino, left.size)
            self._objects[oid] = found
        return found

    def _pre(self, oid: int, base: Version | None, *, is_dir: bool = False) -> Precondition:
        """Return what must be true of an object that exists."""
        known = self._object(oid, base)
        if known.vague:
            return is_inode(known.ino) if known.ino else ANY
        if known.last is not None:
            return as_left_by(known.last.seq)
        base = known.base
        if base is not None:
            return is_inode(base.ino) if is_dir else is_version(base)
        left = self._left.get(oid)
        if left is None:
            return ANY
        if left.wire:
            return as_left_by(left.wire, left.incarnation)
        if left.absent or left.lost:
            return ABSENT
        if left.version is None:
            return is_inode(left.ino) if left.ino else ANY
        return is_inode(left.version.ino) if is_dir else is_version(left.version)

    def _wire(self, kind: str, op: Operation, path: bytes, pre: Precondition, oid: int) -> _Wire:
        wire = _Wire(self._next, kind, path, pre, oid)
        self._next += 1
        wire.seqs.append(op.seq)
        self._wires.append(wire)
        return wire

    def _made(self, kind: str, op: Operation) -> _Wire:
        """Emit what brings a new object about."""
        left = self._left.get(op.oid)
        # A first attempt may have come half way: the box has the file without all of its content.
        begun = left is not None and left.version is not None
        pre = self._pre(op.oid, None) if begun else ABSENT
        wire = self._wire(kind, op, op.path, pre, op.oid)
        made = _Object(0, 0)
        made.last = wire
        self._objects[op.oid] = made
        return wire

    def _create(self, op: Operation) -> None:
        self._next += 1  # kept for what has to come before it: see _finish_put
        wire = self._made("put", op)
        wire.mode = op.mode
        wire.mtime_ns = op.time_ns
        made = self._objects[op.oid]
        made.content = wire
        made.image = ExtentMap(0)

    def _lock(self, op: Operation) -> None:
        self._made("lock", op).values = (op.mode or 0,)

    def _content(self, op: Operation) -> None:
        oid = op.oid
        known = self._objects.get(oid)
        if oid in self._doomed:
            self._object(oid, op.base).skipped.append(op.seq)
            return
        if known is None or known.content is None:
            pre = self._pre(oid, op.base)
            known = self._object(oid, op.base)
            # A number is kept for what may have to come first: see _finish_put and _finish_write.
            self._next += 1
            wire = self._wire("put" if oid in self._puts else "write", op, op.path, pre, oid)
            known.last = known.content = wire
            known.vague = False
            if wire.kind == "put":
                # It will be another inode.
                known.ino = 0
            known.image = ExtentMap(known.size)
        else:
            wire = known.content
            wire.seqs.append(op.seq)
        image = known.image
        assert image is not None  # noqa: S101 - it was made with the content
        if op.kind is not Kind.WRITE:
            image.truncate(op.size)
            known.truncated = True
        elif op.source is not None:
            image.write(op.offset, op.length, op.source.blob, op.source.offset)
        if op.mode is not None:
            wire.mode = op.mode
        wire.mtime_ns = op.time_ns

    def _setattr(self, op: Operation) -> None:
        if op.oid in self._doomed:
            # Its content is dropped, but it has only one name, so this has no effect either.
            self._object(op.oid, op.base).skipped.append(op.seq)
            return
        if op.is_dir:
            self._setattr_directory(op)
            return
        known = self._object(op.oid, op.base)
        mode, uid, gid, atime_ns, mtime_ns = op.mode, op.uid, op.gid, op.atime_ns, op.mtime_ns
        last, content = known.last, known.content
        if content is not None:
            if mtime_ns is not None:
                content.mtime_ns = mtime_ns
                # The time of access is not worth an operation of its own when it comes with this.
                mtime_ns = atime_ns = None
            if content.kind == "put":
                # After a change of owner the mode is set once more: chown(2) clears bits.
                content.mode = content.mode if mode is None else mode
                if last is None or last.kind != "setattr":
                    mode = None
            if mode is None and uid is None and gid is None and atime_ns is None:
                content.seqs.append(op.seq)
                return
        elif last is not None and last.kind in {"symlink", "mknod"}:
            if mtime_ns is not None:
                last.mtime_ns = mtime_ns
                mtime_ns = atime_ns = None
            if last.kind == "mknod" and mode is not None:
                last.mode = (last.mode or 0) & ~0o7777 | mode & 0o7777
                mode = None
            if mode is None and uid is None and gid is None and atime_ns is None:
                last.seqs.append(op.seq)
                return
        self._attributes(op, known, (mode, uid, gid, atime_ns, mtime_ns))

    def _attributes(
        self, op: Operation, known: _Object, values: tuple[int | None, ...], *, merge: bool = True
    ) -> None:
        last = known.last
        if merge and last is not None and last.kind == "setattr" and not known.vague:
            last.values = tuple(
                old if new is None else new for old, new in zip(last.values, values, strict=True)
            )
            last.seqs.append(op.seq)
            return
        pre = self._pre(op.oid, op.base, is_dir=op.is_dir)
        wire = self._wire("setattr", op, op.path, pre, op.oid)
        wire.values = values
        known.last = wire
        known.vague = False

    def _setattr_directory(self, op: Operation) -> None:
        known = self._object(op.oid, op.base)
        mode, atime_ns, mtime_ns = op.mode, op.atime_ns, op.mtime_ns
        newest = self._wires[-1] if self._wires else None
        adjacent = newest is not None and newest is known.last
        if mtime_ns is not None and op.path in self._dirtimes:
            # It gets its time at the end anyway (_directory_times notes it).
            mtime_ns = atime_ns = None
        if adjacent and newest is not None and newest.kind == "mkdir" and mode is not None:
            newest.mode = mode
            mode = None
        if (
            mode is None
            and op.uid is None
            and op.gid is None
            and atime_ns is None
            and mtime_ns is None
        ):
            if known.last is not None:
                known.last.seqs.append(op.seq)
            else:
                self._vanished.append(op.seq)
            return
        values = (mode, op.uid, op.gid, atime_ns, mtime_ns)
        self._attributes(op, known, values, merge=adjacent)

    def _mkdir(self, op: Operation) -> None:
        self._made("mkdir", op).mode = op.mode

    def _symlink(self, op: Operation) -> None:
        wire = self._made("symlink", op)
        wire.values = (op.data or b"",)
        wire.mtime_ns = op.time_ns

    def _mknod(self, op: Operation) -> None:
        wire = self._made("mknod", op)
        wire.mode = op.mode
        wire.values = (op.size,)
        wire.mtime_ns = op.time_ns

    def _link(self, op: Operation) -> None:
        pre = self._pre(op.oid, op.base)
        wire = self._wire("link", op, op.path, ABSENT, op.oid)
        wire.values = (op.other, pre)
        known = self._object(op.oid, op.base)
        known.last = wire
        known.vague = False

    def _unlink(self, op: Operation) -> None:
        self._remove(op, "unlink", op.oid, op.path, op.base, is_dir=False)

    def _rmdir(self, op: Operation) -> None:
        self._remove(op, "rmdir", op.oid, op.path, op.base, is_dir=True)

    def _remove(
        self, op: Operation, kind: str, oid: int, path: bytes, base: Version | None, *, is_dir: bool
    ) -> None:
        pre = self._pre(oid, base, is_dir=is_dir)
        wire = self._wire(kind, op, path, pre, oid)
        self._gone(oid, base, wire)

    def _gone(self, oid: int, base: Version | None, wire: _Wire) -> None:
        """Note that an object has one name less, perhaps none."""
        known = self._object(oid, base)
        if known.skipped:
            wire.seqs[:0] = known.skipped
            known.skipped = []
        known.last = wire
        known.vague = True

    def _rename(self, op: Operation) -> None:
        exchange = bool(op.flags & RENAME_EXCHANGE)
        source_pre = self._pre(op.oid, op.base, is_dir=op.is_dir)
        replaced = 0 if op.replaced in self._vanish else op.replaced
        if replaced:
            pre = self._pre(replaced, op.replaced_base, is_dir=op.replaced_is_dir)
        else:
            pre = ABSENT
        wire = self._wire("rename", op, op.path, pre, op.oid)
        wire.values = (op.other, source_pre, RENAME_EXCHANGE if exchange and replaced else 0)
        wire.other = replaced
        if replaced:
            self._gone(replaced, op.replaced_base, wire)
            # The box remembers both objects of an exchange; of one that was replaced, only that
            # this name of it is gone.
            self._objects[replaced].vague = not exchange
        known = self._object(op.oid, op.base)
        known.last = wire
        known.vague = False

    def _setxattr(self, op: Operation) -> None:
        known = self._object(op.oid, op.base)
        pre = self._pre(op.oid, op.base, is_dir=op.is_dir)
        wire = self._wire("setxattr", op, op.path, pre, op.oid)
        wire.values = (op.name, op.data, op.flags)
        known.last = wire
        known.vague = False

    def _vanishing(self, op: Operation) -> None:
        """Do what an operation of an object that vanishes did to others."""
        other = op.replaced
        if op.kind is not Kind.RENAME or not other or other in self._vanish:
            self._vanished.append(op.seq)
        elif op.flags & RENAME_EXCHANGE:
            source_pre = self._pre(other, op.replaced_base, is_dir=op.replaced_is_dir)
            wire = self._wire("rename", op, op.other, ABSENT, other)
            wire.values = (op.path, source_pre, 0)
            known = self._object(other, op.replaced_base)
            known.last = wire
            known.vague = False
        else:
            kind = "rmdir" if op.replaced_is_dir else "unlink"
            self._remove(op, kind, other, op.path, op.replaced_base, is_dir=op.replaced_is_dir)

    # -- directories' times

    def _directory_times(self, op: Operation) -> None:
        """Note which directories the operation changes, and follow them to their new names."""
        kind = op.kind
        if kind is Kind.WRITE or kind is Kind.TRUNCATE or kind is Kind.SETXATTR:
            return
        times = self._dirtimes
        if kind is Kind.SETATTR:
            if op.is_dir and op.mtime_ns is not None and op.path in times:
                times[op.path] = (op.mtime_ns, True)
            return
        times[op.path.rpartition(b"/")[0]] = (op.time_ns, False)
        if kind is Kind.RENAME:
            times[op.other.rpartition(b"/")[0]] = (op.time_ns, False)
            if op.flags & RENAME_EXCHANGE:
                if op.is_dir or op.replaced_is_dir:
                    _swap(times, op.other, op.path)
            elif op.is_dir:
                times.pop(op.path, None)
                _move(times, op.other, op.path)
        elif kind is Kind.MKDIR:
            times[op.path] = (op.time_ns, False)
        elif kind is Kind.RMDIR:
            times.pop(op.path, None)

    # -- the batch

    def _finish(self, floors: Mapping[bytes, int]) -> Plan:
        operations: list[tuple[object, ...]] = []
        members: list[Member] = []
        owners: list[Owner] = []
        images: dict[int, ExtentMap] = {}
        for wire in self._wires:
            owners.append(Owner(wire.seq, wire.oid, wire.seqs, wire.other))
            kind = wire.kind
            if kind == "put":
                images[wire.oid] = self._finish_put(wire, operations, members)
            elif kind == "write":
                images[wire.oid] = self._finish_write(wire, operations, members)
            elif kind == "setattr":
                operations.append((wire.seq, kind, wire.path, wire.pre, *wire.values))
            elif kind == "mkdir":
                mode = 0o755 if wire.mode is None else wire.mode & 0o7777
                operations.append((wire.seq, kind, wire.path, wire.pre, mode, False))
            elif kind == "mknod":
                values = (wire.mode, *wire.values, wire.mtime_ns)
                operations.append((wire.seq, kind, wire.path, wire.pre, *values))
            elif kind == "symlink":
                values = (*wire.values, wire.mtime_ns)
                operations.append((wire.seq, kind, wire.path, wire.pre, *values))
            else:
                operations.append((wire.seq, kind, wire.path, wire.pre, *wire.values))
        times = {
            path: time_ns if explicit else max(time_ns, floors.get(path, time_ns))
            for path, (time_ns, explicit) in self._dirtimes.items()
        }
        for path, time_ns in times.items():
            operations.append((self._next, "dirtime", path, ANY, time_ns))
            self._next += 1
        return Plan(
            operations, members, images, owners, self._vanished, self._next, self._lefts(), times
        )

    def _finish_put(
        self, wire: _Wire, operations: list[tuple[object, ...]], members: list[Member]
    ) -> ExtentMap:
        image = self._objects[wire.oid].image
        assert image is not None  # noqa: S101 - a put has one
        mode = 0o644 if wire.mode is None else wire.mode & 0o7777
        mtime_ns = wire.mtime_ns or 0
        if image.size - image.dirty_bytes < SPARSE:
            members.append(Member(wire.oid, 0, image.size, mode, mtime_ns))
            operations.append((wire.seq, "put", wire.path, wire.pre, len(members) - 1))
            return image
        # Holes are not sent: an empty file, then its ranges, then its size.
        members.append(Member(wire.oid, 0, 0, mode, mtime_ns))
        operations.append((wire.seq - 1, "put", wire.path, wire.pre, len(members) - 1))
        ranges = self._ranges(wire, image, members)
        pre = as_left_by(wire.seq - 1)
        operations.append((wire.seq, "write", wire.path, pre, ranges, image.size, wire.mtime_ns))
        return image

    def _ranges(
        self, wire: _Wire, image: ExtentMap, members: list[Member]
    ) -> list[tuple[int, int]]:
        """Add a member for each run of extents; returns the (offset, number) pairs of a `write`."""
        ranges: list[tuple[int, int]] = []
        for offset, length in _joined(image):
            ranges.append((offset, len(members)))
            members.append(Member(wire.oid, offset, length, 0o600, 0))
        return ranges

    def _finish_write(
        self, wire: _Wire, operations: list[tuple[object, ...]], members: list[Member]
    ) -> ExtentMap:
        known = self._objects[wire.oid]
        image = known.image
        assert image is not None  # noqa: S101 - a write has one
        pre = wire.pre
        if known.truncated and image.base_size < min(known.size, image.size):
            # It was cut, then grew again: what was cut off must not come back.
            operations.append((wire.seq - 1, "write", wire.path, pre, [], image.base_size, None))
            pre = as_left_by(wire.seq - 1)
        ranges = self._ranges(wire, image, members)
        size = image.size if known.truncated else None
        operations.append((wire.seq, "write", wire.path, pre, ranges, size, wire.mtime_ns))
        return image

    def _lefts(self) -> dict[int, Left]:
        found: dict[int, Left] = {}
        for oid, known in self._objects.items():
            if known.last is None:
                continue
            size = known.size if known.image is None else known.image.size
            if known.vague:
                found[oid] = Left(size=size, ino=known.ino)
            else:
                found[oid] = Left(size=size, wire=known.last.seq, ino=known.ino)
        return found

    _EMIT: ClassVar[dict[Kind, Callable[[_Planner, Operation], None]]] = {
        Kind.CREATE: _create,
        Kind.LOCK: _lock,
        Kind.WRITE: _content,
        Kind.TRUNCATE: _content,
        Kind.SETATTR: _setattr,
        Kind.MKDIR: _mkdir,
        Kind.SYMLINK: _symlink,
        Kind.MKNOD: _mknod,
        Kind.LINK: _link,
        Kind.UNLINK: _unlink,
        Kind.RMDIR: _rmdir,
        Kind.RENAME: _rename,
        Kind.SETXATTR: _setxattr,
    }


def _joined(image: ExtentMap) -> Iterable[tuple[int, int]]:
    """Yield (offset, length) of the runs of extents without a gap."""
    start = end = -1
    for extent in image.extents():
        if extent.offset == end:
            end += extent.length
            continue
        if end > start:
            yield start, end - start
        start, end = extent.offset, extent.offset + extent.length
    if end > start:
        yield start, end - start


def _ancestors(path: bytes) -> Iterable[bytes]:
    slash = path.rfind(b"/")
    while slash > 0:
        yield path[:slash]
        slash = path.rfind(b"/", 0, slash)


def _move(table: dict[bytes, _Value], old: bytes, new: bytes) -> None:
    """Rename a directory in a table by path."""
    below = old + b"/"
    for path in [path for path in table if path == old or path.startswith(below)]:
        table[new + path[len(old) :]] = table.pop(path)


def _swap(table: dict[bytes, _Value], one: bytes, two: bytes) -> None:
    """Exchange two names in a table by path."""
    moved: dict[bytes, _Value] = {}
    for old, new in ((one, two), (two, one)):
        below = old + b"/"
        for path in [path for path in table if path == old or path.startswith(below)]:
            moved[new + path[len(old) :]] = table.pop(path)
    table.update(moved)
