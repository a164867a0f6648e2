"""The file system as one object: what fuse/operations.py talks to.

It owns the parts and the few rules that concern several of them. It speaks nodes, open files and
OSError; it knows no pyfuse3.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import trio

from devboxfs.core.chunks import MEDIUM
from devboxfs.core.git_tree import in_git_directory, may_be_cached
from devboxfs.core.node import Directory, Node
from devboxfs.core.permissions import BoxUser
from devboxfs.vfs.clock import BoxClock
from devboxfs.vfs.consistency import Consistency
from devboxfs.vfs.content import Content, OpenFile
from devboxfs.vfs.content_cache import ContentCache
from devboxfs.vfs.link import BoxLink
from devboxfs.vfs.local_store import LocalStore
from devboxfs.vfs.local_tree import LocalTrees
from devboxfs.vfs.locks import GitLocks
from devboxfs.vfs.metadata import AttributeChange, Metadata
from devboxfs.vfs.namespace import RENAME_EXCHANGE, Namespace, oserror
from devboxfs.vfs.nodes import InodeNumbers
from devboxfs.vfs.observers import Kernel
from devboxfs.vfs.ownership import Caller
from devboxfs.vfs.pending import Pending
from devboxfs.vfs.reader import Reader
from devboxfs.vfs.reading_order import ReadingOrder
from devboxfs.vfs.remote import Remote
from devboxfs.vfs.table import Table
from devboxfs.vfs.visibility import Visibility
from devboxfs.vfs.xattrs import ExtendedAttributes
from devboxfs.writeback.writeback import WriteBack
from sealos_devbox import Attributes, FileTransport

__all__ = ["FileSystem", "Settings"]

ST_RDONLY = 1
SPARE_BYTES = 64 * 1024
"""Free space in the box that is left alone: blocks are allocated whole, and directories grow."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How one mount behaves."""

    read_only: bool
    timeout: float
    scratch_directory: Path
    strict: bool = False
    """Whoever changes something waits for the box."""
    offline_fsync: str = "fail"
    """fsync while the box cannot be reached: `fail`, or the `journal` on this machine will do."""
    mounted: bytes = b""
    """The directory of the workspace that is mounted, from its root; b"" for all of it."""
    local: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    """Patterns, see vfs/visibility.py."""
    local_directory: Path = Path("/nonexistent")
    """Where the trees of this machine are."""


