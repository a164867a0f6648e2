"""Names: lookup, listing, making, removing, renaming, linking.

Every change follows one pattern: make what is asked about known (the only place that awaits), then,
with no await until the table has changed: check as a local file system would, journal, change the
table. One file although it is long: the checks of rename(2) are those of the others, combined.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from devboxfs.core.git_paths import LockKind
from devboxfs.core.node import Directory, Node
from devboxfs.core.ops import Kind, Operation
from devboxfs.core.permissions import EXECUTE, WRITE, BoxUser
from devboxfs.vfs.clock import BoxClock
from devboxfs.vfs.consistency import Consistency
from devboxfs.vfs.listings import Listings
from devboxfs.vfs.locks import GitLocks
from devboxfs.vfs.pending import Pending
from devboxfs.vfs.table import Table
from sealos_devbox import Attributes

__all__ = ["RENAME_EXCHANGE", "RENAME_NOREPLACE", "Namespace", "Owner", "oserror"]

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
NAME_MAX = 255
PATH_MAX = 4095
DIRECTORY_SIZE = 4096
"""What a new directory on ext4 says."""
MAX_LINKS = 65000
"""ext4's limit (Documentation/filesystems/ext4): what the box can hold."""


def oserror(number: int) -> OSError:
    """Return the OSError for an errno."""
    return OSError(number, os.strerror(number))


Owner = tuple[int, int]
"""A user and a group of the box."""


