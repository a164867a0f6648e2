"""Who is told when the table has changed: the kernel, and programs that watch files."""

from __future__ import annotations

from typing import Protocol

from devboxfs.core.node import Directory, Node

__all__ = ["Kernel", "Watchers"]


class Kernel(Protocol):
    """What the kernel may have cached and has to forget. All only queue."""

    def entry(self, directory: Node, name: bytes) -> None:
        """Forget the name, or that it is absent."""
        ...

    def replaced(self, directory: Node, name: bytes, node: Node) -> None:
        """Tell who watches the node itself that it is gone; before its name is forgotten."""
        ...

    def inode(self, node: Node, *, content: bool) -> None:
        """Forget the attributes; with `content` the pages too."""
        ...


class Watchers:
    """Who wants to hear of the box's news besides; this one does not.

    True: makes the kernel know the new state of the names itself.
    """

    mask: int | None = None
    """inotify's bits in the event that is being worked in; None for a listing."""

    def appeared(self, directory: Directory, name: bytes, node: Node) -> bool:
        """A name has come."""
        return False

    def vanishing(self, directory: Directory, name: bytes, node: Node) -> bool:
        """A name, with all that lies below it, is about to be taken away."""
        return False

    def moving(
        self, source: Directory, old: bytes, target: Directory, new: bytes, node: Node
    ) -> bool:
        """A name is about to be moved, over what may be there."""
        return False

    def changed(self, node: Node, *, content: bool) -> None:
        """An object has other attributes, or other content."""
