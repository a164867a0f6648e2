"""The durable write-back path as the file system sees it: one object per mount.

An operation is accepted by `append*`: from then on it survives the death of the daemon. The
flusher (`run`) carries it to the box, and the listener hears what became of it.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import trio

from devboxfs.core.deferral import stuck
from devboxfs.core.ops import Operation, Source
from devboxfs.writeback.backlog import Backlog, Collector
from devboxfs.writeback.conflict_log import ConflictLog
from devboxfs.writeback.journal import Journal
from devboxfs.writeback.limits import INLINE_LIMIT, Limits
from devboxfs.writeback.one_journal import OneJournal
from devboxfs.writeback.requests import SyncRequest
from devboxfs.writeback.seams import ConflictReport, Link, Listener
from devboxfs.writeback.spools import Spool, write_spool

__all__ = ["Refusal", "WriteBack", "WriteBackStatistics"]

_log = logging.getLogger(__name__)

_TICK = 1.0


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


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the box does not take for now, and what waits for it."""

    path: bytes
    errno: int
    age: float
    operations: int
    """How many wait, those that depend on it included."""


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
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        backlog = Backlog(directory, limits, monotonic)
        backlog.find()
        if backlog.journals:
            one = backlog.journals.pop(0)
        else:
            journal = Journal.create(directory, box_uid=box_uid, box_name=box_name, limits=limits)
            one = OneJournal(journal, [], limits, monotonic)
        return cls(one, backlog, limits, monotonic)

    def __init__(
        self,
        one: OneJournal,
        backlog: Backlog,
        limits: Limits,
        monotonic: Callable[[], float],
    ) -> None:
        self._limits = limits
        self._monotonic = monotonic
        self._backlog = backlog
        """Of mounts that died besides; recover() brings them to the box and finishes them."""
        self._unsynced = trio.Event()
        for other in backlog.journals:
            one.journal.next_oid = max(one.journal.next_oid, other.next_oid())
        self._make_room = one.journal.make_room
        self._use(one)

    def _use(self, one: OneJournal) -> None:
        self._one = one
        self._journal, self._ledger, self._flusher = one.journal, one.ledger, one.flusher

    @property
    def unreadable(self) -> list[tuple[Path, str]]:
        """Journals that this version cannot read, and why: they are left as they are."""
        return self._backlog.unreadable

    @property
    def damage(self) -> list[str]:
        """What of journals could not be read, and where it is kept."""
        return self._backlog.damage

    @property
    def set_aside(self) -> list[tuple[Path, int]]:
        """Journals that the box does not take (errno): they stay, and are tried again later."""
        return self._backlog.set_aside

    @property
    def conflict_log(self) -> ConflictLog:
        """The conflicts of this box that nobody has resolved."""
        return ConflictLog(self.path.parent)

    @property
    def path(self) -> Path:
        """The journal's directory."""
        return self._journal.path

    @property
    def has_backlog(self) -> bool:
        """Whether the journal held operations that are not known to be in the box.

        Call recover().
        """
        return self._ledger.pending or bool(self._backlog.journals)

    @property
    def known_full(self) -> bool:
        """Whether the box has refused changes for want of space and has not taken any since."""
        trouble = self._flusher.setbacks.trouble
        return trouble is not None and trouble.errno in {errno.ENOSPC, errno.EDQUOT}

    @property
    def conflict_count(self) -> int:
        """How many conflicts there have been since the journal was opened."""
        return self._flusher.keeper.conflict_count

    @property
    def pending_bytes(self) -> int:
        """Bytes of content that were accepted and are not settled."""
        return self._ledger.pending_bytes

    def on_full_disk(self, make_room: Callable[[int], bool]) -> None:
        """Tell whom to ask for space (bytes) when the local disk is full; True: there is more."""
        self._make_room = make_room
        self._journal.make_room = make_room

    def on_locks(self, held: Callable[[], list[bytes]]) -> None:
        """Tell where to ask for the paths of the locks that are held here."""
        self._flusher.attachment.held_locks = held

    @property
    def last_seq(self) -> int:
        """The seq of the newest accepted operation; 0 when there has been none."""
        return self._journal.next_seq - 1

    def next_oid(self) -> int:
        """Return a number for a new object that no operation of this journal has ever used."""
        return self._one.next_oid()

    def append(self, op: Operation) -> int:
        """Accept any operation but a WRITE; sets and returns op.seq.

        Raises OSError(ENOSPC) when the journal's limit would be passed or the local disk is full,
        OSError otherwise when it cannot be written; the operation was not accepted then.
        """
        seq = self._journal.append(op)
        self._accepted(op)
        return seq

    def _accepted(self, op: Operation) -> None:
        ledger = self._ledger
        idle = ledger.arrivals.first is None
        ledger.accept(op)
        # In between, the flusher looks by itself when the operations before this one are due.
        if idle or ledger.arrivals.enough:
            self._flusher.nudge()
        self._unsynced.set()

    def append_write(self, op: Operation, data: bytes) -> Operation:
        """Accept a WRITE with up to INLINE_LIMIT bytes; sets op.seq, op.length and op.source.

        Raises as append() does.
        """
        if len(data) > INLINE_LIMIT:
            raise ValueError(f"more than {INLINE_LIMIT} bytes: use append_large_write()")
        self._journal.append_write(op, data)
        self._accepted(op)
        return op

    async def append_large_write(self, op: Operation, data: bytes) -> Operation:
        """Accept a WRITE of any size: data to a spool file in a thread, then the record.

        Operations that other tasks append meanwhile come before it. Raises as append() does. When
        it is cancelled the operation may have been accepted; op.seq says so.
        """
        if len(data) <= INLINE_LIMIT:
            return self.append_write(op, data)
        spool, offset = self._spool_for(op.oid, len(data))
        try:
            try:
                await trio.to_thread.run_sync(write_spool, spool, offset, data)
            except OSError as exc:
                full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
                if not full or not self._journal.make_room(len(data)):
                    raise
                await trio.to_thread.run_sync(write_spool, spool, offset, data)
        finally:
            self._journal.spooled(spool)
        op.length = len(data)
        op.source = Source(spool.blob, offset)
        self._journal.append(op)
        self._accepted(op)
        return op

    def _spool_for(self, oid: int, length: int) -> tuple[Spool, int]:
        journal = self._journal
        try:
            return journal.spool_for(oid, length)
        except OSError as exc:
            # A disk may have bytes left and no more files.
            full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
            if not full or journal.at_limit(length) or not journal.make_room(length):
                raise
            return journal.spool_for(oid, length)

    def file_opened(self, oid: int) -> None:
        """Count one more handle that can write the new file `oid`: it is kept back for a while."""
        self._ledger.file_opened(oid)

    def file_closed(self, oid: int) -> None:
        """Count one handle less; at the last one the file is published."""
        if self._ledger.file_closed(oid):
            self._flusher.nudge()

    async def reserve(self, nbytes: int) -> None:
        """Wait while too much is unsent and the link is up; call it before append_write.

        Usually returns at once.
        """
        flusher, limits = self._flusher, self._limits
        while True:
            allowed = max(limits.unsent_bytes, limits.unsent_seconds * flusher.sender.bandwidth)
            pending = self._ledger.pending_bytes
            if not pending or pending + nbytes <= allowed or flusher.setbacks.trouble is not None:
                return
            if flusher.link is None or not flusher.link.online:
                return
            flusher.nudge()
            # The link may go down without anything being settled.
            with trio.move_on_after(_TICK):
                await flusher.wait_progress()

    async def sync(
        self,
        paths: list[bytes],
        upto_seq: int,
        *,
        sync_box: bool = True,
        oids: Collection[int] = (),
    ) -> int:
        """Flush everything up to `upto_seq` now, fsync `paths` in the box; return an errno or 0.

        EIO when an operation on one of the paths or `oids` became a conflict or failed; the box's
        errno when fsync failed there. `paths` are those of this moment. One round trip when nothing
        is in flight. Waits for the link as long as the caller lets it; can be cancelled at any
        time.
        """
        request = self._flusher.request(upto_seq, paths, oids, sync_box=sync_box)
        return await self._wait(request)

    async def _wait(self, request: SyncRequest) -> int:
        try:
            await request.done.wait()
        finally:
            self._flusher.withdraw(request)
        return request.errno

    async def sync_all(self) -> int:
        """Flush everything that is pending, then syncfs in the box.

        Returns an errno as sync() does. What a conflict moves to another name, or copies there, is
        waited for too. It may be refused there once more and then goes to the conflict store, so
        the wait has an end.
        """
        request = self._flusher.request(self.last_seq, None, (), sync_box=True)
        return await self._wait(request)

    async def sync_journal(self) -> None:
        """Make durable on this machine what was accepted; raises OSError."""
        await trio.to_thread.run_sync(self._journal.sync, self._journal.sync_plan())

    async def drain(self, progress: Callable[[int, int], None] | None = None) -> bool:
        """Return when nothing is pending and the box has all of it on stable storage.

        The box has forgotten the journal then. False: what is left waits for something that the box
        refuses.

        `progress(settled, total)` is called as operations settle. For unmount; needs run().
        """
        return await self._one.drain(progress)

    async def recover(self, link: Link) -> list[ConflictReport]:
        """Bring everything that the journal holds to the box; returns what became a conflict.

        Before run() and before the first request is served. Waits for the link. A journal that the
        box does not take (no space, no permission) stays as it is, `set_aside` names it, and a new
        one takes its place.
        """
        listener = Collector()
        await self._backlog.bring_in(link, listener)
        # Those that were on their way to their conflict names may not have been reported.
        listener.conflicts += [
            ConflictReport(to.oid, to.old, to.errno, to.remote, to.new)
            for to in self._ledger.relocated.values()
        ]
        if self._ledger.pending:
            try:
                await self._one.flush_with(link, listener, drain=False)
            except OSError as error:
                self._begin_anew(error.errno or errno.EIO)
        return listener.conflicts

    async def recover_others(self, link: Link) -> list[ConflictReport]:
        """As recover(), for the journals of mounts that died, beside a mount that lives.

        `link` is one of its own, so that the changes are told to the mount as anybody's are.
        """
        self._backlog.set_aside.clear()
        self._backlog.find(but=self._journal.path)
        listener = Collector()
        await self._backlog.bring_in(link, listener)
        return listener.conflicts

    def _begin_anew(self, number: int) -> None:
        before, old = self._one, self._journal
        new = Journal.create(
            old.path.parent,
            box_uid=str(old.meta["box_uid"]),
            box_name=str(old.meta["box_name"]),
            limits=self._limits,
        )
        new.next_oid = old.next_oid
        new.make_room = self._make_room
        before.close()
        self._backlog.set_aside.append((old.path, number))
        self._use(OneJournal(new, [], self._limits, self._monotonic))
        self._flusher.keeper.go_on_from(before.flusher.keeper)

    def discard(self, paths: Collection[bytes]) -> int:
        """Give up changes of objects at these paths that the box refuses, and what needs them.

        No paths: all that waits for something that is refused. Returns how many operations.
        """
        return self._flusher.discard(paths)

    async def run(
        self,
        link: Link,
        listener: Listener,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Flush until cancelled.

        Nothing is lost by that at any moment: what is not settled stays in the journal.
        """
        task_status.started()
        await self._flusher.run(link, listener)

    async def run_ticker(self) -> None:
        """fdatasync the journal in a thread, once a second while there is something to sync."""
        while True:
            await self._unsynced.wait()
            self._unsynced = trio.Event()
            await trio.sleep(_TICK)
            while self._journal.has_unsynced:
                plan = self._journal.sync_plan()
                try:
                    await trio.to_thread.run_sync(self._journal.sync, plan)
                except OSError as error:
                    self._flusher.setbacks.last_error = f"local disk: {error}"
                    _log.error("journal cannot be made durable: %s", error)
                await trio.sleep(_TICK)

    def try_again(self) -> None:
        """Send what the box has refused once more, now."""
        self._flusher.try_again()

    def refusals(self) -> list[Refusal]:
        """Return what the box does not take for now, by the path of its first operation."""
        ledger = self._ledger
        found: dict[int, Refusal] = {}
        for op in ledger.waiting:
            refused = ledger.refused.get(op.seq)
            if refused is not None and op.oid not in found:
                waiting = stuck(ledger.waiting, {op.seq})
                count = sum(1 for other in ledger.waiting if waiting.meets(other))
                age = ledger.now() - refused.since
                found[op.oid] = Refusal(op.path, refused.errno, age, count)
        return list(found.values())

    def statistics(self) -> WriteBackStatistics:
        """Return the counters as they are now."""
        ledger, flusher = self._ledger, self._flusher
        return WriteBackStatistics(
            pending_operations=ledger.unsettled,
            pending_bytes=ledger.pending_bytes,
            batches_in_flight=len(ledger.batches),
            oldest_pending_age=ledger.oldest_age(),
            journal_bytes=self._journal.size,
            last_error=flusher.setbacks.last_error,
            conflicts=list(flusher.keeper.conflicts),
            batches_sent=flusher.sender.batches_sent,
            wire_operations_sent=flusher.sender.operations_sent,
        )

    def close(self) -> None:
        """Sync the journal and release its lock.

        It is removed when drain() has finished and nothing came after it.
        """
        self._backlog.close()
        self._one.close()
