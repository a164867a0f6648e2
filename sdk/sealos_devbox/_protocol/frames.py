"""Frames of the helper protocol (sdk/PROTOCOL.md section 2), in both directions.

Invariant of the parser: every byte fed is either part of a frame that was returned, or still held;
a frame is returned as soon as its last byte is there. A payload is a view of what was received, not
a copy: bulk data is copied when it is put together for the caller and not before.
"""

from __future__ import annotations

import struct
import zlib
from collections import deque
from typing import Final, NamedTuple

from sealos_devbox.errors import ProtocolError

__all__ = [
    "CANCEL",
    "COMPRESSED",
    "CONTROL",
    "CREDIT",
    "DATA",
    "END",
    "ERROR",
    "EVENTS",
    "HEADER_SIZE",
    "HELLO",
    "MAGIC",
    "MAX_NOISE",
    "MAX_PAYLOAD",
    "PING",
    "PONG",
    "REPLY",
    "REQUEST",
    "WELCOME",
    "Frame",
    "FrameParser",
    "Preamble",
    "compress",
    "encode",
    "encode_credit",
]

MAGIC: Final = b"\0DBXHLP\n"
MAX_NOISE: Final = 65536
"""Bytes before the magic that are put up with: a login banner, not a program that talks another
protocol."""
MAX_PAYLOAD: Final = 131072

HELLO: Final = 1
WELCOME: Final = 2
REQUEST: Final = 3
DATA: Final = 4
END: Final = 5
REPLY: Final = 6
ERROR: Final = 7
CREDIT: Final = 8
CANCEL: Final = 9
EVENTS: Final = 10
PING: Final = 11
PONG: Final = 12
CONTROL: Final = 13

COMPRESSED: Final = 0x01

_HEADER: Final = struct.Struct(">IBBI")
_CREDIT: Final = struct.Struct(">IBBII")
HEADER_SIZE: Final = _HEADER.size
_RESERVED_FLAGS: Final = 0x0E
_SUBSTREAM_FLAGS: Final = 0xF0

_OF_THE_CONNECTION: Final = frozenset((HELLO, WELCOME, PING, PONG))
_LENGTHS: Final = {END: range(1), CANCEL: range(1), CREDIT: range(4, 5), PING: range(65)}

# Level 1: at the link speeds where compression pays at all, its speed matters more than its last
# few percent.
_LEVEL: Final = 1


class Frame(NamedTuple):
    """One frame; the payload is inflated already."""

    kind: int
    id: int
    payload: memoryview | bytes
    substream: int
    wire_size: int
    """Length of the payload as it crossed the channel: what flow control counts."""


def encode(kind: int, id: int, payload: bytes | memoryview = b"", flags: int = 0) -> bytes:
    """Return the bytes of one frame."""
    return _HEADER.pack(len(payload), kind, flags, id) + payload


def encode_credit(id: int, amount: int) -> bytes:
    """Return the bytes of a CREDIT frame."""
    return _CREDIT.pack(4, CREDIT, 0, id, amount)


def compress(payload: bytes | memoryview) -> bytes | None:
    """Return the payload as a zlib stream, None where that saves less than a tenth."""
    packed = zlib.compress(payload, _LEVEL)
    return packed if len(packed) * 10 < len(payload) * 9 else None


def _inflate(payload: memoryview) -> bytes:
    inflater = zlib.decompressobj()
    try:
        # One byte more than is allowed: reaching it is what tells too much from just enough.
        data = inflater.decompress(payload, MAX_PAYLOAD + 1)
    except zlib.error as error:
        raise ProtocolError(f"compressed frame does not inflate: {error}") from error
    if len(data) > MAX_PAYLOAD:
        raise ProtocolError("compressed frame inflates to more than the largest payload")
    if not inflater.eof or inflater.unused_data:
        raise ProtocolError("compressed frame is not one whole zlib stream")
    return data


