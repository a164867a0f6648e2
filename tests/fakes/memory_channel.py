"""Two byte channels that lead to each other, in memory."""

from __future__ import annotations

import anyio
import anyio.lowlevel


class _Pipe:
    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.data = bytearray()
        self.ended = False
        self.broken = False
        self.changed = anyio.Event()

    def wake(self) -> None:
        changed, self.changed = self.changed, anyio.Event()
        changed.set()


class MemoryChannel:
    can_half_close = True

    def __init__(self, outgoing: _Pipe, incoming: _Pipe) -> None:
        self._outgoing = outgoing
        self._incoming = incoming
        self._closed = False
        self.said = ""

    async def send(self, data: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        pipe = self._outgoing
        view = memoryview(data)
        while view:
            if self._closed or pipe.ended:
                raise anyio.ClosedResourceError
            if pipe.broken:
                raise anyio.BrokenResourceError
            room = pipe.capacity - len(pipe.data)
            if room > 0:
                pipe.data += view[:room]
                view = view[room:]
                pipe.wake()
            else:
                await pipe.changed.wait()

    async def receive(self) -> bytes:
        await anyio.lowlevel.checkpoint()
        pipe = self._incoming
        while True:
            if self._closed:
                raise anyio.ClosedResourceError
            if pipe.data:
                data = bytes(pipe.data)
                pipe.data.clear()
                pipe.wake()
                return data
            if pipe.ended:
                raise anyio.EndOfStream
            if pipe.broken:
                raise anyio.BrokenResourceError
            await pipe.changed.wait()

    async def send_eof(self) -> None:
        await anyio.lowlevel.checkpoint()
        self._outgoing.ended = True
        self._outgoing.wake()

    async def aclose(self) -> None:
        self._closed = True
        self._outgoing.ended = True
        self._incoming.broken = True
        self._outgoing.wake()
        self._incoming.wake()

    def cut(self) -> None:
        """Break both directions at once, what is under way included."""
        for pipe in (self._outgoing, self._incoming):
            pipe.data.clear()
            pipe.broken = True
            pipe.wake()

    def diagnostics(self) -> str:
        return self.said


def channel_pair(capacity: int = 1 << 20) -> tuple[MemoryChannel, MemoryChannel]:
    one, other = _Pipe(capacity), _Pipe(capacity)
    return MemoryChannel(one, other), MemoryChannel(other, one)
