"""Which names have news younger than an answer that is still under way.

An answer to list, stat or snapshot says how old it is: the number of the last event before the box
looked. By the time it arrives, events with higher numbers may have been worked in, and outcomes of
our own changes (which raise no events here) too; what the answer says of those names is older than
what the table holds and is discarded.
"""

from __future__ import annotations

__all__ = ["OWN", "UNDATED", "EventLog"]

OWN = 1 << 62
"""Number under which outcomes of our own changes are noted.

Newer than any answer that was under way.
"""

UNDATED = -1
"""Number of an outcome of which the helper does not know when it came about.

It took it from its log, or finished what another one had begun: the box is asked again.
"""


class EventLog:
    """Newest event per (directory ino, name), kept only while answers are under way."""

    __slots__ = ("_newest", "_under_way")

    def __init__(self) -> None:
        self._newest: dict[tuple[int, bytes], int] = {}
        self._under_way = 0

    def begin(self) -> None:
        """An answer is under way from now on."""
        self._under_way += 1

    def end(self) -> None:
        """It was worked in, or will not come."""
        self._under_way -= 1
        if self._under_way == 0:
            self._newest.clear()

    def forget(self) -> None:
        """Events are numbered anew: what was asked before will have no answer.

        Who asks again on the next connection, without an end in between, hears what is true then.
        """
        self._newest.clear()

    @property
    def under_way(self) -> bool:
        """Whether there are answers that may be discarded for what is noted."""
        return self._under_way > 0

    def note(self, directory: int, name: bytes, number: int) -> None:
        """An event, or an outcome of ours (OWN), was worked in for the name."""
        if self._under_way:
            key = (directory, name)
            if number > self._newest.get(key, -1):
                self._newest[key] = number

    def is_stale(self, directory: int, name: bytes, event: int) -> bool:
        """Whether an answer that is as old as `event` is too old for the name."""
        return bool(self._newest) and self._newest.get((directory, name), -1) > event
