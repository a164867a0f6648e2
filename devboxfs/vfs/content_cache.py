"""The cache of file contents: memory in front, the disk behind it, shared by mounts of one box.

The disk is a convenience: whatever goes wrong there makes a miss, never an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from devboxfs.core.chunks import ContentKey
from devboxfs.core.extents import ExtentMap

__all__ = ["DISK_LIMIT", "MEMORY_LIMIT", "CacheStatistics", "ContentCache", "ContentKey"]

DISK_LIMIT = 4 * 1024**3
MEMORY_LIMIT = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """Figures of a cache at one moment."""

    memory_bytes: int
    disk_bytes: int
    disk_contents: int
    queued_bytes: int
    dropped_bytes: int
    disk_ok: bool


class ContentCache:
    """Contents of one box by key. Not for use from several threads."""

    @classmethod
    def open(
        cls, directory: Path, *, disk_limit: int = DISK_LIMIT, memory_limit: int = MEMORY_LIMIT
    ) -> ContentCache:
        """Open the cache of one box, made if need be; reads the index of what is on disk."""
        raise NotImplementedError

    def get(self, key: ContentKey, offset: int, length: int) -> bytes | None:
        """Return that part of a content if it is in memory; cut at the end. Never waits."""
        raise NotImplementedError

    async def load(self, key: ContentKey, offset: int, length: int) -> bytes | None:
        """Return that part of a content if it is in memory or on disk."""
        raise NotImplementedError

    async def load_many(self, keys: list[ContentKey]) -> dict[ContentKey, bytes]:
        """Return those whole contents that are on disk (small ones), in one go."""
        raise NotImplementedError

    def put(self, key: ContentKey, offset: int, data: bytes, size: int) -> None:
        """Keep a part of a content whose whole size is `size`; written to disk behind.

        Only whole blocks are kept. Raises ValueError when `size` is not the key's.
        """
        raise NotImplementedError

    def put_image(
        self, key: ContentKey, image: ExtentMap, *, base: ContentKey | None = None
    ) -> None:
        """Keep the content of a file that was just flushed; `image` must not change afterwards.

        `base` is the key of what lies below the extents, for images that need it. Kept at once
        when it is small, later in a thread otherwise; dropped when that cannot keep up, or when
        the base is not cached.
        """
        raise NotImplementedError

    def has(self, key: ContentKey) -> bool:
        """Whether the whole content is known to be in memory or on disk."""
        raise NotImplementedError

    def forget(self, key: ContentKey) -> None:
        """Drop a content everywhere."""
        raise NotImplementedError

    def statistics(self) -> CacheStatistics:
        """Return the figures of this moment."""
        raise NotImplementedError

    async def run(self) -> None:
        """Write behind until cancelled; contents are written only while this runs."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Write what is queued, within a few seconds, and close the disk's part. Idempotent."""
        raise NotImplementedError
