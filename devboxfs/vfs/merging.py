"""How listings are worked into the table: what they show, and what they lack."""

from __future__ import annotations

from collections.abc import Iterable

from devboxfs.core.node import Directory, Node
from devboxfs.vfs.nodes import same_object
from devboxfs.vfs.table import Table
from sealos_devbox import Attributes

__all__ = ["Merging"]


class Merging:
    """The rules for listings. One that is as old as `event` knows nothing of younger ones."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._vanished: dict[tuple[int, bytes], tuple[Directory, Node, int]] = {}
        """Names that listings lack, while all directories are listed: some may be elsewhere."""
        self._snapshots = 0

    def begin(self) -> None:
        """All directories are listed from now on."""
        self._snapshots += 1

    def end(self) -> list[Directory]:
        """They were, or will not be: returns directories that still have what is not there."""
        self._snapshots -= 1
        if self._snapshots:
            return []
        left = {directory.ino: directory for directory, _node, _event in self._vanished.values()}
        self._vanished.clear()
        return list(left.values())

    def merge(
        self,
        directory: Directory,
        entries: Iterable[tuple[bytes, Attributes]],
        event: int,
        names: set[bytes],
    ) -> None:
        """Work in entries of a listing that is as old as `event`, and has these names in all."""
        table, children = self.table, directory.children
        stale, held = table.log.is_stale, directory.held
        for name, attr in entries:
            if directory.pending_names is not None and held(name):
                table.stash(directory, name, event, attr)
            elif not stale(directory.ino, name, event):
                if table.hides is not None and table.hide(directory, name, attr):
                    continue
                child = children.get(name)
                if child is None or not same_object(child, attr):
                    node = table.known_as(attr)
                    if (
                        node is not None
                        and self._lacked(node, directory, names)
                        and self._found_again(node, directory, name, attr, event)
                    ):
                        continue
                if child is not None:
                    table.put_remote(directory, name, attr, event)
                else:
                    node = table.adopt(attr)
                    table.attach(directory, name, node)
                    if directory.complete:
                        if node.is_dir and directory.nlink > 1:
                            directory.nlink += 1
                        if not table.watchers.appeared(directory, name, node):
                            # Absence was an answer: the kernel may have cached it.
                            table.kernel.entry(directory, name)

    def finish(self, directory: Directory, names: set[bytes], event: int) -> None:
        """All entries of the listing were merged: what is not among them is gone."""
        for name in [n for n in directory.children if n not in names]:
            if not self._snapshots:
                self._vanish(directory, name, event)
            else:
                self._vanished[directory.ino, name] = directory, directory.children[name], event
        if directory.hidden is not None:
            directory.hidden &= names
        if not directory.complete and directory.nlink > 1 and not directory.hidden:
            # News that came meanwhile was not counted.
            directory.nlink = 2 + sum(child.is_dir for child in directory.children.values())
        directory.complete = True

    def remove_vanished(self, count: int) -> bool:
        """Work in what no listing has shown elsewhere, some of it; whether there is more."""
        for _ in range(count):
            if not self._vanished:
                return False
            (_ino, name), (directory, node, event) = self._vanished.popitem()
            if directory.children.get(name) is node:
                self._vanish(directory, name, event)
        return True

    def _vanish(self, directory: Directory, name: bytes, event: int) -> None:
        """A listing that is as old as `event` lacks the name."""
        if directory.held(name) or directory.children[name].pending:
            self.table.stash(directory, name, event, None)
        elif not self.table.log.is_stale(directory.ino, name, event):
            self.table.remove_remote(directory, name)

    def may_come_from_elsewhere(
        self, directory: Directory, entries: Iterable[tuple[bytes, Attributes]], names: set[bytes]
    ) -> bool:
        """Whether a listing shows an object that is known under a name not known to be gone."""
        for name, attr in entries:
            child = directory.children.get(name)
            if child is None or not same_object(child, attr):
                node = self.table.known_as(attr)
                if node is not None and not self._lacked(node, directory, names):
                    return True
        return False

    def _lacked(self, node: Node, directory: Directory, names: set[bytes]) -> bool:
        """Whether the listing of this directory, or an earlier one, lacks the name of an object.

        The number alone does not tell: below a mount in the box others have the same ones.
        """
        source, old = node.parent, node.name
        if source is None or source is directory:
            return old not in names
        return (source.ino, old) in self._vanished

    def _found_again(
        self, node: Node, directory: Directory, name: bytes, attr: Attributes, event: int
    ) -> bool:
        """Work in that an object was renamed: the event is on its way, or lost with the link."""
        source, old = node.parent, node.name
        if source is None or self.table.log.is_stale(source.ino, old, event):
            return False
        above: Directory | None = directory
        while above is not None:
            if above is node:
                return False
            above = above.parent
        return self.table.remote_move(source, old, directory, name, attr, event)
