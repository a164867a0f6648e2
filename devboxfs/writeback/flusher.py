"""Carries what is pending to the box.

One task (`run`) decides and settles; one more per batch in flight only waits for its answer, and
one during a connection asks for durability. All decisions are made between two awaits on the
ledger, so that cancelling any of them at any moment loses nothing: a batch without a RESULT is sent
again.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import msgspec
import trio

from devboxfs.core import records
from devboxfs.core.deferral import Blocked, stuck
from devboxfs.core.extents import ExtentMap
from devboxfs.core.ops import Kind, Operation
from devboxfs.core.plan import Left
from devboxfs.core.records import LinkRecord
from devboxfs.writeback import faults
from devboxfs.writeback.conflict_log import ConflictLog
from devboxfs.writeback.conflicts import ConflictStore, conflict_name, is_conflict_name
from devboxfs.writeback.ledger import InFlight, Ledger, Result
from devboxfs.writeback.limits import INLINE_LIMIT, Limits
from devboxfs.writeback.outcomes import TROUBLE, Decision, Keep, decide
from devboxfs.writeback.requests import SyncRequest, SyncRequests
from devboxfs.writeback.seams import ConflictReport, Link, Listener, Settled
from sealos_devbox import (
    ApplyResult,
    BoxFileError,
    DevboxError,
    FileTransport,
    TransportError,
)

__all__ = ["Flusher"]

_log = logging.getLogger(__name__)

_CONFLICTS_KEPT = 100
COPIED_AT_ONCE = 16 << 20
"""A larger file is not made whole for a conflict: only what was written is kept."""


@dataclass(slots=True)
class _Trouble:
    """The box refuses changes."""

    errno: int
    free_bytes: int
    delay: float
    retry_at: float
    tried: int = 0
    """The last seq that was looked at for something that makes room."""


class _LinkBroken(Exception):
    """The transport is of no use any more."""


class Flusher:
    """See the module. One per journal."""

    def __init__(
        self,
        ledger: Ledger,
        store: ConflictStore,
        limits: Limits,
        monotonic: Callable[[], float],
        log: ConflictLog | None = None,
    ) -> None:
        self._conflict_log = log
        self.ledger = ledger
        self.conflicts: list[ConflictReport] = []
        self.conflict_count = 0
        self.last_error: str | None = None
        self.batches_sent = 0
        self.wire_operations_sent = 0
        self.settled_count = 0
        self.bandwidth = 0.0
        self.trouble: _Trouble | None = None
        self.detached = True
        """The helper knows nothing of the journal, and need not."""
        self.hurry = False
        """Nothing is kept back, nothing waits for company."""
        self.draining = False
        """When nothing is pending, the box is told to forget the journal."""
        self.hold = bool(ledger.batches)
        """The recorded batches first: what they leave is known when they have settled."""
        self.held_locks: Callable[[], list[bytes]] = list
        """The paths of locks that are held here: their leases stop running once it is said."""
        self.link: Link | None = None
        self.listener: Listener | None = None
        self.attached = False
        self._store = store
        self._limits = limits
        self._monotonic = monotonic
        self._requests = SyncRequests()
        self._wake = trio.Event()
        self._progress = trio.Event()
        self._suspect: Blocked | None = None
        self._passed_over = False
        self._box_read_only = False
        self._refused_delay = limits.retry_first
        self._refused_until = 0.0
        self._broken: DevboxError | None = None
        self._pause_until = 0.0
        self._idle_since: float | None = None

    # -- for others

    def nudge(self) -> None:
        """Let the flusher look whether there is something to do."""
        self._wake.set()

    async def wait_progress(self) -> None:
        """Return when something has been settled or given up since the call."""
        await self._progress.wait()

    def request(
        self, upto: int, paths: list[bytes] | None, oids: Collection[int], *, sync_box: bool
    ) -> SyncRequest:
        """Ask for everything up to `upto`; its `done` event tells when."""
        request = SyncRequest(upto, paths, frozenset(oids), sync_box)
        self._requests.add(request)
        ledger = self.ledger
        held = ledger.held_numbers()
        if any(op.seq in held and request.concerns(op) for op in ledger.waiting):
            ledger.try_again()
        self._wake.set()
        return request

    def try_again(self) -> None:
        """Send what the box has refused again, now."""
        if self.trouble is not None:
            self.trouble.retry_at = self._monotonic()
            self._pause_until = 0.0
        self.ledger.try_again()
        self._wake.set()

    def discard(self, paths: Collection[bytes]) -> int:
        """See WriteBack.discard()."""
        ledger = self.ledger
        held = ledger.held_numbers()
        roots = {op.seq for op in ledger.waiting if op.seq in held and op.path in paths}
        doomed = stuck(ledger.waiting, roots) if paths else None
        lost = [
            op
            for op in ledger.waiting
            if op.seq in held and (doomed is None or op.seq in roots or doomed.meets(op))
        ]
        if not lost:
            return 0
        settled = Settled([op.seq for op in lost], {}, {})
        left: dict[int, Left] = {}
        for op in lost:
            settled.errors[op.oid] = errno.ECANCELED
            if op.kind is Kind.CREATE:
                left[op.oid] = Left(lost=True)
            _log.warning("change given up as asked: %s of %r", op.kind.name, op.path)
        ledger.settle_waiting(settled.seqs, left)
        self.settled_count += len(lost)
        if self.listener is not None:
            self.listener.settled(settled)
        self._give_signal()
        self._wake.set()
        return len(lost)

    def withdraw(self, request: SyncRequest) -> None:
        """Nobody waits for it any more."""
        self._requests.discard(request)

    # -- the task

    async def run(self, link: Link, listener: Listener) -> None:
        """Flush until cancelled."""
        self.link, self.listener = link, listener
        previous: FileTransport | None = None
        try:
            while True:
                transport = await link.wait_transport(previous)
                try:
                    await self._serve(transport)
                except _LinkBroken as broken:
                    self.last_error = str(broken)
                    _log.info("the way to the box is gone, journal waits: %s", broken)
                self.attached = False
                previous = transport
        finally:
            self.attached = False
            self.link = self.listener = None

    async def _serve(self, transport: FileTransport) -> None:
        self._broken = None
        self._passed_over = False
        for batch in self.ledger.batches:
            batch.sent = batch.result = None
            batch.refused = 0
        try:
            async with trio.open_nursery() as senders:
                await self._work(transport, senders)
                senders.cancel_scope.cancel()
        except ExceptionGroup as group:
            # A bug, for the tasks catch what can go wrong; it leaves as itself if it is one.
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from None
            raise
        # Raised out here: an exception through the nursery would be wrapped in a group.
        raise _LinkBroken(str(self._broken))

    async def _work(self, transport: FileTransport, senders: trio.Nursery) -> None:
        """Return when the transport is of no use any more."""
        while self._broken is None:
            self._wake = trio.Event()
            if await self._settle_heads():
                continue
            now = self._monotonic()
            self._box_read_only = bool(transport.free_space[2] & os.ST_RDONLY)
            if now >= self._pause_until:
                try:
                    if await self._step(transport, senders, now):
                        continue
                except BoxFileError as error:
                    self._set_back(transport, error)
                except DevboxError as error:
                    self._broken = error
                    break
                except OSError as error:
                    # The local disk: nothing has changed, so it is tried again.
                    self._local_failure(error)
            with trio.move_on_after(self._sleep()):
                await self._wake.wait()

    def _set_back(self, transport: FileTransport, error: BoxFileError) -> None:
        """The box does not attach or sync the journal: another connection would not change that."""
        number = error.errno or errno.EIO
        self.attached = False
        self._begin_trouble(number, transport.free_space[0])
        if self.trouble is not None:
            self._pause_until = self.trouble.retry_at
        self._requests.finish_all(number)
        self._give_signal()

    def _give_signal(self) -> None:
        self._progress.set()
        self._progress = trio.Event()

    async def _step(self, transport: FileTransport, senders: trio.Nursery, now: float) -> bool:
        """Do one thing that is due; returns whether there may be more."""
        ledger = self.ledger
        wanted = ledger.pending or self._requests or not self.detached
        if wanted and not self.attached:
            await self._attach(transport)
            return True
        if any(batch.refused for batch in ledger.batches):
            return await self._take_back(transport)
        unsent = next((batch for batch in ledger.batches if batch.sent is None), None)
        if unsent is not None:
            await self._send(transport, senders, unsent)
            return True
        batch = await self._cut(transport, now)
        if batch is not None:
            return True
        return await self._rest(transport, now)

    # -- connection

    async def _attach(self, transport: FileTransport) -> int:
        """Attach the journal, and make the numbers of batches agree.

        Returns the last applied one.
        """
        ledger, journal = self.ledger, self.ledger.journal
        applied, durable, boot_id = await self._attach_once(transport)
        self.detached = False
        held = self.held_locks()
        if held and "locks" in transport.peer.capabilities:
            await transport.locks(journal.ident, held)
        settled = max((batch.number for batch in ledger.retained), default=0)
        if applied < settled and ledger.boot_id and boot_id != ledger.boot_id:
            count = ledger.replay_after(applied)
            _log.warning("box lost its power, %d batches are sent again", count)
        if not applied and settled and boot_id == ledger.boot_id and not ledger.batches:
            # It has forgotten the journal, which had come to its end, or lost what it knew of it.
            await transport.sync()
            durable = settled
        first = ledger.batches[0].number if ledger.batches else journal.next_batch
        if applied and first > applied + 1:
            if ledger.batches or settled > applied:
                # It has forgotten what it has applied, and would wait for batches that nobody has.
                _log.warning("box has forgotten batches %d to %d", applied + 1, first - 1)
                await transport.detach(journal.ident)
                applied, durable, boot_id = await self._attach_once(transport)
            else:
                journal.next_batch = applied + 1
        journal.next_batch = max(journal.next_batch, applied + 1)
        if boot_id != ledger.boot_id:
            ledger.boot_id = boot_id
            record = LinkRecord(journal.generation, boot_id)
            journal.append_control(records.LINK, 0, msgspec.msgpack.encode(record))
        ledger.note_durable(durable)
        self.attached = True
        return applied

    async def _attach_once(self, transport: FileTransport) -> tuple[int, int, str]:
        ledger, journal = self.ledger, self.ledger.journal
        while True:
            journal.generation += 1
            record = LinkRecord(journal.generation, ledger.boot_id)
            journal.append_control(records.LINK, 0, msgspec.msgpack.encode(record))
            try:
                return await transport.attach(journal.ident, journal.generation)
            except BoxFileError as error:
                if error.errno != errno.ESTALE or journal.generation > 1 << 40:
                    raise
                # A generation that this disk has forgotten (it lost its power) was higher.
                journal.generation *= 2

    async def _take_back(self, transport: FileTransport) -> bool:
        """Take back batches that the box refused as a whole, and what was sent after them."""
        ledger = self.ledger
        if any(
            batch.sent is not None and batch.result is None and not batch.refused
            for batch in ledger.batches
        ):
            return False  # their answers first
        # An error may have come after the batch was accepted. Attaching completes such a batch.
        applied = await self._attach(transport)
        why = next((b.refused for b in ledger.batches if b.refused in TROUBLE), errno.EIO)
        for batch in reversed(list(ledger.batches)):
            batch.sent, refused, batch.refused = None, batch.refused, 0
            if batch.number <= applied or batch.replay or not refused:
                self._pause_until = self._monotonic() + self._limits.retry_first
                continue
            ledger.withdraw(batch)
            for request in self._requests:
                if request.batch == batch.number:
                    self._requests.finish(request, why)
        self._begin_trouble(why, transport.free_space[0])
        self._give_signal()
        return True

    async def _send(self, transport: FileTransport, senders: trio.Nursery, batch: InFlight) -> None:
        faults.passing("send-before")
        ledger = self.ledger
        batch.sent = self._monotonic()
        batch.result = None
        self.batches_sent += 1
        self.wire_operations_sent += len(batch.wire)
        # start() returns when apply() has begun, so batches are sent in their order.
        await senders.start(self._apply, transport, batch, ledger.journal.ident)

    async def _apply(
        self,
        transport: FileTransport,
        batch: InFlight,
        journal: bytes,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        value = batch.batch(journal, self.ledger.journal.generation)
        started = self._monotonic()
        task_status.started()  # no await until apply()
        try:
            result = await transport.apply(value)
        except BoxFileError as error:
            self._batch_refused(batch, error)
        except DevboxError as error:
            self._broken = self._broken or error
        except OSError as error:
            # Content could not be read from the journal.
            _log.exception("batch %d cannot be sent", batch.number)
            self._local_failure(error)
            self._broken = self._broken or TransportError(str(error))
        else:
            batch.result = result
            self._measure(batch, self._monotonic() - started)
        self._wake.set()

    def _batch_refused(self, batch: InFlight, error: BoxFileError) -> None:
        number = error.errno or errno.EIO
        self.last_error = str(error)
        if number in TROUBLE or number == errno.ECANCELED:
            batch.refused = number
            return
        if number != errno.ESTALE:
            _log.error("box refuses batch %d: %s", batch.number, error)
            self._pause_until = self._monotonic() + self._limits.retry_first
        self.attached = False
        self._broken = self._broken or error

    def _measure(self, batch: InFlight, seconds: float) -> None:
        if batch.size >= 1 << 18 and seconds > 0:
            rate = batch.size / seconds
            self.bandwidth = rate if not self.bandwidth else 0.7 * self.bandwidth + 0.3 * rate

    def _local_failure(self, error: OSError) -> None:
        self.last_error = f"local disk: {error}"
        _log.error("journal cannot be used, trying again: %s", error)
        self._pause_until = self._monotonic() + self._limits.retry_first

    # -- outcomes

    async def _settle_heads(self) -> bool:
        """Settle the oldest batches that have their outcomes; returns whether there was one."""
        ledger = self.ledger
        found = False
        while ledger.batches and ledger.batches[0].result is not None:
            if self._monotonic() < self._pause_until:
                break
            batch = ledger.batches[0]
            result = batch.result
            if result is None:
                break
            faults.passing("outcome-before")
            decision = decide(
                ledger,
                batch,
                result,
                self._suspect,
                read_only=self._box_read_only,
                passed_over=self._passed_over,
            )
            try:
                await self._keep(decision)
                # No await until the waiters are woken.
                ledger.settle(batch, decision.result)
            except OSError as error:
                self._local_failure(error)
                break
            faults.passing("outcome-after")
            self._settled(batch, result, decision)
            found = True
        return found

    async def _keep(self, decision: Decision) -> None:
        """Write to the conflict store what the box does not take."""
        for keep in decision.keeps:
            if keep.conflict and (report := await self._copy_beside(keep)) is not None:
                decision.settled.conflicts.append(report)
                decision.copies.append((keep.seq, self.ledger.journal.next_seq - 1))
                continue
            path = await self._store_one(keep)
            if keep.conflict:
                decision.settled.conflicts.append(
                    ConflictReport(keep.oid, keep.path, keep.errno, keep.remote, None, path)
                )
            else:
                decision.settled.errors[keep.oid] = keep.errno
                self._write_down(keep.path, None, path, keep.errno, kind="refused")

    async def _copy_beside(self, keep: Keep) -> ConflictReport | None:
        """Make what was written into a file whole, as a new file beside it; None: it cannot be."""
        name = None if is_conflict_name(keep.path) else conflict_name(keep.path, keep.time_ns, 0)
        size = keep.image.size
        listener, base = self.listener, keep.base
        if name is None or listener is None or base is None or not 0 < size <= COPIED_AT_ONCE:
            return None
        known = await listener.base_content(base, base.size)
        if known is None:
            return None
        whole = bytearray(known[:size].ljust(size, b"\0"))
        for extent in keep.image.extents():
            data = extent.blob.read(extent.blob_offset, extent.length)
            whole[extent.offset : extent.offset + extent.length] = data
        ledger, journal = self.ledger, self.ledger.journal
        oid = journal.next_oid
        journal.next_oid = oid + 1
        make = Operation(Kind.CREATE, oid, name, keep.time_ns, mode=keep.mode)
        try:
            journal.append(make)
            ledger.accept(make)
            for start in range(0, size, INLINE_LIMIT):
                write = Operation(Kind.WRITE, oid, name, keep.time_ns, mode=keep.mode, offset=start)
                journal.append_write(write, bytes(whole[start : start + INLINE_LIMIT]))
                ledger.accept(write)
        except OSError as error:
            _log.warning("no room for a copy beside %r: %s", keep.path, error)
            return None
        return ConflictReport(keep.oid, keep.path, keep.errno, keep.remote, name, copy_oid=oid)

    def _write_down(
        self,
        path: bytes,
        kept_as: bytes | None,
        stored_at: str | None,
        number: int,
        *,
        kind: str = "conflict",
    ) -> None:
        if self._conflict_log is None:
            return
        try:
            self._conflict_log.add(
                path,
                kept_as=kept_as,
                stored_at=stored_at,
                errno=number,
                time_ns=time.time_ns(),
                kind=kind,
            )
        except OSError as error:
            _log.error("a conflict cannot be written down: %s", error)

    async def _store_one(self, keep: Keep) -> str:
        def write() -> str:
            return str(
                self._store.keep(
                    keep.path, keep.image, errno=keep.errno, time_ns=keep.time_ns, seq=keep.seq
                )
            )

        path = await trio.to_thread.run_sync(write)
        _log.warning("box did not take a file (errno %d), it is kept in %s", keep.errno, path)
        return path

    def _settled(self, batch: InFlight, result: ApplyResult, decision: Decision) -> None:
        ledger, listener = self.ledger, self.listener
        settled = decision.settled
        if batch.replay:
            for oid, attr in settled.objects.items():
                if attr is not None:
                    ledger.rebase(oid, None, attr.version)
        self.settled_count += len(settled.seqs)
        self._suspect = decision.suspect if ledger.batches else None
        self._passed_over = decision.passed_over and bool(ledger.batches)
        settled.refused.update(self._hold_back(decision))
        ledger.refused_locks.update(settled.locks_refused)
        ledger.owed.update(decision.owed)
        for report in settled.conflicts:
            _log.warning(
                "conflict at %r, ours is %r", report.path, report.kept_as or report.stored_at
            )
            self._write_down(report.path, report.kept_as, report.stored_at, report.errno)
        self.conflict_count += len(settled.conflicts)
        self.conflicts = (self.conflicts + settled.conflicts)[-_CONFLICTS_KEPT:]
        for oid, number in settled.errors.items():
            self.last_error = f"box refused a change (object {oid}): errno {number}"
        if listener is not None:
            listener.settled(settled)
        self._note_trouble(batch, result, decision)
        ledger.note_durable(result.durable)
        self._answer(batch, result, decision)
        self._idle_since = self._monotonic()
        self._give_signal()

    def _note_trouble(self, batch: InFlight, result: ApplyResult, decision: Decision) -> None:
        trouble, listener = self.trouble, self.listener
        if decision.trouble and not batch.record.bypass:
            self._begin_trouble(decision.trouble, result.free_bytes)
        elif trouble is not None and not batch.record.bypass:
            self.trouble = None
            _log.info("box takes changes again")
            if listener is not None:
                listener.trouble(0, set())

    def _begin_trouble(self, number: int, free_bytes: int) -> None:
        delay = self._limits.retry_first
        if self.trouble is not None:
            delay = min(self.trouble.delay * 2, self._limits.retry_last)
        else:
            _log.warning("box refuses changes, journal waits: errno %d", number)
        self.trouble = _Trouble(number, free_bytes, delay, self._monotonic() + delay)
        self.last_error = f"box refuses changes: {os.strerror(number)}"
        if self.listener is not None:
            oids = {op.oid for op in self.ledger.unsettled_operations()}
            self.listener.trouble(number, oids)

    def _hold_back(self, decision: Decision) -> dict[int, int]:
        """Let what the box refuses wait; returns the objects of which that is news."""
        ledger = self.ledger
        if not decision.refused:
            if not ledger.refused:
                self._refused_delay = self._limits.retry_first
            return {}
        fresh = ledger.hold_back(decision.refused)
        if fresh:
            self._refused_delay = self._limits.retry_first
        self._refused_until = self._monotonic() + self._refused_delay
        self._refused_delay = min(self._refused_delay * 2, self._limits.retry_last)
        for op in ledger.waiting:
            if op.oid in fresh and op.seq in decision.refused:
                text = os.strerror(decision.refused[op.seq])
                self.last_error = f"box refuses a change: {text}: {os.fsdecode(op.path)}"
                _log.warning("box refuses a change of %r, it waits: %s", op.path, text)
        return fresh

    def _answer(self, batch: InFlight, result: ApplyResult, decision: Decision) -> None:
        """Tell those who wait for the batch, and note for others what went wrong."""
        requests = self._requests
        requests.note(decision)
        for request in requests:
            if request.batch == batch.number:
                if (
                    (request.errno == 0 or request.waits_for_conflicts)
                    and self.trouble is None
                    and self._is_to_go_again(request, decision)
                ):
                    request.batch = 0
                    continue
                requests.note_refused(self.ledger.waiting, self.ledger.held_numbers(), [request])
                requests.finish(request, result.sync_errno)
            elif self.trouble is not None and request.errno:
                # It will not get better soon.
                requests.finish(request)

    def _is_to_go_again(self, request: SyncRequest, decision: Decision) -> bool:
        """Whether some of what a request waits for has come back, and may go."""
        if request.paths and not (
            decision.again & request.oids or any(path in decision.again for path in request.paths)
        ):
            return False
        return self._has_upto(request.upto)

    def _has_upto(self, upto: int) -> bool:
        held = self.ledger.held_numbers()
        for op in self.ledger.waiting:
            if op.seq > upto:
                return False
            if op.seq not in held:
                return True
        return False

    # -- what goes next

    def _due(self, now: float) -> float | None:
        """Return when the next batch is to be cut; None: when something happens."""
        ledger, limits = self.ledger, self._limits
        if ledger.more or (self.hurry and ledger.waiting and not ledger.stuck):
            return now
        if self._requests.uncut:
            return now
        if ledger.trying_again:
            return now
        if (
            ledger.fresh_names >= limits.batch_operations
            or ledger.fresh_bytes >= limits.batch_bytes
        ):
            return now
        due: float | None = None
        if ledger.first_fresh is not None:
            due = min(ledger.last_fresh + limits.quiet, ledger.first_fresh + limits.longest_wait)
        if ledger.waiting:
            kept, until = ledger.open_files(now)
            if until is not None:
                due = until if due is None else min(due, until)
            elif due is None and not kept and not ledger.refused:
                due = now
        if ledger.refused:
            due = self._refused_until if due is None else min(due, self._refused_until)
        return due

    @property
    def _held(self) -> bool:
        """Whether what is in flight comes first."""
        if not self.ledger.batches:
            self.hold = False
        return self.hold or self._suspect is not None

    async def _cut(self, transport: FileTransport, now: float) -> InFlight | None:
        """Cut the next batch if it is due."""
        ledger = self.ledger
        if self.trouble is not None:
            return self._cut_in_trouble(transport, now, self.trouble)
        due = self._due(now)
        if due is None or now < due or len(ledger.batches) >= self._limits.batches_in_flight:
            return None
        if self._held:
            return None
        if await self._give_up_lost():
            return None
        if ledger.refused and now >= self._refused_until:
            ledger.try_again()
            # Until it is known what becomes of it.
            self._refused_until = now + self._refused_delay
        waiting = self._requests.uncut
        upto = max((request.upto for request in waiting), default=None) if waiting else None
        kept_back: set[int] = set()
        if not waiting and not self.hurry:
            kept_back, _ = ledger.open_files(now)
        batch = self._cut_and_note(upto, kept_back, waiting)
        if batch is None:
            for request in waiting:
                self._finish_without_batch(request)
        return batch

    def _cut_and_note(
        self, upto: int | None, kept_back: set[int], waiting: list[SyncRequest]
    ) -> InFlight | None:
        faults.passing("batch-before")
        batch = self.ledger.cut(upto, kept_back, self._requests.wanted())
        faults.passing("batch-after")
        if batch is None:
            return None
        if upto is None or not self._has_upto(upto):
            for request in waiting:
                request.batch = batch.number
        self._idle_since = None
        return batch

    def _finish_without_batch(self, request: SyncRequest) -> None:
        """There is nothing to send for it: it is done when what is in flight is."""
        if self.ledger.batches:
            request.batch = self.ledger.batches[-1].number
        else:
            self._requests.note_refused(self.ledger.waiting, self.ledger.held_numbers(), [request])
            self._requests.finish(request)

    def _cut_in_trouble(
        self, transport: FileTransport, now: float, trouble: _Trouble
    ) -> InFlight | None:
        ledger = self.ledger
        if ledger.batches:
            return None
        for request in self._requests.uncut:
            # The box has nothing of what came after the trouble.
            self._requests.finish(request, trouble.errno)
        free_bytes = transport.free_space[0]
        trouble.free_bytes = trouble.free_bytes or free_bytes
        if now >= trouble.retry_at or free_bytes > trouble.free_bytes + (1 << 20):
            if not ledger.waiting:
                ledger.more = False
                self.trouble = None
                if self.listener is not None:
                    self.listener.trouble(0, set())
                return None
            trouble.free_bytes = free_bytes
            return self._cut_and_note(None, set(), [])
        if trouble.tried < ledger.journal.next_seq:
            trouble.tried = ledger.journal.next_seq
            return ledger.cut_bypass()
        return None

    async def _give_up_lost(self) -> bool:
        """Keep what is meant for objects that the box never took; returns whether there was any."""
        ledger = self.ledger
        gone = {oid for oid, left in ledger.settled_left.items() if left.lost}
        if not gone:
            return False
        lost = [op for op in ledger.waiting if op.oid in gone]
        if not lost:
            return False
        settled = Settled([op.seq for op in lost], {}, {})
        decision = Decision(Result([]), settled)
        for oid in {op.oid for op in lost} - ledger.refused_locks:
            image = _image_of([op for op in lost if op.oid == oid])
            settled.errors[oid] = errno.EIO
            if image is not None:
                last = max(op.seq for op in lost if op.oid == oid)
                path = next(op.path for op in lost if op.oid == oid)
                decision.keeps.append(Keep(oid, path, image, errno.EIO, 0, last, False, None))
        await self._keep(decision)
        # No await until the listener has heard.
        still = {op.seq for op in ledger.waiting}
        settled.seqs[:] = [seq for seq in settled.seqs if seq in still]
        ledger.settle_waiting(settled.seqs, {oid: Left(lost=True) for oid in settled.errors})
        self.settled_count += len(settled.seqs)
        if self.listener is not None:
            self.listener.settled(settled)
        return True

    async def _rest(self, transport: FileTransport, now: float) -> bool:
        """Ask the box to make durable what it has, once nothing has been sent for a while."""
        ledger = self.ledger
        if ledger.pending or not self.attached:
            return False
        if self._idle_since is None:
            self._idle_since = now
        if not ledger.retained and not self.draining:
            return False
        if self.draining and not self._requests:
            ledger.note_durable(await transport.sync())
            if ledger.pending:
                return True
            if ledger.retained:
                self._pause_until = self._monotonic() + self._limits.retry_first
                return False
            # The box is about to forget what it has done: nobody may ask it about that again.
            ledger.journal.begin_anew()
            await transport.detach(ledger.journal.ident)
            self.detached = True
            self.attached = False
            self._give_signal()
        elif now - self._idle_since >= self._limits.durable_after:
            self._idle_since = now
            ledger.note_durable(await transport.sync())
        return False

    def _sleep(self) -> float:
        """Return for how long there is nothing to do unless something happens."""
        now = self._monotonic()
        until = now + 3600.0
        ledger = self.ledger
        if self._pause_until > now:
            return self._pause_until - now
        if self.trouble is not None:
            # Free space is heard of by heartbeats.
            if not ledger.batches:
                until = min(until, self.trouble.retry_at, now + 1.0)
        elif len(ledger.batches) < self._limits.batches_in_flight and not self._held:
            due = self._due(now)
            if due is not None:
                until = min(until, due)
        if ledger.retained and self._idle_since is not None and not ledger.pending:
            until = min(until, self._idle_since + self._limits.durable_after)
        return max(until - now, 0.0)


def _image_of(operations: list[Operation]) -> ExtentMap | None:
    """Return what operations on one file wrote; None when they wrote nothing."""
    image = ExtentMap(0)
    wrote = False
    for op in operations:
        if op.kind is Kind.WRITE and op.source is not None:
            image.write(op.offset, op.length, op.source.blob, op.source.offset)
            wrote = True
        elif op.kind is Kind.TRUNCATE:
            image.truncate(op.size)
    return image if wrote else None
