"""The journal's format: records and segment headers as bytes, and nothing that touches a file.

A segment is a header followed by records. All integers are big-endian.

====================  =========================================================================
header, 96 bytes      ``magic[8] | u16 format | u16 0 | u32 segment | incarnation[16] |
                      u64 previous_end | u64 next_seq | u64 next_oid | u64 next_batch |
                      u64 next_wire | u64 generation | u64 acked | u32 0 | u32 crc32``
record                ``u32 length | u32 crc32 | u8 kind | u64 seq | payload``
====================  =========================================================================

`length` counts what follows the crc; the crc is over the same bytes. `previous_end` is where the
records of the segment before end: what is after that was never acknowledged. Kinds below 32 are
operations (`seq` is theirs), the others are the flusher's, with a MessagePack payload of
batch_records.py (`seq` is the batch's number). The bytes of a WRITE are the end of its record's
payload, or lie in a spool file.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from struct import Struct

from devboxfs.core.ops import Blob, Kind, Operation, Source
from sealos_devbox import Version

__all__ = [
    "BATCH",
    "FORMAT",
    "HEADER_SIZE",
    "LINK",
    "RECORD_HEADER_SIZE",
    "RESULT",
    "BlobId",
    "Header",
    "RecordError",
    "Scanned",
    "decode_operation",
    "encode_operation",
    "encode_write",
    "frame",
    "pack_header",
    "scan",
    "unpack_header",
]

FORMAT = 1
MAGIC = b"DBXJRNL\n"

BATCH = 32
RESULT = 33
LINK = 34

BlobId = tuple[int, int, int]
"""(0, segment, 0) or (1, oid, number) for a spool file."""


class RecordError(ValueError):
    """Bytes that are not what this format says."""


_HEADER = Struct(">8sHHI16sQQQQQQQI")
HEADER_SIZE = _HEADER.size + 4


@dataclass(frozen=True, slots=True)
class Header:
    """What a segment begins with: the counters are those of the moment it was begun."""

    segment: int
    incarnation: bytes
    previous_end: int
    next_seq: int
    next_oid: int
    next_batch: int
    next_wire: int
    generation: int
    acked: int
    format: int = FORMAT


def pack_header(header: Header) -> bytes:
    """Return the bytes of a header."""
    body = _HEADER.pack(
        MAGIC,
        header.format,
        0,
        header.segment,
        header.incarnation,
        header.previous_end,
        header.next_seq,
        header.next_oid,
        header.next_batch,
        header.next_wire,
        header.generation,
        header.acked,
        0,
    )
    return body + zlib.crc32(body).to_bytes(4, "big")


def unpack_header(data: bytes) -> Header:
    """Read a header.

    Raises RecordError when it is cut or damaged; `format` is for the caller to look at.
    """
    if len(data) < HEADER_SIZE or data[: len(MAGIC)] != MAGIC:
        raise RecordError("no journal segment")
    body = data[: _HEADER.size]
    if zlib.crc32(body).to_bytes(4, "big") != data[_HEADER.size : HEADER_SIZE]:
        raise RecordError("damaged segment header")
    fields = _HEADER.unpack(body)
    return Header(
        segment=fields[3],
        incarnation=fields[4],
        previous_end=fields[5],
        next_seq=fields[6],
        next_oid=fields[7],
        next_batch=fields[8],
        next_wire=fields[9],
        generation=fields[10],
        acked=fields[11],
        format=fields[1],
    )


_FRAME = Struct(">IIBQ")
_CHECKED = Struct(">BQ")
RECORD_HEADER_SIZE = _FRAME.size


def frame(kind: int, seq: int, payload: bytes, data: bytes = b"") -> bytes:
    """Return the record's bytes up to `data`, which the caller writes behind them."""
    crc = zlib.crc32(payload, zlib.crc32(_CHECKED.pack(kind, seq)))
    if data:
        crc = zlib.crc32(data, crc)
    return _FRAME.pack(9 + len(payload) + len(data), crc, kind, seq) + payload


