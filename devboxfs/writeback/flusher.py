"""Carries what is pending to the box.

One task (`run`) decides and settles; one more per batch in flight only waits for its answer. All
decisions are made between two awaits on the ledger, so that cancelling any of them at any moment
loses nothing: a batch without a RESULT is sent again.

This is the loop. What it goes by is elsewhere: attachment.py (the journal's standing with the box),
cutting.py (when a batch is cut), sending.py (what is on its way), outcomes.py (what answers mean),
keeping.py (what the box does not take), setbacks.py (when it is asked again), requests.py (who
waits).
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Collection

import trio

from devboxfs.core.ops import Kind
from devboxfs.core.planned import Left
from devboxfs.writeback import faults
from devboxfs.writeback.attachment import Attachment
from devboxfs.writeback.cutting import Cutter
from devboxfs.writeback.decisions import TROUBLE, Decision
from devboxfs.writeback.giving_up import discarded, meant_for_what_is_lost
from devboxfs.writeback.in_flight import InFlight
from devboxfs.writeback.keeping import Keeper
from devboxfs.writeback.ledger import Ledger
from devboxfs.writeback.limits import Limits
from devboxfs.writeback.outcomes import decide
from devboxfs.writeback.requests import SyncRequest, SyncRequests
from devboxfs.writeback.seams import Link, Listener, Settled
from devboxfs.writeback.sending import Sender
from devboxfs.writeback.setbacks import Setbacks, Trouble
from sealos_devbox import (
    ApplyResult,
    BoxFileError,
    DevboxError,
    FileTransport,
)

__all__ = ["Flusher"]

_log = logging.getLogger(__name__)


class _LinkBroken(Exception):
    """The transport is of no use any more."""


class Flusher:
    """See the module. One per journal."""

    def __init__(
        self,
        ledger: Ledger,
        keeper: Keeper,
        limits: Limits,
        monotonic: Callable[[], float],
    ) -> None:
        self.ledger = ledger
        self.keeper = keeper
        self.attachment = Attachment(ledger)
        self.setbacks = Setbacks(ledger, limits, monotonic)
        self.settled_count = 0
        self.draining = False
        """When nothing is pending, the box is told to forget the journal."""
        self.link: Link | None = None
        self.listener: Listener | None = None
        self._limits = limits
        self._monotonic = monotonic
        self._requests = SyncRequests(ledger)
        self.cutter = Cutter(ledger, self._requests, self.setbacks, limits)
        self.sender = Sender(ledger, self.attachment, self.setbacks, monotonic, self.nudge)
        self._wake = trio.Event()
        self._progress = trio.Event()
        self._passed_over = False
        self._box_read_only = False
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
        self._wake.set()
        return request

    def try_again(self) -> None:
        """Send what the box has refused again, now."""
        self.setbacks.retry_now()
        self._wake.set()

    def discard(self, paths: Collection[bytes]) -> int:
        """See WriteBack.discard()."""
        lost = discarded(self.ledger, paths)
        if not lost:
            return 0
        settled = Settled([op.seq for op in lost], {}, {})
        left: dict[int, Left] = {}
        for op in lost:
            settled.errors[op.oid] = errno.ECANCELED
            if op.kind is Kind.CREATE:
                left[op.oid] = Left(lost=True)
            _log.warning("change given up as asked: %s of %r", op.kind.name, op.path)
        self._settle_waiting(settled, left)
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
                    self.setbacks.last_error = str(broken)
                    _log.info("the way to the box is gone, journal waits: %s", broken)
                self.attachment.attached = False
                previous = transport
        finally:
            self.attachment.attached = False
            self.link = self.listener = None

    async def _serve(self, transport: FileTransport) -> None:
        self.sender.begin()
        self._passed_over = False
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
        raise _LinkBroken(str(self.sender.broken))

    async def _work(self, transport: FileTransport, senders: trio.Nursery) -> None:
        """Return when the transport is of no use any more."""
        while self.sender.broken is None:
            self._wake = trio.Event()
            if await self._settle_heads():
                continue
            now = self._monotonic()
            self._box_read_only = bool(transport.free_space[2] & os.ST_RDONLY)
            if now >= self.setbacks.pause_until:
                try:
                    if await self._step(transport, senders, now):
                        continue
                except BoxFileError as error:
                    self._set_back(transport, error)
                except DevboxError as error:
                    self.sender.broken = error
                    break
                except OSError as error:
                    self.setbacks.local_failure(error)
            with trio.move_on_after(self._sleep()):
                await self._wake.wait()

    def _set_back(self, transport: FileTransport, error: BoxFileError) -> None:
        """The box does not attach or sync the journal: another connection would not change that."""
        number = error.errno or errno.EIO
        self.attachment.attached = False
        self._begin_trouble(number, transport.free_space[0])
        self.setbacks.pause_in_trouble()
        self._requests.finish_all(number)
        self._give_signal()

    def _give_signal(self) -> None:
        self._progress.set()
        self._progress = trio.Event()

    async def _step(self, transport: FileTransport, senders: trio.Nursery, now: float) -> bool:
        """Do one thing that is due; returns whether there may be more."""
        ledger = self.ledger
        wanted = ledger.pending or self._requests or not self.attachment.detached
        if wanted and not self.attachment.attached:
            await self.attachment.attach(transport)
            return True
        if any(batch.refused for batch in ledger.batches):
            return await self._take_back(transport)
        unsent = next((batch for batch in ledger.batches if batch.sent is None), None)
        if unsent is not None:
            await self.sender.send(transport, senders, unsent)
            return True
        if await self._cut(transport, now):
            return True
        return await self._rest(transport, now)

    # -- connection

    async def _take_back(self, transport: FileTransport) -> bool:
        """Take back batches that the box refused as a whole, and what was sent after them."""
        ledger = self.ledger
        if any(
            batch.sent is not None and batch.result is None and not batch.refused
            for batch in ledger.batches
        ):
            return False  # their answers first
        # An error may have come after the batch was accepted. Attaching completes such a batch.
        applied = await self.attachment.attach(transport)
        why = next((b.refused for b in ledger.batches if b.refused in TROUBLE), errno.EIO)
        for batch in reversed(list(ledger.batches)):
            batch.sent, refused, batch.refused = None, batch.refused, 0
            if batch.number <= applied or batch.replay or not refused:
                self.setbacks.pause()
                continue
            ledger.withdraw(batch)
            self._requests.finish_batch(batch.number, why)
        self._begin_trouble(why, transport.free_space[0])
        self._give_signal()
        return True

    # -- outcomes

    async def _settle_heads(self) -> bool:
        """Settle the oldest batches that have their outcomes; returns whether there was one."""
        ledger = self.ledger
        found = False
        while ledger.batches and ledger.batches[0].result is not None:
            if self._monotonic() < self.setbacks.pause_until:
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
                self.cutter.suspect,
                read_only=self._box_read_only,
                passed_over=self._passed_over,
            )
            try:
                await self.keeper.keep(decision, self.listener)
                # No await until the waiters are woken.
                ledger.settle(batch, decision.result)
            except OSError as error:
                self.setbacks.local_failure(error)
                break
            faults.passing("outcome-after")
            self._settled(batch, result, decision)
            found = True
        return found

    def _settled(self, batch: InFlight, result: ApplyResult, decision: Decision) -> None:
        ledger, listener = self.ledger, self.listener
        settled = decision.settled
        if batch.replay:
            for oid, attr in settled.objects.items():
                if attr is not None and oid not in settled.touched:
                    ledger.rebase(oid, None, attr.version)
        self.settled_count += len(settled.seqs)
        self.cutter.suspect = decision.suspect if ledger.batches else None
        self._passed_over = decision.passed_over and bool(ledger.batches)
        settled.refused.update(self.setbacks.hold_back(decision))
        ledger.refused_locks.update(settled.locks_refused)
        ledger.owed.update(decision.owed)
        self.keeper.note(settled.conflicts)
        for oid, number in settled.errors.items():
            self.setbacks.last_error = f"box refused a change (object {oid}): errno {number}"
        if listener is not None:
            listener.settled(settled)
        self._note_trouble(batch, result, decision)
        ledger.note_durable(result.durable)
        in_trouble = self.setbacks.trouble is not None
        self._requests.answer(batch.number, result.sync_errno, decision, in_trouble=in_trouble)
        self._idle_since = self._monotonic()
        self._give_signal()

    def _note_trouble(self, batch: InFlight, result: ApplyResult, decision: Decision) -> None:
        if batch.record.bypass:
            return
        if decision.trouble:
            self._begin_trouble(decision.trouble, result.free_bytes)
        elif self.setbacks.trouble is not None:
            _log.info("box takes changes again")
            self._end_trouble()

    def _begin_trouble(self, number: int, free_bytes: int) -> None:
        self.setbacks.begin_trouble(number, free_bytes)
        if self.listener is not None:
            oids = {op.oid for op in self.ledger.unsettled_operations()}
            self.listener.trouble(number, oids)

    def _end_trouble(self) -> None:
        self.setbacks.trouble = None
        if self.listener is not None:
            self.listener.trouble(0, set())

    def _settle_waiting(self, settled: Settled, left: dict[int, Left]) -> None:
        """Settle operations that never go to the box."""
        self.ledger.settle_waiting(settled.seqs, left)
        self.settled_count += len(settled.seqs)
        if self.listener is not None:
            self.listener.settled(settled)

    async def _give_up_lost(self) -> bool:
        """Keep what is meant for objects that the box never took; returns whether there was any."""
        decision = meant_for_what_is_lost(self.ledger)
        if decision is None:
            return False
        await self.keeper.keep(decision, self.listener)
        # No await until the listener has heard.
        settled = decision.settled
        still = {op.seq for op in self.ledger.waiting}
        settled.seqs[:] = [seq for seq in settled.seqs if seq in still]
        self._settle_waiting(settled, {oid: Left(lost=True) for oid in settled.errors})
        return True

    # -- what goes next

    async def _cut(self, transport: FileTransport, now: float) -> bool:
        """Cut the next batch if it is due; returns whether there is one."""
        trouble = self.setbacks.trouble
        if trouble is not None:
            batch = self._cut_in_trouble(transport, now, trouble)
        else:
            due = self.cutter.due(now)
            if due is None or now < due or await self._give_up_lost():
                return False
            batch = self.cutter.cut(now)
        if batch is None:
            return False
        self._idle_since = None
        return True

    def _cut_in_trouble(
        self, transport: FileTransport, now: float, trouble: Trouble
    ) -> InFlight | None:
        if self.ledger.batches:
            return None
        # The box has nothing of what came after the trouble.
        self._requests.finish_uncut(trouble.errno)
        free_bytes = transport.free_space[0]
        if not self.ledger.waiting and trouble.is_worth_a_try(now, free_bytes):
            self.ledger.more = False
            self._end_trouble()
            return None
        return self.cutter.cut_in_trouble(now, trouble, free_bytes)

    async def _rest(self, transport: FileTransport, now: float) -> bool:
        """Ask the box to make durable what it has, once nothing has been sent for a while."""
        ledger = self.ledger
        if ledger.pending or not self.attachment.attached:
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
                self.setbacks.pause()
                return False
            await self.attachment.detach(transport)
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
        setbacks = self.setbacks
        if setbacks.pause_until > now:
            return setbacks.pause_until - now
        if setbacks.trouble is not None:
            # Free space is heard of by heartbeats.
            if not ledger.batches:
                until = min(until, setbacks.trouble.retry_at, now + 1.0)
        elif (due := self.cutter.due(now)) is not None:
            until = min(until, due)
        if ledger.retained and self._idle_since is not None and not ledger.pending:
            until = min(until, self._idle_since + self._limits.durable_after)
        return max(until - now, 0.0)
