"""A byte channel that carries whole frames, and asks before each of them."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from sealos_devbox._transport.base import ByteChannel
from tests.support.frame_buffer import FrameBuffer


class LinkCutError(Exception):
    """Raised by `before`: this frame and what follows it do not arrive."""


class FrameChannel:
    """Calls `before("sent")` or `before("received")` for every frame of sdk/PROTOCOL.md."""

    def __init__(self, inner: ByteChannel, before: Callable[[str], None]) -> None:
        self._inner = inner
        self._before = before
        self._out = FrameBuffer(magic=False)
        self._in = FrameBuffer(magic=True)
        self._cut = False

    @property
    def can_half_close(self) -> bool:
        return self._inner.can_half_close

    async def send(self, data: bytes) -> None:
        self._check()
        self._out.feed(data)
        while frame := self._out.first():
            self._pass("sent")
            self._out.drop(frame)
            await self._inner.send(frame)

    async def receive(self) -> bytes:
        while True:
            self._check()
            if magic := self._in.take_magic():
                return magic
            if frame := self._in.first():
                self._pass("received")
                self._in.drop(frame)
                return frame
            self._in.feed(await self._inner.receive())

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
