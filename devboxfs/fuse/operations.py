"""The adapter between pyfuse3 and the file system.

Numbers and bytes in, calls and replies out; no policy.

Lookup counts are the only state that is kept here on the kernel's behalf: every reply that hands an
inode to the kernel adds one (pyfuse3.Operations says which do), forget() takes them back.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyfuse3
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    InodeT,
    ModeT,
    RequestContext,
)

from devboxfs.core.git_tree import in_git_directory, may_be_cached
from devboxfs.core.node import Directory, Node
from devboxfs.fuse.attributes import absent, entry_attributes, statvfs_data
from devboxfs.fuse.boundary import handler
from devboxfs.vfs.content import OpenFile
from devboxfs.vfs.filesystem import FileSystem
from devboxfs.vfs.metadata import AttributeChange
from devboxfs.vfs.ownership import Caller
from devboxfs.vfs.presentation import Presentation

__all__ = ["DevboxOperations"]

CHANGED_SECONDS = 1.0
"""How long the kernel may keep the attributes that a change of them was answered with."""


@dataclass(slots=True)
class _OpenDirectory:
    """One open directory.

    The entries as they were at the last rewind, so that positions stay what they are.
    """

    node: Directory
    entries: list[tuple[bytes, Node]] = field(default_factory=list)


class DevboxOperations(pyfuse3.Operations):
    """What the kernel asks."""

    supports_dot_lookup = True
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, filesystem: FileSystem, owners: Presentation) -> None:
        super().__init__()
        self._fs = filesystem
        self._owners = owners
        self._files: dict[int, OpenFile] = {}
        self._directories: dict[int, _OpenDirectory] = {}
        self._handles = itertools.count(1)
        self.relieved = filesystem.cache.giving_way.relieved
        """Waits for room on this machine's disk; see boundary.handler."""

    # -- names -------------------------------------------------------------------------------------

    def _entry(self, node: Node) -> EntryAttributes:
        """Reply with an inode: the kernel holds one reference more."""
        node.lookups += 1
        return self._attributes(node)

    def _attributes(self, node: Node) -> EntryAttributes:
        cacheable = may_be_cached(node.parent, node.name)
        return entry_attributes(node, self._owners, cacheable=cacheable)

    def _changed(self, entry: EntryAttributes) -> EntryAttributes:
        """Reply to a change of an object that is known.

        The kernel takes this over even if it was told to forget the attributes after the reply and
        before the caller went on. It shall not keep for long what may be too old.
        """
        entry.attr_timeout = min(entry.attr_timeout, CHANGED_SECONDS)
        return entry

    @handler
    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        """See pyfuse3.Operations."""
        directory = self._fs.directory(parent_inode)
        node = await self._fs.lookup(directory, name)
        if node is None:
            return absent(cacheable=directory.complete and not in_git_directory(directory))
        return self._entry(node)

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        """See pyfuse3.Operations."""
        for inode, count in inode_list:
            self._fs.forget(inode, count)

    @handler
    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        """See pyfuse3.Operations."""
        return await self._make(
            parent_inode, name, stat.S_IFDIR | (mode & 0o7777 & ~ctx.umask), ctx
        )

    @handler
    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        """See pyfuse3.Operations."""
        return await self._make(parent_inode, name, mode & ~ctx.umask, ctx, rdev=rdev)

    @handler
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        """See pyfuse3.Operations."""
        sent = self._owners.sent_target(target)
        return await self._make(parent_inode, name, stat.S_IFLNK | 0o777, ctx, target=sent)

    def _owner(self, ctx: RequestContext) -> tuple[int, int]:
        """Return the owner of what the caller makes."""
        return self._owners.owner(ctx.uid, ctx.gid)

    def _caller(self, ctx: RequestContext) -> Caller:
        def groups() -> frozenset[int]:
            supplementary = pyfuse3.get_sup_groups(ctx.pid)
            return frozenset(map(self._owners.caller_gid, (ctx.gid, *supplementary)))

        return Caller(self._owners.caller_uid(ctx.uid), ctx.uid == 0, groups)

    async def _make(
        self,
        parent: InodeT,
        name: bytes,
        mode: int,
        ctx: RequestContext,
        *,
        rdev: int = 0,
        target: bytes | None = None,
    ) -> EntryAttributes:
        directory = self._fs.directory(parent)
        mode = self._owners.show_mode(mode)
        node = await self._fs.namespace.make(
            directory, name, mode, rdev=rdev, target=target, owner=self._owner(ctx)
        )
        return self._entry(node)

    @handler
    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        """See pyfuse3.Operations."""
        node = self._fs.node(inode)
        await self._fs.namespace.link(node, self._fs.directory(new_parent_inode), new_name)
        return self._changed(self._entry(node))

    @handler
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        """See pyfuse3.Operations."""
        await self._fs.unlink(self._fs.directory(parent_inode), name)

    @handler
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        """See pyfuse3.Operations."""
        await self._fs.namespace.rmdir(self._fs.directory(parent_inode), name)

    @handler
    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        """See pyfuse3.Operations."""
        source, target = self._fs.directory(parent_inode_old), self._fs.directory(parent_inode_new)
        await self._fs.rename(source, name_old, target, name_new, flags)

    @handler
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        """See pyfuse3.Operations."""
        node = self._fs.node(inode)
        target = self._owners.target(node)
        if target is None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._fs.metadata.accessed(node)
        return FileNameT(target)

    # -- attributes --------------------------------------------------------------------------------

    @handler
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        """See pyfuse3.Operations.

        Always answered from the table: every read makes the kernel ask again.
        """
        return self._attributes(self._fs.node(inode))

    @handler
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        """See pyfuse3.Operations."""
        node = self._fs.node(inode)
        change = AttributeChange(
            mode=self._owners.wanted_mode(attr.st_mode, node.mode) if fields.update_mode else None,
            uid=self._owners.wanted_uid(attr.st_uid) if fields.update_uid else None,
            gid=self._owners.wanted_gid(attr.st_gid) if fields.update_gid else None,
            atime_ns=_in_range(attr.st_atime_ns) if fields.update_atime else None,
            mtime_ns=_in_range(attr.st_mtime_ns) if fields.update_mtime else None,
        )
        size = attr.st_size if fields.update_size else None
        file = self._files.get(fh) if fh is not None else None
        await self._fs.setattr(node, change, size, file, self._caller(ctx))
        return self._changed(self._attributes(node))

    @handler
    async def access(self, inode: InodeT, mode: ModeT, ctx: RequestContext) -> bool:
        """See pyfuse3.Operations."""
        return await self._fs.access(self._fs.node(inode), mode)

    @handler
    async def getxattr(self, inode: InodeT, name: pyfuse3.XAttrNameT, ctx: RequestContext) -> bytes:
        """See pyfuse3.Operations."""
        return await self._fs.xattrs.get(self._fs.node(inode), name)

    @handler
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> list[pyfuse3.XAttrNameT]:
        """See pyfuse3.Operations."""
        names = await self._fs.xattrs.names(self._fs.node(inode))
        return [pyfuse3.XAttrNameT(name) for name in names]

    @handler
    async def setxattr(
        self, inode: InodeT, name: pyfuse3.XAttrNameT, value: bytes, ctx: RequestContext
    ) -> None:
        """See pyfuse3.Operations, which does not pass the flags on.

        XATTR_CREATE and XATTR_REPLACE are not seen.
        """
        await self._fs.setxattr(self._fs.node(inode), name, value)

    @handler
    async def removexattr(
        self, inode: InodeT, name: pyfuse3.XAttrNameT, ctx: RequestContext
    ) -> None:
        """See pyfuse3.Operations."""
        await self._fs.setxattr(self._fs.node(inode), name, None)

    @handler
    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        """See pyfuse3.Operations."""
        return statvfs_data(await self._fs.metadata.usage())

    # -- directories -------------------------------------------------------------------------------

    @handler
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        """See pyfuse3.Operations."""
        number = next(self._handles)
        node = self._fs.directory(inode)
        node.opens += 1
        self._directories[number] = _OpenDirectory(node)
        return FileHandleT(number)

    @handler
    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """See pyfuse3.Operations.

        Positions index the entries as they were when position 0 was read.
        """
        await self._list(fh, start_id, token)

    async def _list(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> bool:
        """Answer readdir; whether there is room for more."""
        directory = self._directories[fh]
        node = directory.node
        if start_id == 0:
            entries = await self._fs.namespace.entries(node)
            self._fs.metadata.accessed(node)
            directory.entries = [(b".", node), (b"..", node.parent or node), *entries]
        owners = self._owners
        inside_git = in_git_directory(node)
        for position in range(start_id, len(directory.entries)):
            name, child = directory.entries[position]
            if position > 1:
                # What was replaced meanwhile was there all the time.
                present = node.children.get(name)
                if present is None:
                    continue
                child = present
            cacheable = not inside_git or may_be_cached(node, name)
            attributes = entry_attributes(child, owners, cacheable=cacheable)
            if not pyfuse3.readdir_reply(token, FileNameT(name), attributes, position + 1):
                return False
            if position > 1:
                child.lookups += 1
        return True

    @handler
    async def releasedir(self, fh: FileHandleT) -> None:
        """See pyfuse3.Operations."""
        directory = self._directories.pop(fh)
        directory.node.opens -= 1
        self._fs.table.drop_if_unused(directory.node)

    @handler
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        """See pyfuse3.Operations."""
        await self._fs.content.fsync_directory(self._directories[fh].node)

    # -- files -------------------------------------------------------------------------------------

    @handler
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        """See pyfuse3.Operations."""
        file = await self._fs.open(self._fs.node(inode), flags)
        self._fs.opened_by(self._caller(ctx), file.node, flags)
        return self._open(file)

    def _open(self, file: OpenFile) -> FileInfo:
        """Pages are kept: every change in the box invalidates them.

        Except once after a change, so that the read that moves the time of access arrives here.
        """
        number = next(self._handles)
        self._files[number] = file
        accessed = file.readable and not file.noatime
        keep = not (accessed and self._fs.metadata.access_is_due(file.node))
        return FileInfo(fh=FileHandleT(number), keep_cache=keep)

    @handler
    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        """See pyfuse3.Operations."""
        directory = self._fs.directory(parent_inode)
        permissions = self._owners.show_mode(stat.S_IFREG | (mode & 0o7777 & ~ctx.umask))
        file = await self._fs.content.create(directory, name, permissions, flags, self._owner(ctx))
        return self._open(file), self._entry(file.node)

    @handler
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        """See pyfuse3.Operations."""
        return await self._fs.read(self._files[fh], off, size)

    @handler
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        """See pyfuse3.Operations."""
        return await self._fs.content.write(self._files[fh], off, buf)

    @handler
    async def flush(self, fh: FileHandleT) -> None:
        """See pyfuse3.Operations."""
        await self._fs.content.close(self._files[fh])

    @handler
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        """See pyfuse3.Operations."""
        await self._fs.content.fsync(self._files[fh])

    @handler
    async def release(self, fh: FileHandleT) -> None:
        """See pyfuse3.Operations."""
        self._fs.content.release(self._files.pop(fh))


def _in_range(time_ns: int) -> int:
    """Return the nearest time that 64 bits of nanoseconds can say (1677 to 2262).

    As a local disk does with what its inodes cannot hold.
    """
    return max(-(2**63), min(time_ns, 2**63 - 1))
