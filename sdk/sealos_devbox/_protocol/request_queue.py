"""Requests that wait to be sent, and which of them may be next.

Invariants:

* Ordered requests (batches of a journal) leave one after another: the first of them stays at the
  head until its END was sent, and holds up the others.
* Of what the helper takes at a time, RESERVED_REQUESTS are for ordered requests only.
* Bulk requests wait for room in the window, and hold up nobody else.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from sealos_devbox._protocol.exchange import Exchange
from sealos_devbox._protocol.window import MIN_WINDOW, ReceiveWindow

__all__ = ["RESERVED_REQUESTS", "RequestQueue", "first_grant"]

RESERVED_REQUESTS: Final = 16
"""Requests in flight kept free for `apply`: reads may be waiting for a batch that is yet to be
sent."""


def first_grant(exchange: Exchange) -> int:
    """Return how many bytes of its answer a request lets the helper send at once."""
    return MIN_WINDOW if exchange.expected is None else min(MIN_WINDOW, exchange.expected)


class RequestQueue:
    """See the module."""

    def __init__(self) -> None:
        self._in_flight = 0
        # Nothing is sent before WELCOME says how much.
        self._limit = -RESERVED_REQUESTS
        self._waiting: deque[Exchange] = deque()
        self._bulk: deque[Exchange] = deque()
        self._ordered: deque[Exchange] = deque()

    @property
    def has_bulk(self) -> bool:
        """Whether bulk requests wait."""
        return bool(self._bulk)

    def allow(self, max_requests: int) -> None:
        """Take note of how many requests the helper takes at a time."""
        self._limit = max_requests - RESERVED_REQUESTS

    def add(self, exchange: Exchange) -> None:
        """Let a request wait."""
        if exchange.ordered:
            self._ordered.append(exchange)
        elif exchange.bulk:
            self._bulk.append(exchange)
        else:
            self._waiting.append(exchange)

    def withdraw(self, exchange: Exchange) -> None:
        """Forget a request that was not sent."""
        for queue in (self._waiting, self._bulk, self._ordered):
            if exchange in queue:
                queue.remove(exchange)

    def clear(self) -> None:
        """Forget everything."""
        for queue in (self._waiting, self._bulk, self._ordered):
            queue.clear()

    def next(self, window: ReceiveWindow) -> Exchange | None:
        """Return the request that is to be sent now, None when none may; it counts from here on."""
        ordered = self.next_ordered()
        if ordered is not None:
            return ordered
        if self._in_flight >= self._limit:
            return None
        if self._waiting:
            chosen = self._waiting.popleft()
        elif self._bulk and window.has_room(first_grant(self._bulk[0])):
            chosen = self._bulk.popleft()
        else:
            return None
        self._in_flight += 1
        return chosen

    def next_ordered(self) -> Exchange | None:
        """As next(), of ordered requests only."""
        if not self._ordered or self._ordered[0].sent:
            return None
        if self._in_flight >= self._limit + RESERVED_REQUESTS:
            return None
        self._in_flight += 1
        return self._ordered[0]

    def ended(self) -> None:
        """Take note that a request that was sent is over."""
        self._in_flight -= 1

    def leave_order(self, exchange: Exchange) -> bool:
        """Let the next ordered request be sent; whether this one was what it waited for."""
        if not exchange.ordered or not self._ordered or self._ordered[0] is not exchange:
            return False
        self._ordered.popleft()
        return True
