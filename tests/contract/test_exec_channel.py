from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from sealos_devbox._transport.base import ByteChannel
from sealos_devbox._transport.kube.access import KubernetesAccess
from sealos_devbox._transport.kube.exec_channel import ExecChannel, ExecTarget, open_exec_channel
from sealos_devbox._transport.kube.kubeconfig import KubeconfigSource
from tests.contract.channel_contract import ChannelContract
from tests.fakes.exec_server import ExecServer, exec_server, kubeconfig

V4 = ("v4.channel.k8s.io",)
TARGET = ExecTarget("ns-test", "box", "box")


@asynccontextmanager
async def access_to(server: ExecServer) -> AsyncIterator[KubernetesAccess]:
    source = KubeconfigSource(text=kubeconfig(server.url, token="secret"))
    async with await KubernetesAccess.load(source) as access:
        yield access


@asynccontextmanager
async def run(*argv: str, **options) -> AsyncIterator[tuple[ExecServer, ExecChannel]]:
    async with exec_server() as server, access_to(server) as access:
        server.versions = options.pop("versions", server.versions)
        async with open_exec_channel(access, TARGET, argv, **options) as channel:
            yield server, channel


async def everything(channel: ExecChannel) -> bytes:
    received = b""
    try:
        while True:
            received += await channel.receive()
    except anyio.EndOfStream:
        return received


class TestExecV5(ChannelContract):
    @asynccontextmanager
    async def open_echo(self) -> AsyncIterator[ByteChannel]:
        async with run("cat") as (_, channel):
            assert channel.can_half_close
            yield channel


class TestExecV4(ChannelContract):
    @asynccontextmanager
    async def open_echo(self) -> AsyncIterator[ByteChannel]:
        async with run("cat", versions=V4) as (_, channel):
            assert not channel.can_half_close
            yield channel


@pytest.mark.parametrize("code", [0, 7, 255])
async def test_the_exit_code_comes_from_the_status(code):
    async with run("sh", "-c", f"echo out; echo err >&2; exit {code}") as (_, channel):
        assert await everything(channel) == b"out\n"
        assert channel.status is not None
        assert channel.status.exit_code == code
        assert channel.diagnostics() == f"err\n(exit status {code})"


async def test_a_program_that_does_not_exist():
    async with run("no-such-program") as (_, channel):
        assert await everything(channel) == b""
        assert channel.status is not None
        assert channel.status.exit_code is None
        assert "no-such-program" in channel.diagnostics()


async def test_both_versions_are_offered_in_one_handshake():
    async with run("true") as (server, channel):
        await everything(channel)
    [request] = server.received
    offered = request.headers["sec-websocket-protocol"]
    assert offered == "v5.channel.k8s.io, v4.channel.k8s.io"
    assert request.headers["authorization"] == "Bearer secret"


async def test_each_message_is_one_frame():
    async with run("cat") as (server, channel):
        await channel.send(bytes(300_000))
        received = 0
        while received < 300_000:
            received += len(await channel.receive())
    data = [(final, payload) for opcode, final, payload in server.frames if opcode == 2]
    assert all(final for final, _ in data)
    assert [len(payload) for _, payload in data] == [131072, 131072, 37859, 2]
    assert {payload[0] for _, payload in data[:3]} == {0}


async def test_senders_that_are_cancelled_leave_whole_messages():
    """Each message is a letter, repeated; what arrives is whole runs, whatever was cancelled."""
    size = 100_000
    async with run("sh", "-c", "sleep 0.3; cat") as (_, channel):
        for letter in b"abcdefghijklmnopqrstuvwxyz":
            with anyio.move_on_after(0.01):
                await channel.send(bytes([letter]) * size)
        await channel.send_eof()
        received = await everything(channel)
    runs = [(letter, received.count(letter)) for letter in sorted(set(received))]
    assert runs
    assert {count for _, count in runs} == {size}


async def test_a_connection_that_is_cut_is_not_an_end():
    async with run("sh", "-c", "echo up; sleep 1000") as (server, channel):
        await channel.receive()
        await server.streams[0].aclose()
        for _ in range(2):
            with pytest.raises(anyio.BrokenResourceError):
                await channel.receive()


async def test_pings_keep_an_idle_connection_and_data_makes_them_needless():
    async with run("cat", ping_interval=0.02) as (server, channel):
        while not any(opcode == 9 for opcode, _, _ in server.frames):
            await anyio.sleep(0.01)
        await channel.send(b"x")
        assert await channel.receive() == b"x"


async def test_closing_lets_the_program_finish(tmp_path):
    done = tmp_path / "done"
    async with run("sh", "-c", f"echo up; cat; touch {done}") as (_, channel):
        await channel.receive()
    assert done.exists()


async def test_closing_does_not_wait_for_a_program_that_does_not_read():
    with anyio.fail_after(20):
        async with run("sh", "-c", "echo up; sleep 1000", grace=0.05) as (_, channel):
            await channel.receive()
            with anyio.move_on_after(0.2):
                while True:
                    await channel.send(bytes(1 << 20))
