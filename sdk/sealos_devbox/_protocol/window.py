"""How much the helper may have on its way to us.

The receiving side's flow control (sdk/PROTOCOL.md section 2).

A small answer waits behind whatever bulk data is already in the channel, so that is bounded by what
we granted: about one bandwidth-delay product, measured as the delivery rate times the smallest
round trip, plus what the link carries in QUEUE_TIME so that neither end ever waits for the other to
be scheduled. A single stream is never granted less than MIN_WINDOW.

The limit grows as in a slow start: while it is the limit that holds the rate down, a round delivers
one limit per round trip, and twice that becomes the next limit. Once the rate has stopped growing
for FLAT_ROUNDS rounds the headroom shrinks to a quarter, so that the queue on the link drains (the
idea and the two gains are those of BBR, draft-cardwell-iccrg-bbr-congestion-control).
"""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["MAX_LIMIT", "MIN_WINDOW", "ReceiveWindow"]

MIN_WINDOW: Final = 256 * 1024
MAX_LIMIT: Final = 8 * 1024 * 1024
START_LIMIT: Final = 1024 * 1024
"""Before anything was measured; what a fresh TCP connection to a near data centre takes in its
first few round trips (guessed)."""

QUEUE_TIME: Final = 0.010
MIN_ROUND: Final = 0.010
RATES_KEPT: Final = 10
FLAT_ROUNDS: Final = 3
GROWTH: Final = 1.25
STARTUP_GAIN: Final = 2.0
STEADY_GAIN: Final = 1.25
RTT_LIFETIME: Final = 30.0


class ReceiveWindow:
    """The limit on what may be outstanding, and the measurements it comes from."""

    __slots__ = (
        "_flat_rounds",
        "_full_rate",
        "_limited",
        "_rates",
        "_round_bytes",
        "_round_start",
        "_rtt_time",
        "limit",
        "min_rtt",
        "outstanding",
        "streams",
    )

    def __init__(self) -> None:
        self.limit = START_LIMIT
        self.outstanding = 0
        """Bytes granted to bulk streams that have not arrived."""
        self.streams = 0
        """Bulk streams running."""
        self.min_rtt: float | None = None
        self._rtt_time = 0.0
        self._rates: deque[float] = deque(maxlen=RATES_KEPT)
        self._full_rate = 0.0
        self._flat_rounds = 0
        self._round_start: float | None = None
        self._round_bytes = 0
        self._limited = False

    @property
    def rate(self) -> float:
        """Best delivery rate of the last rounds, bytes per second; 0 before the first."""
        return max(self._rates, default=0.0)

    @property
    def share(self) -> int:
        """What one stream may have outstanding."""
        return max(MIN_WINDOW, self.limit // max(1, self.streams))

    def has_room(self, size: int) -> bool:
        """Whether another stream that will have `size` bytes outstanding may start."""
        if self.outstanding == 0 or self.outstanding + size <= self.limit:
            return True
        self._limited = True
        return False

    def reserve(self, size: int, now: float) -> None:
        """Count a grant."""
        if self._round_start is None:
            self._round_start = now
            self._round_bytes = 0
        self.outstanding += size
        if self.outstanding * 2 >= self.limit:
            self._limited = True

    def release(self, size: int) -> None:
        """Count a grant that will not be used."""
        self.outstanding -= size
        if self.streams == 0:
            # An idle time is no measurement.
            self._round_start = None

    def delivered(self, size: int, now: float) -> None:
        """Count bytes of a bulk stream that arrived."""
        self._round_bytes += size
        if self._round_start is None:
            self._round_start = now
            return
        elapsed = now - self._round_start
        if elapsed >= max(MIN_ROUND, self.min_rtt or 0.0):
            self._end_round(self._round_bytes / elapsed)
            self._round_start = now
            self._round_bytes = 0

    def measured_rtt(self, rtt: float, now: float) -> None:
        """Count a round trip."""
        if self.min_rtt is None or rtt <= self.min_rtt or now - self._rtt_time > RTT_LIFETIME:
            self.min_rtt = max(rtt, 0.0)
            self._rtt_time = now

    def _end_round(self, rate: float) -> None:
        limited, self._limited = self._limited, self.outstanding * 2 >= self.limit
        if not limited and rate <= self.rate:
            # Nobody asked for more: that says nothing about the link.
            return
        self._rates.append(rate)
        best = self.rate
        if best > self._full_rate * GROWTH:
            self._full_rate = best
            self._flat_rounds = 0
        else:
            self._flat_rounds += 1
            if self._flat_rounds > RATES_KEPT:
                self._full_rate = best
        if self.min_rtt is None:
            return
        gain = STARTUP_GAIN if self._flat_rounds < FLAT_ROUNDS else STEADY_GAIN
        self.limit = min(MAX_LIMIT, max(MIN_WINDOW, int(best * (gain * self.min_rtt + QUEUE_TIME))))
