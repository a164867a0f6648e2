"""Rights of the box's user, as the kernel in the box would decide them.

See path_resolution(7), unlink(2), chmod(2). The kernel here checks the rights of the local caller;
the box checks those of its own user when a change arrives, which is too late for the application.
So every change is checked against the box's user before it is acknowledged. Root in the box may do
everything.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass

from devboxfs.core.node import Node

__all__ = ["EXECUTE", "READ", "WRITE", "BoxUser"]

READ, WRITE, EXECUTE = 4, 2, 1


@dataclass(frozen=True, slots=True)
class BoxUser:
    """Who the helper is in the box."""

    uid: int
    gid: int
    groups: frozenset[int]

    def may(self, node: Node, wanted: int) -> bool:
        """Whether the mode bits grant READ, WRITE, EXECUTE (or'ed) on the object."""
        if self.uid == 0:
            return not (wanted & EXECUTE) or node.is_dir or bool(node.mode & 0o111)
        if node.uid == self.uid:
            bits = node.mode >> 6
        elif node.gid == self.gid or node.gid in self.groups:
            bits = node.mode >> 3
        else:
            bits = node.mode
        return (bits & wanted) == wanted

    def may_remove(self, directory: Node, entry: Node) -> bool:
        """Whether the sticky bit lets the user remove or rename the entry."""
        if self.uid == 0 or not directory.mode & stat.S_ISVTX:
            return True
        return self.uid in (directory.uid, entry.uid)

    def owns(self, node: Node) -> bool:
        """Whether the user may chmod and set times of the object."""
        return self.uid in (0, node.uid)

    def in_group(self, gid: int) -> bool:
        """Whether the user is in the group."""
        return gid == self.gid or gid in self.groups
