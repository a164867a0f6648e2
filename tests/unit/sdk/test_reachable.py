"""An address that was only guessed is not waited for as long as one that was given."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import anyio
import pytest

from sealos_devbox import ConnectError
from sealos_devbox._async.reachable import check_reachable


@pytest.fixture
def silent() -> Iterator[int]:
    """A port whose queue is full, so that the kernel drops what asks for a connection."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        port = server.getsockname()[1]
        waiting = []
        try:
            for _ in range(3):
                one = socket.socket()
                one.setblocking(False)
                one.connect_ex(("127.0.0.1", port))
                waiting.append(one)
            yield port
        finally:
            for one in waiting:
                one.close()


async def test_what_drops_packets_is_given_up_soon(silent):
    with anyio.fail_after(20), pytest.raises(ConnectError, match="does not answer") as caught:
        await check_reachable(f"http://127.0.0.1:{silent}", wait=0.1)
    assert "DEVBOX_ENDPOINT" in caught.value.hint


async def test_who_refuses_is_said():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        await check_reachable(f"https://127.0.0.1:{port}")
    with pytest.raises(ConnectError, match="cannot be reached"):
        await check_reachable(f"https://127.0.0.1:{port}")


async def test_behind_a_proxy_nothing_is_tried(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    await check_reachable("https://devbox.example.invalid")
