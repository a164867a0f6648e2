"""What a journal holds that is not in the box, without taking it over or changing it."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from devboxfs.core.extents import BasePiece, ExtentMap
from devboxfs.core.ops import Kind, Operation
from devboxfs.writeback.contents import store_image
from devboxfs.writeback.journal import Journal
from devboxfs.writeback.ledger import Ledger
from devboxfs.writeback.limits import Limits
from devboxfs.writeback.restoring import restore

__all__ = ["Inspection", "PendingObject", "inspect_journal"]

_CONTENT = frozenset({Kind.CREATE, Kind.WRITE, Kind.TRUNCATE})


@dataclass(slots=True)
class PendingObject:
    """An object with changes that are not in the box."""

    oid: int
    path: bytes
    """Where it is after them."""
    changes: list[Operation] = field(default_factory=list)
    image: ExtentMap | None = None
    """Its content, if that was changed."""

    @property
    def whole(self) -> bool:
        """Whether all of its content is known here."""
        image = self.image
        return image is not None and not any(
            isinstance(piece, BasePiece) for piece in image.pieces(0, image.size)
        )

    @property
    def words(self) -> str:
        """What was done to it, in a few words."""
        kinds = list(dict.fromkeys(op.kind.name.lower() for op in self.changes))
        return ", ".join(kinds)


@dataclass(frozen=True, slots=True)
class Inspection:
    """What is in a journal."""

    objects: list[PendingObject]
    operations: int
    damage: str | None

    def export(self, directory: Path) -> int:
        """Write the contents of changed files below `directory`, and a list of all changes.

        Returns the number of files; raises OSError. Of a file that is only known in parts the rest
        is a hole; the list says which parts there are.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        count = 0
        listed = []
        for one in self.objects:
            entry: dict[str, object] = {"path": os.fsdecode(one.path), "changes": one.words}
            if one.image is not None:
                target = directory / "files" / os.fsdecode(one.path)
                target.parent.mkdir(parents=True, exist_ok=True)
                fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                try:
                    store_image(one.image, fd)
                    os.fsync(fd)
                finally:
                    os.close(fd)
                count += 1
                entry["whole"] = one.whole
                entry["ranges"] = [(part.offset, part.length) for part in one.image.extents()]
            listed.append(entry)
        text = json.dumps(listed, indent=2)
        (directory / "changes.json").write_text(text + "\n", encoding="ascii")
        return count


def inspect_journal(path: Path) -> Inspection:
    """Read a journal, also one that is in use; raises RecordError or OSError."""
    journal, found = Journal.look(path)
    ledger = Ledger(journal, Limits(), time.monotonic)
    restore(ledger, found, only_looking=True)
    operations = sorted(ledger.unsettled_operations(), key=lambda op: op.seq)
    objects: dict[int, PendingObject] = {}
    for op in operations:
        one = objects.setdefault(op.oid, PendingObject(op.oid, op.path))
        one.changes.append(op)
        if op.kind is not Kind.UNLINK:
            one.path = op.path
        if op.kind in _CONTENT:
            if one.image is None:
                base = op.base.size if op.base is not None else 0
                one.image = ExtentMap(0 if op.kind is Kind.CREATE else base)
            if op.kind is Kind.TRUNCATE:
                one.image.truncate(op.size)
            elif op.source is not None:
                one.image.write(op.offset, op.length, op.source.blob, op.source.offset)
    return Inspection(list(objects.values()), len(operations), journal.damage)
