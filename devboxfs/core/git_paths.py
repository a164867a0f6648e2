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
_STATE_DIRECTORIES = (b"rebase-merge", b"rebase-apply", b"sequencer")
_STATE = (b"MERGE_MSG", b"SQUASH_MSG", b"CHERRY_PICK_HEAD", b"REVERT_HEAD", b"REBASE_HEAD")
"""What one operation in one work tree writes down for itself. It is replaced by way of a lock so
that it is always whole: nobody else is excluded, and nobody waits."""
_MAINTENANCE_LOCK = b"maintenance.lock"


class LockKind(enum.Enum):
    """When a lock waits for the box."""

    WAITS = 1
    """When it is made: what it protects is read, and perhaps changed, right after that."""
    INDEX = 2
    """When it is renamed to ``index``: it is made by every `git status`, mostly for nothing, and
    protects nothing but that one file. ``objects/maintenance.lock`` is never renamed: every
    `git commit` makes it and finds nothing to do, and what is done has locks of its own."""


def is_lock_name(name: bytes) -> bool:
    """Whether a name is that of a lock, if it is in a git directory."""
    return name.endswith(_SUFFIX) and len(name) > len(_SUFFIX)


def is_git_directory(names: Container[bytes]) -> bool:
    """Whether a directory with these entries is a git directory (a bare repository is one)."""
    return all(name in names for name in GIT_DIRECTORY)


def is_worktree_directory(names: Container[bytes]) -> bool:
    """Whether a directory with these entries is that of a worktree, inside a git directory."""
    return all(name in names for name in _WORKTREE)


def lock_kind(
    name: bytes, holders: list[Container[bytes]], directory: bytes = b""
) -> LockKind | None:
    """Return how a new file is to be made; None: like any other.

    `directory` is the name of the directory that it is made in; `holders` are the entries of that,
    and of those above it, inmost first.
    """
    if not is_lock_name(name) or not any(is_git_directory(names) for names in holders):
        return None
    above = holders[1] if len(holders) > 1 else ()
    if directory in _STATE_DIRECTORIES and _is_work_tree(above):
        return None
    if name.removesuffix(_SUFFIX) in _STATE and _is_work_tree(holders[0]):
        return None
    if (directory, name) == (b"objects", _MAINTENANCE_LOCK) and is_git_directory(above):
        return LockKind.INDEX
    if name == INDEX_LOCK and _is_work_tree(holders[0]):
        return LockKind.INDEX
    return LockKind.WAITS


def _is_work_tree(names: Container[bytes]) -> bool:
    """Whether this is where git keeps what belongs to one work tree."""
    return is_git_directory(names) or is_worktree_directory(names)


def named_git_directory(path: bytes) -> bool:
    """Whether a path lies in a directory that is named as git names its own."""
    return any(part.endswith(b".git") for part in path.split(b"/")[:-1])
