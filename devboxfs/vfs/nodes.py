"""The known objects by number, and their names by directory.

Synchronous, and without an opinion on what is true: that is vfs/table.py's.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import Protocol

from devboxfs.core.node import Directory, Node
from sealos_devbox import Attributes

__all__ = ["ROOT_INO", "InodeNumbers", "Nodes", "same_object"]

ROOT_INO = 1
PRIVATE_INO = 1 << 48
"""Inode numbers from here upwards are ours (writeback/identities.py)."""


class InodeNumbers(Protocol):
    """Shown inode numbers that outlive a mount."""

    def shown(self, attr: Attributes) -> tuple[int, int] | None:
        """Return (shown ino, shown ctime_ns) of what a flush of ours left in this state."""
        ...

    def next_ino(self) -> int:
        """Return a number that was never given before."""
        ...

    def record(self, attr: Attributes, shown_ino: int, shown_ctime_ns: int) -> None:
        """Remember how an object is shown; written behind."""
        ...


class Nodes:
    """Makes nodes, gives them names, finds them, and drops those that nobody refers to."""

    def __init__(self, root: Attributes, numbers: InodeNumbers) -> None:
        self.numbers = numbers
        self.root = Directory(ROOT_INO, root, root)
        self.nodes: dict[int, Node] = {ROOT_INO: self.root}
        self.by_oid: dict[int, Node] = {}
        self._by_box_ino: dict[int, Node] = {}
        """Objects shown under another number than the box's: to know their other names."""

    def adopt(self, attr: Attributes) -> Node:
        """Return the node for an object of the box.

        A known one for another name of it, else a new one.
        """
        is_dir = stat.S_ISDIR(attr.mode)
        known = self._linked(attr)
        if known is not None:
            return known
        shown = self.numbers.shown(attr)
        ino = shown[0] if shown is not None else attr.ino
        if ino in self.nodes or ino <= ROOT_INO or (shown is None and ino >= PRIVATE_INO):
            ino = self.numbers.next_ino()
        node = Directory(ino, attr, attr) if is_dir else Node(ino, attr, attr)
        if shown is not None:
            node.ctime_ns = shown[1]
        self.nodes[ino] = node
        if ino != attr.ino:
            self._by_box_ino[attr.ino] = node
        return node

    def create(self, attr: Attributes) -> Node:
        """Make a node for an object that the box does not have yet."""
        ino = self.numbers.next_ino()
        node = Directory(ino, attr, None) if stat.S_ISDIR(attr.mode) else Node(ino, attr, None)
        if isinstance(node, Directory):
            node.complete = True
        self.nodes[ino] = node
        return node

    def attach(self, directory: Directory, name: bytes, node: Node) -> None:
        """Give the object a name; one that stands there is detached."""
        there = directory.children.get(name)
        if there is node:
            return
        if there is not None:
            self.detach(directory, name)
        directory.children[name] = node
        if node.parent is None:
            node.parent, node.name = directory, name
        else:
            if node.links is None:
                node.links = [(node.parent, node.name)]
            node.links.append((directory, name))

    def detach(self, directory: Directory, name: bytes) -> Node:
        """Take a name away. The node lives on while the kernel or an open file refers to it."""
        node = directory.children.pop(name)
        if node.links is not None:
            node.links.remove((directory, name))
            if node.parent is directory and node.name == name:
                node.parent, node.name = node.links[0]
            if len(node.links) == 1:
                node.links = None
        else:
            node.parent, node.name = None, b""
            self.drop_if_unused(node)
        return node

    def drop_if_unused(self, node: Node) -> None:
        """Forget a node that has no name and that nobody refers to."""
        if (
            node.parent is None
            and node is not self.root
            and node.lookups <= 0
            and node.opens <= 0
            and not node.pending
        ):
            self.nodes.pop(node.ino, None)
            if node.box is not None and self._by_box_ino.get(node.box.ino) is node:
                del self._by_box_ino[node.box.ino]

    def _linked(self, attr: Attributes) -> Node | None:
        """Return the node of an object with several names, if one of them is known."""
        return next(self._having(attr), None)

    def _having(self, attr: Attributes) -> Iterator[Node]:
        """Find the nodes of an object with several names."""
        if attr.nlink > 1 and not stat.S_ISDIR(attr.mode):
            yield from self._numbered(attr)

    def _numbered(self, attr: Attributes) -> Iterator[Node]:
        for known in (self._by_box_ino.get(attr.ino), self.nodes.get(attr.ino)):
            if known is not None and known.parent is not None and same_object(known, attr):
                yield known

    def known_as(self, attr: Attributes) -> Node | None:
        """Return the object that these attributes are of, wherever it is in the table.

        A number is given again when an object is gone; the time of the last change, to the
        nanosecond, says that it is the same one, and has what it had. Of a file with several names
        nothing is said.
        """
        for known in self._numbered(attr):
            box = known.box
            if (
                box is not None
                and attr.mtime_ns in (known.mtime_ns, box.mtime_ns)
                and (known.is_dir or (attr.nlink == 1 and box.size == attr.size))
            ):
                return known
        return None

    def box_state(self, node: Node, attr: Attributes) -> None:
        """An outcome of ours says what the box has now of an object; what is shown stays."""
        old, node.box = node.box, attr
        if old is not None and old.ino != attr.ino and self._by_box_ino.get(old.ino) is node:
            del self._by_box_ino[old.ino]
        if attr.ino != node.ino:
            self._by_box_ino[attr.ino] = node

    def resolve(self, path: bytes) -> Node | None:
        """Return the node at a path of the workspace, None when it is not known."""
        node: Node = self.root
        if node.name and path != node.name:
            if not path.startswith(node.name + b"/"):
                return None
            path = path[len(node.name) + 1 :]
        elif path == node.name:
            return node
        if path:
            for part in path.split(b"/"):
                if not isinstance(node, Directory):
                    return None
                child = node.children.get(part)
                if child is None:
                    return None
                node = child
        return node


def same_object(node: Node, attr: Attributes) -> bool:
    """Whether the box's attributes are those of this node, by number and type."""
    box = node.box
    return (
        box is not None and box.ino == attr.ino and stat.S_IFMT(box.mode) == stat.S_IFMT(attr.mode)
    )
