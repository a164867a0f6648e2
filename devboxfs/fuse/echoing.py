"""The adapter for a mount whose changes in the box are repeated for local watchers (fuse/echo.py).

Requests of everybody else pass through. Those of the process that repeats changes are answered
from its tokens: without a checkpoint, and without any effect but the reply.
"""

from __future__ import annotations

import errno
import os

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

from devboxfs.core.node import Directory, Node
from devboxfs.fuse.attributes import absent, entry_attributes
from devboxfs.fuse.boundary import handler
from devboxfs.fuse.echo_tokens import Token, Tokens
from devboxfs.fuse.local_operations import LocalOperations
from devboxfs.vfs.filesystem import FileSystem
from devboxfs.vfs.presentation import Presentation

__all__ = ["EchoingOperations"]


def _refused() -> OSError:
    return OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))


class EchoingOperations(LocalOperations):
    """What the kernel asks, on behalf of whom."""

    def __init__(self, filesystem: FileSystem, owners: Presentation, tokens: Tokens) -> None:
        super().__init__(filesystem, owners)
        self._tokens = tokens
        self._empty: set[int] = set()
        """Handles of the process: nothing is read or written by them."""

    # -- names -------------------------------------------------------------------------------------

    @handler
    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        """See pyfuse3.Operations."""
        tokens = self._tokens
        if ctx.pid == tokens.pid:
            waits, node = tokens.before(parent_inode, name)
            if waits:
                if node is None:
                    return absent(cacheable=False)
                return self._before(node)
        entry = await super().lookup(parent_inode, name, ctx)
        if tokens.volatile(parent_inode, name):
            entry.entry_timeout = 0
        return entry

    def _before(self, node: Node) -> EntryAttributes:
        """Reply with an object under the name that it had."""
        self._fs.table.nodes.setdefault(node.ino, node)
        entry = self._entry(node)
        entry.st_nlink = max(1, node.nlink)
        entry.entry_timeout = entry.attr_timeout = 0
        return entry

    def _take(self, *key: object) -> Token:
        token = self._tokens.take(*key)
        if token is None:
            raise _refused()
        return token

    def _appear(self, operation: str, parent: InodeT, name: bytes) -> EntryAttributes:
        token = self._take(operation, int(parent), name)
        directory = self._fs.table.nodes.get(parent)
        node = token.node
        if not isinstance(directory, Directory) or directory.children.get(name) is not node:
            token.arrived = False
            raise _refused()
        self._tokens.repeated(token)
        entry = self._entry(node)
        entry.attr_timeout = 0  # see setattr
        if self._tokens.volatile(parent, name):
            entry.entry_timeout = 0
        return entry

    @handler
    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        """See pyfuse3.Operations."""
        if ctx.pid == self._tokens.pid:
            return self._appear("mkdir", parent_inode, name)
        return await super().mkdir(parent_inode, name, mode, ctx)

    @handler
    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        """See pyfuse3.Operations."""
        if ctx.pid == self._tokens.pid:
            return self._appear("mknod", parent_inode, name)
        return await super().mknod(parent_inode, name, mode, rdev, ctx)

    @handler
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        """See pyfuse3.Operations."""
        if ctx.pid == self._tokens.pid:
            return self._appear("symlink", parent_inode, name)
        return await super().symlink(parent_inode, name, target, ctx)

    @handler
    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        """See pyfuse3.Operations."""
        if ctx.pid == self._tokens.pid:
            return self._empty_handle(), self._appear("create", parent_inode, name)
        return await super().create(parent_inode, name, mode, flags, ctx)

    @handler
    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        """See pyfuse3.Operations."""
        if ctx.pid == self._tokens.pid:
            raise _refused()
        return await super().link(inode, new_parent_inode, new_name, ctx)

    def _vanish(self, operation: str, parent: InodeT, name: bytes) -> None:
        token = self._take(operation, int(parent), name)
        directory = self._fs.table.nodes.get(parent)
        if isinstance(directory, Directory) and directory.children.get(name) is token.node:
            token.arrived = False
            raise _refused()
        self._tokens.repeated(token)

    @handler
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        """See pyfuse3.Operations."""
        if ctx.pid == self._tokens.pid:
            return self._vanish("unlink", parent_inode, name)
        return await super().unlink(parent_inode, name, ctx)

    @handler
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        """See pyfuse3.Operations."""
        if ctx.pid == self._tokens.pid:
            return self._vanish("rmdir", parent_inode, name)
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
        """See pyfuse3.Operations."""
        if ctx.pid != self._tokens.pid:
            return await super().rename(
                parent_inode_old, name_old, parent_inode_new, name_new, flags, ctx
            )
        token = self._take(
            "rename", int(parent_inode_old), name_old, int(parent_inode_new), name_new
        )
        directory = self._fs.table.nodes.get(parent_inode_new)
        if (
            not isinstance(directory, Directory)
            or directory.children.get(name_new) is not token.node
        ):
            token.arrived = False
            raise _refused()
        self._tokens.repeated(token)

    # -- attributes --------------------------------------------------------------------------------

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
        if ctx.pid != self._tokens.pid:
            return await super().setattr(inode, attr, fields, fh, ctx)
        # A file that was created is written to next, as far as watchers can see.
        if fields.update_size or not (self._empty or self._tokens.expects("set", int(inode))):
            raise _refused()
        entry = entry_attributes(self._fs.node(inode), self._owners)
        # Here, unlike after getattr, the kernel takes over what it is told even if it was asked to
        # forget it before the caller got to run: the next change may have come by then.
        entry.attr_timeout = 0
        return entry

    @handler
    async def setxattr(
        self, inode: InodeT, name: pyfuse3.XAttrNameT, value: bytes, ctx: RequestContext
    ) -> None:
        """See pyfuse3.Operations."""
        if ctx.pid == self._tokens.pid:
            raise _refused()
        return await super().setxattr(inode, name, value, ctx)

    @handler
    async def removexattr(
        self, inode: InodeT, name: pyfuse3.XAttrNameT, ctx: RequestContext
    ) -> None:
        """See pyfuse3.Operations."""
        if ctx.pid == self._tokens.pid:
            raise _refused()
        return await super().removexattr(inode, name, ctx)

    # -- files -------------------------------------------------------------------------------------

    def _empty_handle(self) -> FileInfo:
        number = next(self._handles)
        self._empty.add(number)
        return FileInfo(fh=FileHandleT(number), keep_cache=True)

    @handler
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        """See pyfuse3.Operations."""
        if ctx.pid != self._tokens.pid:
            return await super().open(inode, flags, ctx)
        if flags & os.O_TRUNC or not self._tokens.expects("set", int(inode)):
            raise _refused()
        return self._empty_handle()

    @handler
    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """See pyfuse3.Operations."""
        await super().readdir(fh, start_id, token)
        if fh in self._directories:
            self._tokens.forget_listed(self._directories[fh].node)

    @handler
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        """See pyfuse3.Operations."""
        if fh in self._empty:
            raise _refused()
        return await super().read(fh, off, size)

    @handler
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        """See pyfuse3.Operations."""
        if fh in self._empty:
            raise _refused()
        return await super().write(fh, off, buf)

    @handler
    async def flush(self, fh: FileHandleT) -> None:
        """See pyfuse3.Operations."""
        if fh not in self._empty:
            await super().flush(fh)

    @handler
    async def release(self, fh: FileHandleT) -> None:
        """See pyfuse3.Operations."""
        if fh in self._empty:
            self._empty.discard(fh)
        else:
            await super().release(fh)
