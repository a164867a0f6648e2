"""Operations: what was acknowledged to applications and is not yet known to be in the box.

An operation names its object by oid, and by the path that it had *at that time*, relative to the
workspace root. Operations are values; the journal encodes them (core/records.py), the planner
(core/plan.py) turns a run of them into wire operations.

What the planner relies on, and whoever makes operations must see to:

* ``oid`` stands for one object for ever; an object without a name gets no operations any more.
* ``base`` is set on the first operation of an object that the box has and on which nothing of ours
  is pending, and on no other.
* ``is_dir`` (``replaced_is_dir``) is set on every operation that is about a directory.
* Content operations (CREATE, WRITE, TRUNCATE) carry ``mode``, the permission bits that the object
  has after them (a write clears the set-user-ID bits), because the file may be published anew.
* A RENAME onto another link of the same object is nothing, and makes no operation.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from sealos_devbox import Version

__all__ = ["ANY_CTIME", "Blob", "Kind", "Operation", "Source"]


ANY_CTIME = 0
"""In the version that an operation starts from: the time of the last change is not known, as after
one of several names was removed, and not compared."""


class Kind(enum.IntEnum):
    """What an operation does. The numbers are part of the journal's format."""

    CREATE = 1
    """New regular file; `mode`."""
    WRITE = 2
    """`offset`, `length`, `source`; `mode`."""
    TRUNCATE = 3
    """`size`; `mode`."""
    SETATTR = 4
    """Any of `mode`, `uid`, `gid`, `atime_ns`, `mtime_ns` that is not None."""
    MKDIR = 5
    SYMLINK = 6
    """`data` is the target."""
    MKNOD = 7
    """`mode`, `size` holds rdev."""
    LINK = 8
    """New name `path` for the object that is also at `other`."""
    UNLINK = 9
    RMDIR = 10
    RENAME = 11
    """From `other` to `path`; `flags` as renameat2(2); `replaced` is the oid that stood at
    `path`, 0 for none."""
    SETXATTR = 12
    """`name`, `data` (None removes), `flags`."""
    LOCK = 13
    """New empty regular file that excludes others in the box; `mode`. Changed in place only."""


class Blob(Protocol):
    """A local file of immutable bytes: a journal segment or a spool file.

    Stays readable while referenced, though its name be gone.
    """

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`; OSError(EIO) when they are not there."""
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """Where the bytes of a WRITE lie."""

    blob: Blob
    offset: int


@dataclass(slots=True)
class Operation:
    """One acknowledged change. Fields that a kind does not use keep their defaults."""

    kind: Kind
    oid: int
    path: bytes
    time_ns: int
    """When it was acknowledged, in the box's clock: the mtime that it gives to the object and to
    its directory."""
    seq: int = 0
    """Given by the journal, ascending."""
    base: Version | None = None
    """The box version of the object that the mount had shown, when nothing of ours was pending on
    it; None when it has earlier pending operations, or does not exist in the box. For directories
    only the ino counts."""
    other: bytes = b""
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    offset: int = 0
    length: int = 0
    size: int = 0
    source: Source | None = None
    data: bytes | None = None
    name: bytes = b""
    flags: int = 0
    replaced: int = 0
    replaced_base: Version | None = None
    """As `base`, for the object that a RENAME replaces."""
    is_dir: bool = False
    """The object is a directory. MKDIR and RMDIR need not say so."""
    replaced_is_dir: bool = False
    in_place: bool = False
    """For content operations: the object must be changed in place (several links, or another
    owner), not replaced."""
