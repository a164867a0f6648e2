"""Values that cross the public API and the wire.

The structs are `array_like`: MessagePack encodes them as the arrays of sdk/PROTOCOL.md, and decodes
them in C. Paths here are bytes, relative to the workspace root, without leading slash; the root is
``b""`` (PROTOCOL.md section 1).
"""

from __future__ import annotations

import stat as _stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

__all__ = [
    "ApplyResult",
    "Attributes",
    "Content",
    "DirectoryRecord",
    "Event",
    "FileSystemUsage",
    "ManyRecord",
    "Outcome",
    "PeerInfo",
    "Rung",
    "Version",
]


class Version(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What tells one content of an object from another (PROTOCOL.md section 1)."""

    ino: int
    ctime_ns: int
    mtime_ns: int
    size: int
    sha256: bytes | None = None

    def matches(self, other: Version) -> bool:
        """Whether both name the same state.

        Equal numbers, and equal digests where both carry one.
        """
        return (
            self.ino == other.ino
            and self.ctime_ns == other.ctime_ns
            and self.mtime_ns == other.mtime_ns
            and self.size == other.size
            and (self.sha256 is None or other.sha256 is None or self.sha256 == other.sha256)
        )


class Attributes(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """lstat(2) of an object in the box, with a symbolic link's target."""

    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    ino: int
    mtime_ns: int
    ctime_ns: int
    atime_ns: int
    blocks: int = 0
    rdev: int = 0
    target: bytes | None = None
    sha256: bytes | None = None

    @property
    def version(self) -> Version:
        """The version these attributes stand for."""
        return Version(self.ino, self.ctime_ns, self.mtime_ns, self.size, self.sha256)

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return _stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return _stat.S_ISREG(self.mode)

    @property
    def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return _stat.S_ISLNK(self.mode)


class DirectoryRecord(msgspec.Struct, array_like=True, frozen=True):
    """One directory, or a part of a large one, of a snapshot."""

    event: int
    """Number of the last event before the directory was read."""
    path: bytes
    last: bool
    """False while further records of the same directory follow."""
    entries: list[tuple[bytes, Attributes]] | None
    """None when the directory could not be read: see errno."""
    errno: int = 0


class ManyRecord(msgspec.Struct, array_like=True, frozen=True):
    """One file of a read_many answer; content is empty unless errno is 0."""

    index: int
    errno: int
    attr: Attributes | None = None
    content: bytes = b""


class Event(msgspec.Struct, array_like=True, frozen=True):
    """One coalesced change in the box (PROTOCOL.md section 7)."""

    number: int
    path: bytes
    mask: int
    """Union of inotify(7) bits; 0x4000 (IN_Q_OVERFLOW): rescan below path; 0x2000 (IN_UNMOUNT): the
    root is gone."""
    attr: Attributes | None
    """The state now; None when the name is gone."""
    moved_from: bytes | None = None


class Outcome(msgspec.Struct, array_like=True, frozen=True):
    """What became of one operation of a batch (PROTOCOL.md section 6)."""

    seq: int
    errno: int
    attr: Attributes | None = None
    flags: int = 0
    event: int = 0
    """Number of the last event of the watch that is older than the operation; 0: not known."""

    @property
    def conflict(self) -> bool:
        """Whether the precondition failed; attr is then what is there now."""
        return bool(self.flags & 1)


class FileSystemUsage(msgspec.Struct, array_like=True, frozen=True):
    """statvfs(3) of the workspace."""

    bsize: int
    frsize: int
    blocks: int
    bfree: int
    bavail: int
    files: int
    ffree: int
    favail: int
    flag: int
    namemax: int


class PeerInfo(msgspec.Struct, frozen=True):
    """What the helper says of itself and of the box in its WELCOME (PROTOCOL.md section 3)."""

    protocol: int
    version: str
    capabilities: frozenset[str]
    root: bytes
    uid: int
    gid: int
    groups: list[int]
    umask: int
    hostname: str
    clock_ns: int
    boot_id: str
    epoch: str
    pid: int
    helper: bytes
    window: int
    max_requests: int
    max_payload: int
    root_attr: Attributes
    statvfs: FileSystemUsage
    compress: bool = False


@dataclass(frozen=True, slots=True)
class Rung:
    """The way that was taken to a box, and why no better one."""

    name: str
    """``helper``, ``agent``, ``exec``, or a plugin's name."""
    description: str
    """For people to read."""
    weaker: tuple[str, ...] = ()
    """What this way cannot do as well as the helper; empty where the helper is at its end."""
    passed_over: tuple[tuple[str, str], ...] = ()
    """The rungs that were tried, or ruled out, before this one: (name, why)."""


@dataclass(frozen=True, slots=True)
class ApplyResult:
    """The answer to one batch."""

    outcomes: list[Outcome]
    durable: int
    """The highest batch of this journal that is on the box's stable storage."""
    free_bytes: int
    free_inodes: int
    event: int
    """Number of the last event before the batch was applied."""
    sync_errno: int = 0
    """errno of a failed fsync that the batch asked for; 0 when all succeeded."""
    seen: int = 0
    """When the batch made locks: number of the last event that is older than they are, else 0."""


class Content(Protocol):
    """Bytes of a known length that are produced when they are sent."""

    @property
    def size(self) -> int:
        """Exact number of bytes that chunks() will yield."""
        ...

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes in pieces.

        May be called again for a resend. May read local files: called in a thread when size is
        large.
        """
        ...


@dataclass(frozen=True, slots=True)
class BytesContent:
    """Content that is in memory."""

    data: bytes = field(repr=False)

    @property
    def size(self) -> int:
        """Length of the data."""
        return len(self.data)

    def chunks(self) -> Iterator[bytes]:
        """Yield the data once."""
        if self.data:
            yield self.data
