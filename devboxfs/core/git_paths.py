"""What in a tree belongs to git, and which names are its locks. Pure.

git excludes concurrent writers by files: whoever makes ``X.lock`` may replace ``X`` (or, with
``packed-refs.lock``, another name). A git directory is known by what it holds: ``HEAD``,
``objects`` and ``refs``. The directories of submodules (``.git/modules/x``) look the same; those
of worktrees (``.git/worktrees/x``) have a ``HEAD`` and a ``commondir``.
"""

from __future__ import annotations

import enum
from collections.abc import Container

__all__ = [
    "GIT_DIRECTORY",
    "INDEX",
    "INDEX_LOCK",
    "LockKind",
    "is_git_directory",
    "is_lock_name",
    "is_worktree_directory",
    "lock_kind",
    "named_git_directory",
]

GIT_DIRECTORY = (b"HEAD", b"objects", b"refs")
_WORKTREE = (b"HEAD", b"commondir", b"gitdir")
INDEX = b"index"
INDEX_LOCK = b"index.lock"
_SUFFIX = b".lock"


class LockKind(enum.Enum):
    """When a lock waits for the box."""

    WAITS = 1
    """When it is made: what it protects is read, and perhaps changed, right after that."""
    INDEX = 2
    """When it is renamed to ``index``: it is made by every `git status`, mostly for nothing, and
    protects nothing but that one file."""


def is_lock_name(name: bytes) -> bool:
    """Whether a name is that of a lock, if it is in a git directory."""
    return name.endswith(_SUFFIX) and len(name) > len(_SUFFIX)


def is_git_directory(names: Container[bytes]) -> bool:
    """Whether a directory with these entries is a git directory (a bare repository is one)."""
    return all(name in names for name in GIT_DIRECTORY)


def is_worktree_directory(names: Container[bytes]) -> bool:
    """Whether a directory with these entries is that of a worktree, inside a git directory."""
    return all(name in names for name in _WORKTREE)


def lock_kind(name: bytes, holders: list[Container[bytes]]) -> LockKind | None:
    """Return how a new file is to be made; None: like any other.

    `holders` are the entries of the directory that it is made in, and of those above it, inmost
    first.
    """
    if not is_lock_name(name) or not any(is_git_directory(names) for names in holders):
        return None
    if name == INDEX_LOCK and (is_git_directory(holders[0]) or is_worktree_directory(holders[0])):
        return LockKind.INDEX
    return LockKind.WAITS


def named_git_directory(path: bytes) -> bool:
    """Whether a path lies in a directory that is named as git names its own."""
    return any(part.endswith(b".git") for part in path.split(b"/")[:-1])