@dataclass(frozen=True, slots=True)
class Scanned:
    """One whole record: `start` and `end` delimit its payload in what was scanned."""

    kind: int
    seq: int
    start: int
    end: int


def scan(data: bytes | memoryview, start: int = HEADER_SIZE) -> Iterator[Scanned]:
    """Yield the records from `start` on, up to the first that is cut or damaged."""
    view = memoryview(data)
    position, total = start, len(view)
    while position + RECORD_HEADER_SIZE <= total:
        length, crc, kind, seq = _FRAME.unpack_from(view, position)
        end = position + 8 + length
        if length < 9 or end > total or zlib.crc32(view[position + 8 : end]) != crc:
            return
        yield Scanned(kind, seq, position + RECORD_HEADER_SIZE, end)
        position = end


# Which optional fields follow the fixed ones, in this order.
_BASE, _OTHER, _MODE, _UID, _GID, _ATIME, _MTIME = 1, 2, 4, 8, 16, 32, 64
_RANGE, _SOURCE, _SIZE, _DATA, _NAME, _FLAGS = 128, 256, 512, 1024, 2048, 4096
_REPLACED, _REPLACED_BASE = 8192, 16384
# These are all they say.
_IN_PLACE, _IS_DIR, _REPLACED_IS_DIR, _INLINE = 1 << 15, 1 << 16, 1 << 17, 1 << 18

_FIXED = Struct(">QqIH")
_I = Struct(">I")
_H = Struct(">H")
_Q = Struct(">Q")
_q = Struct(">q")
_RANGES = Struct(">QQ")
_BLOB = Struct(">BQIQ")
_VERSION = Struct(">QqqQB")
_WRITE = Struct(">QqIH")


def _version(version: Version) -> bytes:
    digest = version.sha256 or b""
    numbers = (version.ino, version.ctime_ns, version.mtime_ns, version.size)
    return _VERSION.pack(*numbers, len(digest)) + digest


def encode_write(op: Operation) -> bytes:
    """Return the payload of a WRITE up to its bytes, which follow inline."""
    if op.base is not None:
        return encode_operation(op, inline=True)
    # The hot path: everything that a WRITE in the middle of a file has, in two packs.
    bits = _RANGE | _INLINE | (_IN_PLACE if op.in_place else 0)
    path = op.path
    if op.mode is None:
        return (
            _FIXED.pack(op.oid, op.time_ns, bits, len(path))
            + path
            + _RANGES.pack(op.offset, op.length)
        )
    return (
        _FIXED.pack(op.oid, op.time_ns, bits | _MODE, len(path))
        + path
        + _I.pack(op.mode)
        + _RANGES.pack(op.offset, op.length)
    )


def encode_operation(op: Operation, *, blob: BlobId | None = None, inline: bool = False) -> bytes:
    """Return the payload of an operation.

    `blob` says where the bytes of a WRITE lie, `inline` that they follow.
    """
    bits = 0
    path = op.path
    parts: list[bytes] = [b"", path]
    if op.base is not None:
        bits |= _BASE
        parts.append(_version(op.base))
    if op.other:
        bits |= _OTHER
        parts.append(_H.pack(len(op.other)))
        parts.append(op.other)
    if op.mode is not None:
        bits |= _MODE
        parts.append(_I.pack(op.mode))
    if op.uid is not None:
        bits |= _UID
        parts.append(_I.pack(op.uid))
    if op.gid is not None:
        bits |= _GID
        parts.append(_I.pack(op.gid))
    if op.atime_ns is not None:
        bits |= _ATIME
        parts.append(_q.pack(op.atime_ns))
    if op.mtime_ns is not None:
        bits |= _MTIME
        parts.append(_q.pack(op.mtime_ns))
    if op.length or op.offset:
        bits |= _RANGE
        parts.append(_RANGES.pack(op.offset, op.length))
    if blob is not None and op.source is not None:
        bits |= _SOURCE
        parts.append(_BLOB.pack(*blob, op.source.offset))
    if op.size:
        bits |= _SIZE
        parts.append(_Q.pack(op.size))
    if op.data is not None:
        bits |= _DATA
        parts.append(_I.pack(len(op.data)))
        parts.append(op.data)
    if op.name:
        bits |= _NAME
        parts.append(_H.pack(len(op.name)))
        parts.append(op.name)
    if op.flags:
        bits |= _FLAGS
        parts.append(_I.pack(op.flags))
    if op.replaced:
        bits |= _REPLACED
        parts.append(_Q.pack(op.replaced))
    if op.replaced_base is not None:
        bits |= _REPLACED_BASE
        parts.append(_version(op.replaced_base))
    if op.in_place:
        bits |= _IN_PLACE
    if op.is_dir:
        bits |= _IS_DIR
    if op.replaced_is_dir:
        bits |= _REPLACED_IS_DIR
    if inline:
        bits |= _INLINE
    parts[0] = _FIXED.pack(op.oid, op.time_ns, bits, len(path))
    return b"".join(parts)


