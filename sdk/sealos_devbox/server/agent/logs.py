"""What processes and sessions have said: the newest lines, for any number of readers.

Lines come from threads and are read by threads; a reader waits for at most as long as it says, so
that one whose client is gone ends soon.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

__all__ = ["Line", "LogBuffer"]

KEPT = 10_000


@dataclass(frozen=True, slots=True)
class Line:
    """One line, with its line break if it had one."""

    level: str
    content: str
    time: int

    @property
    def raw(self) -> str:
        """The line as the log routes show it."""
        return f"[{self.level}] {self.content}"


class LogBuffer:
    """The newest lines, numbered from 0."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._lines: deque[Line] = deque(maxlen=KEPT)
        self._count = 0
        self.closed = False

    def add(self, level: str, content: str) -> None:
        """Append a line."""
        with self._changed:
            self._lines.append(Line(level, content, int(time.time())))
            self._count += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Say that no more lines come."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def tail(self, count: int | None) -> tuple[list[Line], int]:
        """Return the newest lines and the number of the next one."""
        with self._changed:
            lines = list(self._lines)
            return lines if count is None else lines[max(0, len(lines) - count) :], self._count

    def after(self, number: int, timeout: float) -> tuple[list[Line], int]:
        """Return the lines from a number on, waiting for one; and the number of the next."""
        with self._changed:
            if self._count <= number and not self.closed:
                self._changed.wait(timeout)
            missed = self._count - number
            if missed <= 0:
                return [], number
            kept = min(missed, len(self._lines))
            return list(self._lines)[len(self._lines) - kept :], self._count
