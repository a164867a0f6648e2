"""Where the names of the box and those of this machine meet: in the directories of the box.

A name there is that of a directory of this machine (a root), or may become one (`--local`), or is
the box's. No object has names on both sides, and a root is where a pattern says so: what would
break that is refused, mostly with EXDEV, after which mv copies.
"""

from __future__ import annotations

import errno

from devboxfs.core.node import Directory, Node
from devboxfs.vfs.filesystem import FileSystem
from devboxfs.vfs.local_nodes import LocalNode
from devboxfs.vfs.local_tree import Maker
from devboxfs.vfs.namespace import RENAME_EXCHANGE, RENAME_NOREPLACE, oserror

__all__ = ["LocalNames"]


class LocalNames:
    """See the module."""

    def __init__(self, filesystem: FileSystem) -> None:
        self._fs = filesystem
        self._local = filesystem.local
        self._visibility = filesystem.visibility

    def root(self, parent: int, name: bytes) -> LocalNode | None:
        """Return the directory of this machine that has the name."""
        if not self._visibility.has_local:
            return None
        return self._local.root(self._fs.directory(parent), name)

    def check_free(self, parent: int, name: bytes) -> None:
        """Refuse to make something of the box where a root is."""
        if self.root(parent, name) is not None:
            raise oserror(errno.EEXIST)

    def check_bare(self, node: Node | None) -> None:
        """Refuse to remove a directory of the box with a root somewhere in it."""
        if self._visibility.has_local and isinstance(node, Directory):
            trees = self._visibility.store.below(node.path())
            if any(map(self._visibility.is_local_path, trees)):
                raise oserror(errno.ENOTEMPTY)

    async def make_root(
        self, directory: Directory, name: bytes, mode: int, maker: Maker
    ) -> LocalNode:
        """Make a directory of this machine where the box has nothing."""
        if await self._fs.namespace.child(directory, name) is not None:
            raise oserror(errno.EEXIST)
        if directory.parent is None and directory is not self._fs.table.root:
            raise oserror(errno.ENOENT)
        return self._local.make_root(directory, name, mode, maker)

    def remove_root(self, root: LocalNode, directory: Directory, name: bytes) -> None:
        """Remove a directory of this machine."""
        self._local.remove_root(root)
        # What the box has under this name may be shown now.
        if directory.hidden and name in directory.hidden:
            self._fs.remote.listings.request_rescan(directory)

    async def rename(
        self, source: Directory, old: bytes, target: Directory, new: bytes, flags: int
    ) -> bool:
        """Do what is not for the box: False when all of it is; raises EXDEV for what is half so."""
        root, there = self._local.root(source, old), self._local.root(target, new)
        becomes_local = self._visibility.is_local(target, new)
        child = await self._fs.namespace.child(target, new)
        if root is not None:
            if flags & ~RENAME_NOREPLACE or not becomes_local:
                raise oserror(errno.EXDEV)
            if child is not None:
                raise oserror(errno.ENOTDIR)
            self._local.rename_root(root, target, new, there, flags)
            return True
        node = await self._fs.namespace.child(source, old)
        if node is None:
            return False
        if there is not None and not node.is_dir:
            raise oserror(errno.EISDIR)
        if there is not None or (node.is_dir and becomes_local):
            raise oserror(errno.EXDEV)
        exchange = flags & RENAME_EXCHANGE
        if exchange and child is not None and self._visibility.is_local(source, old):
            raise oserror(errno.EXDEV)
        if child is not None and child is not node and not exchange:
            self.check_bare(child)
        if isinstance(node, Directory):
            self._check_stays_local(node.path(), target.child_path(new))
        return False

    def _check_stays_local(self, before: bytes, after: bytes) -> None:
        """Refuse to move a directory with a root in it to where a pattern hides that."""
        for tree in self._visibility.store.below(before):
            shown = self._visibility.is_local_path(tree)
            if shown and not self._visibility.is_local_path(after + tree[len(before) :]):
                raise oserror(errno.EXDEV)
