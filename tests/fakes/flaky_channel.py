"""A byte channel that is as unpleasant as a real one may be.

Seeded, so that a failure happens again.
"""

from __future__ import annotations

import random

import anyio
import anyio.lowlevel

from sealos_devbox._transport.base import ByteChannel


class FlakyChannel:
    """Splits what it carries into pieces of any size, lets others run between them, and cuts.

    cut_received, cut_sent: after so many bytes of that direction the channel breaks; None never.
    truncate: what the far end sent after `cut_received` is lost, and the end looks orderly.
    """

    def __init__(
        self,
        inner: ByteChannel,
        seed: int,
        *,
        largest: int = 1 << 16,
        cut_received: int | None = None,
        cut_sent: int | None = None,
        truncate: bool = False,
    ) -> None:
        self._inner = inner
        self._random = random.Random(seed)
        self._largest = largest
        self._held = b""
        self._left_received = cut_received
        self._left_sent = cut_sent
        self._truncate = truncate

    @property
    def can_half_close(self) -> bool:
        return self._inner.can_half_close

    async def send(self, data: bytes) -> None:
        if not data:
            await anyio.lowlevel.checkpoint()
        while data:
            size = self._piece(len(data))
            if self._left_sent is not None:
                size = min(size, self._left_sent)
                if size == 0:
                    raise anyio.BrokenResourceError
                self._left_sent -= size
            await self._dawdle()
            await self._inner.send(data[:size])
            data = data[size:]

    async def receive(self) -> bytes:
        if self._left_received == 0:
            await anyio.lowlevel.checkpoint()
            raise anyio.EndOfStream if self._truncate else anyio.BrokenResourceError
        if not self._held:
            self._held = await self._inner.receive()
        await self._dawdle()
        size = self._piece(len(self._held))
        if self._left_received is not None:
            size = min(size, self._left_received)
            self._left_received -= size
        piece, self._held = self._held[:size], self._held[size:]
        return piece

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def aclose(self) -> None:
        self._held = b""
        await self._inner.aclose()

    def diagnostics(self) -> str:
        return self._inner.diagnostics()

    def _piece(self, size: int) -> int:
        # Small pieces as often as large ones: boundaries inside headers are where parsers go wrong.
        most = min(size, self._largest)
        return min(
            most, self._random.choice((1, 2, 9, 10, 11, self._random.randint(1, most), most))
        )

    async def _dawdle(self) -> None:
        for _ in range(self._random.randrange(3)):
            await anyio.lowlevel.checkpoint()
