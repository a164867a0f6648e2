"""Attributes of objects; figures of the file system."""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable
from dataclasses import dataclass

import trio

from devboxfs.core.access_time import is_due
from devboxfs.core.node import Node
from devboxfs.core.ops import Kind, Operation
from devboxfs.core.permissions import READ, WRITE, BoxUser
from devboxfs.vfs.clock import BoxClock
from devboxfs.vfs.link import BoxLink
from devboxfs.vfs.namespace import oserror
from devboxfs.vfs.pending import Pending
from sealos_devbox import DevboxError, FileSystemUsage

__all__ = ["AttributeChange", "Metadata"]

USAGE_AGE = 1.0
"""Seconds for which the box's figures are taken for current."""
USAGE_PATIENCE = 0.05
"""Seconds that statfs waits for fresh figures."""


@dataclass(slots=True)
class AttributeChange:
    """What setattr is asked to change, in the box's users.

    None leaves it. The size is changed by vfs/content.py.
    """

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None

    def __bool__(self) -> bool:
        """Whether anything is to be changed."""
        return not (self.mode is self.uid is self.gid is self.atime_ns is self.mtime_ns is None)

    @property
    def mode_only(self) -> bool:
        """Whether nothing but the mode is to be changed."""
        return self.mode is not None and (
            self.uid is self.gid is self.atime_ns is self.mtime_ns is None
        )


class Metadata:
    """Operations on attributes."""

    def __init__(
        self,
        link: BoxLink,
        pending: Pending,
        user: BoxUser,
        clock: BoxClock,
        writable: Callable[[bool], None],
        usage: FileSystemUsage,
    ) -> None:
        self.link = link
        self.pending = pending
        self.user = user
        self.clock = clock
        self._check_writable = writable
        self._usage = usage
        self._usage_until = 0.0
        self._usage_wanted = trio.Event()
        self._usage_fetched = trio.Event()

    def accessed(self, node: Node) -> None:
        """Note that an object is being read: its time of access moves as on a local disk.

        In the table only: a read that wrote to the box would cost a round trip and, there, change
        the object. No invalidation either: a read makes the kernel ask for the attributes again.
        """
        now = self.clock.now()
        if is_due(node, now) and not self._is_read_only():
            node.atime_ns = now

    def access_is_due(self, node: Node) -> bool:
        """Whether reading it would move its time of access."""
        return is_due(node, self.clock.now()) and not self._is_read_only()

    def _is_read_only(self) -> bool:
        try:
            self._check_writable(False)
        except OSError:
            return True
        return False

    def touch(self, node: Node) -> None:
        """Move ctime alone: chown(2) of neither owner nor group does that, and nothing else."""
        self._check_writable(False)
        node.ctime_ns = self.clock.now()
        if node.box is not None and not node.pending:
            self.pending.table.numbers.record(node.box, node.ino, node.ctime_ns)

    def drop_set_id(self, node: Node, *, in_group: bool) -> None:
        """Clear what a change of content by a caller without privilege clears (inode_init(9)).

        The kernel does so itself for write and truncate, but not for O_TRUNC, which is all ours.
        `in_group` says whether the caller is in the file's group: then a set-group-ID bit without
        the right to execute, which meant mandatory locking, stays.
        """
        cleared = node.mode & stat.S_ISUID
        if node.mode & stat.S_ISGID and (node.mode & stat.S_IXGRP or not in_group):
            cleared |= stat.S_ISGID
        if cleared:
            self.change(node, AttributeChange(mode=node.mode & ~cleared))

    def change(self, node: Node, wanted: AttributeChange) -> None:
        """Apply chmod, chown, utimensat. Synchronous: one journal record."""
        if self._is_left_to_the_box(node, wanted):
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(wanted.mode or 0)
            node.ctime_ns = self.clock.now()
            return
        self._check_change(node, wanted)
        self._check_writable(False)
        now = self.clock.now()
        if wanted.mode is not None:
            wanted.mode = stat.S_IMODE(wanted.mode)
            if not node.is_dir and not self.user.in_group(node.gid) and self.user.uid != 0:
                wanted.mode &= ~stat.S_ISGID
        self._journal(node, wanted, now)
        if wanted.mode is not None:
            node.mode = stat.S_IFMT(node.mode) | wanted.mode
        if wanted.uid is not None:
            node.uid = wanted.uid
        if wanted.gid is not None:
            node.gid = wanted.gid
        if wanted.atime_ns is not None:
            node.atime_ns = wanted.atime_ns
        if wanted.mtime_ns is not None:
            node.mtime_ns = wanted.mtime_ns
        node.ctime_ns = now

    def _journal(self, node: Node, wanted: AttributeChange, now: int) -> None:
        if node.stays_here:
            return
        operation = Operation(
            Kind.SETATTR,
            self.pending.oid(node),
            node.path(),
            now,
            base=self.pending.base(node),
            mode=wanted.mode,
            uid=wanted.uid,
            gid=wanted.gid,
            atime_ns=wanted.atime_ns,
            mtime_ns=wanted.mtime_ns,
            is_dir=node.is_dir,
        )
        self.pending.append(operation, (node,))

    def _is_left_to_the_box(self, node: Node, wanted: AttributeChange) -> bool:
        """Whether set-ID bits are cleared because of a write to a file of somebody else.

        The box's user may write it and may not chmod it; the write clears the bits there, too.
        """
        if not wanted.mode_only or wanted.mode is None:
            return False
        old, new = stat.S_IMODE(node.mode), stat.S_IMODE(wanted.mode)
        return (
            not self.user.owns(node)
            and self.user.may(node, WRITE)
            and new == old & new
            and not (old ^ new) & ~(stat.S_ISUID | stat.S_ISGID)
        )

    def _check_change(self, node: Node, wanted: AttributeChange) -> None:
        user = self.user
        if wanted.mode is not None and not user.owns(node):
            raise oserror(errno.EPERM)
        if user.uid != 0:
            if wanted.uid is not None and wanted.uid != node.uid:
                raise oserror(errno.EPERM)
            if (
                wanted.gid is not None
                and wanted.gid != node.gid
                and not (user.owns(node) and user.in_group(wanted.gid))
            ):
                raise oserror(errno.EPERM)
        if (wanted.atime_ns is not None or wanted.mtime_ns is not None) and not (
            user.owns(node) or user.may(node, WRITE)
        ):
            raise oserror(errno.EPERM)

    def may_read(self, node: Node) -> bool:
        """Whether the box's user may read the object."""
        return self.user.may(node, READ)

    # -- the file system ---------------------------------------------------------------------------

    async def usage(self) -> FileSystemUsage:
        """Return the box's figures: fresh ones on a fast link, else the last known ones.

        `rm` asks for them in every directory, so that nobody waits here for a slow link; each
        question has them fetched for the next one.
        """
        if trio.current_time() >= self._usage_until:
            self._usage_until = trio.current_time() + USAGE_AGE
            self._usage_wanted.set()
            fetched = self._usage_fetched
            with trio.move_on_after(USAGE_PATIENCE):
                await fetched.wait()
        return self._usage

    async def run(self) -> None:
        """Fetch the box's figures when they are asked for."""
        while True:
            await self._usage_wanted.wait()
            try:
                with trio.fail_at(self.link.deadline()):
                    transport = await self.link.wait_transport()
                    self._usage = await transport.statvfs()
            except (trio.TooSlowError, DevboxError):
                pass  # the last known figures stay
            self._usage_wanted = trio.Event()
            fetched, self._usage_fetched = self._usage_fetched, trio.Event()
            fetched.set()
