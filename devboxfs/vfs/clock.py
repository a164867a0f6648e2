"""The time that our changes are stamped with: the box's.

Programs in the box (make, above all) compare times of files that were saved through the mount with
times of files that were made there; so the mount stamps in the box's clock when it differs from
ours by more than `TOLERANCE`. Within it our own clock is the better one: the difference is known to
no more than half a round trip.
"""

from __future__ import annotations

import time

__all__ = ["BoxClock"]

TOLERANCE_NS = 2_000_000_000


class BoxClock:
    """Wall clock in nanoseconds.

    Ascends strictly, so that no two changes of one object have the same time.
    """

    def __init__(self) -> None:
        self._offset = 0
        self._last = 0

    def learn(self, box_ns: int) -> None:
        """Take note of the box's clock, read a moment ago."""
        offset = box_ns - time.time_ns()
        self._offset = offset if abs(offset) > TOLERANCE_NS else 0

    def now(self) -> int:
        """Return the time for a change that is acknowledged now."""
        now = time.time_ns() + self._offset
        if (
            self._last - TOLERANCE_NS < now <= self._last
        ):  # further back means that the clock was set: follow it
            now = self._last + 1
        self._last = now
        return now
