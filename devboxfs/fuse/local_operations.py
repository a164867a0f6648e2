"""The adapter for a mount with directories of this machine in it (vfs/local_tree.py).

What concerns the box passes through. An inode number tells whose an object is; for the entries of
the box's directories the name does (vfs/local_names.py), and only a directory of this machine can
be found there.

One file although it is long: pyfuse3 wants all that the kernel may ask as methods of one object,
and nearly each of them is here only to say whose the request is.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

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

from devboxfs.fuse.attributes import LOCAL_CACHE_SECONDS, absent, local_attributes
from devboxfs.fuse.boundary import handler
from devboxfs.fuse.operations import DevboxOperations
from devboxfs.vfs.filesystem import FileSystem
from devboxfs.vfs.local_names import LocalNames
from devboxfs.vfs.local_nodes import LOCAL_INO, LocalFile, LocalListing, LocalNode
from devboxfs.vfs.local_tree import Maker
from devboxfs.vfs.metadata import AttributeChange
from devboxfs.vfs.namespace import oserror
from devboxfs.vfs.presentation import Presentation

__all__ = ["LocalOperations"]


class LocalOperations(DevboxOperations):
    """What the kernel asks, of the box or of this machine."""

    def __init__(self, filesystem: FileSystem, owners: Presentation) -> None:
        super().__init__(filesystem, owners)
        self._local = filesystem.local
        self._visibility = filesystem.visibility
        self._names = LocalNames(filesystem)
        self._local_files: dict[int, LocalFile] = {}
        self._local_listings: dict[int, LocalListing] = {}

    def _local_entry(self, node: LocalNode) -> EntryAttributes:
        node.lookups += 1
        return local_attributes(node.ino, node.last, self._owners)

    def _maker(self, ctx: RequestContext) -> Maker:
        given = self._owners.shown_uid is None and self._owners.shown_gid is None
        return Maker(ctx.uid, ctx.gid, given)

    # -- names -------------------------------------------------------------------------------------

    @handler
    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        """See pyfuse3.Operations."""
        if parent_inode >= LOCAL_INO:
            node = self._local.lookup(self._local.node(parent_inode), name)
            if node is None:
                entry = absent(cacheable=False)
                entry.entry_timeout = LOCAL_CACHE_SECONDS
                return entry
            return self._local_entry(node)
        if self._visibility.has_local:
            directory = self._fs.directory(parent_inode)
            root = self._local.root(directory, name)
            if root is not None:
                return self._local_entry(root)
            if self._visibility.is_local(directory, name):
                entry = await super().lookup(parent_inode, name, ctx)
                entry.entry_timeout = min(entry.entry_timeout, LOCAL_CACHE_SECONDS)
                return entry
        return await super().lookup(parent_inode, name, ctx)

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        """See pyfuse3.Operations."""
        for inode, count in inode_list:
            if inode >= LOCAL_INO:
                self._local.forget(inode, count)
            else:
                self._fs.forget(inode, count)

    @handler
    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        """See pyfuse3.Operations."""
        wanted = self._owners.show_mode(stat.S_IFDIR | (mode & 0o7777 & ~ctx.umask))
        if parent_inode >= LOCAL_INO:
            parent = self._local.node(parent_inode)
            made = self._local.make(parent, name, wanted, self._maker(ctx), target=None)
            return self._local_entry(made)
        self._names.check_free(parent_inode, name)
        directory = self._fs.directory(parent_inode)
        if not self._visibility.is_local(directory, name):
            return await super().mkdir(parent_inode, name, mode, ctx)
        root = await self._names.make_root(directory, name, wanted, self._maker(ctx))
        return self._local_entry(root)

    @handler
    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        """See pyfuse3.Operations."""
        if parent_inode >= LOCAL_INO:
            if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                raise oserror(errno.EPERM)
            wanted = self._owners.show_mode(mode & ~ctx.umask)
            parent = self._local.node(parent_inode)
            made = self._local.make(parent, name, wanted, self._maker(ctx), target=None)
            return self._local_entry(made)
        self._names.check_free(parent_inode, name)
        return await super().mknod(parent_inode, name, mode, rdev, ctx)

    @handler
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        """See pyfuse3.Operations."""
        if parent_inode >= LOCAL_INO:
            parent = self._local.node(parent_inode)
            made = self._local.make(parent, name, stat.S_IFLNK, self._maker(ctx), target=target)
            return self._local_entry(made)
        self._names.check_free(parent_inode, name)
        return await super().symlink(parent_inode, name, target, ctx)

    @handler
    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        """See pyfuse3.Operations. No object has names both here and in the box."""
        if (inode >= LOCAL_INO) is not (new_parent_inode >= LOCAL_INO):
            raise oserror(errno.EXDEV)
        if inode >= LOCAL_INO:
            node, parent = self._local.node(inode), self._local.node(new_parent_inode)
            return self._local_entry(self._local.link(node, parent, new_name))
        self._names.check_free(new_parent_inode, new_name)
        return await super().link(inode, new_parent_inode, new_name, ctx)

    @handler
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        """See pyfuse3.Operations."""
        if parent_inode >= LOCAL_INO:
            return self._local.unlink(self._local.node(parent_inode), name)
        if self._names.root(parent_inode, name) is not None:
            raise oserror(errno.EISDIR)
        return await super().unlink(parent_inode, name, ctx)

    @handler
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        """See pyfuse3.Operations."""
        if parent_inode >= LOCAL_INO:
            return self._local.rmdir(self._local.node(parent_inode), name)
        root = self._names.root(parent_inode, name)
        directory = self._fs.directory(parent_inode)
        if root is not None:
            return self._names.remove_root(root, directory, name)
        self._names.check_bare(directory.children.get(name))
        return await super().rmdir(parent_inode, name, ctx)

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
        """See pyfuse3.Operations. EXDEV from this machine to the box and back: mv then copies."""
        local = (parent_inode_old >= LOCAL_INO, parent_inode_new >= LOCAL_INO)
        if local == (True, True):
            source, target = self._local.node(parent_inode_old), self._local.node(parent_inode_new)
            return self._local.rename(source, name_old, target, name_new, flags)
        if any(local):
            raise oserror(errno.EXDEV)
        if self._visibility.has_local and await self._names.rename(
            self._fs.directory(parent_inode_old),
            name_old,
            self._fs.directory(parent_inode_new),
            name_new,
            flags,
        ):
            return None
        return await super().rename(
            parent_inode_old, name_old, parent_inode_new, name_new, flags, ctx
        )

    @handler
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        """See pyfuse3.Operations."""
        if inode >= LOCAL_INO:
            return FileNameT(self._local.readlink(self._local.node(inode)))
        return await super().readlink(inode, ctx)

    # -- attributes --------------------------------------------------------------------------------

    def _local_attributes(self, node: LocalNode) -> EntryAttributes:
        entry = local_attributes(node.ino, self._local.stat(node), self._owners)
        if node.gone and not node.files:
            entry.st_nlink = 0
        return entry

    @handler
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        """See pyfuse3.Operations."""
        if inode >= LOCAL_INO:
            return self._local_attributes(self._local.node(inode))
        return await super().getattr(inode, ctx)

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
        if inode < LOCAL_INO:
            return await super().setattr(inode, attr, fields, fh, ctx)
        node, owners = self._local.node(inode), self._owners
        uid = attr.st_uid if owners.shown_uid is None else owners.wanted_uid(attr.st_uid)
        gid = attr.st_gid if owners.shown_gid is None else owners.wanted_gid(attr.st_gid)
        current = self._local.stat(node).st_mode
        change = AttributeChange(
            mode=owners.wanted_mode(attr.st_mode, current) if fields.update_mode else None,
            uid=uid if fields.update_uid else None,
            gid=gid if fields.update_gid else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        )
        file = self._local_files.get(fh) if fh is not None else None
        self._local.setattr(node, change, attr.st_size if fields.update_size else None, file)
        return self._local_attributes(node)

    @handler
    async def access(self, inode: InodeT, mode: ModeT, ctx: RequestContext) -> bool:
        """See pyfuse3.Operations."""
        if inode >= LOCAL_INO:
            return not (mode & os.W_OK and self._fs.settings.read_only)
        return await super().access(inode, mode, ctx)

    @handler
    async def getxattr(self, inode: InodeT, name: pyfuse3.XAttrNameT, ctx: RequestContext) -> bytes:
        """See pyfuse3.Operations."""
        if inode >= LOCAL_INO:
            return self._local.getxattr(self._local.node(inode), name)
        return await super().getxattr(inode, name, ctx)

    @handler
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> list[pyfuse3.XAttrNameT]:
        """See pyfuse3.Operations."""
        if inode >= LOCAL_INO:
            names = self._local.listxattr(self._local.node(inode))
            return [pyfuse3.XAttrNameT(name) for name in names]
        return await super().listxattr(inode, ctx)

    @handler
    async def setxattr(
        self, inode: InodeT, name: pyfuse3.XAttrNameT, value: bytes, ctx: RequestContext
    ) -> None:
        """See pyfuse3.Operations."""
        if inode >= LOCAL_INO:
            return self._local.setxattr(self._local.node(inode), name, value)
        return await super().setxattr(inode, name, value, ctx)

    @handler
    async def removexattr(
        self, inode: InodeT, name: pyfuse3.XAttrNameT, ctx: RequestContext
    ) -> None:
        """See pyfuse3.Operations."""
        if inode >= LOCAL_INO:
            return self._local.setxattr(self._local.node(inode), name, None)
        return await super().removexattr(inode, name, ctx)

    # -- directories -------------------------------------------------------------------------------

    @handler
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        """See pyfuse3.Operations."""
        if inode < LOCAL_INO:
            return await super().opendir(inode, ctx)
        number = next(self._handles)
        self._local_listings[number] = LocalListing(self._local.node(inode))
        return FileHandleT(number)

    @handler
    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """See pyfuse3.Operations."""
        listing = self._local_listings.get(fh)
        if listing is not None:
            self._list_local(listing, start_id, token)
            return
        opened = self._directories[fh]
        room = await self._list(fh, start_id, token)
        if not room or not self._visibility.has_local:
            return
        # The trees follow, at positions behind all that the box's entries may take.
        names = self._visibility.trees(opened.node)
        for position in range(max(0, start_id - _TREES_AT), len(names)):
            root = self._local.root(opened.node, names[position])
            if root is None:
                continue
            attributes = local_attributes(root.ino, root.last, self._owners)
            name = FileNameT(names[position])
            if not pyfuse3.readdir_reply(token, name, attributes, _TREES_AT + position + 1):
                return
            root.lookups += 1

    def _list_local(
        self, listing: LocalListing, start_id: int, token: pyfuse3.ReaddirToken
    ) -> None:
        node = listing.node
        if start_id == 0:
            listing.names = [b".", b"..", *self._local.names(node)]
        for position in range(start_id, len(listing.names)):
            name = listing.names[position]
            if position < 2:
                attributes = self._dot(node) if position == 0 else self._dot_dot(node)
            else:
                child = self._local.lookup(node, name)
                if child is None:
                    continue
                attributes = local_attributes(child.ino, child.last, self._owners)
            if not pyfuse3.readdir_reply(token, FileNameT(name), attributes, position + 1):
                return
            if position > 1 and child is not None:
                child.lookups += 1

    def _dot(self, node: LocalNode) -> EntryAttributes:
        return local_attributes(node.ino, node.last, self._owners)

    def _dot_dot(self, node: LocalNode) -> EntryAttributes:
        if node.root is not None:
            return self._attributes(node.root[0])
        return self._dot(node.names[0][0] if node.names else node)

    @handler
    async def releasedir(self, fh: FileHandleT) -> None:
        """See pyfuse3.Operations."""
        if self._local_listings.pop(fh, None) is None:
            await super().releasedir(fh)

    @handler
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        """See pyfuse3.Operations."""
        listing = self._local_listings.get(fh)
        if listing is None:
            return await super().fsyncdir(fh, datasync)
        return await self._local.sync_directory(listing.node)

    # -- files -------------------------------------------------------------------------------------

    @handler
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        """See pyfuse3.Operations."""
        if inode < LOCAL_INO:
            return await super().open(inode, flags, ctx)
        node = self._local.node(inode)
        file = self._local.open(node, flags)
        set_id = node.last.st_mode & (stat.S_ISUID | stat.S_ISGID)
        if flags & os.O_TRUNC and set_id and ctx.uid != 0:
            # The real file system does so only if this process has no privilege itself.
            self._local.setattr(node, AttributeChange(mode=node.last.st_mode & ~set_id), None, None)
        return self._open_local(file)

    def _open_local(self, file: LocalFile) -> FileInfo:
        number = next(self._handles)
        self._local_files[number] = file
        return FileInfo(fh=FileHandleT(number), keep_cache=self._local.keeps_pages(file))

    @handler
    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        """See pyfuse3.Operations."""
        if parent_inode < LOCAL_INO:
            self._names.check_free(parent_inode, name)
            return await super().create(parent_inode, name, mode, flags, ctx)
        wanted = self._owners.show_mode(stat.S_IFREG | (mode & 0o7777 & ~ctx.umask))
        parent = self._local.node(parent_inode)
        file = self._local.create(parent, name, wanted, flags, self._maker(ctx))
        return self._open_local(file), self._local_entry(file.node)

    @handler
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        """See pyfuse3.Operations."""
        file = self._local_files.get(fh)
        if file is None:
            return await super().read(fh, off, size)
        return await self._local.read(file, off, size)

    @handler
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        """See pyfuse3.Operations."""
        file = self._local_files.get(fh)
        if file is None:
            return await super().write(fh, off, buf)
        return await self._local.write(file, off, buf)

    @handler
    async def flush(self, fh: FileHandleT) -> None:
        """See pyfuse3.Operations. What is written to a local file is with the kernel at once."""
        if fh not in self._local_files:
            await super().flush(fh)

    @handler
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        """See pyfuse3.Operations."""
        file = self._local_files.get(fh)
        if file is None:
            return await super().fsync(fh, datasync)
        return await self._local.fsync(file, data_only=datasync)

    @handler
    async def release(self, fh: FileHandleT) -> None:
        """See pyfuse3.Operations."""
        file = self._local_files.pop(fh, None)
        if file is None:
            await super().release(fh)
        else:
            self._local.release(file)


_TREES_AT = 1 << 40
"""Positions in a listing of a directory of the box from which on its local trees come."""
