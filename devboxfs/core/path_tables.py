"""Dictionaries keyed by path, in which directories are renamed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

__all__ = ["ancestors", "move", "swap"]

_Value = TypeVar("_Value")


def ancestors(path: bytes) -> Iterator[bytes]:
    """Yield the directories above a path, the nearest first."""
    slash = path.rfind(b"/")
    while slash > 0:
        yield path[:slash]
        slash = path.rfind(b"/", 0, slash)


def move(table: dict[bytes, _Value], old: bytes, new: bytes) -> None:
    """Rename a directory in a table by path."""
    below = old + b"/"
    for path in [path for path in table if path == old or path.startswith(below)]:
        table[new + path[len(old) :]] = table.pop(path)


def swap(table: dict[bytes, _Value], one: bytes, two: bytes) -> None:
    """Exchange two names in a table by path."""
    moved: dict[bytes, _Value] = {}
    for old, new in ((one, two), (two, one)):
        below = old + b"/"
        for path in [path for path in table if path == old or path.startswith(below)]:
            moved[new + path[len(old) :]] = table.pop(path)
    table.update(moved)
