"""Objects of the mount: what the user sees of them, and what the box is known to hold.

Nodes are mutable and shared by everything in the daemon's one thread. A change is made in one
piece, without an await in between.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from sealos_devbox.types import Attributes, Version

if TYPE_CHECKING:
    from devboxfs.core.extents import ExtentMap
    from devboxfs.core.git_paths import LockKind

__all__ = ["Directory", "Doubt", "FileContent", "Lock", "News", "Node"]


class Doubt(IntEnum):
    """Why what is shown of an object may not be what the box has."""

    NONE = 0
    TOUCHED = 1
    """A change of ours of another name of it has moved its ctime, which no outcome told."""
    REFUSED = 2
    """The box has refused a change of it."""


class News(NamedTuple):
    """A state that the box has told, or None for absence, and how old that is."""

    age: tuple[int, int]
    """Number of the connection, and of the event on it: each connection counts its own."""
    attr: Attributes | None


class FileContent:
    """Content of a regular file that differs from the box's, or may soon.

    `extents.base` regions are read from the box (or the cache) at `base`. Extents that were flushed
    meanwhile stay until nothing is pending: their bytes equal those of the newer base.
    """

    __slots__ = ("base", "extents")

    def __init__(self, extents: ExtentMap, base: Version | None) -> None:
        self.extents = extents
        self.base = base
        """Version that the base regions are read from; None when there are none."""


@dataclass(slots=True, eq=False)
class Lock:
    """A file that excludes others by being there (vfs/locks.py)."""

    kind: LockKind
    seq: int
    """Of the operation that makes it."""
    index: tuple[object, ...] | None = None
    """What the index looked like when its lock was made."""
    answered: bool = False
    """The box has made it."""
    refused: int = 0
    """errno: the box has not, and never had it. What is done with it stays here."""
    seen: int = 0
    """Number of the last event that is older than the lock, and of which connection."""
    session: int = 0


class Node:
    """One object. The attributes are those shown; `box` is the last known state in the box."""

    __slots__ = (
        "atime_ns",
        "box",
        "content",
        "ctime_ns",
        "doubt",
        "error",
        "error_count",
        "gid",
        "ino",
        "last_seq",
        "links",
        "lock",
        "lookups",
        "mode",
        "mtime_ns",
        "name",
        "nlink",
        "oid",
        "opens",
        "parent",
        "pending",
        "rdev",
        "remote",
        "size",
        "target",
        "uid",
        "unsynced",
        "xattr_names",
        "xattrs",
    )

    def __init__(self, ino: int, attr: Attributes, box: Attributes | None) -> None:
        self.ino = ino
        """st_ino and FUSE node id."""
        self.box = box
        self.oid = 0
        """Identity in the journal; 0 while nothing of ours is pending on it."""
        self.pending = 0
        """Operations on the object that the box has not settled."""
        self.last_seq = 0
        """Journal seq of the last operation on it."""
        self.unsynced = False
        """Changed by us since the box last fsynced it."""
        self.remote: News | None = None
        """Heard while operations were pending."""
        self.parent: Directory | None = None
        """The directory of its first name; None for the root and for what has no name left."""
        self.name = b""
        self.links: list[tuple[Directory, bytes]] | None = None
        """All names, kept only for objects with several."""
        self.lookups = 0
        """References that the kernel holds."""
        self.opens = 0
        """Open files."""
        self.content: FileContent | None = None
        self.xattrs: dict[bytes, bytes | None] | None = None
        """Values that were set (None: removed) or fetched."""
        self.xattr_names: tuple[bytes, ...] | None = None
        """Those that the box has; None: it was not asked."""
        self.lock: Lock | None = None
        """Set while it is a lock that was made here."""
        self.doubt = Doubt.NONE
        """What is shown may not be what the box has; the next look decides."""
        self.error = 0
        """errno of the last failed flush of this object."""
        self.error_count = 0
        """How often that happened: each open file reports a count that it has not reported."""
        self.show(attr)

    def show(self, attr: Attributes) -> None:
        """Take over every shown attribute."""
        self.mode = attr.mode
        self.nlink = attr.nlink
        self.uid = attr.uid
        self.gid = attr.gid
        self.size = attr.size
        self.mtime_ns = attr.mtime_ns
        self.ctime_ns = attr.ctime_ns
        self.atime_ns = attr.atime_ns
        self.rdev = attr.rdev
        self.target = attr.target

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def version(self) -> Version | None:
        """The box version that is shown, when nothing of ours is pending."""
        return self.box.version if self.box is not None else None

    @property
    def stays_here(self) -> bool:
        """Whether what is done with it concerns nobody else."""
        if self.lock is not None and self.lock.refused:
            return True
        return self.parent is None and self.ino != 1

    def path(self) -> bytes:
        """Return the path of its first name from the workspace's root; b"" for that."""
        parts: list[bytes] = []
        node: Node = self
        while node.parent is not None:
            parts.append(node.name)
            node = node.parent
        if node.name:
            parts.append(node.name)  # what is mounted is not the root but a directory below it
        parts.reverse()
        return b"/".join(parts)

    def names(self) -> list[tuple[Directory, bytes]]:
        """Return every known name."""
        if self.links is not None:
            return list(self.links)
        return [(self.parent, self.name)] if self.parent is not None else []


class Directory(Node):
    """A directory and what is known of its entries."""

    __slots__ = ("children", "complete", "hidden", "pending_names", "stash")

    def __init__(self, ino: int, attr: Attributes, box: Attributes | None) -> None:
        super().__init__(ino, attr, box)
        self.children: dict[bytes, Node] = {}
        self.complete = False
        """All names are known: only then is absence an answer."""
        self.pending_names: dict[bytes, int] | None = None
        """Unsettled operations per name.

        While there are some, what the box says of the name is not shown.
        """
        self.stash: dict[bytes, News] | None = None
        """The newest heard of names while they were pending."""
        self.hidden: set[bytes] | None = None
        """Names that the box has and that this mount does not show."""

    @property
    def is_empty(self) -> bool:
        """Whether the box would remove it."""
        return not self.children and not self.hidden

    def child_path(self, name: bytes) -> bytes:
        """Return the path of an entry."""
        base = self.path()
        return base + b"/" + name if base else name

    def hold(self, name: bytes) -> None:
        """Count an operation on a name."""
        if self.pending_names is None:
            self.pending_names = {}
        self.pending_names[name] = self.pending_names.get(name, 0) + 1

    def release(self, name: bytes) -> bool:
        """Count one down; whether the name is free again."""
        pending = self.pending_names
        if pending is None:
            return True
        left = pending.get(name, 0) - 1
        if left > 0:
            pending[name] = left
            return False
        pending.pop(name, None)
        if not pending:
            self.pending_names = None
        return True

    def held(self, name: bytes) -> bool:
        """Whether operations on the name are unsettled."""
        return self.pending_names is not None and name in self.pending_names
