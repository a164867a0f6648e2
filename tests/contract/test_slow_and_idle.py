"""Who takes slowly fills nobody's memory; who is silent is not taken for gone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import pytest

from sealos_devbox._transport.helper import open_helper_transport
from sealos_devbox._transport.kube.access import KubernetesAccess
from sealos_devbox._transport.kube.bootstrap import BootstrapOptions, open_helper_channel
from sealos_devbox._transport.kube.exec_channel import open_exec_channel
from sealos_devbox._transport.kube.kubeconfig import KubeconfigSource
from sealos_devbox._transport.kube.runner import ExecRunner
from sealos_devbox._transport.shell.transport import open_shell_transport
from tests.contract.test_exec_channel import TARGET, access_to
from tests.fakes.exec_server import exec_server, kubeconfig
from tests.fakes.helper import helper_binary

pytestmark = pytest.mark.slow

SIZE = 64 << 20
BOUND = 32 << 20
"""Bytes that may be on the way: buffers of sockets and pipes, and a window of at most 8 MiB."""


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@pytest.fixture
def big(tmp_path: Path) -> Path:
    (tmp_path / "box").mkdir()
    path = tmp_path / "box" / "big"
    block = os.urandom(1 << 20)
    with path.open("wb") as file:
        for number in range(SIZE >> 20):
            file.write(number.to_bytes(4, "big") + block[4:])
    return path


def bytes_read_by(word: bytes) -> int:
    """What the processes in the box that have this word in their arguments have read so far."""
    total = 0
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and word in (entry / "cmdline").read_bytes().split(b"\0"):
                total += int((entry / "io").read_text().split()[1])
        except OSError:
            continue
    return total


async def test_a_slow_reader_of_a_stream_holds_the_box_back(big, monkeypatch):
    opener = open_exec_channel.__wrapped__
    monkeypatch.setitem(opener.__kwdefaults__, "ping_interval", 0.02)
    async with exec_server() as server, access_to(server) as access:
        runner = ExecRunner(access, TARGET, workspace=str(big.parent), user="")
        async with open_shell_transport(runner) as transport:
            handle, _ = await transport.open(b"big")
            taken, arrived = hashlib.sha256(), 0
            with anyio.fail_after(50):
                async with transport.stream(handle, 0, SIZE) as stream:
                    while (records := await stream.receive()) is not None:
                        for record in records:
                            if isinstance(record, bytes):
                                taken.update(record)
                                arrived += len(record)
                        if arrived < 3 << 20:
                            await anyio.sleep(0.3)
                            assert arrived <= bytes_read_by(b"if=./big") < arrived + BOUND
            assert arrived == SIZE
            # Twenty milliseconds without a word, and there was a ping: they cost no tail.
            assert any(opcode.name == "PING" for opcode, _, _ in server.frames)
    with big.open("rb") as file:
        assert taken.digest() == hashlib.file_digest(file, "sha256").digest()


async def test_a_slow_reader_of_the_helper_is_not_sent_more_than_it_takes(big, tmp_path):
    (tmp_path / "places").mkdir()
    options = BootstrapOptions(
        root=str(big.parent), user="", helper=helper_binary(), places=(str(tmp_path / "places"),)
    )
    async with (
        exec_server() as server,
        access_to(server) as access,
        open_helper_channel(access, TARGET, options) as channel,
        open_helper_transport(channel, compress=False) as transport,
    ):
        # What nobody takes: the output of a command, which has no window of its own.
        async with transport.exec([b"cat", b"big"]) as command:
            await command.receive()
            before = -1
            with anyio.fail_after(50):
                while transport.bytes_received != before:
                    before = transport.bytes_received
                    await anyio.sleep(0.3)
            assert before < BOUND
            # Small requests pass by it.
            with anyio.fail_after(20):
                assert (await transport.stat(b"big"))[1].size == SIZE
            taken, arrived = hashlib.sha256(), 0
        handle, _ = await transport.open(b"big")
        with anyio.fail_after(50):
            while arrived < SIZE:
                _, data = await transport.pread(handle, arrived, 4 << 20)
                taken.update(data)
                arrived += len(data)
    with big.open("rb") as file:
        assert taken.digest() == hashlib.file_digest(file, "sha256").digest()


@asynccontextmanager
async def impatient_proxy(port: int, patience: float) -> AsyncIterator[int]:
    """Pass bytes on, and cut a connection on which none were for so long."""

    async def serve(client: anyio.abc.SocketStream) -> None:
        async with client, await anyio.connect_tcp("127.0.0.1", port) as server:
            heard = anyio.current_time()

            async def carry(source: anyio.abc.ByteStream, target: anyio.abc.ByteStream) -> None:
                nonlocal heard
                try:
                    while True:
                        data = await source.receive()
                        heard = anyio.current_time()
                        await target.send(data)
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    tasks.cancel_scope.cancel()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(carry, client, server)
                tasks.start_soon(carry, server, client)
                while anyio.current_time() < heard + patience:
                    await anyio.sleep_until(heard + patience)
                tasks.cancel_scope.cancel()

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, serve)
        yield listener.extra(anyio.abc.SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(("ping_interval", "lives"), [(0.2, True), (1000.0, False)])
async def test_pings_keep_an_idle_stream(ping_interval, lives):
    async with exec_server() as server:
        port = int(server.url.rpartition(":")[2])
        async with impatient_proxy(port, patience=2.0) as way:
            source = KubeconfigSource(text=kubeconfig(f"http://127.0.0.1:{way}", token="secret"))
            async with (
                await KubernetesAccess.load(source) as access,
                open_exec_channel(access, TARGET, ["cat"], ping_interval=ping_interval) as channel,
            ):
                await anyio.sleep(4)
                with anyio.fail_after(20):
                    if lives:
                        await channel.send(b"still here")
                        assert await channel.receive() == b"still here"
                    else:
                        with pytest.raises(anyio.BrokenResourceError):
                            await channel.receive()
