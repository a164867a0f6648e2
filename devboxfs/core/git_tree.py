"""Where git's own directories are in the tree, and what that means for what lies in them. Pure."""

from __future__ import annotations

from devboxfs.core.git_paths import is_git_directory
from devboxfs.core.node import Directory

__all__ = ["in_git_directory", "may_be_cached", "replaces_files"]

REFLOGS = b"logs"
"""The one directory of files that git appends to."""


def in_git_directory(directory: Directory | None) -> bool:
    """Whether a directory is one of git's own, or below one."""
    while directory is not None:
        if is_git_directory(directory.children):
            return True
        directory = directory.parent
    return False


def may_be_cached(directory: Directory | None, name: bytes) -> bool:
    """Whether the kernel may keep what it hears of an entry.

    In git's own directories it asks every time: a lock's holder must see what was there when it
    was made, and invalidations come a moment later. Objects do not change (but are not absent for
    long: see in_git_directory).
    """
    below = name
    while directory is not None:
        if is_git_directory(directory.children):
            return below == b"objects"
        below, directory = directory.name, directory.parent
    return True


def replaces_files(directory: Directory) -> bool:
    """Whether git never changes a file in this directory, but puts another one in its place.

    The other one often has the number of the one before the last: the box gives free ones again.
    """
    below = b""
    where: Directory | None = directory
    while where is not None:
        if is_git_directory(where.children):
            return below != REFLOGS
        below, where = where.name, where.parent
    return False
