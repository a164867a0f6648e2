from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from sealos_devbox._transport.base import FileTransport
from sealos_devbox._transport.delayed import open_delayed_channel
from sealos_devbox._transport.helper import open_helper_transport
from sealos_devbox._transport.subprocess import SubprocessChannel
from sealos_devbox.errors import ConnectError, TransportError
from tests.contract.transport_contract import TransportContract
from tests.fakes.flaky_channel import FlakyChannel
from tests.fakes.helper import helper_transport, start_helper
from tests.fakes.memory_channel import channel_pair
from tests.fakes.peer import Peer, welcome


class TestHelper(TransportContract):
    @asynccontextmanager
    async def open_transport(self, root: Path) -> AsyncIterator[FileTransport]:
        async with helper_transport(root) as transport:
            yield transport


class TestCompressed(TransportContract):
    @asynccontextmanager
    async def open_transport(self, root: Path) -> AsyncIterator[FileTransport]:
        async with helper_transport(root, compress=True) as transport:
            yield transport


class TestFlakyAndDelayed(TransportContract):
    """Over a link that splits, reorders tasks and takes its time: nothing may depend on luck."""

    @asynccontextmanager
    async def open_transport(self, root: Path) -> AsyncIterator[FileTransport]:
        async with open_delayed_channel(await start_helper(root), 0.001) as delayed:
            flaky = FlakyChannel(delayed, seed=11, largest=100_000)
            async with open_helper_transport(flaky, compress=True) as transport:
                yield transport


async def connect(channel, **options) -> None:
    options = {"compress": False, "connect_timeout": 5.0, **options}
    async with open_helper_transport(channel, **options):
        pytest.fail("connected")


async def test_a_helper_that_exits_at_once(tmp_path):
    channel = await start_helper(tmp_path / "absent")
    with pytest.raises(ConnectError, match=r"(?s)absent.*exit status 2"):
        await connect(channel)
    assert channel.returncode == 2


async def test_a_shell_that_knows_no_helper():
    argv = ["sh", "-c", "echo Welcome; exec no-such-helper"]
    channel = await SubprocessChannel.open(argv)
    with pytest.raises(ConnectError, match=r"(?s)not found.*exit status 127.*Welcome"):
        await connect(channel)


async def test_something_else_answers():
    script = "import sys; sys.stdout.write('x' * 100_000); sys.stdout.flush(); sys.stdin.read()"
    channel = await SubprocessChannel.open([sys.executable, "-c", script])
    with pytest.raises(ConnectError, match="no helper answers") as caught:
        await connect(channel)
    assert not caught.value.retryable
    assert channel.returncode is not None, "the process is ended"


async def test_nobody_answers():
    channel = await SubprocessChannel.open(["cat"])
    with pytest.raises(ConnectError, match="did not answer within") as caught:
        await connect(channel, connect_timeout=0.1)
    assert caught.value.retryable
    assert channel.returncode is not None


async def test_another_protocol():
    ours, theirs = channel_pair()
    await theirs.send(welcome(protocol=2))
    with pytest.raises(ConnectError, match="speaks protocol 2"):
        await connect(ours)


async def test_a_banner_is_skipped():
    ours, theirs = channel_pair()
    await theirs.send(b"Linux box 6.1\r\nLast login: yesterday\r\n")
    await Peer(theirs).greet()
    async with open_helper_transport(ours, compress=False) as transport:
        assert transport.peer.hostname == "box"


async def test_a_killed_helper(tmp_path):
    channel = await start_helper(tmp_path)
    failures = []

    async def wait(call) -> None:
        try:
            await call
        except TransportError as error:
            failures.append(error)

    async def watch() -> None:
        async with transport.watch() as stream:
            while await stream.receive() is not None:
                pass

    async def command() -> None:
        async with transport.exec([b"sleep", b"1000"]) as running:
            await running.receive()

    async with open_helper_transport(channel, compress=False) as transport:
        await transport.stat(b"")
        async with anyio.create_task_group() as tasks:
            for call in (watch(), command()):
                tasks.start_soon(wait, call)
            await anyio.wait_all_tasks_blocked()
            os.kill(channel.pid, signal.SIGKILL)
        with pytest.raises(TransportError, match="killed by signal 9") as caught:
            await transport.stat(b"")
        assert len(failures) == 2
        for error in (*failures, caught.value):
            assert error.retryable
            assert error.__cause__ is not None
        assert caught.value not in failures, "everyone gets an error of their own"


@pytest.mark.parametrize("truncate", [False, True])
@pytest.mark.parametrize("direction", ["received", "sent"])
async def test_a_cut_at_any_place_reaches_every_caller(tmp_path, direction, truncate):
    (tmp_path / "file").write_bytes(bytes(5000))
    # A sender that fails waits a second for the receiver to learn why.
    for place in (700, 701, 705, 710, 1000, 3000, 9000) if direction == "received" else (150,):
        inner = await start_helper(tmp_path)
        cut = {f"cut_{direction}": place, "truncate": truncate}
        ended = []

        async def call(transport, ended=ended) -> None:
            try:
                while True:
                    await transport.read(b"file")
            except TransportError:
                ended.append(True)

        flaky = FlakyChannel(inner, place, **cut)
        with anyio.fail_after(20):
            try:
                async with (
                    open_helper_transport(flaky, compress=False) as transport,
                    anyio.create_task_group() as tasks,
                ):
                    for _ in range(5):
                        tasks.start_soon(call, transport)
            except ConnectError:
                continue
        assert len(ended) == 5
        assert inner.returncode is not None


async def test_a_bug_in_the_block_leaves_as_it_is(tmp_path):
    with pytest.raises(ZeroDivisionError):
        async with helper_transport(tmp_path):
            _ = 1 / 0


async def test_leaving_ends_the_helper(tmp_path):
    channel = await start_helper(tmp_path)
    async with open_helper_transport(channel, compress=False) as transport:
        await transport.stat(b"")
    assert channel.returncode == 0


async def test_a_batch_under_way_is_finished_when_the_block_is_left(tmp_path):
    """A cancelled block still ends in order, and what was shielded in it is finished."""
    from sealos_devbox.batch import ABSENT, Batch

    batch = Batch()
    batch.mkdir(1, b"dir", ABSENT, 0o755)
    with anyio.CancelScope() as scope:
        async with helper_transport(tmp_path) as transport:
            scope.cancel()
            with anyio.CancelScope(shield=True):
                await transport.apply(batch)
    assert (tmp_path / "dir").is_dir()


async def test_heartbeats_keep_a_quiet_connection(tmp_path):
    channel = await start_helper(tmp_path)
    async with open_helper_transport(channel, compress=False, heartbeat=0.05) as transport:
        sent, received = transport.bytes_sent, transport.bytes_received
        while transport.bytes_sent < sent + 50 or transport.bytes_received < received + 50:
            await anyio.lowlevel.checkpoint()
        await transport.stat(b"")
        assert transport.round_trips == 1


async def test_a_helper_that_is_stopped_is_given_up(tmp_path):
    channel = await start_helper(tmp_path)
    async with open_helper_transport(channel, compress=False, heartbeat=0.05) as transport:
        os.kill(channel.pid, signal.SIGSTOP)
        try:
            with anyio.fail_after(20), pytest.raises(TransportError, match="nothing heard"):
                await transport.stat(b"")
        finally:
            os.kill(channel.pid, signal.SIGCONT)
