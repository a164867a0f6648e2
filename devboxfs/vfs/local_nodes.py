"""The objects of local trees by number, and where each of them really is.

The kernel's number is derived from the real one: the same over remounts, and unlike any of the
box's (below 2**48) and of ours (writeback/identities.py, below 2**49). A path is made of the names
by which the kernel reached an object.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from dataclasses import dataclass, field

from devboxfs.core.node import Directory
from devboxfs.vfs.local_store import LocalStore
from devboxfs.vfs.namespace import oserror
from devboxfs.vfs.nodes import ROOT_INO

__all__ = ["LOCAL_INO", "LocalFile", "LocalListing", "LocalNode", "LocalNodes"]

LOCAL_INO = 1 << 60
"""Numbers from here upwards are local objects'."""
_REAL_LIMIT = 1 << 56
_SPARE_INO = LOCAL_INO + _REAL_LIMIT
"""From here upwards: objects whose real number is taken, too large, or of another file system."""


class LocalNode:
    """One object of a tree, as far as the kernel knows it."""

    __slots__ = ("files", "gone", "ino", "key", "last", "lookups", "names", "root", "seen")

    def __init__(self, ino: int, key: tuple[int, int], info: os.stat_result) -> None:
        self.ino = ino
        self.key = key
        self.last = info
        self.names: list[tuple[LocalNode, bytes]] = []
        """Directory and name, of all names that were seen."""
        self.root: tuple[Directory, bytes] | None = None
        """Of a tree's own directory: where it is in the mount."""
        self.lookups = 0
        self.files: list[LocalFile] = []
        self.gone = False
        """Removed: the real number may be another object's."""
        self.seen: tuple[int, int] | None = None
        """(mtime_ns, size) at the last opening: whether the kernel's pages are still right."""


@dataclass(slots=True, eq=False)
class LocalFile:
    """One open file description."""

    node: LocalNode
    descriptor: int


@dataclass(slots=True)
class LocalListing:
    """One open directory, with its names as they were at the last rewind."""

    node: LocalNode
    names: list[bytes] = field(default_factory=list)


class LocalNodes:
    """What the kernel knows of local trees."""

    def __init__(self, store: LocalStore) -> None:
        self.store = store
        self.nodes: dict[int, LocalNode] = {}
        self._by_key: dict[tuple[int, int], LocalNode] = {}
        self._device: int | None = None
        self._spare = itertools.count(_SPARE_INO)

    def node(self, ino: int) -> LocalNode:
        """Return the object that the kernel means."""
        node = self.nodes.get(ino)
        if node is None:
            raise oserror(errno.ESTALE)
        return node

    def _node(self, info: os.stat_result) -> LocalNode:
        """Return the node of a real object."""
        if self._device is None:
            self._device = info.st_dev
        key = (info.st_dev, info.st_ino)
        node = self._by_key.get(key)
        if node is not None and stat.S_IFMT(node.last.st_mode) == stat.S_IFMT(info.st_mode):
            node.last = info
            return node
        ino = LOCAL_INO + info.st_ino
        if info.st_dev != self._device or info.st_ino >= _REAL_LIMIT or ino in self.nodes:
            ino = next(self._spare)
        node = LocalNode(ino, key, info)
        self.nodes[ino] = self._by_key[key] = node
        return node

    def forget(self, ino: int, count: int) -> None:
        """The kernel dropped references."""
        node = self.nodes.get(ino)
        if node is not None:
            node.lookups -= count
            self._drop_if_unused(node)

    def _drop_if_unused(self, node: LocalNode) -> None:
        if node.lookups <= 0 and not node.files:
            self.nodes.pop(node.ino, None)
            if self._by_key.get(node.key) is node:
                del self._by_key[node.key]

    def _removed(self, node: LocalNode) -> None:
        """Its last name is gone: the real number may come back as another object's."""
        node.gone = True
        node.names.clear()
        if self._by_key.get(node.key) is node:
            del self._by_key[node.key]

    def path(self, node: LocalNode) -> bytes:
        """Return where the object really is."""
        parts: list[bytes] = []
        while node.root is None:
            if not node.names:
                raise oserror(errno.ENOENT if node.gone else errno.ESTALE)
            node, name = node.names[0]
            parts.append(name)
        directory, name = node.root
        if directory.parent is None and directory.ino != ROOT_INO:
            raise oserror(errno.ESTALE)  # removed in the box; the tree stays in the store
        parts.append(self.store.place(directory.child_path(name)))
        parts.reverse()
        return b"/".join(parts)

    def _child(self, parent: LocalNode, name: bytes) -> bytes:
        return self.path(parent) + b"/" + name

    def _found(self, parent: LocalNode, name: bytes, path: bytes) -> LocalNode:
        info = os.lstat(path)
        node = self._node(info)
        if info.st_nlink == 1 or stat.S_ISDIR(info.st_mode):
            node.names = [(parent, name)]
        elif (parent, name) not in node.names:
            node.names.append((parent, name))
        return node
