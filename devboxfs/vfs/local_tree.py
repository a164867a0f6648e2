"""Directories that live on this machine inside the mount (`--local`): no network, no journal.

A tree is a real directory (vfs/local_store.py); what is done below it is done there, by path, at
once.

Only this module changes names in a tree while it is mounted (another mount of the same box may too:
the kernel keeps what it hears for a second only), so no name of a path can turn into a symbolic
link on the way.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass

import trio

from devboxfs.core.node import Directory
from devboxfs.vfs.local_nodes import LocalFile, LocalNode, LocalNodes
from devboxfs.vfs.metadata import AttributeChange
from devboxfs.vfs.namespace import RENAME_EXCHANGE, RENAME_NOREPLACE, oserror
from devboxfs.vfs.visibility import Visibility

__all__ = ["LocalTrees", "Maker"]

INLINE_WRITE = 128 * 1024
"""Bytes that are written in trio's thread: into the page cache, some 30 microseconds."""
_AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Maker:
    """Who makes an object, on this machine."""

    uid: int
    gid: int
    given: bool = True
    """Whether the object is given to them, as far as the daemon may."""


class LocalTrees(LocalNodes):
    """All trees of one mount. Raises OSError as the local file system does."""

    def __init__(self, visibility: Visibility, *, read_only: bool) -> None:
        super().__init__(visibility.store)
        self.visibility = visibility
        self._read_only = read_only

    def check_writable(self) -> None:
        """Refuse every change in a read-only mount."""
        if self._read_only:
            raise oserror(errno.EROFS)

    # -- names -------------------------------------------------------------------------------------

    def root(self, directory: Directory, name: bytes) -> LocalNode | None:
        """Return the tree of this name in a directory of the box; None when there is none."""
        path = self.visibility.tree(directory, name)
        if path is None:
            return None
        try:
            node = self._node(os.lstat(self.store.place(path)))
        except FileNotFoundError:
            return None
        node.root = (directory, name)
        return node

    def lookup(self, parent: LocalNode, name: bytes) -> LocalNode | None:
        """Return the entry, None when there is none."""
        if name == b".":
            return parent
        if name == b"..":
            return parent.names[0][0] if parent.names else None
        try:
            return self._found(parent, name, self._child(parent, name))
        except FileNotFoundError:
            return None

    def make_root(self, directory: Directory, name: bytes, mode: int, maker: Maker) -> LocalNode:
        """Make a tree, empty."""
        self.check_writable()
        path = directory.child_path(name)
        place = self.store.prepare(path)
        try:
            os.mkdir(place, 0o700)
        except OSError:
            self.store.dispose(path)
            raise
        self._give(place, mode, maker, None)
        node = self._node(os.lstat(place))
        node.root = (directory, name)
        return node

    def make(
        self, parent: LocalNode, name: bytes, mode: int, maker: Maker, *, target: bytes | None
    ) -> LocalNode:
        """Make a directory, symbolic link (`target`), FIFO, socket, or an empty file."""
        self.check_writable()
        path = self._child(parent, name)
        if target is not None:
            os.symlink(target, path)
        elif stat.S_ISDIR(mode):
            os.mkdir(path, 0o700)
        else:
            os.mknod(path, stat.S_IFMT(mode) | 0o600)
        self._give(path, None if target is not None else mode, maker, parent)
        return self._found(parent, name, path)

    def _give(self, path: bytes, mode: int | None, maker: Maker, parent: LocalNode | None) -> None:
        """Set owner, group and mode as the kernel would have, had the maker made it."""
        info = os.lstat(path)
        inherits = parent is not None and os.lstat(self.path(parent)).st_mode & stat.S_ISGID
        gid = info.st_gid if inherits or not maker.given else maker.gid
        uid = maker.uid if maker.given else info.st_uid
        if (uid, gid) != (info.st_uid, info.st_gid):
            with suppress(PermissionError):
                os.chown(path, uid, gid, follow_symlinks=False)
        if mode is not None:
            inherited = info.st_mode & stat.S_ISGID if stat.S_ISDIR(info.st_mode) else 0
            os.chmod(path, stat.S_IMODE(mode) | inherited)

    def link(self, node: LocalNode, parent: LocalNode, name: bytes) -> LocalNode:
        """Give an object another name."""
        self.check_writable()
        path = self._child(parent, name)
        os.link(self.path(node), path, follow_symlinks=False)
        return self._found(parent, name, path)

    def unlink(self, parent: LocalNode, name: bytes) -> None:
        """Remove a name of anything but a directory."""
        self.check_writable()
        self._remove(parent, name, directory=False)

    def rmdir(self, parent: LocalNode, name: bytes) -> None:
        """Remove an empty directory."""
        self.check_writable()
        self._remove(parent, name, directory=True)

    def remove_root(self, root: LocalNode) -> None:
        """Remove an empty tree."""
        self.check_writable()
        if root.root is None:
            raise RuntimeError("only a tree's own directory is a root")
        directory, name = root.root
        os.rmdir(self.path(root))
        self.store.dispose(directory.child_path(name))
        self._removed(root)

    def _remove(self, parent: LocalNode, name: bytes, *, directory: bool) -> None:
        path = self._child(parent, name)
        info = os.lstat(path)
        node = self._by_key.get((info.st_dev, info.st_ino))
        if directory:
            os.rmdir(path)
        else:
            os.unlink(path)
        if node is not None:
            self._lost_name(node, parent, name, info)

    def _lost_name(
        self, node: LocalNode, parent: LocalNode, name: bytes, info: os.stat_result
    ) -> None:
        if (parent, name) in node.names:
            node.names.remove((parent, name))
        if info.st_nlink <= 1 or stat.S_ISDIR(info.st_mode):
            self._removed(node)

    def rename(
        self, source: LocalNode, old: bytes, target: LocalNode, new: bytes, flags: int
    ) -> None:
        """Rename as renameat2(2), within trees."""
        self.check_writable()
        before, after = self._child(source, old), self._child(target, new)
        moved = self._node(os.lstat(before))
        there: os.stat_result | None = None
        with suppress(FileNotFoundError):
            there = os.lstat(after)
        _rename(before, after, flags)
        if there is not None and (there.st_dev, there.st_ino) == moved.key:
            return  # two names of one object: rename(2) does nothing
        replaced = None if there is None else self._by_key.get((there.st_dev, there.st_ino))
        if replaced is not None and there is not None:
            if flags & RENAME_EXCHANGE:
                self._renamed(replaced, target, new, source, old)
            else:
                self._lost_name(replaced, target, new, there)
        self._renamed(moved, source, old, target, new)
        self._drop_if_unused(moved)

    def _renamed(
        self, node: LocalNode, source: LocalNode, old: bytes, target: LocalNode, new: bytes
    ) -> None:
        if (source, old) in node.names:
            node.names.remove((source, old))
        node.names.append((target, new))

    def rename_root(
        self,
        root: LocalNode,
        directory: Directory,
        name: bytes,
        there: LocalNode | None,
        flags: int,
    ) -> None:
        """Let a tree become the one of another local name."""
        self.check_writable()
        if root.root is None or flags & ~RENAME_NOREPLACE:
            raise oserror(errno.EINVAL)
        if there is not None and flags & RENAME_NOREPLACE:
            raise oserror(errno.EEXIST)
        source, old = root.root
        before = source.child_path(old)
        after = directory.child_path(name)
        os.rename(self.store.place(before), self.store.prepare(after))
        self.store.dispose(before)
        if there is not None:
            self._removed(there)
        root.root = (directory, name)

    # -- attributes --------------------------------------------------------------------------------

    def stat(self, node: LocalNode) -> os.stat_result:
        """Return the attributes, of a removed object too while it is open."""
        if node.gone:
            if node.files:
                node.last = os.fstat(node.files[0].descriptor)
            return node.last
        node.last = os.lstat(self.path(node))
        return node.last

    def setattr(
        self, node: LocalNode, change: AttributeChange, size: int | None, file: LocalFile | None
    ) -> None:
        """Change attributes and size."""
        self.check_writable()
        if file is None and node.gone and node.files:
            file = node.files[0]
        path: int | bytes = self.path(node) if file is None else file.descriptor
        follow = file is not None
        if size is not None:
            os.truncate(path, size)
        if change.uid is not None or change.gid is not None:
            uid = -1 if change.uid is None else change.uid
            gid = -1 if change.gid is None else change.gid
            if follow:
                os.chown(path, uid, gid)
            else:
                os.chown(path, uid, gid, follow_symlinks=False)
        if change.mode is not None:
            if stat.S_ISLNK(node.last.st_mode):
                raise oserror(errno.EOPNOTSUPP)
            os.chmod(path, stat.S_IMODE(change.mode))
        if change.atime_ns is not None or change.mtime_ns is not None:
            info = os.fstat(file.descriptor) if file is not None else os.lstat(self.path(node))
            times = (
                info.st_atime_ns if change.atime_ns is None else change.atime_ns,
                info.st_mtime_ns if change.mtime_ns is None else change.mtime_ns,
            )
            if follow:
                os.utime(path, ns=times)
            else:
                os.utime(path, ns=times, follow_symlinks=False)

    def readlink(self, node: LocalNode) -> bytes:
        """Return what a symbolic link says."""
        return os.readlink(self.path(node))

    def _named(self, node: LocalNode, name: bytes) -> bytes:
        """Check the name of an extended attribute; return where the object is.

        What is not `user.` or `trusted.` is answered at once: every write asks for one of them.
        """
        if not name.startswith((b"user.", b"trusted.")):
            raise oserror(errno.ENODATA if name.startswith(b"security.") else errno.EOPNOTSUPP)
        return self.path(node)

    def getxattr(self, node: LocalNode, name: bytes) -> bytes:
        """Return the value of an extended attribute."""
        return os.getxattr(self._named(node, name), name, follow_symlinks=False)

    def listxattr(self, node: LocalNode) -> list[bytes]:
        """List the extended attributes that can be asked for."""
        names = map(os.fsencode, os.listxattr(self.path(node), follow_symlinks=False))
        return [name for name in names if name.startswith((b"user.", b"trusted."))]

    def setxattr(self, node: LocalNode, name: bytes, value: bytes | None) -> None:
        """Set an extended attribute; None removes it."""
        self.check_writable()
        if not name.startswith((b"user.", b"trusted.")):
            raise oserror(errno.EOPNOTSUPP)
        path = self.path(node)
        if value is None:
            os.removexattr(path, name, follow_symlinks=False)
        else:
            os.setxattr(path, name, value, follow_symlinks=False)

    # -- directories -------------------------------------------------------------------------------

    def names(self, node: LocalNode) -> list[bytes]:
        """List a directory."""
        return os.listdir(self.path(node)) if not node.gone else []

    async def sync_directory(self, node: LocalNode) -> None:
        """Return when the names in a directory are on this machine's disk."""
        descriptor = os.open(self.path(node), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            await trio.to_thread.run_sync(os.fsync, descriptor)
        finally:
            os.close(descriptor)

    # -- files -------------------------------------------------------------------------------------

    def create(
        self, parent: LocalNode, name: bytes, mode: int, flags: int, maker: Maker
    ) -> LocalFile:
        """Create and open a regular file; an existing one is opened unless O_EXCL is given."""
        path = self._child(parent, name)
        if not flags & os.O_EXCL:
            with suppress(FileNotFoundError):
                return self.open(self._found(parent, name, path), flags)
        self.check_writable()
        descriptor = os.open(path, _flags(flags) | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            self._give(path, mode, maker, parent)
            node = self._found(parent, name, path)
        except OSError:
            os.close(descriptor)
            raise
        return self._opened(node, descriptor)

    def open(self, node: LocalNode, flags: int) -> LocalFile:
        """Open a regular file. O_TRUNC arrives here, not as a setattr."""
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            self.check_writable()
        path = b""
        if node.gone:
            if not node.files:
                raise oserror(errno.ESTALE)
            path = b"/proc/self/fd/%d" % node.files[0].descriptor
            return self._opened(node, os.open(path, _flags(flags) & ~os.O_NOFOLLOW))
        path = self.path(node)
        try:
            descriptor = os.open(path, _flags(flags))
        except PermissionError:
            if not flags & os.O_NOATIME:
                raise
            descriptor = os.open(path, _flags(flags) & ~os.O_NOATIME)
        return self._opened(node, descriptor)

    def _opened(self, node: LocalNode, descriptor: int) -> LocalFile:
        file = LocalFile(node, descriptor)
        node.files.append(file)
        return file

    def keeps_pages(self, file: LocalFile) -> bool:
        """Whether what the kernel has of the file is still right, as far as times tell."""
        info = os.fstat(file.descriptor)
        now = (info.st_mtime_ns, info.st_size)
        kept, file.node.seen = file.node.seen == now, now
        return kept

    async def read(self, file: LocalFile, offset: int, length: int) -> bytes:
        """Return up to `length` bytes: at once from the page cache, else by way of a thread."""
        buffer = bytearray(length)
        try:
            got = os.preadv(file.descriptor, [buffer], offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
                raise
            got = -1
        if got == length or (got >= 0 and offset + got >= os.fstat(file.descriptor).st_size):
            return bytes(buffer[:got]) if got < length else bytes(buffer)
        return await trio.to_thread.run_sync(os.pread, file.descriptor, length, offset)

    async def write(self, file: LocalFile, offset: int, data: bytes) -> int:
        """Write all of data."""
        done = 0
        while done < len(data):
            piece = memoryview(data)[done:]
            if len(piece) <= INLINE_WRITE:
                done += os.pwrite(file.descriptor, piece, offset + done)
            else:
                done += await trio.to_thread.run_sync(
                    os.pwrite, file.descriptor, piece, offset + done
                )
        if file.node.seen is not None:
            info = os.fstat(file.descriptor)
            file.node.seen = (info.st_mtime_ns, info.st_size)
        return done

    async def fsync(self, file: LocalFile, *, data_only: bool) -> None:
        """Return when the file is on this machine's disk."""
        function = os.fdatasync if data_only else os.fsync
        await trio.to_thread.run_sync(function, file.descriptor)

    def release(self, file: LocalFile) -> None:
        """Close an open file description."""
        file.node.files.remove(file)
        os.close(file.descriptor)
        self._drop_if_unused(file.node)

    def close(self) -> None:
        """Close what the kernel left open when it unmounted."""
        for node in list(self.nodes.values()):
            for file in list(node.files):
                self.release(file)


def _flags(flags: int) -> int:
    """Return the flags to open a real file with: creation is ours, direct access for no one."""
    kept = os.O_ACCMODE | os.O_APPEND | os.O_TRUNC | os.O_NOATIME | os.O_SYNC | os.O_DSYNC
    return (flags & kept) | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def _rename(before: bytes, after: bytes, flags: int) -> None:
    if not flags:
        os.rename(before, after)
    elif _libc.renameat2(_AT_FDCWD, before, _AT_FDCWD, after, flags) != 0:
        raise oserror(ctypes.get_errno())
