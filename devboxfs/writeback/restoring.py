"""Brings back from the journal's records the state that the ledger was in."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from devboxfs.core import records
from devboxfs.core.batch_records import BatchRecord, LinkRecord, ResultRecord
from devboxfs.core.ops import Kind, Operation
from devboxfs.core.planned import Left
from devboxfs.core.records import RecordError
from devboxfs.writeback.in_flight import InFlight
from devboxfs.writeback.journal_reading import Control
from devboxfs.writeback.ledger import Ledger

__all__ = ["restore"]

# Made once: msgspec must not meet a type for the first time in two threads.
_BATCH = msgspec.msgpack.Decoder(BatchRecord)
_RESULT = msgspec.msgpack.Decoder(ResultRecord)
_LINK = msgspec.msgpack.Decoder(LinkRecord)


def restore(
    ledger: Ledger, found: Iterable[Operation | Control], *, only_looking: bool = False
) -> None:
    """Rebuild the state from what the journal holds.

    `only_looking`: nothing is written to the journal. Raises RecordError for what this version does
    not know.
    """
    try:
        waiting = _replay(ledger, found)
    except msgspec.MsgspecError as exc:
        raise RecordError(f"a record is not known to this version: {exc}") from exc
    ledger.waiting = waiting
    if not only_looking:
        _drop_unheld_locks(ledger)
    ledger.recount()


def _replay(ledger: Ledger, found: Iterable[Operation | Control]) -> list[Operation]:
    journal = ledger.journal
    batches: dict[int, InFlight] = {}
    waiting: dict[int, Operation] = {}
    for item in found:
        if isinstance(item, Operation):
            waiting[item.seq] = item
            ledger.note_age(item.seq)
        elif item.kind == records.BATCH:
            record = _BATCH.decode(item.payload)
            batch = InFlight.restored(record, waiting, journal.blob)
            for op in batch.operations.values():
                if op.base is not None:
                    ledger.settled_left[op.oid] = Left(op.base, op.base.size, ino=op.base.ino)
            batches[batch.number] = batch
            ledger.batches.append(batch)
            journal.next_batch = max(journal.next_batch, record.number + 1)
            journal.next_wire = max(journal.next_wire, record.next_wire)
        elif item.kind == records.RESULT:
            result = _RESULT.decode(item.payload)
            ledger.waiting = sorted(waiting.values(), key=_seq)
            if result.number == 0 or result.number in batches:
                ledger.apply(batches.get(result.number), result)
            waiting = {op.seq: op for op in ledger.waiting}
            if not result.withdrawn:
                journal.next_batch = max(journal.next_batch, result.number + 1)
        elif item.kind == records.LINK:
            link = _LINK.decode(item.payload)
            journal.generation = max(journal.generation, link.generation)
            ledger.boot_id = link.boot_id or ledger.boot_id
    return sorted(waiting.values(), key=_seq)


def _drop_unheld_locks(ledger: Ledger) -> None:
    """Forget locks that never went to the box: who wanted them died with the mount."""
    made = {op.oid for op in ledger.waiting if op.kind is Kind.LOCK}
    if made:
        gone = [op.seq for op in ledger.waiting if op.oid in made]
        ledger.write_down(ResultRecord(0, gone, [], []))
        ledger.waiting = [op for op in ledger.waiting if op.oid not in made]


def _seq(op: Operation) -> int:
    return op.seq
