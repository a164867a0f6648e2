"""Reads a journal that somebody else wrote: records in order, up to the first that is damaged.

The torn end of the last segment is a clean stop: it was not acknowledged. Damage anywhere else is
not passed over. What precedes it is given back; it and all that follows is kept in a directory
beside the journal (``damaged-...``), for people.
"""

from __future__ import annotations

import logging
import re
import secrets
import shutil
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from devboxfs.core import records
from devboxfs.core.ops import Operation
from devboxfs.core.records import Header, RecordError
from devboxfs.writeback.blobs import LocalBlob
from devboxfs.writeback.spools import Spools

__all__ = ["Control", "Counters", "JournalReader", "Segment"]

_log = logging.getLogger(__name__)

_CONTROLS = frozenset({records.BATCH, records.RESULT, records.LINK})


@dataclass(frozen=True, slots=True)
class Control:
    """A record of the flusher."""

    kind: int
    number: int
    payload: bytes


@dataclass(slots=True)
class Segment:
    """A file of records."""

    number: int
    blob: LocalBlob
    size: int
    last_seq: int = 0
    last_batch: int = 0


@dataclass(slots=True)
class Counters:
    """The next numbers that nothing in the journal has used."""

    seq: int = 1
    oid: int = 1
    batch: int = 1
    wire: int = 1
    generation: int = 0
    acked: int = 0

    def learn(self, header: Header) -> None:
        """Take over what a segment begins with."""
        self.seq = max(self.seq, header.next_seq)
        self.oid = max(self.oid, header.next_oid)
        self.batch = max(self.batch, header.next_batch)
        self.wire = max(self.wire, header.next_wire)
        self.generation = max(self.generation, header.generation)
        self.acked = max(self.acked, header.acked)


@dataclass(slots=True)
class JournalReader:
    """See the module. `only_looking`: nothing is changed or moved."""

    path: Path
    spools: Spools
    only_looking: bool = False
    counters: Counters = field(default_factory=Counters)
    segments: list[Segment] = field(default_factory=list)
    bytes: int = 0
    damage: str | None = None
    """What could not be read, and where it is kept."""
    _kept: Path | None = None

    def read(self) -> Iterator[Operation | Control]:
        """Yield what the journal holds.

        Raises RecordError for what a later version has written: it is left as it is.
        """
        numbers = sorted(
            int(entry.name[8:])
            for entry in self.path.iterdir()
            if re.fullmatch(r"segment-[0-9]{1,9}", entry.name)
        )
        self.spools.load()
        headers = self._headers(numbers)
        for index, (number, header) in enumerate(headers):
            following = headers[index + 1][1] if index + 1 < len(headers) else None
            whole = yield from self._read_segment(number, header, following)
            if not whole:
                self._keep_damaged(number, [later for later, _ in headers[index + 1 :]])
                break
        if self._kept is not None:
            self.spools.move_unnamed(self._kept)

    def _headers(self, numbers: list[int]) -> list[tuple[int, Header]]:
        found: list[tuple[int, Header]] = []
        read: dict[int, Header | None] = {}
        for number in numbers:
            with (self.path / f"segment-{number}").open("rb") as file:
                start = file.read(records.HEADER_SIZE)
            try:
                read[number] = header = records.unpack_header(start)
            except RecordError:
                read[number] = None
                continue
            # Looked at first: whoever does not know the format must not say what is damaged.
            if header.format != records.FORMAT:
                raise RecordError(f"segment format {header.format} is not known to this version")
        for index, (number, known) in enumerate(read.items()):
            path = self.path / f"segment-{number}"
            if known is None:
                if index + 1 < len(numbers) or path.stat().st_size > records.HEADER_SIZE:
                    self._keep_damaged(number, numbers[index:])
                elif not self.only_looking:
                    # It was being made when its maker died: there was nothing in it.
                    path.unlink()
                break
            if found and number != found[-1][0] + 1:
                self._keep_damaged(found[-1][0], numbers[index:])
                break
            found.append((number, known))
        return found

    def _read_segment(
        self, number: int, header: Header, following: Header | None
    ) -> Generator[Operation | Control, None, bool]:
        path = self.path / f"segment-{number}"
        blob = LocalBlob((0, number, 0), path, keep_open=True)
        data = path.read_bytes()
        segment = Segment(number, blob, records.HEADER_SIZE)
        self.segments.append(segment)
        self.bytes += len(data)
        counters = self.counters
        counters.learn(header)
        view = memoryview(data)
        if following is not None:
            view = view[: following.previous_end]
        for record in records.scan(view):
            payload = data[record.start : record.end]
            if record.kind >= records.BATCH:
                if record.kind not in _CONTROLS:
                    raise RecordError(f"record kind {record.kind} is not known to this version")
                segment.last_batch = max(segment.last_batch, record.seq)
                yield Control(record.kind, record.seq, payload)
            else:
                op = records.decode_operation(
                    record.kind, record.seq, payload, (blob, record.start), self.spools.blob
                )
                segment.last_seq = op.seq
                counters.seq = max(counters.seq, op.seq + 1)
                counters.oid = max(counters.oid, op.oid + 1, op.replaced + 1)
                if op.source is not None:
                    self.spools.named(op.source.blob, op.seq)
                yield op
            segment.size = record.end
        return following is None or segment.size == following.previous_end

    def _keep_damaged(self, number: int, later: list[int]) -> None:
        """Set aside what cannot be read. What precedes it is replayed."""
        if self.only_looking:
            self.damage = f"segment {number} is damaged; what precedes it can be read"
            return
        kept = self._kept
        if kept is None:
            kept = self._kept = self.path.parent / f"damaged-{secrets.token_hex(8)}"
            kept.mkdir(mode=0o700)
        for moved in later:
            source = self.path / f"segment-{moved}"
            if moved != number:
                source.rename(kept / source.name)
        damaged = self.path / f"segment-{number}"
        shutil.copyfile(damaged, kept / damaged.name)
        if number in later:
            damaged.unlink()
        self.damage = f"segment {number} is damaged; it and what follows it are kept in {kept}"
        _log.error("journal is damaged: segment %d; kept in %s", number, kept)
