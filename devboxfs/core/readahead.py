"""What to ask for of a large file, from where it is read: the rule, without any asking.

A read that continues one of the file's streams is sequential; each time half of what a stream was
given is consumed, it is given more, twice as much until `most` ranges. Other reads get the blocks
that they touch. Reads may come out of order and twice; requests for what is there or under way
are the caller's to leave out.
"""

from __future__ import annotations

from dataclasses import dataclass

from devboxfs.core.chunks import RANGE, align

__all__ = ["ReadAhead"]

STREAMS = 4
"""Sequential readers of one file that are told apart."""

SLACK = 2 * RANGE
"""How far behind its front a read may be and still belong to a stream: the kernel has up to 12
reads of 128 KiB under way, in any order."""


@dataclass(slots=True)
class _Stream:
    front: int
    """End of the furthest read."""
    planned: int
    """End of what was asked for."""
    ahead: int
    """Ranges to be asked for beyond the front; 0 until the stream has proved itself."""
    steps: int = 0


class ReadAhead:
    """The streams of one file."""

    def __init__(self, size: int, *, most: int = 8) -> None:
        self.most = most
        """Ranges ahead at most; may be changed at any time."""
        self._size = size
        self._streams: list[_Stream] = []  # the one used last is last

    def access(self, offset: int, length: int) -> list[tuple[int, int]]:
        """Take note of a read; return the ranges [start, end) that should be there or under way."""
        end = min(offset + length, self._size)
        if offset >= end:
            return []
        wanted = align(offset, end - offset, self._size)
        stream = self._find(offset)
        if stream is None:
            return [self._start(offset, end, wanted)]
        if end <= stream.front:
            return [wanted]
        stream.front = end
        stream.steps += 1
        ranges = [] if end <= stream.planned else [wanted]
        stream.planned = max(stream.planned, wanted[1])
        if stream.ahead == 0 and stream.steps < 2:
            # Two pieces in a row may be one read(2) of 256 KiB at a random place.
            return ranges
        if stream.planned - stream.front <= stream.ahead * RANGE // 2:
            stream.ahead = min(max(stream.ahead * 2, 1), self.most)
            goal = min(self._size, -(-(stream.front + stream.ahead * RANGE) // RANGE) * RANGE)
            if goal > stream.planned:
                ranges.append((stream.planned, goal))
                stream.planned = goal
        return ranges

    def _start(self, offset: int, end: int, wanted: tuple[int, int]) -> tuple[int, int]:
        """Begin a stream; a file that is read from its start is likely to be read on."""
        if offset < RANGE and not self._streams:
            wanted = (0, min(self._size, max(wanted[1], RANGE)))
            self._streams.append(_Stream(end, wanted[1], 1))
        else:
            self._streams.append(_Stream(end, wanted[1], 0))
        del self._streams[:-STREAMS]
        return wanted

    def _find(self, offset: int) -> _Stream | None:
        """Return the stream that a read at `offset` continues."""
        for index in range(len(self._streams) - 1, -1, -1):
            stream = self._streams[index]
            if stream.front - SLACK <= offset <= max(stream.planned, stream.front):
                self._streams.append(self._streams.pop(index))
                return stream
        return None
