"""What the durable path asks of its surroundings, and what it tells them.

`Link` is implemented by vfs/link.py, `Listener` by vfs/filesystem.py; recovery runs with a listener
that only collects.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from devboxfs.core.extents import ExtentMap
from sealos_devbox import Attributes, FileTransport, Version

__all__ = ["ConflictReport", "Link", "Listener", "Settled"]


class Link(Protocol):
    """The connection to the box, which comes and goes."""

    @property
    def online(self) -> bool:
        """Whether a transport is up."""
        ...

    async def wait_transport(self, previous: FileTransport | None = None) -> FileTransport:
        """Return the transport that is up.

        Waits for one, and for another one than `previous`, which is reported as broken.
        """
        ...


@dataclass(frozen=True, slots=True)
class ConflictReport:
    """The box refused an operation: the object there is not the one that the mount had shown."""

    oid: int
    path: bytes
    """Where the box's version is."""
    errno: int
    remote: Attributes | None
    """What is there now."""
    kept_as: bytes | None
    """The name of our copy in the box (its creation is already journalled), None when there was
    nothing to keep or it went to the store."""
    stored_at: str | None = None
    """The local file that holds our copy when it could not be kept in the box."""
    copy_oid: int = 0
    """The object that our copy is, if it is another one: what was written into the middle of a file
    was made whole with what this machine knew of it."""


@dataclass(frozen=True, slots=True)
class Settled:
    """A batch has its outcomes: what it covered is in the box, or has become a conflict."""

    seqs: list[int]
    """The journal seqs that are settled, ascending; every one of them is settled exactly once."""
    objects: dict[int, Attributes | None]
    """State in the box of every object that the batch touched, by oid, as its last operation in
    the batch left it.

    None: the name is gone; of an object with other names only `before` is known then: look again.
    That of the second object of an exchange is from before it, or not in here (`touched`)."""
    contents: dict[int, ExtentMap]
    """For objects whose content the batch carried: the image it carried (equal to the content at
    `objects[oid].version`)."""
    conflicts: list[ConflictReport] = field(default_factory=list)
    errors: dict[int, int] = field(default_factory=dict)
    """oid -> errno for operations that failed otherwise (EACCES, ENAMETOOLONG...); the data is
    in the conflict store."""
    refused: dict[int, int] = field(default_factory=dict)
    """oid -> errno for objects with operations that the box refuses for now (a permission, a part
    of it that is read-only): they stay in the journal and are tried again. Said once."""
    locks_refused: dict[int, int] = field(default_factory=dict)
    """oid -> errno for locks that the box did not make: EEXIST when somebody else has one. Nothing
    of what is done with such a file goes to the box."""
    seen: int = 0
    """For batches that made locks: see `ApplyResult.seen`."""
    event: int = 0
    """Number of the last event before the batch was applied: an event with a higher number is
    newer than `objects`, if `events` does not say more."""
    events: dict[int, int] = field(default_factory=dict)
    """seq -> number of the last event before the box did it, where that is known. Events come up
    between the operations of a batch, too: whether they are older depends on the operation."""
    directories: dict[bytes, int] = field(default_factory=dict)
    """Path -> the same for the times that the batch gave to directories."""
    touched: set[int] = field(default_factory=set)
    """Objects that have another ctime in the box than `objects` says."""
    before: dict[int, Attributes] = field(default_factory=dict)
    """State that the batch had given to objects before it took a name of theirs away."""


class Listener(Protocol):
    """Hears what became of operations.

    Called in trio's thread, must not raise; but for `base_content`, must not await.
    """

    def settled(self, batch: Settled) -> None:
        """Take note of a batch's outcomes.

        Called after they are journalled and before waiters wake.
        """
        ...

    async def base_content(self, version: Version, size: int) -> bytes | None:
        """Return the whole content of a version, if this machine has it."""
        ...

    def trouble(self, errno: int, oids: set[int]) -> None:
        """The box refuses changes with ENOSPC, EDQUOT, EIO or EROFS.

        Errno 0: it takes them again.
        """
        ...
