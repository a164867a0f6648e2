"""A byte channel behind a link with latency.

What is sent arrives later, in order, many messages under way at once.

For benchmarks and tests. The delay is of each direction; a round trip costs it twice. Without a
bandwidth the link carries anything, so that the delay alone is what is measured.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import anyio
import anyio.lowlevel

from sealos_devbox._transport.base import ByteChannel

__all__ = ["open_delayed_channel"]

IN_FLIGHT: Final = 64 * 1024 * 1024
"""What the link holds before it takes no more: memory has an end even where bandwidth has none."""
SEND_BUFFER: Final = 256 * 1024
"""What a sender may have waiting for a link of limited bandwidth, like a socket's buffer."""
CLOSE_WAIT: Final = 15.0


class _Link:
    """One direction: what was put in can be taken out later. An exception put in is the end."""

    def __init__(self, delay: float, bandwidth: float | None) -> None:
        self._delay = delay
        self._bandwidth = bandwidth
        self._messages: deque[tuple[float, bytes | Exception]] = deque()
        self._size = 0
        self._free_at = -math.inf
        self._changed = anyio.Event()

    async def put(self, data: bytes) -> None:
        """Wait for room, then add."""
        while self._size > IN_FLIGHT:
            await self._changed.wait()
        now = anyio.current_time()
        if self._bandwidth is not None:
            waiting = self._free_at - now - SEND_BUFFER / self._bandwidth
            if waiting > 0:
                await anyio.sleep(waiting)
                now = anyio.current_time()
            self._free_at = max(now, self._free_at) + len(data) / self._bandwidth
        self._add(max(now, self._free_at), data)

    def end(self, reason: Exception) -> None:
        """Add the end."""
        self._add(max(anyio.current_time(), self._free_at), reason)

    def _add(self, departure: float, message: bytes | Exception) -> None:
        self._messages.append((departure + self._delay, message))
        if isinstance(message, bytes):
            self._size += len(message)
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def take(self) -> bytes:
        """Return all that has arrived, as soon as there is any.

        Raises the end when that arrives.
        """
        while not self._messages:
            await self._changed.wait()
        await anyio.sleep_until(self._messages[0][0])
        now = anyio.current_time()
        arrived: list[bytes] = []
        while self._messages and self._messages[0][0] <= now:
            message = self._messages[0][1]
            if isinstance(message, Exception):
                if not arrived:
                    raise message
                break
            arrived.append(message)
            self._size -= len(message)
            self._messages.popleft()
        self._wake()
        return arrived[0] if len(arrived) == 1 else b"".join(arrived)


class _DelayedChannel:
    def __init__(self, inner: ByteChannel, delay: float, bandwidth: float | None) -> None:
        self._inner = inner
        self._out = _Link(delay, bandwidth)
        self._in = _Link(delay, bandwidth)
        self._broken: Exception | None = None
        self._closed = False
        self._receiving = anyio.CancelScope()
        self._carrying = anyio.CancelScope(shield=True)

    @property
    def can_half_close(self) -> bool:
        return self._inner.can_half_close

    async def send(self, data: bytes) -> None:
        if self._closed:
            raise anyio.ClosedResourceError
        if self._broken is not None:
            raise anyio.BrokenResourceError from self._broken
        await anyio.lowlevel.checkpoint()
        await self._out.put(data)

    async def receive(self) -> bytes:
        if self._closed:
            raise anyio.ClosedResourceError
        with anyio.CancelScope() as self._receiving:
            return await self._in.take()
        raise anyio.ClosedResourceError

    async def send_eof(self) -> None:
        await anyio.lowlevel.checkpoint()
        self._out.end(anyio.EndOfStream())

    async def aclose(self) -> None:
        """Close the inner channel at once: what is still under way is lost, as with a cut link."""
        self._closed = True
        self._receiving.cancel()
        await self._inner.aclose()

    def diagnostics(self) -> str:
        return self._inner.diagnostics()

    async def carry(self) -> None:
        """Move bytes until stop().

        A cancelled caller may still have something to say, shielded: so is this.
        """
        with self._carrying:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._carry_out)
                tasks.start_soon(self._carry_in)

    def stop(self) -> None:
        """Let carry() end."""
        self._carrying.cancel()

    async def _carry_out(self) -> None:
        try:
            while True:
                await self._inner.send(await self._out.take())
        except anyio.EndOfStream:
            await self._inner.send_eof()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            self._broken = error

    async def _carry_in(self) -> None:
        try:
            while True:
                await self._in.put(await self._inner.receive())
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            self._in.end(error)


@asynccontextmanager
async def open_delayed_channel(
    inner: ByteChannel, delay: float, bandwidth: float | None = None
) -> AsyncIterator[ByteChannel]:
    """Yield a channel to what `inner` leads to, `delay` seconds away in each direction.

    bandwidth: bytes per second of each direction; None for a link that carries anything. Leaving
    the block closes `inner`.
    """
    channel = _DelayedChannel(inner, delay, bandwidth)
    tasks = anyio.create_task_group()
    await tasks.__aenter__()
    tasks.start_soon(channel.carry)
    try:
        yield channel
    finally:
        # The caller's exception leaves as it is, not in a group.
        channel.stop()
        try:
            with anyio.move_on_after(CLOSE_WAIT, shield=True):
                await channel.aclose()
        finally:
            await tasks.__aexit__(None, None, None)
