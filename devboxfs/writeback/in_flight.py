"""A batch between its record and its result, and after that until the box has it on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from devboxfs.core.batch_records import BatchRecord, MemberRecord, OwnerRecord, RelocationRecord
from devboxfs.core.extents import ExtentMap
from devboxfs.core.ops import Blob, Operation
from devboxfs.core.planned import Left, Owner, Plan
from devboxfs.core.records import BlobId
from devboxfs.writeback.contents import ImageContent, image_from_record, image_to_record
from sealos_devbox import ApplyResult, Batch, ContentMember

__all__ = ["InFlight", "Result", "record_of"]

_ENCODER = msgspec.msgpack.Encoder()
_WIRE = msgspec.msgpack.Decoder(list[tuple[object, ...]])


@dataclass(slots=True, eq=False)
class InFlight:
    """See the module."""

    record: BatchRecord
    wire: list[tuple[object, ...]]
    owners: list[Owner]
    images: dict[int, ExtentMap]
    operations: dict[int, Operation]
    """Those that are not settled, by seq."""
    acked: int = 0
    floor: int = 1
    """The oldest batch whose outcomes it may refer to."""
    size: int = 0
    """Bytes of content."""
    sent: float | None = None
    result: ApplyResult | None = None
    refused: int = 0
    """The errno with which the box refused the batch as a whole: nothing of it was applied."""
    replay: bool = False
    """It was settled before; the box lost it with its power."""
    oldest_seq: int = 0

    @classmethod
    def restored(
        cls,
        record: BatchRecord,
        waiting: dict[int, Operation],
        blob: Callable[[BlobId], Blob],
    ) -> InFlight:
        """Return a batch that the journal tells of; its operations leave `waiting` (by seq)."""
        seqs = [seq for owner in record.owners for seq in owner.seqs] + record.vanished
        operations = {seq: waiting.pop(seq) for seq in sorted(seqs) if seq in waiting}
        return cls(
            record,
            _WIRE.decode(record.operations),
            [Owner(owner.wire, owner.oid, owner.seqs, owner.other) for owner in record.owners],
            {image.oid: image_from_record(image, blob) for image in record.images},
            operations,
            size=sum(member.length for member in record.members),
            oldest_seq=min(operations, default=0),
        )

    @property
    def number(self) -> int:
        """The batch's number."""
        return self.record.number

    def batch(self, journal: bytes, generation: int) -> Batch:
        """Return what is sent."""
        members = [
            ContentMember(
                ImageContent(self.images[member.oid], member.offset, member.length),
                member.mode,
                member.mtime_ns,
            )
            for member in self.record.members
        ]
        return Batch(
            journal=journal,
            incarnation=self.record.incarnation,
            generation=generation,
            number=self.number,
            acked=self.acked,
            resume=self.record.resume,
            bypass=self.record.bypass,
            operations=self.wire,
            members=members,
            sync=self.record.sync,
        )


@dataclass(slots=True)
class Result:
    """What is to be done about a batch's outcomes, decided by outcomes.py."""

    settled: list[int]
    left: dict[int, Left] = field(default_factory=dict)
    relocations: list[RelocationRecord] = field(default_factory=list)
    resume: int | None = None


def record_of(
    planned: Plan,
    *,
    number: int,
    incarnation: bytes,
    first_wire: int,
    sync: list[bytes] | bool | None,
    resume: int | None,
    bypass: bool,
) -> BatchRecord:
    """Return what the journal is told of a batch."""
    return BatchRecord(
        number=number,
        incarnation=incarnation,
        first_wire=first_wire,
        next_wire=planned.next_wire,
        operations=msgspec.Raw(_ENCODER.encode(planned.operations)),
        members=[
            MemberRecord(m.oid, m.offset, m.length, m.mode, m.mtime_ns) for m in planned.members
        ],
        images=[image_to_record(oid, image) for oid, image in planned.images.items()],
        owners=[OwnerRecord(o.wire, o.oid, o.seqs, o.other) for o in planned.owners],
        vanished=planned.vanished,
        sync=sync,
        resume=resume,
        bypass=bypass,
    )