class FileSystem:
    """One box's workspace."""

    def __init__(
        self,
        settings: Settings,
        link: BoxLink,
        transport: FileTransport,
        writeback: WriteBack,
        cache: ContentCache,
        numbers: InodeNumbers,
        kernel: Kernel,
        *,
        top: Attributes | None = None,
    ) -> None:
        """Make it; `top` are the attributes of the directory that is mounted, if not the root."""
        peer = transport.peer
        self.settings = settings
        self.link = link
        self.writeback = writeback
        self.cache = cache
        self.user = BoxUser(peer.uid, peer.gid, frozenset(peer.groups))
        self.clock = BoxClock()
        self.clock.learn(peer.clock_ns)
        self.table = Table(top or peer.root_attr, numbers, kernel)
        self.table.root.name = settings.mounted
        self.visibility = Visibility(
            LocalStore(settings.local_directory),
            local=settings.local,
            exclude=settings.exclude,
            root=settings.mounted,
        )
        self.local = LocalTrees(self.visibility, read_only=settings.read_only)
        self.pending = Pending(self.table, writeback, cache, self.clock)
        self.remote = Remote(self.table, link, self.pending, self.visibility)
        self.reader = Reader(link, cache, ReadingOrder(self.table), timeout=self._timeout)
        self.consistency = Consistency(writeback, link, strict=settings.strict)
        self.locks = GitLocks(self.table, self.remote, self.pending, link)
        self.namespace = Namespace(
            self.table,
            self.remote.listings,
            self.pending,
            self.user,
            self.clock,
            self.check_writable,
            self.locks,
            self.consistency,
        )
        if self.visibility.hides_anything:
            self.table.hides = self.visibility.hides
            self.namespace.excluded = self.visibility.excluded
        # Also without `--local` now: another mount of the box may show what is moved along.
        self.table.moved = self._moved
        self.metadata = Metadata(
            link, self.pending, self.user, self.clock, self.check_writable, peer.statvfs
        )
        self.xattrs = ExtendedAttributes(
            link, self.pending, self.user, self.clock, self.check_writable
        )
        self.content = Content(
            self.namespace,
            self.remote.listings,
            self.reader,
            self.pending,
            writeback,
            link,
            self.user,
            self.clock,
            self.check_writable,
            settings.scratch_directory,
            journal_suffices=settings.offline_fsync == "journal",
        )
        self._flags = peer.statvfs.flag
        self._free = (
            peer.statvfs.bavail * peer.statvfs.frsize,
            peer.statvfs.favail or peer.statvfs.ffree,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the tasks below the handlers."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.remote.listings.run)
            nursery.start_soon(self.metadata.run)
            nursery.start_soon(self.cache.run)
            await nursery.start(self.reader.run)
            task_status.started()

    def _timeout(self) -> float:
        return max(0.0, self.link.deadline() - trio.current_time())

    # -- rules that concern several parts ----------------------------------------------------------

    def _moved(self, old: bytes, new: bytes) -> None:
        """A directory is about to get another path."""
        self.visibility.store.moved(old, new)
        if self.visibility.anchored:
            # What is shown of it may be something else at its new place.
            self.remote.listings.rescan_all(self.table.resolve(old))

    def check_writable(self, needs_space: bool) -> None:
        """Refuse a change before it is accepted.

        Read-only mount or box, or (for what needs space) a box known to be full.
        """
        if self.settings.read_only:
            raise oserror(errno.EROFS)
        transport = self.link.transport
        if transport is not None:
            free_bytes, free_inodes, self._flags = transport.free_space
            self._free = (free_bytes, free_inodes)
        if self._flags & ST_RDONLY:
            raise oserror(errno.EROFS)
        if needs_space:
            trouble = self.pending.trouble_errno
            if trouble in (errno.ENOSPC, errno.EDQUOT):
                raise oserror(trouble)
            if (
                self.writeback.pending_bytes
                and self.writeback.pending_bytes + SPARE_BYTES > self._free[0]
            ):
                raise oserror(errno.ENOSPC)

    def node(self, ino: int) -> Node:
        """Return the node that the kernel means; ESTALE when it is unknown."""
        node = self.table.nodes.get(ino)
        if node is None:
            raise oserror(errno.ESTALE)
        return node

    def directory(self, ino: int) -> Directory:
        """As node(), for a directory."""
        node = self.node(ino)
        if not isinstance(node, Directory):
            raise oserror(errno.ENOTDIR)
        return node

    def forget(self, ino: int, count: int) -> None:
        """The kernel dropped references."""
        node = self.table.nodes.get(ino)
        if node is not None:
            node.lookups -= count
            self.table.drop_if_unused(node)

    async def lookup(self, directory: Directory, name: bytes) -> Node | None:
        """Return the entry; None is an answer that may be cached while the watch is active."""
        if name == b".":
            return directory
        if name == b"..":
            return directory.parent or directory
        return await self.namespace.child(directory, name)

    async def open(self, node: Node, flags: int) -> OpenFile:
        """Open a file; what git maps and may replace is fetched first.

        What lost its name in the box between lookup and open is ESTALE, unless its content is here.
        """
        reads = flags & os.O_ACCMODE != os.O_WRONLY and not flags & os.O_TRUNC
        # A large pack is read piece by piece, and does not change.
        whole = node.size <= MEDIUM or not may_be_cached(node.parent, node.name)
        if reads and (node.parent is None or (whole and in_git_directory(node.parent))):
            await self.content.secure(node)
        return self.content.open(node, flags)

    async def unlink(self, directory: Directory, name: bytes) -> None:
        """Remove a name; a file that is open stays readable."""
        node = await self.namespace.child(directory, name)
        if node is not None and node.opens:
            await self.content.pin(node)
        await self.namespace.unlink(directory, name)

    async def rename(
        self, source: Directory, old: bytes, target: Directory, new: bytes, flags: int
    ) -> None:
        """Rename; a file that is replaced while it is open stays readable."""
        there = await self.namespace.child(target, new)
        if there is not None and there.opens and not flags & RENAME_EXCHANGE:
            await self.content.pin(there)
        await self.namespace.rename(source, old, target, new, flags)

    async def setattr(
        self,
        node: Node,
        change: AttributeChange,
        size: int | None,
        file: OpenFile | None,
        caller: Caller,
    ) -> None:
        """Change attributes and size.

        The kernel asks for nothing at all for chown(2) of neither owner nor group, and before a
        write that may take away a set-group-ID bit.
        """
        if size is not None:
            if file is None and not self.user.may(node, 2):
                raise oserror(errno.EACCES)
            self.content.truncate(node, size)
        if change:
            self.metadata.change(node, change)
        elif size is None:
            self.metadata.touch(node)
        # Only the owner may chmod: else the kernel clears bits because of a change of content. It
        # leaves out a set-group-ID bit without the right to execute.
        content = size is not None or not change or (change.mode_only and caller.uid != node.uid)
        if (
            content
            and not caller.privileged
            and node.is_file
            and node.mode & (stat.S_ISGID | stat.S_IXGRP) == stat.S_ISGID
        ):
            self.metadata.drop_set_id(node, in_group=node.gid in caller.groups())
        if file is None:
            await self.consistency.closed(node)

    async def setxattr(self, node: Node, name: bytes, value: bytes | None) -> None:
        """Set an extended attribute, None removes it."""
        await self.xattrs.set(node, name, value)
        await self.consistency.closed(node)

    def opened_by(self, caller: Caller, node: Node, flags: int) -> None:
        """Take away what O_TRUNC takes away besides the content."""
        set_id = node.mode & (stat.S_ISUID | stat.S_ISGID)
        if flags & os.O_TRUNC and set_id and not caller.privileged:
            self.metadata.drop_set_id(node, in_group=node.gid in caller.groups())

    async def read(self, file: OpenFile, offset: int, length: int) -> bytes:
        """Read from an open file."""
        if not file.noatime:
            self.metadata.accessed(file.node)
        return await self.content.read(file, offset, length)

    async def access(self, node: Node, mode: int) -> bool:
        """Whether access(2) is granted (the kernel has checked the local caller already)."""
        if mode & os.W_OK:
            try:
                self.check_writable(False)
            except OSError:
                return False
        return self.user.may(node, mode & 7)
