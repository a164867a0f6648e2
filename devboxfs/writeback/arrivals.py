"""When operations came in: what the next batch waits for, and how old the oldest one is."""

from __future__ import annotations

from collections import deque

from devboxfs.core.ops import Kind, Operation
from devboxfs.writeback.limits import Limits
from devboxfs.writeback.selection import ON_CONTENT

__all__ = ["Arrivals"]


class Arrivals:
    """What came since the last cut, and times at which some of all was accepted."""

    def __init__(self, limits: Limits) -> None:
        self.first: float | None = None
        """When the first came since the last cut."""
        self.last = 0.0
        """When the last came, or something else that lets operations go."""
        self._limits = limits
        self._names = 0
        self._bytes = 0
        self._accepted: deque[tuple[int, float]] = deque()
        """(seq, time), a second apart at least."""

    def accept(self, op: Operation, now: float) -> None:
        """Take note of an operation."""
        if op.kind is Kind.WRITE:
            self._bytes += op.length
        elif op.kind not in ON_CONTENT:
            self._names += 1
        self.touch(now)
        if not self._accepted or now - self._accepted[-1][1] >= 1.0:
            self._accepted.append((op.seq, now))

    def touch(self, now: float) -> None:
        """Let what waits go as if something had come."""
        self.last = now
        if self.first is None:
            self.first = now

    @property
    def enough(self) -> bool:
        """Whether so much has come that the next batch waits for no more."""
        limits = self._limits
        return self._names >= limits.batch_operations or self._bytes >= limits.batch_bytes

    def cut(self, *, all_went: bool) -> None:
        """Take note of a cut; it may leave what came last."""
        if all_went:
            self.first = None
        self._names = self._bytes = 0

    def note_age(self, seq: int, now: float) -> None:
        """Take note of an operation that is older than this process; its age counts from now."""
        if not self._accepted:
            self._accepted.append((seq, now))

    def age(self, oldest: int, now: float) -> float | None:
        """Return how long ago the oldest (by seq) that is still there was accepted, to a second."""
        if not self._accepted:
            return None
        while len(self._accepted) > 1 and self._accepted[1][0] <= oldest:
            self._accepted.popleft()
        return now - self._accepted[0][1]
