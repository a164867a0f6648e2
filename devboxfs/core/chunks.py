"""Names and arithmetic of file contents: the key of a content, and the blocks that it is cut into.

A content never changes: what changes in the box gets another version, and with it another key.
"""

from __future__ import annotations

from typing import NamedTuple

from sealos_devbox import Version

__all__ = [
    "BLOCK",
    "MEDIUM",
    "RANGE",
    "SMALL",
    "ContentKey",
    "align",
    "block_count",
    "block_length",
    "blocks_of",
]

BLOCK = 128 * 1024
"""What memory and disk hold and drop at once: the size of the kernel's reads."""

RANGE = 1024 * 1024
"""What is asked for in one request of a large file."""

SMALL = 96 * 1024
"""Largest file that is fetched together with others: what one record of `read_many` may hold."""

MEDIUM = 4 * 1024 * 1024
"""Largest file that is fetched whole when any part of it is read."""


class ContentKey(NamedTuple):
    """One content of one box. Keys of equal numbers and unequal digests are different keys.

    The digest is part of the key, because a version that carries one was looked at so soon after
    its change that the four numbers alone may stand for two contents (PROTOCOL.md section 1).
    """

    ino: int
    ctime_ns: int
    mtime_ns: int
    size: int
    sha256: bytes | None = None

    @classmethod
    def of(cls, version: Version) -> ContentKey:
        """Return the key of a version's content."""
        return cls(version.ino, version.ctime_ns, version.mtime_ns, version.size, version.sha256)

    @property
    def version(self) -> Version:
        """The version that this is the content of."""
        return Version(self.ino, self.ctime_ns, self.mtime_ns, self.size, self.sha256)


def block_count(size: int) -> int:
    """Return the number of blocks of a content of `size` bytes."""
    return -(-size // BLOCK)


def block_length(size: int, block: int) -> int:
    """Return the length of a block: BLOCK, less for the last one."""
    return min(BLOCK, size - block * BLOCK)


def blocks_of(offset: int, length: int) -> range:
    """Return the numbers of the blocks that [offset, offset + length) touches."""
    return range(offset // BLOCK, -(-(offset + length) // BLOCK))


def align(offset: int, length: int, size: int) -> tuple[int, int]:
    """Return (start, end) of the whole blocks around a range, cut at the end of the content."""
    start = offset // BLOCK * BLOCK
    return start, min(size, -(-(offset + length) // BLOCK) * BLOCK)
