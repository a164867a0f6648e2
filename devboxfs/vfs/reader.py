"""Contents of files in the box: from the cache, or fetched with what is likely to be read next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from devboxfs.core.prefetch import PrefetchSource
from devboxfs.vfs.content_cache import ContentCache
from devboxfs.writeback.seams import Link
from sealos_devbox import Version

__all__ = ["FileRef", "Reader", "ReaderStatistics"]


class FileRef(Protocol):
    """A file in the box, as the table has it."""

    @property
    def path(self) -> bytes:
        """Where it is in the box at present."""
        ...

    @property
    def version(self) -> Version:
        """Its version there; its size is the size of the content."""
        ...


@dataclass(frozen=True, slots=True)
class ReaderStatistics:
    """Counts since the reader was made."""

    hits: int
    """Reads answered from memory."""
    disk_hits: int
    """Files and ranges loaded from disk."""
    misses: int
    """Reads that waited."""
    requests: int
    """Requests sent to the box."""
    fetched_bytes: int
    prefetched_files: int
    prefetched_used: int


class Reader:
    """Reads base contents of files. `run()` owns every fetch and must run while `read` is used."""

    def __init__(
        self,
        link: Link,
        cache: ContentCache,
        tree: PrefetchSource,
        *,
        timeout: Callable[[], float] = lambda: 30.0,
    ) -> None:
        """`timeout` is asked at each read and each fetch: how long, in seconds, it may take now."""
        raise NotImplementedError

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the fetches until cancelled; `nursery.start(reader.run)` returns when it is ready."""
        raise NotImplementedError

    async def read(self, file: FileRef, offset: int, length: int) -> bytes:
        """Return that part of the content at `file.version`, cut at its end.

        No checkpoint when it is in memory. Raises OSError: ESTALE when the box has another version
        (or none) by now; EIO when there is no link within the deadline; ETIMEDOUT when the box did
        not answer within it; else what the box says.
        """
        raise NotImplementedError

    def release(self, version: Version) -> None:
        """Let go of what is pinned in the box for that version; does not wait.

        To be called when the last local open of the file is released, and with the old version
        when a file's version changes.
        """
        raise NotImplementedError

    def statistics(self) -> ReaderStatistics:
        """Return the counts of this moment."""
        raise NotImplementedError
