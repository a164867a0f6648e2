"""What the flusher writes into the journal: batches, what became of them, and its standing.

The payloads of records of the kinds BATCH, RESULT and LINK, as MessagePack arrays: fields are added
at the end, with a default.
"""

from __future__ import annotations

import msgspec

from sealos_devbox import Attributes, Version

__all__ = [
    "BatchRecord",
    "ImageRecord",
    "LeftRecord",
    "LinkRecord",
    "MemberRecord",
    "OwnerRecord",
    "RelocationRecord",
    "ResultRecord",
]


class ImageRecord(msgspec.Struct, array_like=True, frozen=True):
    """The content that a batch carries for one object."""

    oid: int
    base_size: int
    size: int
    extents: list[tuple[int, int, int, int, int, int]]
    """(offset, length, then the blob's id, then the offset in it)."""


class MemberRecord(msgspec.Struct, array_like=True, frozen=True):
    """One content of a batch: a range of an object's image."""

    oid: int
    offset: int
    length: int
    mode: int
    mtime_ns: int


class OwnerRecord(msgspec.Struct, array_like=True, frozen=True):
    """Which operations a wire operation stands for."""

    wire: int
    oid: int
    seqs: list[int]
    other: int = 0
    """The object that a RENAME replaces or is exchanged with."""


class BatchRecord(msgspec.Struct, array_like=True, frozen=True):
    """A batch as it is sent, and is sent again: the wire operations are kept, not planned anew.

    A later version of the program may plan otherwise, and the box has logged these.
    """

    number: int
    incarnation: bytes
    first_wire: int
    next_wire: int
    operations: msgspec.Raw
    members: list[MemberRecord]
    images: list[ImageRecord]
    owners: list[OwnerRecord]
    vanished: list[int]
    sync: list[bytes] | bool | None = None
    resume: int | None = None
    bypass: bool = False
    covers: int = 0
    """The last seq of its cut."""


class LeftRecord(msgspec.Struct, array_like=True, frozen=True):
    """What the box has of an object after a batch."""

    oid: int
    version: Version | None
    size: int
    absent: bool = False
    ino: int = 0
    lost: bool = False
    is_dir: bool = False


class RelocationRecord(msgspec.Struct, array_like=True, frozen=True):
    """After a conflict: where the operations of an object go from now on."""

    oid: int
    old: bytes
    new: bytes
    first_seq: int
    subtree: bool
    errno: int
    remote: Attributes | None


class ResultRecord(msgspec.Struct, array_like=True, frozen=True):
    """What became of a batch. Operations of it that are not settled wait again."""

    number: int
    settled: list[int]
    left: list[LeftRecord]
    relocations: list[RelocationRecord]
    resume: int | None = None
    """Trouble: the wire seq from which the box wants to go on."""
    withdrawn: bool = False
    """The box has applied nothing of it; another batch gets the number."""


class LinkRecord(msgspec.Struct, array_like=True, frozen=True):
    """The journal is about to be attached to a helper with this generation, or was."""

    generation: int
    boot_id: str = ""
