"""A channel that tells when nothing more will come from it."""

from __future__ import annotations

from collections.abc import Callable

from sealos_devbox._transport.base import ByteChannel

__all__ = ["NoticingChannel"]


class NoticingChannel:
    """Tells when its reader has stopped: at the end, at a failure, when given up."""

    def __init__(self, inner: ByteChannel, on_end: Callable[[], None]) -> None:
        self._inner = inner
        self._on_end = on_end

    @property
    def can_half_close(self) -> bool:
        """Whether send_eof() reaches the far end."""
        return self._inner.can_half_close

    async def send(self, data: bytes) -> None:
        """Send all of data."""
        await self._inner.send(data)

    async def receive(self) -> bytes:
        """Return at least one byte."""
        try:
            return await self._inner.receive()
        except BaseException:
            self._on_end()
            raise

    async def send_eof(self) -> None:
        """End the outgoing direction where that is possible."""
        await self._inner.send_eof()

    async def aclose(self) -> None:
        """Close both directions."""
        await self._inner.aclose()

    def diagnostics(self) -> str:
        """What the far end said outside the stream."""
        return self._inner.diagnostics()
