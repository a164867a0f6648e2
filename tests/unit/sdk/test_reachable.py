"""An address that was only guessed is not waited for as long as one that was given."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import anyio
import pytest

from sealos_devbox import ConnectError
from sealos_devbox._async.reachable import check_reachable
from sealos_devbox._transport.kube import access
from sealos_devbox._transport.kube.kubeconfig import KubeconfigSource
from tests.fakes.exec_server import Answer, Received, exec_server, kubeconfig


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


def break_off(request: Received) -> Answer:
    raise anyio.EndOfStream  # which has the fake close the connection


async def test_an_api_server_that_drops_packets_is_told_from_one_that_breaks_off(
    silent, monkeypatch
):
    monkeypatch.setattr(access, "CONNECT_TIMEOUT", 0.1)
    source = KubeconfigSource(text=kubeconfig(f"http://127.0.0.1:{silent}", token="secret"))
    async with await access.KubernetesAccess.load(source) as api:
        with anyio.fail_after(20), pytest.raises(ConnectError, match=r"within 0\.1 s") as caught:
            await api.get("/version")
    assert caught.value.unreachable
    async with exec_server() as server:
        server.respond = break_off
        source = KubeconfigSource(text=kubeconfig(server.url, token="secret"))
        async with await access.KubernetesAccess.load(source) as api:
            with pytest.raises(ConnectError, match="cannot be reached") as caught:
                await api.get("/version")
    assert not caught.value.unreachable
