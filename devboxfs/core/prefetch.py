"""What to fetch beside a file that is read: the rules, without any fetching.

A **scan** is one program's walk over files that follow each other in reading order. Each miss, and
each prefetched file that is then read, is told to `Prefetch`; it answers how much to guess.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from sealos_devbox import Version

__all__ = ["Candidate", "PrefetchSource"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A regular file that may be read next."""

    path: bytes
    version: Version

    @property
    def size(self) -> int:
        """Size of its content."""
        return self.version.size


class PrefetchSource(Protocol):
    """The tree as the mount shows it, in the order in which programs walk it.

    Both methods are lazy, leave out what is not a regular file and files with unflushed changes,
    know only what the metadata table knows, and never ask the box. Their iterators are used up or
    dropped before anything else runs: they need not survive a change of the tree.
    """

    def following(self, path: bytes) -> Iterator[Candidate]:
        """Yield what comes after the file at `path`, which itself is left out.

        First its siblings: those after it in the order of listing, then those before it; then the
        files below its directory's subdirectories, each directory's files before its
        subdirectories; then the later siblings of its directory with all below them, of its
        parent, and so on up to the root. Yields nothing when `path` is no longer there.
        """
        ...

    def inside(self, directory: bytes, *, recursive: bool) -> Iterator[Candidate]:
        """Yield the files in `directory`, with `recursive` those below it too (files first)."""
        ...
