"""Planned operations as what goes over the wire: tuples, and the contents that they refer to."""

from __future__ import annotations

from collections.abc import Iterator

from devboxfs.core.extents import ExtentMap
from devboxfs.core.planned import Member
from sealos_devbox import ANY, Precondition, Version, as_left_by

__all__ = ["SPARSE", "PlannedObject", "PlannedWire", "WireBatch"]

SPARSE = 1 << 20
"""Holes of that many bytes in all are worth two operations instead of one; a guess."""


class PlannedWire:
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


class PlannedObject:
    """What the run has done to an object so far."""

    __slots__ = ("base", "content", "image", "ino", "last", "size", "skipped", "truncated", "vague")

    def __init__(self, ino: int, size: int, base: Version | None = None) -> None:
        self.base = base
        self.ino = ino
        self.size = size
        self.last: PlannedWire | None = None
        self.content: PlannedWire | None = None
        self.image: ExtentMap | None = None
        self.skipped: list[int] = []
        self.truncated = False
        self.vague = False


class WireBatch:
    """Collects the wire operations of a batch."""

    def __init__(self) -> None:
        self.operations: list[tuple[object, ...]] = []
        self.members: list[Member] = []
        self.images: dict[int, ExtentMap] = {}

    def add(self, wire: PlannedWire, known: PlannedObject) -> None:
        """Add what a planned operation is by now, on an object of which this is known."""
        kind, values = wire.kind, wire.values
        if kind == "put":
            self._put(wire, known)
            return
        if kind == "write":
            self._write(wire, known)
            return
        if kind == "mkdir":
            values = (0o755 if wire.mode is None else wire.mode & 0o7777, False)
        elif kind == "mknod":
            values = (wire.mode, *values, wire.mtime_ns)
        elif kind == "symlink":
            values = (*values, wire.mtime_ns)
        self.operations.append((wire.seq, kind, wire.path, wire.pre, *values))

    def add_directory_time(self, seq: int, path: bytes, time_ns: int) -> None:
        """Add what gives a directory its time."""
        self.operations.append((seq, "dirtime", path, ANY, time_ns))

    def _put(self, wire: PlannedWire, known: PlannedObject) -> None:
        image = self._image(wire, known)
        members, operations = self.members, self.operations
        mode = 0o644 if wire.mode is None else wire.mode & 0o7777
        mtime_ns = wire.mtime_ns or 0
        if image.size - image.dirty_bytes < SPARSE:
            members.append(Member(wire.oid, 0, image.size, mode, mtime_ns))
            operations.append((wire.seq, "put", wire.path, wire.pre, len(members) - 1))
            return
        # Holes are not sent: an empty file, then its ranges, then its size.
        members.append(Member(wire.oid, 0, 0, mode, mtime_ns))
        operations.append((wire.seq - 1, "put", wire.path, wire.pre, len(members) - 1))
        ranges = self._ranges(wire, image)
        pre = as_left_by(wire.seq - 1)
        operations.append((wire.seq, "write", wire.path, pre, ranges, image.size, wire.mtime_ns))

    def _write(self, wire: PlannedWire, known: PlannedObject) -> None:
        image = self._image(wire, known)
        operations, pre = self.operations, wire.pre
        if known.truncated and image.base_size < min(known.size, image.size):
            # It was cut, then grew again: what was cut off must not come back.
            operations.append((wire.seq - 1, "write", wire.path, pre, [], image.base_size, None))
            pre = as_left_by(wire.seq - 1)
        ranges = self._ranges(wire, image)
        size = image.size if known.truncated else None
        operations.append((wire.seq, "write", wire.path, pre, ranges, size, wire.mtime_ns))

    def _image(self, wire: PlannedWire, known: PlannedObject) -> ExtentMap:
        image = known.image
        assert image is not None  # noqa: S101 - an object with content in the batch has one
        self.images[wire.oid] = image
        return image

    def _ranges(self, wire: PlannedWire, image: ExtentMap) -> list[tuple[int, int]]:
        """Add a member for each run of extents; returns the (offset, number) pairs of a `write`."""
        ranges: list[tuple[int, int]] = []
        for offset, length in _joined(image):
            ranges.append((offset, len(self.members)))
            self.members.append(Member(wire.oid, offset, length, 0o600, 0))
        return ranges


def _joined(image: ExtentMap) -> Iterator[tuple[int, int]]:
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
