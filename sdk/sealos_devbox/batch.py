"""A batch of changes, as `apply` takes it (sdk/PROTOCOL.md section 6).

A batch is an ordered list of operations with preconditions, and the contents they refer to. It is a
plain value: building one touches nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sealos_devbox.types import Content, Version

__all__ = [
    "ABSENT",
    "ANY",
    "Batch",
    "ContentMember",
    "Precondition",
    "as_left_by",
    "is_inode",
    "is_version",
]

Precondition = tuple[int | bytes | None, ...]
"""The wire form: [0] absent, [1, ...] version, [2, seq] as an operation left it, [3] none, [4, ino]
that inode."""

ABSENT: Precondition = (0,)
ANY: Precondition = (3,)

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2


def is_version(version: Version) -> Precondition:
    """The object must be of that version."""
    return (1, version.ino, version.ctime_ns, version.mtime_ns, version.size, version.sha256)


def as_left_by(seq: int, incarnation: bytes | None = None) -> Precondition:
    """The object must be as operation `seq` left it.

    Of another incarnation of the journal when one is given.
    """
    return (2, seq) if incarnation is None else (2, seq, incarnation)


def is_inode(ino: int) -> Precondition:
    """The object must be that inode, whatever its times say: for directories."""
    return (4, ino)


@dataclass(frozen=True, slots=True)
class ContentMember:
    """One content of a batch with the attributes it is published with."""

    content: Content
    mode: int
    """Permission bits (07777)."""
    mtime_ns: int


@dataclass(slots=True)
class Batch:
    """Operations and contents; the identity fields are those of the apply request.

    With `journal` None nothing is logged in the box and the batch is not exactly-once: the form of
    a plain SDK call. Paths are bytes relative to the workspace root. `seq` must ascend. Every
    method appends one operation.
    """

    journal: bytes | None = None
    incarnation: bytes = bytes(16)
    generation: int = 0
    number: int = 0
    acked: int = 0
    resume: int | None = None
    bypass: bool = False
    operations: list[tuple[object, ...]] = field(default_factory=list)
    members: list[ContentMember] = field(default_factory=list)
    sync: list[bytes] | bool | None = None
    """Paths to fsync after the batch; True for syncfs."""

    @property
    def content_size(self) -> int:
        """Total bytes of the contents."""
        return sum(member.content.size for member in self.members)

    def add_content(self, content: Content, mode: int, mtime_ns: int) -> int:
        """Add a content member; returns the number by which operations refer to it."""
        self.members.append(ContentMember(content, mode & 0o7777, mtime_ns))
        return len(self.members) - 1

    def put(self, seq: int, path: bytes, pre: Precondition, content: int) -> None:
        """Publish a content atomically under a name."""
        self.operations.append((seq, "put", path, pre, content))

    def write(
        self,
        seq: int,
        path: bytes,
        pre: Precondition,
        ranges: list[tuple[int, int]],
        size: int | None = None,
        mtime_ns: int | None = None,
    ) -> None:
        """Write (offset, content number) ranges in place, then set size and mtime."""
        self.operations.append((seq, "write", path, pre, ranges, size, mtime_ns))

    def lock(self, seq: int, path: bytes, mode: int) -> None:
        """Make an empty file that must be absent, under a lease."""
        self.operations.append((seq, "lock", path, ABSENT, mode & 0o7777))

    def mkdir(
        self, seq: int, path: bytes, pre: Precondition, mode: int, *, parents: bool = False
    ) -> None:
        """Make a directory."""
        self.operations.append((seq, "mkdir", path, pre, mode & 0o7777, parents))

    def symlink(
        self, seq: int, path: bytes, pre: Precondition, target: bytes, mtime_ns: int | None = None
    ) -> None:
        """Make a symbolic link."""
        self.operations.append((seq, "symlink", path, pre, target, mtime_ns))

    def link(
        self, seq: int, path: bytes, pre: Precondition, existing: bytes, existing_pre: Precondition
    ) -> None:
        """Make a hard link to `existing`."""
        self.operations.append((seq, "link", path, pre, existing, existing_pre))

    def mknod(
        self,
        seq: int,
        path: bytes,
        pre: Precondition,
        mode: int,
        rdev: int,
        mtime_ns: int | None = None,
    ) -> None:
        """Make a FIFO, socket or device."""
        self.operations.append((seq, "mknod", path, pre, mode, rdev, mtime_ns))

    def unlink(self, seq: int, path: bytes, pre: Precondition) -> None:
        """Remove anything but a directory."""
        self.operations.append((seq, "unlink", path, pre))

    def rmdir(self, seq: int, path: bytes, pre: Precondition) -> None:
        """Remove an empty directory."""
        self.operations.append((seq, "rmdir", path, pre))

    def rename(
        self,
        seq: int,
        path: bytes,
        pre: Precondition,
        source: bytes,
        source_pre: Precondition,
        flags: int = 0,
    ) -> None:
        """Rename `source` to `path`; flags as renameat2(2): RENAME_NOREPLACE, RENAME_EXCHANGE."""
        self.operations.append((seq, "rename", path, pre, source, source_pre, flags))

    def setattr(
        self,
        seq: int,
        path: bytes,
        pre: Precondition,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
    ) -> None:
        """Change attributes of the object itself; None leaves one alone."""
        self.operations.append((seq, "setattr", path, pre, mode, uid, gid, atime_ns, mtime_ns))

    def setxattr(
        self,
        seq: int,
        path: bytes,
        pre: Precondition,
        name: bytes,
        value: bytes | None,
        flags: int = 0,
    ) -> None:
        """Set an extended attribute; None removes it."""
        self.operations.append((seq, "setxattr", path, pre, name, value, flags))

    def dirtime(self, seq: int, path: bytes, mtime_ns: int) -> None:
        """Set a directory's mtime to that of our last change in it; never fails."""
        self.operations.append((seq, "dirtime", path, ANY, mtime_ns))

    def copy(
        self,
        seq: int,
        path: bytes,
        pre: Precondition,
        source: bytes,
        source_pre: Precondition,
        *,
        recursive: bool = False,
    ) -> None:
        """Copy within the box, attributes kept."""
        self.operations.append((seq, "copy", path, pre, source, source_pre, recursive))

    def rmtree(self, seq: int, path: bytes, pre: Precondition) -> None:
        """Remove a directory with all it holds."""
        self.operations.append((seq, "rmtree", path, pre))
