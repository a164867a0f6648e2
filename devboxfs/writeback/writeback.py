"""The durable write-back path as the file system sees it: one object per mount.

An operation is accepted by `append*`: from then on it survives the death of the daemon. The
flusher (`run`) carries it to the box, and the listener hears what became of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import trio

from devboxfs.core.ops import Operation
from devboxfs.writeback.limits import Limits
from devboxfs.writeback.seams import ConflictReport, Link, Listener

__all__ = ["WriteBack", "WriteBackStatistics"]


@dataclass(frozen=True, slots=True)
class WriteBackStatistics:
    """A snapshot of counters. Sizes in bytes, times in seconds."""

    pending_operations: int
    """Accepted and not settled, those in flight included."""
    pending_bytes: int
    batches_in_flight: int
    oldest_pending_age: float | None
    """Since the oldest unsettled operation was accepted, or the mount was opened; None: none is."""
    journal_bytes: int
    last_error: str | None
    conflicts: list[ConflictReport]
    """Of this mount, oldest first, at most the last 100."""
    batches_sent: int
    wire_operations_sent: int


class WriteBack:
    """Journal, flusher and recovery of one mount of one box. trio only; not thread-safe."""

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        box_uid: str,
        box_name: str,
        limits: Limits,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> WriteBack:
        """Open a journal in `directory`, which is that of the box's UID; it is made with mode 0700.

        A journal there whose owner is dead is adopted and read, else a new one is made. Raises
        OSError when the directory cannot be used.
        """
        raise NotImplementedError

    @property
    def has_backlog(self) -> bool:
        """Whether the journal held operations that are not known to be in the box: call recover()."""
        raise NotImplementedError

    @property
    def known_full(self) -> bool:
        """Whether the box has refused changes for want of space and has not taken any since."""
        raise NotImplementedError

    @property
    def pending_bytes(self) -> int:
        """Bytes of content that were accepted and are not settled."""
        raise NotImplementedError

    @property
    def last_seq(self) -> int:
        """The seq of the newest accepted operation; 0 when there has been none."""
        raise NotImplementedError

    def next_oid(self) -> int:
        """Return a number for a new object that no operation of this journal has ever used."""
        raise NotImplementedError

    def append(self, op: Operation) -> int:
        """Accept an operation without data, or a SYMLINK or SETXATTR with a small one; sets and returns op.seq.

        Raises OSError(ENOSPC) when the journal's limit would be passed or the local disk is full,
        OSError otherwise when it cannot be written; the operation was not accepted then.
        """
        raise NotImplementedError

    def append_write(self, op: Operation, data: bytes) -> Operation:
        """Accept a WRITE with up to INLINE_LIMIT bytes; sets op.seq, op.length and op.source.

        Raises as append() does.
        """
        raise NotImplementedError

    async def append_large_write(self, op: Operation, data: bytes) -> Operation:
        """Accept a WRITE of any size: the data goes to a spool file in a thread, then the record is appended.

        Operations that other tasks append meanwhile come before it. Raises as append() does. When
        it is cancelled the operation may have been accepted; op.seq says so.
        """
        raise NotImplementedError

    def file_opened(self, oid: int) -> None:
        """Count one more handle that can write the new file `oid`: it is kept back for a while."""
        raise NotImplementedError

    def file_closed(self, oid: int) -> None:
        """Count one handle less; at the last one the file is published."""
        raise NotImplementedError

    async def reserve(self, nbytes: int) -> None:
        """Wait while too much is unsent and the link is up; call it before append_write. Usually returns at once."""
        raise NotImplementedError

    async def sync(
        self, paths: list[bytes], upto_seq: int, *, sync_box: bool = True, oids: Collection[int] = ()
    ) -> int:
        """Flush everything up to `upto_seq` now, and fsync `paths` in the box; returns an errno, 0 for success.

        EIO when an operation on one of the paths or `oids` became a conflict or failed; the box's
        errno when fsync failed there. `paths` are those of this moment. One round trip when nothing
        is in flight. Waits for the link as long as the caller lets it; can be cancelled at any time.
        """
        raise NotImplementedError

    async def sync_all(self) -> int:
        """Flush everything that is pending, then syncfs in the box; returns an errno as sync() does."""
        raise NotImplementedError

    async def drain(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Return when nothing is pending, the box has it on stable storage, and has forgotten the journal.

        `progress(settled, total)` is called as operations settle. For unmount; needs run().
        """
        raise NotImplementedError

    async def recover(self, link: Link) -> list[ConflictReport]:
        """Bring everything that the journal holds to the box; returns what became a conflict.

        Before run() and before the first request is served. Waits for the link. Raises OSError with
        the box's errno when the box refuses changes for want of space or because it is read-only;
        everything stays in the journal then.
        """
        raise NotImplementedError

    async def run(
        self,
        link: Link,
        listener: Listener,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Flush until cancelled. Nothing is lost by that at any moment: what is not settled stays in the journal."""
        raise NotImplementedError

    async def run_ticker(self) -> None:
        """fdatasync the journal in a thread once a second while something is not on the local disk yet."""
        raise NotImplementedError

    def statistics(self) -> WriteBackStatistics:
        """Return the counters as they are now."""
        raise NotImplementedError

    def close(self) -> None:
        """Sync the journal and release its lock; it is removed when drain() has finished and nothing came after it."""
        raise NotImplementedError