class Namespace:
    """Operations on names."""

    def __init__(
        self,
        table: Table,
        listings: Listings,
        pending: Pending,
        user: BoxUser,
        clock: BoxClock,
        writable: Callable[[bool], None],
        locks: GitLocks,
        consistency: Consistency,
    ) -> None:
        self.table = table
        self.listings = listings
        self.pending = pending
        self.user = user
        self.clock = clock
        self.locks = locks
        self.consistency = consistency
        self._check_writable = writable
        """Raises EROFS, or (argument True: the change needs space in the box) ENOSPC."""
        self.excluded: Callable[[Directory, bytes], bool] = lambda _directory, _name: False
        """Whether a name does not exist in this mount, whatever the box has."""

    # -- reading -----------------------------------------------------------------------------------

    async def child(self, directory: Directory, name: bytes) -> Node | None:
        """Return the entry, None when there is none; from the table when it is known there."""
        if len(name) > NAME_MAX:
            raise oserror(errno.ENAMETOOLONG)
        if self.excluded(directory, name):
            return None
        node = directory.children.get(name)
        if node is None and not directory.complete:
            await self.listings.load(directory)
            node = directory.children.get(name)
        return node

    async def entries(self, directory: Directory) -> list[tuple[bytes, Node]]:
        """Return all entries in the table's order."""
        await self.listings.load(directory)
        return list(directory.children.items())

    # -- making ------------------------------------------------------------------------------------

    async def make(
        self,
        directory: Directory,
        name: bytes,
        mode: int,
        *,
        rdev: int = 0,
        target: bytes | None = None,
        owner: Owner | None = None,
    ) -> Node:
        """Create any object that has no name yet.

        File, directory, symbolic link (target), FIFO, socket. It belongs to the box's user, or,
        where that is root, to `owner`.
        """
        kind = stat.S_IFMT(mode)
        lock = await self.locks.kind(directory, name) if kind == stat.S_IFREG else None
        if await self.child(directory, name) is not None:
            raise oserror(errno.EEXIST)
        # No await until it is in the table.
        self._check_entry_change(directory, name)
        self._check_writable(True)
        now = self.clock.now()
        uid, gid = self.user.uid, self.user.gid
        if owner is not None and uid == 0:
            uid, gid = owner
        if directory.mode & stat.S_ISGID:
            gid = directory.gid
            if kind == stat.S_IFDIR:
                mode |= stat.S_ISGID
        size = len(target) if target is not None else DIRECTORY_SIZE if kind == stat.S_IFDIR else 0
        attr = Attributes(
            mode=mode,
            nlink=2 if kind == stat.S_IFDIR else 1,
            uid=uid,
            gid=gid,
            size=size,
            ino=0,
            mtime_ns=now,
            ctime_ns=now,
            atime_ns=now,
            rdev=rdev,
            target=target,
        )
        operation = Operation(
            _MAKE.get(kind, Kind.MKNOD), 0, directory.child_path(name), now, mode=mode & 0o7777
        )
        if lock is not None:
            operation.kind = Kind.LOCK
        elif kind == stat.S_IFLNK:
            operation.data = target
        elif operation.kind is Kind.MKNOD:
            operation.mode, operation.size = mode, rdev
        node = self.table.create(attr)
        operation.oid = self.pending.oid(node)
        try:
            self.pending.append(operation, (node,), ((directory, name),))
        except OSError:
            self.table.by_oid.pop(node.oid, None)
            self.table.drop_if_unused(node)
            raise
        self.table.attach(directory, name, node)
        self._entry_changed(directory, now, +1 if kind == stat.S_IFDIR else 0)
        if uid != self.user.uid or gid not in (self.user.gid, directory.gid):
            self._give(node, now)
        if lock is not None:
            self.locks.made(node, directory, name, lock, operation.seq)
            if lock is LockKind.WAITS or self.consistency.strict:
                await self._confirm(directory, name, node)
        else:
            await self.consistency.changed(operation.path)
        return node

    async def _confirm(self, directory: Directory, name: bytes, node: Node) -> None:
        """Have a lock only if the box has made it."""
        node.opens += 1  # so that it is known until this is over
        try:
            await self.locks.confirm(node)
        except OSError:
            # No await until it is in the table.
            if directory.children.get(name) is node:
                self._remove(directory, name, node)
            raise
        finally:
            node.opens -= 1
            self.table.drop_if_unused(node)

    def _give(self, node: Node, now: int) -> None:
        """Give a new object to its owner in the box, too, where it was made by root."""
        mode = stat.S_IMODE(node.mode)

        def set_attributes(**values: int) -> None:
            oid, path = self.pending.oid(node), node.path()
            operation = Operation(Kind.SETATTR, oid, path, now, is_dir=node.is_dir)
            for name, value in values.items():
                setattr(operation, name, value)
            self.pending.append(operation, (node,))

        set_attributes(uid=node.uid, gid=node.gid)
        if mode & (stat.S_ISUID | stat.S_ISGID) and not stat.S_ISLNK(node.mode):
            set_attributes(mode=mode)  # chown(2) clears bits

    async def link(self, node: Node, directory: Directory, name: bytes) -> None:
        """Give an object another name."""
        if await self.child(directory, name) is not None:
            raise oserror(errno.EEXIST)
        # No await until it is in the table.
        if node.lock is not None and node.lock.refused:
            raise oserror(node.lock.refused)
        if node.is_dir:
            raise oserror(errno.EPERM)
        if node.parent is None:
            raise oserror(errno.ENOENT)
        if node.nlink >= MAX_LINKS:
            raise oserror(errno.EMLINK)
        self._check_entry_change(directory, name)
        self._check_writable(True)
        now = self.clock.now()
        operation = Operation(
            Kind.LINK,
            self.pending.oid(node),
            directory.child_path(name),
            now,
            base=self.pending.base(node),
            other=node.path(),
        )
        self.pending.append(operation, (node,), ((directory, name),))
        self.table.attach(directory, name, node)
        node.nlink += 1
        node.ctime_ns = now
        self._entry_changed(directory, now, 0)
        await self.consistency.changed(operation.path)

    # -- removing ----------------------------------------------------------------------------------

    async def unlink(self, directory: Directory, name: bytes) -> None:
        """Remove a name of anything but a directory."""
        node = await self.child(directory, name)
        # No await until it is in the table.
        if node is None:
            raise oserror(errno.ENOENT)
        if node.is_dir:
            raise oserror(errno.EISDIR)
        self._check_removal(directory, node)
        self._check_writable(False)
        path = directory.child_path(name)
        self._remove(directory, name, node)
        await self.consistency.changed(path)

    def _remove(self, directory: Directory, name: bytes, node: Node) -> None:
        if node.lock is not None and node.lock.refused:
            self.locks.drop(directory, name, node)
            return
        now = self.clock.now()
        operation = Operation(
            Kind.UNLINK,
            self.pending.oid(node),
            directory.child_path(name),
            now,
            base=self.pending.base(node),
        )
        self.pending.append(operation, (node,), ((directory, name),))
        self.locks.given_up(node)
        self._unlinked(directory, name, node, now)
        self._entry_changed(directory, now, 0)

    async def rmdir(self, directory: Directory, name: bytes) -> None:
        """Remove an empty directory."""
        node = await self.child(directory, name)
        if isinstance(node, Directory) and not node.complete:
            await self.listings.load(node)
            node = directory.children.get(name)
        # No await until it is in the table.
        if node is None:
            raise oserror(errno.ENOENT)
        if not isinstance(node, Directory):
            raise oserror(errno.ENOTDIR)
        if not node.is_empty:
            raise oserror(errno.ENOTEMPTY)
        self._check_removal(directory, node)
        self._check_writable(False)
        now = self.clock.now()
        operation = Operation(
            Kind.RMDIR,
            self.pending.oid(node),
            directory.child_path(name),
            now,
            base=self.pending.base(node),
        )
        self.pending.append(operation, (node,), ((directory, name),))
        self._unlinked(directory, name, node, now)
        self._entry_changed(directory, now, -1)
        await self.consistency.changed(operation.path)

    # -- renaming ----------------------------------------------------------------------------------

    async def rename(
        self, source: Directory, old: bytes, target: Directory, new: bytes, flags: int
    ) -> None:
        """Rename as renameat2(2)."""
        if (
            flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE)
            or flags == RENAME_NOREPLACE | RENAME_EXCHANGE
        ):
            raise oserror(errno.EINVAL)
        await self.child(source, old)
        there = await self.child(target, new)
        await self.locks.before_rename(source, old, target, new)
        if isinstance(there, Directory) and not there.complete and not flags & RENAME_EXCHANGE:
            await self.listings.load(there)
        # No await until it is in the table.
        node, there = source.children.get(old), target.children.get(new)
        if node is None:
            raise oserror(errno.ENOENT)
        self._check_rename(source, node, target, there, new, flags)
        if node is there and not flags & RENAME_EXCHANGE:
            return  # two names of one object: rename(2) does nothing
        now = self.clock.now()
        operation = Operation(
            Kind.RENAME,
            self.pending.oid(node),
            target.child_path(new),
            now,
            base=self.pending.base(node),
            other=source.child_path(old),
            flags=flags,
            is_dir=node.is_dir,
        )
        nodes: tuple[Node, ...] = (node,)
        if there is not None:
            operation.replaced = self.pending.oid(there)
            operation.replaced_base = self.pending.base(there)
            operation.replaced_is_dir = there.is_dir
            nodes = (node, there)
        move = node.is_dir or (there is not None and there.is_dir and bool(flags & RENAME_EXCHANGE))
        self.pending.append(operation, nodes, ((source, old), (target, new)), move=move)
        self.locks.given_up(node)
        if flags & RENAME_EXCHANGE and there is not None:
            self._swap(source, old, node, target, new, there)
            there.ctime_ns = now
        else:
            if there is not None:
                self._unlinked(target, new, there, now)
                if there.is_dir:
                    self._entry_changed(target, now, -1)
            self._move(source, old, node, target, new)
        node.ctime_ns = now
        subdirectory = int(node.is_dir)
        if there is not None and flags & RENAME_EXCHANGE:
            subdirectory -= int(there.is_dir)
        if source is target:
            subdirectory = 0
        self._entry_changed(source, now, -subdirectory)
        self._entry_changed(target, now, +subdirectory)
        await self.consistency.changed(operation.path, operation.other)

    def _check_rename(
        self,
        source: Directory,
        node: Node,
        target: Directory,
        there: Node | None,
        new: bytes,
        flags: int,
    ) -> None:
        self._check_removal(source, node)
        if flags & RENAME_NOREPLACE and there is not None:
            raise oserror(errno.EEXIST)
        if flags & RENAME_EXCHANGE and there is None:
            raise oserror(errno.ENOENT)
        ancestor: Directory | None = target
        while ancestor is not None:
            if ancestor is node:
                raise oserror(errno.EINVAL)
            ancestor = ancestor.parent
        if there is None:
            self._check_entry_change(target, new)
        else:
            self._check_removal(target, there)
            if not flags & RENAME_EXCHANGE and there is not node:
                if node.is_dir and not there.is_dir:
                    raise oserror(errno.ENOTDIR)
                if there.is_dir and not node.is_dir:
                    raise oserror(errno.EISDIR)
                if isinstance(there, Directory) and not there.is_empty:
                    raise oserror(errno.ENOTEMPTY)
        if node.is_dir and source is not target and not self.user.may(node, WRITE):
            raise oserror(errno.EACCES)  # its `..` changes
        self._check_writable(False)

    def _move(
        self, source: Directory, old: bytes, node: Node, target: Directory, new: bytes
    ) -> None:
        if node.is_dir:
            self.table.moved(source.child_path(old), target.child_path(new))
        del source.children[old]
        target.children[new] = node
        if node.links is not None:
            node.links.remove((source, old))
            node.links.append((target, new))
        if node.parent is source and node.name == old:
            node.parent, node.name = target, new

    def _swap(
        self, source: Directory, old: bytes, node: Node, target: Directory, new: bytes, there: Node
    ) -> None:
        if node.is_dir or there.is_dir:
            ours, theirs = source.child_path(old), target.child_path(new)
            between = b"/" + ours  # of no directory
            self.table.moved(ours, between)
            self.table.moved(theirs, ours)
            self.table.moved(between, theirs)
        source.children[old], target.children[new] = there, node
        for moved, before, after in (
            (node, (source, old), (target, new)),
            (there, (target, new), (source, old)),
        ):
            if moved.links is not None:
                moved.links.remove(before)
                moved.links.append(after)
            if (moved.parent, moved.name) == before:
                moved.parent, moved.name = after

    # -- shared ------------------------------------------------------------------------------------

    def _unlinked(self, directory: Directory, name: bytes, node: Node, now: int) -> None:
        self.table.detach(directory, name)
        node.nlink = max(0, node.nlink - 1) if not node.is_dir else 0
        node.ctime_ns = now

    def _entry_changed(self, directory: Directory, now: int, subdirectories: int) -> None:
        directory.mtime_ns = directory.ctime_ns = now
        if directory.nlink > 1:
            # Some file systems (btrfs) say 1 for every directory: then it stays.
            directory.nlink = max(2, directory.nlink + subdirectories)

    def _check_entry_change(self, directory: Directory, name: bytes) -> None:
        gone = self.table.root_gone if directory is self.table.root else directory.parent is None
        if gone:
            raise oserror(errno.ENOENT)
        if len(name) > NAME_MAX or len(directory.path()) + 1 + len(name) > PATH_MAX:
            raise oserror(errno.ENAMETOOLONG)
        if self.excluded(directory, name):
            raise oserror(errno.EPERM)
        if not self.user.may(directory, WRITE | EXECUTE):
            raise oserror(errno.EACCES)

    def _check_removal(self, directory: Directory, node: Node) -> None:
        if not self.user.may(directory, WRITE | EXECUTE):
            raise oserror(errno.EACCES)
        if not self.user.may_remove(directory, node):
            raise oserror(errno.EPERM)


_MAKE = {stat.S_IFREG: Kind.CREATE, stat.S_IFDIR: Kind.MKDIR, stat.S_IFLNK: Kind.SYMLINK}