def _check(kind: int, flags: int, id: int, length: int) -> None:
    """Refuse what no frame of that type looks like, whoever sent it."""
    if not HELLO <= kind <= CONTROL:
        raise ProtocolError(f"frame of unknown type {kind}")
    if flags & _RESERVED_FLAGS or (flags & _SUBSTREAM_FLAGS and kind not in (DATA, END)):
        raise ProtocolError(f"frame of type {kind} with flags {flags:#04x}")
    if (id == 0) != (kind in _OF_THE_CONNECTION) and not (id == 0 and kind == ERROR):
        raise ProtocolError(f"frame of type {kind} with id {id}")
    if kind in _LENGTHS and length not in _LENGTHS[kind]:
        raise ProtocolError(f"frame of type {kind} with a payload of {length} bytes")


class Preamble:
    """What comes before the magic, and the search for it."""

    def __init__(self) -> None:
        self._received = bytearray()

    @property
    def noise(self) -> bytes:
        """What came so far."""
        return bytes(self._received)

    def feed(self, data: bytes) -> bytes | None:
        """Take received bytes; returns what follows the magic, None until it is there.

        Raises ProtocolError when it is not in the first MAX_NOISE bytes.
        """
        received = self._received
        searched = max(0, len(received) - len(MAGIC) + 1)
        received += data
        found = received.find(MAGIC, searched)
        if found < 0 and len(received) < MAX_NOISE + len(MAGIC):
            return None
        if not 0 <= found <= MAX_NOISE:
            raise ProtocolError("no helper answers: its mark is not in the first 64 KiB")
        return bytes(received[found + len(MAGIC) :])


class FrameParser:
    """Takes bytes as they come and gives frames."""

    __slots__ = ("_later", "_later_size", "_position", "_view")

    def __init__(self) -> None:
        self._view = memoryview(b"")
        self._position = 0
        self._later: deque[memoryview] = deque()
        self._later_size = 0

    def feed(self, data: bytes | memoryview) -> None:
        """Add received bytes."""
        if self._position == len(self._view) and not self._later:
            self._view = memoryview(data)
            self._position = 0
        else:
            # Joined once the frame is complete, so that a frame which comes in many small pieces is
            # not copied for each of them.
            self._later.append(memoryview(data))
            self._later_size += len(data)

    def next_frame(self) -> Frame | None:
        """Return the next complete frame, None when more bytes are needed.

        Raises ProtocolError on what is no frame.
        """
        needed = HEADER_SIZE
        while True:
            start = self._position + HEADER_SIZE
            available = len(self._view) - self._position
            if available >= needed:
                length, kind, flags, id = _HEADER.unpack_from(self._view, self._position)
                if length > MAX_PAYLOAD:
                    raise ProtocolError(
                        f"frame of {length} bytes; the largest payload is {MAX_PAYLOAD}"
                    )
                if available >= HEADER_SIZE + length:
                    break
                needed = HEADER_SIZE + length
            if available + self._later_size < needed:
                return None
            if available:
                self._join(needed)
            else:
                self._view = self._later.popleft()
                self._later_size -= len(self._view)
                self._position = 0
        self._position = start + length
        payload: memoryview | bytes = self._view[start : start + length]
        if flags & COMPRESSED:
            payload = _inflate(self._view[start : start + length])
        if kind != DATA or id == 0 or flags & _RESERVED_FLAGS:
            _check(kind, flags, id, len(payload))
        return Frame(kind, id, payload, flags >> 4, length)

    def _join(self, needed: int) -> None:
        """Make the next `needed` bytes one view; no more than those are copied."""
        parts = [self._view[self._position :]]
        missing = needed - len(parts[0])
        while missing > 0:
            piece = self._later.popleft()
            self._later_size -= len(piece)
            if len(piece) > missing:
                self._later.appendleft(piece[missing:])
                self._later_size += len(piece) - missing
                piece = piece[:missing]
            parts.append(piece)
            missing -= len(piece)
        self._view = memoryview(b"".join(parts))
        self._position = 0

    @property
    def pending(self) -> int:
        """Bytes held that are not a complete frame yet (or not taken yet)."""
        return len(self._view) - self._position + self._later_size
