"""The tree in the order in which programs walk it.

What the reader may fetch ahead (core.prefetch.PrefetchSource).
"""

from __future__ import annotations

from collections.abc import Iterator

from devboxfs.core.node import Directory, Node
from devboxfs.core.prefetch import Candidate
from devboxfs.vfs.table import Table

__all__ = ["ReadingOrder"]


class ReadingOrder:
    """Knows only what the table knows, and never asks the box."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def following(self, path: bytes) -> Iterator[Candidate]:
        """Yield what comes after the file at `path`.

        Siblings, then below them, then the parents' later siblings.
        """
        parent_path, _, name = path.rpartition(b"/")
        directory = self.table.resolve(parent_path)
        if not isinstance(directory, Directory) or name not in directory.children:
            return
        base = parent_path + b"/" if parent_path else b""
        before: list[Candidate] = []
        passed = False
        for other, node in directory.children.items():
            if other == name:
                passed = True
            elif (candidate := _candidate(base + other, node)) is not None:
                if passed:
                    yield candidate
                else:
                    before.append(candidate)
        yield from before
        for other, node in directory.children.items():
            if isinstance(node, Directory):
                yield from _below(base + other, node)
        while directory.parent is not None:
            parent, own_name = directory.parent, directory.name
            base = parent.path()
            base = base + b"/" if base else b""
            passed = False
            for other, node in parent.children.items():
                if other == own_name:
                    passed = True
                elif passed and isinstance(node, Directory):
                    yield from _below(base + other, node)
            directory = parent

    def inside(self, directory: bytes, *, recursive: bool) -> Iterator[Candidate]:
        """Yield the files in a directory, then, with `recursive`, those below it."""
        node = self.table.resolve(directory)
        if not isinstance(node, Directory):
            return
        if recursive:
            yield from _below(directory, node)
            return
        base = directory + b"/" if directory else b""
        for name, child in node.children.items():
            candidate = _candidate(base + name, child)
            if candidate is not None:
                yield candidate


def _below(path: bytes, directory: Directory) -> Iterator[Candidate]:
    waiting = [(path, directory)]
    while waiting:
        where, current = waiting.pop()
        base = where + b"/" if where else b""
        subdirectories: list[tuple[bytes, Directory]] = []
        for name, node in current.children.items():
            if isinstance(node, Directory):
                subdirectories.append((base + name, node))
            elif (candidate := _candidate(base + name, node)) is not None:
                yield candidate
        waiting.extend(reversed(subdirectories))


def _candidate(path: bytes, node: Node) -> Candidate | None:
    if (
        not node.is_file
        or node.pending
        or node.content is not None
        or node.box is None
        or node.size == 0
    ):
        return None
    return Candidate(path, node.box.version)
