"""What a mount shows otherwise than the box has it: owners, permission bits, symbolic links.

`--uid`, `--gid`: everything is shown as this user's or group's. New objects are the box's user's;
chown to what is shown already does nothing, any other is EPERM.

`--umask`: permission bits that are not shown. They are not set on what is made here, and stay as
they are in the box when a mode is changed.

`--transform-symlinks`: an absolute target inside the directory of the box that is mounted is shown
relative to the link, so that it works here; an absolute target inside the mount point is sent as
the box's path, so that it works there.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from dataclasses import dataclass

from devboxfs.core.node import Node
from devboxfs.vfs.ownership import Ownership

__all__ = ["LinkTargets", "Presentation"]


@dataclass(frozen=True, slots=True)
class LinkTargets:
    """Exchanges the two absolute names of what is mounted."""

    root: bytes
    """The box's workspace."""
    mounted: bytes
    """The directory of the workspace that is mounted, from its root; b"" for all of it."""
    mountpoint: bytes

    @property
    def _top(self) -> bytes:
        return posixpath.join(self.root, self.mounted) if self.mounted else self.root

    def shown(self, node: Node) -> bytes | None:
        """Return what a symbolic link is shown to say."""
        target = node.target
        if target is None or not target.startswith(b"/") or node.parent is None:
            return target
        inside = _inside(target, self._top)
        if inside is None:
            return target
        depth = node.path().count(b"/") - (self.mounted.count(b"/") + 1 if self.mounted else 0)
        return b"../" * depth + inside or b"."

    def sent(self, target: bytes) -> bytes:
        """Return what the box is told of a target that was given here."""
        inside = _inside(target, self.mountpoint)
        return target if inside is None else posixpath.join(self._top, inside).rstrip(b"/")


def _inside(path: bytes, top: bytes) -> bytes | None:
    """Return the rest of an absolute path below `top`; None when it is not, or climbs."""
    top = top.rstrip(b"/")
    if path != top and not path.startswith(top + b"/"):
        return None
    rest = path[len(top) :].lstrip(b"/")
    # `a/..` is not `.` where a is a link: left to whoever reads it.
    return None if b".." in rest.split(b"/") else rest


@dataclass(frozen=True, slots=True)
class Presentation(Ownership):
    """Ownership, and what else was asked for."""

    shown_uid: int | None = None
    shown_gid: int | None = None
    umask: int = 0
    links: LinkTargets | None = None

    def show_uid(self, uid: int) -> int:
        """Return the owner that is shown for one of the box."""
        return self.uid(uid) if self.shown_uid is None else self.shown_uid

    def show_gid(self, gid: int) -> int:
        """As show_uid, for a group."""
        return self.gid(gid) if self.shown_gid is None else self.shown_gid

    def show_mode(self, mode: int) -> int:
        """Return type and permissions as they are shown."""
        return mode if stat.S_ISLNK(mode) else mode & ~self.umask

    def wanted_mode(self, mode: int, current: int) -> int:
        """Return the mode that the box is to have when `mode` is asked for here."""
        return (mode & ~self.umask) | (current & self.umask)

    def owner(self, uid: int, gid: int) -> tuple[int, int]:
        """Return the owner, in the box, of what a caller makes."""
        return (
            self.uid(uid) if self.shown_uid is None else self.box_uid,
            self.gid(gid) if self.shown_gid is None else self.box_gid,
        )

    def caller_uid(self, uid: int) -> int:
        """Return who a caller is in the box."""
        return self.uid(uid) if uid != self.shown_uid else self.box_uid

    def caller_gid(self, gid: int) -> int:
        """As caller_uid, for a group."""
        return self.gid(gid) if gid != self.shown_gid else self.box_gid

    def wanted_uid(self, uid: int) -> int | None:
        """Return the owner that chown asks the box for; None for no change."""
        if self.shown_uid is None:
            return self.uid(uid)
        _check_same(uid, self.shown_uid)
        return None

    def wanted_gid(self, gid: int) -> int | None:
        """As wanted_uid, for a group."""
        if self.shown_gid is None:
            return self.gid(gid)
        _check_same(gid, self.shown_gid)
        return None

    def target(self, node: Node) -> bytes | None:
        """Return what a symbolic link is shown to say."""
        return node.target if self.links is None else self.links.shown(node)

    def sent_target(self, target: bytes) -> bytes:
        """Return what the box is told of a new symbolic link."""
        return target if self.links is None else self.links.sent(target)


def _check_same(wanted: int, shown: int) -> None:
    if wanted != shown:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))
