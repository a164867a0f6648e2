"""What waits to be sent on a connection, and what of it goes next.

Frames of control go first. Then the exchanges that have DATA or an END take turns, a frame each, as
far as their credit goes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from sealos_devbox._protocol import frames
from sealos_devbox._protocol.exchange import Exchange

__all__ = ["DATA_SIZE", "SMALLEST_PIECE", "WRITE_SIZE", "Outbox"]

WRITE_SIZE: Final = 131072
"""Bytes given to the channel at once: what a message of the exec path carries well, and as long as
a control frame waits."""
DATA_SIZE: Final = WRITE_SIZE - frames.HEADER_SIZE
SMALLEST_PIECE: Final = 16 * 1024
"""DATA is not cut to smaller pieces than this to fill a write. Not larger: data would never be
sent beside a steady flow of control frames."""


class Outbox:
    """See the module. `on_ended` hears of an exchange whose END was taken."""

    def __init__(self, on_ended: Callable[[Exchange], None]) -> None:
        self._on_ended = on_ended
        self._control: deque[bytes] = deque()
        self._ready: deque[Exchange] = deque()

    def __bool__(self) -> bool:
        return bool(self._control or self._ready)

    def queue(self, kind: int, id: int, payload: bytes = b"") -> None:
        """Queue a frame of control."""
        self._control.append(frames.encode(kind, id, payload))

    def extend(self, encoded: Iterable[bytes]) -> None:
        """Queue frames of control that are encoded already."""
        self._control.extend(encoded)

    def make_ready(self, exchange: Exchange) -> None:
        """Put the exchange among those that have something to send, if it has and may."""
        if exchange.in_ready or not exchange.sent or exchange.out_ended:
            return
        if exchange.out:
            data, flags = exchange.out[0]
            if exchange.credit < (len(data) if flags else 1):
                return
        elif not exchange.out_end:
            return
        exchange.in_ready = True
        self._ready.append(exchange)

    def withdraw(self, exchange: Exchange) -> None:
        """Nothing more of it is to be sent."""
        if exchange.in_ready:
            self._ready.remove(exchange)
            exchange.in_ready = False

    def clear(self) -> None:
        """Forget everything."""
        self._control.clear()
        self._ready.clear()

    def next_write(self) -> bytes:
        """Return the next bytes for the channel, at most WRITE_SIZE or one frame."""
        parts: list[bytes | memoryview] = []
        size = 0
        control = self._control
        while control and (not parts or size + len(control[0]) <= WRITE_SIZE):
            frame = control.popleft()
            parts.append(frame)
            size += len(frame)
        while not control and self._ready:
            added = self._next_data(parts, WRITE_SIZE - size)
            if added == 0:
                break
            size += added
        return b"".join(parts)

    def _next_data(self, parts: list[bytes | memoryview], room: int) -> int:
        """Add one frame of the exchange whose turn it is.

        Returns its size, 0 when it does not fit.
        """
        exchange = self._ready[0]
        room -= frames.HEADER_SIZE
        size = 0
        if exchange.out:
            data, flags = exchange.out[0]
            size = len(data)
            if size > room or size > exchange.credit:
                if flags or room < min(size, exchange.credit, SMALLEST_PIECE):
                    return 0
                size = min(size, room, exchange.credit)
                exchange.out[0] = (memoryview(data)[size:], 0)
                data = memoryview(data)[:size]
            else:
                exchange.out.popleft()
            exchange.credit -= size
            exchange.out_bytes -= size
            parts.append(frames.encode(frames.DATA, exchange.id, data, flags))
            if exchange.on_room is not None:
                exchange.on_room()
        else:
            if room < 0:
                return 0
            parts.append(frames.encode(frames.END, exchange.id))
            exchange.out_ended = True
        self._ready.popleft()
        exchange.in_ready = False
        if exchange.out_ended:
            self._on_ended(exchange)
        else:
            self.make_ready(exchange)
        return size + frames.HEADER_SIZE
