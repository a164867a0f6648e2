"""Keeps what the box does not take: beside the box's version, or in the store on this machine.

`keep` comes before anything else is done about a batch's outcomes, so that a crash in between
leaves a copy too many and never one too few.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import trio

from devboxfs.core.ops import Kind, Operation
from devboxfs.writeback.conflict_log import ConflictLog
from devboxfs.writeback.conflicts import ConflictStore, conflict_name, is_conflict_name
from devboxfs.writeback.decisions import Decision, Keep
from devboxfs.writeback.ledger import Ledger
from devboxfs.writeback.limits import INLINE_LIMIT
from devboxfs.writeback.seams import ConflictReport, Listener

__all__ = ["COPIED_AT_ONCE", "Keeper"]

_log = logging.getLogger(__name__)

_CONFLICTS_KEPT = 100
COPIED_AT_ONCE = 16 << 20
"""A larger file is not made whole for a conflict: only what was written is kept."""


class Keeper:
    """See the module. One per journal."""

    def __init__(self, ledger: Ledger, store: ConflictStore, log: ConflictLog | None) -> None:
        self.conflicts: list[ConflictReport] = []
        """Of this mount, oldest first, at most the last hundred."""
        self.conflict_count = 0
        self._ledger = ledger
        self._store = store
        self._log = log

    def go_on_from(self, before: Keeper) -> None:
        """Take over what was noted for a journal that another one has replaced."""
        self.conflicts = before.conflicts
        self.conflict_count = before.conflict_count

    async def keep(self, decision: Decision, listener: Listener | None) -> None:
        """Bring to safety what `decision.keeps` names, and say in the decision where it is.

        Raises OSError when the local disk does not take it.
        """
        for keep in decision.keeps:
            if keep.conflict and (report := await self._copy_beside(keep, listener)) is not None:
                decision.settled.conflicts.append(report)
                decision.copies.append((keep.seq, self._ledger.journal.next_seq - 1))
                continue
            path = await self._store_one(keep)
            if keep.conflict:
                decision.settled.conflicts.append(
                    ConflictReport(keep.oid, keep.path, keep.errno, keep.remote, None, path)
                )
            else:
                decision.settled.errors[keep.oid] = keep.errno
                self._write_down(keep.path, None, path, keep.errno, kind="refused")

    def note(self, reports: Sequence[ConflictReport]) -> None:
        """Note conflicts whose outcomes are journalled, for people to see."""
        for report in reports:
            _log.warning(
                "conflict at %r, ours is %r", report.path, report.kept_as or report.stored_at
            )
            self._write_down(report.path, report.kept_as, report.stored_at, report.errno)
        self.conflict_count += len(reports)
        self.conflicts = [*self.conflicts, *reports][-_CONFLICTS_KEPT:]

    async def _copy_beside(self, keep: Keep, listener: Listener | None) -> ConflictReport | None:
        """Make what was written into a file whole, as a new file beside it; None: it cannot be."""
        name = None if is_conflict_name(keep.path) else conflict_name(keep.path, keep.time_ns, 0)
        size, base = keep.image.size, keep.base
        if name is None or listener is None or base is None or not 0 < size <= COPIED_AT_ONCE:
            return None
        known = await listener.base_content(base, base.size)
        if known is None:
            return None
        whole = bytearray(known[:size].ljust(size, b"\0"))
        for extent in keep.image.extents():
            data = extent.blob.read(extent.blob_offset, extent.length)
            whole[extent.offset : extent.offset + extent.length] = data
        ledger, journal = self._ledger, self._ledger.journal
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

    def _write_down(
        self,
        path: bytes,
        kept_as: bytes | None,
        stored_at: str | None,
        number: int,
        *,
        kind: str = "conflict",
    ) -> None:
        if self._log is None:
            return
        try:
            self._log.add(
                path,
                kept_as=kept_as,
                stored_at=stored_at,
                errno=number,
                time_ns=time.time_ns(),
                kind=kind,
            )
        except OSError as error:
            _log.error("a conflict cannot be written down: %s", error)
