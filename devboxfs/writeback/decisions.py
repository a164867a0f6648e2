"""What may be decided about operations: by outcomes.py, and by giving_up.py."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

from devboxfs.core.deferral import Blocked
from devboxfs.core.extents import ExtentMap
from devboxfs.writeback.in_flight import Result
from devboxfs.writeback.seams import Settled
from sealos_devbox import Attributes, Version

__all__ = ["REFUSED", "TROUBLE", "Decision", "Keep"]

TROUBLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS})
"""After these the box takes nothing more of the journal until it is told to go on."""
REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
"""These may be about one place only, and may pass: what does not depend on it goes on."""


@dataclass(frozen=True, slots=True)
class Keep:
    """A content that goes to the conflict store."""

    oid: int
    path: bytes
    image: ExtentMap
    errno: int
    time_ns: int
    seq: int
    conflict: bool
    remote: Attributes | None
    base: Version | None = None
    """What parts of the content rest upon."""
    mode: int = 0o644


@dataclass(slots=True)
class Decision:
    """What is to be done. `keeps` first: without them nothing of the rest may be done."""

    result: Result
    settled: Settled
    keeps: list[Keep] = field(default_factory=list)
    trouble: int = 0
    hurt: dict[int, int] = field(default_factory=dict)
    """oid -> errno, for what is not in the box now: an fsync of it fails."""
    hurt_paths: dict[bytes, int] = field(default_factory=dict)
    refused: dict[int, int] = field(default_factory=dict)
    """seq -> errno, for what waits until the box takes it."""
    again: set[int | bytes] = field(default_factory=set)
    """oids and paths of what goes again although nothing is wrong with it."""
    suspect: Blocked | None = None
    passed_over: bool = False
    owed: dict[bytes, int] = field(default_factory=dict)
    """Directories that did not get their time."""
    copies: list[tuple[int, int]] = field(default_factory=list)
    """(seq of what was refused, last seq of the new file that holds it), once `keeps` are made."""
