"""Whether the other side lives, and how far away it is. Time comes in as an argument."""

from __future__ import annotations

import itertools
from typing import Final

from sealos_devbox.errors import TransportError

__all__ = ["DEAD_AFTER", "Heartbeat"]

PROBE_INTERVAL: Final = 1.0
DEAD_AFTER: Final = 3
"""Intervals without a sign of life."""


class Heartbeat:
    """Knows when a PING is due, what it carries, and when hope is to be given up."""

    def __init__(self, interval: float, now: float) -> None:
        self._interval = interval
        self._last_sent = now
        self._last_received = now
        self._ping_queued = False
        self._pings = itertools.count(1)
        self._probe: tuple[bytes, float] | None = None
        self._last_probe = now

    def sent(self, now: float) -> None:
        """Note that something was given to the channel."""
        self._last_sent = now
        self._ping_queued = False

    def received(self, now: float) -> None:
        """Note a sign of life."""
        self._last_received = now

    def next_tick(self) -> float:
        """When to look at is_due() again."""
        dead = self._last_received + DEAD_AFTER * self._interval
        if self._ping_queued:
            return dead
        return min(dead, self._last_sent + self._interval)

    def is_due(self, now: float) -> bool:
        """Whether nothing was sent for a while.

        Raises TransportError when nothing was received for long.
        """
        silence = now - self._last_received
        if silence >= DEAD_AFTER * self._interval:
            raise TransportError(f"nothing heard from the helper for {silence:.0f} s")
        return now - self._last_sent >= self._interval and not self._ping_queued

    def may_probe(self, now: float) -> bool:
        """Whether the last measurement is old enough for another while much arrives."""
        return now - self._last_probe >= PROBE_INTERVAL

    def ping(self, now: float) -> bytes:
        """Return what a PING that is queued now carries."""
        self._ping_queued = True
        echo = next(self._pings).to_bytes(8, "big")
        self._probe = (echo, now)
        self._last_probe = now
        return echo

    def pong(self, echo: bytes, now: float) -> float | None:
        """Return the round trip, if it is the newest PING that is answered."""
        if self._probe is None or echo != self._probe[0]:
            return None
        rtt = now - self._probe[1]
        self._probe = None
        return rtt
