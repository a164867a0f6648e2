from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from sealos_devbox._transport.base import ByteChannel
from sealos_devbox._transport.delayed import open_delayed_channel
from sealos_devbox._transport.subprocess import SubprocessChannel
from sealos_devbox.errors import ConnectError
from tests.contract.channel_contract import ChannelContract
from tests.fakes.flaky_channel import FlakyChannel
from tests.fakes.memory_channel import channel_pair


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def start(script: str, **options: float) -> SubprocessChannel:
    return await SubprocessChannel.open([sys.executable, "-c", script], **options)  # type: ignore[arg-type]


class TestSubprocess(ChannelContract):
    @asynccontextmanager
    async def open_echo(self) -> AsyncIterator[ByteChannel]:
        channel = await SubprocessChannel.open(["cat"])
        try:
            yield channel
        finally:
            await channel.aclose()
            assert not is_running(channel.pid)


class TestDelayed(ChannelContract):
    @asynccontextmanager
    async def open_echo(self) -> AsyncIterator[ByteChannel]:
        inner = await SubprocessChannel.open(["cat"])
        async with open_delayed_channel(inner, 0.002) as channel:
            yield channel
        assert not is_running(inner.pid)


class TestMemory(ChannelContract):
    @asynccontextmanager
    async def open_echo(self) -> AsyncIterator[ByteChannel]:
        async def echo() -> None:
            try:
                while True:
                    await other.send(await other.receive())
            except anyio.EndOfStream:
                await other.send_eof()
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass

        ours, other = channel_pair(capacity=100_000)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(echo)
            yield ours
            with anyio.CancelScope(shield=True):
                await ours.aclose()


class TestFlaky(TestMemory):
    @asynccontextmanager
    async def open_echo(self) -> AsyncIterator[ByteChannel]:
        async with super().open_echo() as inner:
            yield FlakyChannel(inner, seed=3)


@pytest.mark.parametrize("truncate", [False, True])
async def test_a_flaky_channel_cuts_where_it_is_told(truncate):
    async with TestMemory().open_echo() as inner:
        channel = FlakyChannel(inner, 5, cut_received=3, cut_sent=7, truncate=truncate)
        await channel.send(b"seven..")
        with pytest.raises(anyio.BrokenResourceError):
            await channel.send(b"x")
        received = b""
        while len(received) < 3:
            received += await channel.receive()
        assert received == b"sev"
        with pytest.raises(anyio.EndOfStream if truncate else anyio.BrokenResourceError):
            await channel.receive()


async def test_a_program_that_does_not_exist():
    with pytest.raises(ConnectError, match="no-such-program"):
        await SubprocessChannel.open(["no-such-program"])


async def test_no_descriptor_is_left_behind():
    before = len(os.listdir("/proc/self/fd"))
    for argv in (["cat"], ["no-such-program"]):
        try:
            channel = await SubprocessChannel.open(argv)
        except ConnectError:
            continue
        await channel.aclose()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_the_end_of_a_program_says_why():
    channel = await start("import sys; sys.stderr.write('no such luck\\n'); sys.exit(7)")
    with pytest.raises(anyio.EndOfStream):
        await channel.receive()
    assert channel.diagnostics() == "no such luck\n(exit status 7)"
    assert channel.returncode == 7
    await channel.aclose()


async def test_a_killed_program():
    channel = await SubprocessChannel.open(["cat"])
    os.kill(channel.pid, signal.SIGKILL)
    with pytest.raises(anyio.EndOfStream):
        await channel.receive()
    assert channel.diagnostics() == "killed by signal 9"
    with pytest.raises(anyio.BrokenResourceError):
        await channel.send(b"x")
    await channel.aclose()


async def test_a_program_that_complains_at_length_is_not_stopped():
    """More than a pipe holds, all of it on standard error; only the end is kept."""
    script = "import sys; sys.stderr.write('x' * 3_000_000 + 'the end')"
    channel = await start(script)
    with pytest.raises(anyio.EndOfStream):
        await channel.receive()
    said = channel.diagnostics()
    assert said.startswith("xxx")
    assert said.endswith("the end\n(exit status 0)")
    assert len(said) < 10_000
    await channel.aclose()


async def test_a_program_that_does_not_end_is_killed():
    channel = await start("import time; print('up', flush=True); time.sleep(1000)", grace=0.05)
    await channel.receive()
    with anyio.fail_after(10):
        await channel.aclose()
    assert channel.returncode == -signal.SIGKILL
    assert not is_running(channel.pid)


async def test_a_program_may_finish_what_it_does_when_its_input_ends(tmp_path):
    done = tmp_path / "done"
    channel = await start(
        "import sys, pathlib; print('up', flush=True); sys.stdin.read();"
        f"print('x' * 100_000, flush=True); pathlib.Path({str(done)!r}).touch()"
    )
    await channel.receive()
    await channel.aclose()
    assert channel.returncode == 0
    assert done.exists()


async def test_ctrl_c_in_the_terminal_is_not_for_the_program():
    channel = await SubprocessChannel.open(["cat"])
    assert os.getsid(channel.pid) == channel.pid
    await channel.aclose()


async def test_a_full_pipe_holds_up_the_sender_and_cancelling_frees_it():
    channel = await start("import time; print('up', flush=True); time.sleep(1000)", grace=0.0)
    await channel.receive()
    with anyio.move_on_after(0.05) as scope:
        while True:
            await channel.send(bytes(1 << 20))
    assert scope.cancelled_caught
    await channel.aclose()


async def test_nothing_is_lost_on_a_slow_link():
    """Bandwidth: 64 KiB at 1 MB/s take at least 60 ms more than one delay."""
    ours, other = channel_pair()
    async with open_delayed_channel(ours, 0.001, bandwidth=1e6) as channel:
        start_time = anyio.current_time()
        for number in range(64):
            await channel.send(bytes([number]) * 1024)
        received = b""
        while len(received) < 65536:
            received += await other.receive()
        assert anyio.current_time() - start_time > 0.06
        assert received == b"".join(bytes([number]) * 1024 for number in range(64))
        await other.aclose()
