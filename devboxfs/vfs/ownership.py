"""Ownership as it is shown.

The box's workspace user appears as the user who mounted, and the other way round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Caller", "Ownership"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, in the box's users."""

    uid: int
    privileged: bool
    """Root of this machine."""
    groups: Callable[[], frozenset[int]]
    """Looked up only when they matter."""


@dataclass(frozen=True, slots=True)
class Ownership:
    """Exchanges two users and two groups; everything else is shown as it is. Its own inverse."""

    box_uid: int
    box_gid: int
    local_uid: int
    local_gid: int

    def uid(self, uid: int) -> int:
        """Map a user, in either direction."""
        if uid == self.box_uid:
            return self.local_uid
        return self.box_uid if uid == self.local_uid else uid

    def gid(self, gid: int) -> int:
        """Map a group, in either direction."""
        if gid == self.box_gid:
            return self.local_gid
        return self.box_gid if gid == self.local_gid else gid
