"""A byte channel that carries whole frames, and asks before each of them."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from sealos_devbox._transport.base import ByteChannel

HEADER = 10
MAGIC = 8


class LinkCutError(Exception):
    """Raised by `before`: this frame and what follows it do not arrive."""


class FrameChannel:
    """Calls `before("sent")` or `before("received")` for every frame of sdk/PROTOCOL.md."""

    def __init__(self, inner: ByteChannel, before: Callable[[str], None]) -> None:
        self._inner = inner
        self._before = before
        self._out = b""
        self._in = b""
        self._magic = MAGIC
        self._cut = False

    @property
    def can_half_close(self) -> bool:
        return self._inner.can_half_close

    async def send(self, data: bytes) -> None:
        self._check()
        self._out += data
        while (frame := self._first(self._out)) is not None:
            self._pass("sent")
            self._out = self._out[len(frame) :]
            await self._inner.send(frame)

    async def receive(self) -> bytes:
        while True:
            self._check()
            if self._magic and len(self._in) >= self._magic:
                magic, self._in, self._magic = self._in[: self._magic], self._in[self._magic :], 0
                return magic
            frame = None if self._magic else self._first(self._in)
            if frame is not None:
                self._pass("received")
                self._in = self._in[len(frame) :]
                return frame
            self._in += await self._inner.receive()

    @staticmethod
    def _first(data: bytes) -> bytes | None:
        if len(data) < HEADER:
            return None
        size = HEADER + int.from_bytes(data[:4], "big")
        return data[:size] if len(data) >= size else None

    def _pass(self, direction: str) -> None:
        try:
            self._before(direction)
        except LinkCutError:
            self._cut = True
        self._check()

    def _check(self) -> None:
        if self._cut:
            raise anyio.BrokenResourceError

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def aclose(self) -> None:
        await self._inner.aclose()

    def diagnostics(self) -> str:
        return self._inner.diagnostics()
