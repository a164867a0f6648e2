"""A table for tests: who gives it numbers, who hears of it, and what the box tells it."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field

from devboxfs.core.node import Directory, Node
from devboxfs.vfs.merging import Merging
from devboxfs.vfs.table import Table
from sealos_devbox import Attributes

FILE, DIRECTORY = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755


def attributes(
    ino: int, *, mode: int = FILE, size: int = 0, time: int = 1, nlink: int = 1
) -> Attributes:
    return Attributes(mode, nlink, 1000, 1000, size, ino, time, time, time)


@dataclass
class Numbers:
    known: dict[int, tuple[int, int]] = field(default_factory=dict)
    recorded: list[tuple[int, int, int]] = field(default_factory=list)
    counter: int = 1 << 48

    def shown(self, attr: Attributes) -> tuple[int, int] | None:
        return self.known.get(attr.ino)

    def next_ino(self) -> int:
        self.counter += 1
        return self.counter

    def record(self, attr: Attributes, shown_ino: int, shown_ctime_ns: int) -> None:
        self.recorded.append((attr.ino, shown_ino, shown_ctime_ns))


@dataclass
class Told:
    """What the kernel was told to forget."""

    entries: list[tuple[int, bytes]] = field(default_factory=list)
    inodes: list[tuple[int, bool]] = field(default_factory=list)

    def replaced(self, directory: Node, name: bytes, node: Node) -> None:
        assert node.parent is directory  # before anything else is said of the name

    def entry(self, directory: Node, name: bytes) -> None:
        self.entries.append((directory.ino, name))

    def inode(self, node: Node, *, content: bool) -> None:
        self.inodes.append((node.ino, content))


def listing(
    table: Table, directory: Directory, entries: dict[bytes, Attributes], event: int = 0
) -> None:
    merging = Merging(table)
    merging.merge(directory, entries.items(), event, set(entries))
    merging.finish(directory, set(entries), event)


def local(table: Table, directory: Directory, name: bytes, mode: int = FILE) -> Node:
    """Create an object as vfs/namespace.py does."""
    node = table.create(attributes(0, mode=mode, nlink=2 if stat.S_ISDIR(mode) else 1))
    node.pending = 1
    directory.hold(name)
    table.attach(directory, name, node)
    return node


def settle(
    table: Table, directory: Directory, name: bytes, node: Node, box: Attributes | None, event: int
) -> None:
    node.pending -= 1
    node.box = box
    table.name_settled(directory, name, event)
    if not node.pending:
        table.object_settled(node, event)


def replace_attributes(attr: Attributes, **changes: int) -> Attributes:
    values = {name: getattr(attr, name) for name in attr.__struct_fields__}
    return Attributes(**{**values, **changes})
