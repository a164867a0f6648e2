"""Payloads of the helper protocol.

What the operations send and what they answer (sdk/PROTOCOL.md sections 3 to 8).

Everything is decoded by typed decoders, in C: an array of the wrong shape, a wrong type or a
trailing byte is a ProtocolError. Array-like structs ignore surplus trailing elements and default
absent ones, which is how the protocol grows.
"""

from __future__ import annotations

from typing import Any, Final, Generic, TypeVar

import msgspec

from sealos_devbox.errors import ProtocolError
from sealos_devbox.types import (
    Attributes,
    DirectoryRecord,
    Event,
    FileSystemUsage,
    Outcome,
    PeerInfo,
)

__all__ = [
    "PROTOCOL_VERSION",
    "ApplyReply",
    "AttachReply",
    "ErrorMessage",
    "ExitReply",
    "FileRecord",
    "Hello",
    "ListRecord",
    "OpenReply",
    "Pong",
    "Reply",
    "StatEntry",
    "StatRecord",
    "decode",
    "encode",
]

PROTOCOL_VERSION: Final = 1

T = TypeVar("T")


class Hello(msgspec.Struct, frozen=True):
    """What the client says first."""

    protocol: int
    client: str
    window: int
    compress: bool
    heartbeat_ms: int


class ErrorMessage(msgspec.Struct, array_like=True, frozen=True):
    """Payload of an ERROR frame."""

    errno: int
    message: str = ""


class Pong(msgspec.Struct, array_like=True, frozen=True):
    """Payload of a PONG frame; the helper fills all of it."""

    echo: bytes
    clock_ns: int = 0
    free_bytes: int = -1
    free_inodes: int = 0
    fs_flags: int = 0
    durable: int = 0


class Reply(msgspec.Struct, Generic[T], array_like=True, frozen=True):
    """Payload of a REPLY frame."""

    event: int
    result: T


class OpenReply(msgspec.Struct, array_like=True, frozen=True):
    """Result of open."""

    handle: int
    attr: Attributes


class ApplyReply(msgspec.Struct, array_like=True, frozen=True):
    """Result of apply."""

    batch: int
    durable: int
    free_bytes: int
    free_inodes: int
    seen: int = 0


class AttachReply(msgspec.Struct, array_like=True, frozen=True):
    """Result of attach."""

    batch: int
    durable: int
    boot_id: str


class ExitReply(msgspec.Struct, array_like=True, frozen=True):
    """Result of exec: one of the two is None."""

    exit_code: int | None
    signal: int | None = None


class StatEntry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One answer of stat_many."""

    index: int
    errno: int
    attr: Attributes | None = None


class StatRecord(msgspec.Struct, array_like=True, frozen=True):
    """One DATA record of stat_many."""

    event: int
    stats: list[StatEntry]


class ListRecord(msgspec.Struct, array_like=True, frozen=True):
    """One DATA record of list."""

    event: int
    entries: list[tuple[bytes, Attributes]]


class FileRecord(msgspec.Struct, array_like=True, frozen=True):
    """One file of read_many; the other two may be absent where there is an errno."""

    index: int
    errno: int
    attr: Attributes | None = None
    content: bytes | None = None


encode: Final = msgspec.msgpack.Encoder().encode
"""Return the MessagePack of a value; bytes become bin, str becomes str."""

WELCOME: Final = msgspec.msgpack.Decoder(PeerInfo)
ERROR: Final = msgspec.msgpack.Decoder(ErrorMessage)
PONG: Final = msgspec.msgpack.Decoder(Pong)

ANY_REPLY: Final = msgspec.msgpack.Decoder(Reply[Any])
ATTR_REPLY: Final = msgspec.msgpack.Decoder(Reply[Attributes])
OPEN_REPLY: Final = msgspec.msgpack.Decoder(Reply[OpenReply])
BYTES_REPLY: Final = msgspec.msgpack.Decoder(Reply[bytes])
NAMES_REPLY: Final = msgspec.msgpack.Decoder(Reply[list[bytes]])
BOOLS_REPLY: Final = msgspec.msgpack.Decoder(Reply[list[bool]])
INT_REPLY: Final = msgspec.msgpack.Decoder(Reply[int])
USAGE_REPLY: Final = msgspec.msgpack.Decoder(Reply[FileSystemUsage])
APPLY_REPLY: Final = msgspec.msgpack.Decoder(Reply[ApplyReply])
ATTACH_REPLY: Final = msgspec.msgpack.Decoder(Reply[AttachReply])
EXIT_REPLY: Final = msgspec.msgpack.Decoder(Reply[ExitReply])

STAT_RECORD: Final = msgspec.msgpack.Decoder(StatRecord)
LIST_RECORD: Final = msgspec.msgpack.Decoder(ListRecord)
DIRECTORY_RECORDS: Final = msgspec.msgpack.Decoder(list[DirectoryRecord])
FILE_RECORDS: Final = msgspec.msgpack.Decoder(list[FileRecord])
DIGESTS: Final = msgspec.msgpack.Decoder(list[bytes])
OUTCOMES: Final = msgspec.msgpack.Decoder(list[Outcome])
EVENTS: Final = msgspec.msgpack.Decoder(list[Event])


def decode(decoder: msgspec.msgpack.Decoder[T], payload: bytes | memoryview) -> T:
    """Decode one whole payload; raises ProtocolError when it is not what the operation answers."""
    try:
        return decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"malformed payload from the helper: {error}") from error
