"""What the file API answers."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from typing import Literal

from sealos_devbox.paths import path_text
from sealos_devbox.types import Attributes, Version

__all__ = [
    "FileInfo",
    "FileType",
    "TransferResult",
    "WatchEvent",
    "WatchKind",
]

FileType = Literal["file", "directory", "symlink", "fifo", "socket", "block", "character"]

_TYPES: dict[int, FileType] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "block",
    stat.S_IFCHR: "character",
}


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What the box says of one object."""

    path: str
    """Relative to the workspace; the workspace itself is ``"."``."""
    type: FileType
    size: int
    """In bytes."""
    mode: int
    """Permission bits, as 0o644."""
    mtime_ns: int
    """Nanoseconds since the epoch, by the box's clock."""
    uid: int
    gid: int
    link_count: int
    target: str | None
    """Where a symbolic link leads, as it is written; None for everything else."""
    version: Version = field(repr=False, compare=False)
    """For `if_match`: says that the object is still the one that this describes.

    Compare versions by their method `matches`: whether one carries a digest depends on when it was
    taken.
    """

    @property
    def name(self) -> str:
        """Last component of the path."""
        return self.path.rpartition("/")[2]

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return self.type == "directory"

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.type == "file"

    @property
    def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return self.type == "symlink"


def file_info(path: bytes, attr: Attributes) -> FileInfo:
    """Make the value from the wire's."""
    return FileInfo(
        path=path_text(path),
        type=_TYPES[stat.S_IFMT(attr.mode)],
        size=attr.size,
        mode=stat.S_IMODE(attr.mode),
        mtime_ns=attr.mtime_ns,
        uid=attr.uid,
        gid=attr.gid,
        link_count=attr.nlink,
        target=None if attr.target is None else path_text(attr.target),
        version=attr.version,
    )


@dataclass(frozen=True, slots=True)
class TransferResult:
    """What became of one file of an upload or a download."""

    path: str
    """In the box, relative to the workspace."""
    local: str | None
    """On this machine; None for content that was given as bytes."""
    size: int
    """Bytes transferred; 0 after an error."""
    error: OSError | None = None
    """Why it was not transferred; a BoxFileError when the box said so."""


WatchKind = Literal["created", "modified", "deleted", "moved", "attributes", "overflow"]


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One change in the box.

    ``created``
        The name appeared, or what it names was replaced as a whole (as `write_file` does).
    ``modified``
        The file was written to.
    ``deleted``
        The name is gone. For the watched directory itself: the watch is over.
    ``moved``
        The name appeared by a rename from `old_path`, which is gone.
    ``attributes``
        Only mode, owner, times or extended attributes changed.
    ``overflow``
        Changes at or below `path` were missed: look again at what is there.
    """

    kind: WatchKind
    path: str
    """Relative to the workspace."""
    old_path: str | None = None
    info: FileInfo | None = None
    """The object as it is now, which may be later than the change; None when it is gone."""
