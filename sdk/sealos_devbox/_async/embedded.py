"""The embedded engine as the client sees it: boxes that are directories, helpers that are children.

The engine's boxes are reached by a helper on this machine, one process for each connection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from sealos_devbox._transport.base import ByteChannel, FileTransport
from sealos_devbox._transport.delayed import open_delayed_channel
from sealos_devbox._transport.helper import open_helper_transport
from sealos_devbox._transport.helper_bundle import find_helper
from sealos_devbox._transport.subprocess import SubprocessChannel
from sealos_devbox.config import EmbeddedSettings
from sealos_devbox.server.store import BoxStore, StoredBox

__all__ = ["EmbeddedEngine"]


class EmbeddedEngine:
    """Finds boxes and opens ways to them."""

    def __init__(self, settings: EmbeddedSettings) -> None:
        self._settings = settings
        self.store = BoxStore(settings.data_dir)

    @property
    def service(self) -> str:
        """Which service this is, for people to read."""
        return f"the embedded engine ({self._settings.data_dir})"

    @property
    def reason(self) -> str:
        """Why this service was chosen, for people to read."""
        return self._settings.reason

    def location(self, stored: StoredBox) -> str:
        """Where a box's files are, for people to read."""
        return f"embedded engine, files in {stored.workspace}"

    @asynccontextmanager
    async def open_transport(
        self, stored: StoredBox, on_end: Callable[[], None] | None = None
    ) -> AsyncIterator[FileTransport]:
        """Start a helper on the box's workspace and connect to it.

        `on_end` is called once nothing more will come from it.
        """
        helper = self._settings.helper or find_helper()
        channel: ByteChannel = await SubprocessChannel.open(
            [helper, "serve", "--root", stored.workspace]
        )
        async with AsyncExitStack() as stack:
            delay = self._settings.link_delay_ms / 2000  # seconds, each way
            if delay:
                channel = await stack.enter_async_context(open_delayed_channel(channel, delay))
            if on_end is not None:
                channel = _NoticingChannel(channel, on_end)
            yield await stack.enter_async_context(open_helper_transport(channel, compress=False))


class _NoticingChannel:
    """A channel that tells when its reader has stopped: at the end, at a failure, when given up."""

    def __init__(self, inner: ByteChannel, on_end: Callable[[], None]) -> None:
        self._inner = inner
        self._on_end = on_end

    @property
    def can_half_close(self) -> bool:
        return self._inner.can_half_close

    async def send(self, data: bytes) -> None:
        await self._inner.send(data)

    async def receive(self) -> bytes:
        try:
            return await self._inner.receive()
        except BaseException:
            self._on_end()
            raise

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def aclose(self) -> None:
        await self._inner.aclose()

    def diagnostics(self) -> str:
        return self._inner.diagnostics()