class _Cursor:
    """Reads a payload; running over its end is RecordError."""

    __slots__ = ("data", "position")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, length: int) -> bytes:
        found = self.data[self.position : self.position + length]
        if len(found) != length:
            raise RecordError("record is too short")
        self.position += length
        return found

    def number(self, layout: Struct) -> int:
        value: int = layout.unpack(self.take(layout.size))[0]
        return value

    def version(self) -> Version:
        ino, ctime_ns, mtime_ns, size, digest = _VERSION.unpack(self.take(_VERSION.size))
        return Version(ino, ctime_ns, mtime_ns, size, self.take(digest) or None)


def decode_operation(
    kind: int, seq: int, payload: bytes, here: tuple[Blob, int], blob: Callable[[BlobId], Blob]
) -> Operation:
    """Read an operation's payload.

    `here` is the segment and the payload's offset in it, for bytes that are inline; `blob` finds a
    spool file. Raises RecordError for what this format does not know.
    """
    try:
        what = Kind(kind)
    except ValueError as exc:
        raise RecordError(f"record kind {kind} is not known to this version") from exc
    cursor = _Cursor(payload)
    oid, time_ns, bits, path_length = _FIXED.unpack(cursor.take(_FIXED.size))
    op = Operation(what, oid, cursor.take(path_length), time_ns, seq)
    if bits & _BASE:
        op.base = cursor.version()
    if bits & _OTHER:
        op.other = cursor.take(cursor.number(_H))
    if bits & _MODE:
        op.mode = cursor.number(_I)
    if bits & _UID:
        op.uid = cursor.number(_I)
    if bits & _GID:
        op.gid = cursor.number(_I)
    if bits & _ATIME:
        op.atime_ns = cursor.number(_q)
    if bits & _MTIME:
        op.mtime_ns = cursor.number(_q)
    if bits & _RANGE:
        op.offset, op.length = _RANGES.unpack(cursor.take(_RANGES.size))
    if bits & _SOURCE:
        *ident, offset = _BLOB.unpack(cursor.take(_BLOB.size))
        op.source = Source(blob((ident[0], ident[1], ident[2])), offset)
    if bits & _SIZE:
        op.size = cursor.number(_Q)
    if bits & _DATA:
        op.data = cursor.take(cursor.number(_I))
    if bits & _NAME:
        op.name = cursor.take(cursor.number(_H))
    if bits & _FLAGS:
        op.flags = cursor.number(_I)
    if bits & _REPLACED:
        op.replaced = cursor.number(_Q)
    if bits & _REPLACED_BASE:
        op.replaced_base = cursor.version()
    op.in_place = bool(bits & _IN_PLACE)
    op.is_dir = bool(bits & _IS_DIR)
    op.replaced_is_dir = bool(bits & _REPLACED_IS_DIR)
    if bits & _INLINE:
        op.source = Source(here[0], here[1] + cursor.position)
        cursor.take(op.length)
    if cursor.position != len(payload):
        raise RecordError("record is too long")
    return op
