"""How a contract of transports is given a transport."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from sealos_devbox._transport.base import FileTransport


class OpensTransports:
    """Opens transports to a directory."""

    def open_transport(self, root: Path) -> AbstractAsyncContextManager[FileTransport]:
        raise NotImplementedError

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        root = tmp_path / "box"
        root.mkdir()
        return root


class TransportSuite(OpensTransports):
    """Says what a transport is asked to keep."""

    @pytest.fixture
    async def transport(self, root: Path) -> AsyncIterator[FileTransport]:
        async with self.open_transport(root) as transport:
            yield transport

    def require(self, transport: FileTransport, capability: str) -> None:
        if capability not in transport.peer.capabilities:
            pytest.skip(f"the transport has no {capability}")

    def one_call(self, round_trips: int) -> None:
        """A call is one round trip, however much it asks for."""
        assert round_trips == 1

    def told(self, ns: int) -> int:
        """A time as the transport can tell and set it."""
        return ns

    call_bytes = 200
    """What a small call may send."""
    many_calls = 10
    """Round trips that 600 KB of names may take."""
    at_once = 1000
    """Calls that are tried at the same time."""
    contents = 500
    """Files that one batch is tried with."""

    def require_strong(self, transport: FileTransport) -> None:
        if "weak" in transport.peer.capabilities:
            pytest.skip("the transport is weak: it says so")
