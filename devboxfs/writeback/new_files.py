"""New files that are still written: they are kept back for a while, to be published whole."""

from __future__ import annotations

from dataclasses import dataclass

from devboxfs.core.ops import Kind, Operation
from devboxfs.writeback.limits import Limits

__all__ = ["NewFiles"]


@dataclass(slots=True)
class _NewFile:
    since: float
    size: int = 0


class NewFiles:
    """New files that were not published, and how many handles write each."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._new: dict[int, _NewFile] = {}
        self._writers: dict[int, int] = {}

    def accept(self, op: Operation, now: float) -> None:
        """Take note of an operation."""
        kind = op.kind
        if kind is Kind.WRITE:
            new = self._new.get(op.oid)
            if new is not None:
                new.size += op.length
        elif kind is Kind.CREATE:
            self._new[op.oid] = _NewFile(now)
        elif kind is Kind.UNLINK:
            self._new.pop(op.oid, None)
        elif kind is Kind.RENAME:
            self._new.pop(op.replaced, None)

    def published(self, oid: int) -> None:
        """Forget a file that went."""
        self._new.pop(oid, None)

    def opened(self, oid: int) -> None:
        """Count a writer."""
        self._writers[oid] = self._writers.get(oid, 0) + 1

    def closed(self, oid: int) -> bool:
        """Count a writer less; returns whether a new file has none any more."""
        count = self._writers.get(oid, 0) - 1
        if count > 0:
            self._writers[oid] = count
            return False
        self._writers.pop(oid, None)
        return oid in self._new

    def kept_back(self, now: float) -> tuple[set[int], float | None]:
        """Return those that are kept back, and until when the first of them is."""
        kept: set[int] = set()
        until: float | None = None
        grace = self._limits.open_grace
        for oid, new in self._new.items():
            if (
                self._writers.get(oid)
                and now - new.since < grace
                and new.size < self._limits.batch_bytes
            ):
                kept.add(oid)
                until = new.since + grace if until is None else min(until, new.since + grace)
        return kept, until
