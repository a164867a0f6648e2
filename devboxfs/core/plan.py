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

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from devboxfs.core.directory_times import DirectoryTimes
from devboxfs.core.extents import ExtentMap
from devboxfs.core.fates import fates_of
from devboxfs.core.ops import Kind, Operation
from devboxfs.core.planned import UNKNOWN_SIZE, Left, Owner, Plan
from devboxfs.core.wire_batch import PlannedObject, PlannedWire, WireBatch
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

__all__ = ["plan"]


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
        self._wires: list[PlannedWire] = []
        self._objects: dict[int, PlannedObject] = {}
        self._vanished: list[int] = []
        self._times = DirectoryTimes(owed)
        fates = fates_of(operations, left)
        self._vanish, self._puts, self._doomed = fates.vanish, fates.puts, fates.doomed

    def run(self, floors: Mapping[bytes, int]) -> Plan:
        for op in self._operations:
            if op.oid in self._vanish:
                self._vanishing(op)
            else:
                self._EMIT[op.kind](self, op)
            self._times.note(op)
        return self._finish(floors)

    # -- wire operations

    def _object(self, oid: int, base: Version | None) -> PlannedObject:
        found = self._objects.get(oid)
        if found is None:
            if base is not None:
                found = PlannedObject(base.ino, base.size, base)
            else:
                left = self._left.get(oid)
                if left is None:
                    found = PlannedObject(0, UNKNOWN_SIZE)
                else:
                    found = PlannedObject(left.version.ino if left.version else left.ino, left.size)
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

    def _wire(
        self, kind: str, op: Operation, path: bytes, pre: Precondition, oid: int
    ) -> PlannedWire:
        wire = PlannedWire(self._next, kind, path, pre, oid)
        self._next += 1
        wire.seqs.append(op.seq)
        self._wires.append(wire)
        return wire

    def _made(self, kind: str, op: Operation) -> PlannedWire:
        """Emit what brings a new object about."""
        left = self._left.get(op.oid)
        # A first attempt may have come half way: the box has the file without all of its content.
        begun = left is not None and left.version is not None
        pre = self._pre(op.oid, None) if begun else ABSENT
        wire = self._wire(kind, op, op.path, pre, op.oid)
        made = PlannedObject(0, 0)
        made.last = wire
        self._objects[op.oid] = made
        return wire

    def _create(self, op: Operation) -> None:
        self._next += 1  # kept for what has to come before it: see WireBatch
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
            # A number is kept for what may have to come first: see WireBatch.
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
        self,
        op: Operation,
        known: PlannedObject,
        values: tuple[int | None, ...],
        *,
        merge: bool = True,
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
        if mtime_ns is not None and op.path in self._times:
            # It gets its time at the end anyway (self._times notes it).
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

    def _gone(self, oid: int, base: Version | None, wire: PlannedWire) -> None:
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

    # -- the batch

    def _finish(self, floors: Mapping[bytes, int]) -> Plan:
        batch = WireBatch()
        owners: list[Owner] = []
        for wire in self._wires:
            owners.append(Owner(wire.seq, wire.oid, wire.seqs, wire.other))
            batch.add(wire, self._objects[wire.oid])
        times = self._times.result(floors)
        for path, time_ns in times.items():
            batch.add_directory_time(self._next, path, time_ns)
            self._next += 1
        return Plan(
            batch.operations,
            batch.members,
            batch.images,
            owners,
            self._vanished,
            self._next,
            self._lefts(),
            times,
        )

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
