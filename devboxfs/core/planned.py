"""What a plan consists of, and what is left by one."""

from __future__ import annotations

from dataclasses import dataclass, field

from devboxfs.core.extents import ExtentMap
from sealos_devbox import Version

__all__ = ["UNKNOWN_SIZE", "Left", "Member", "Owner", "Plan"]

UNKNOWN_SIZE = 1 << 62
"""Stands for the size of a file that is only known to be there; larger than any."""


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
