"""A channel that is cancelled while it is opened or closed leaves no process and no descriptor."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from sealos_devbox._transport.delayed import open_delayed_channel
from sealos_devbox._transport.helper import open_helper_transport
from sealos_devbox._transport.subprocess import SubprocessChannel
from tests.fakes.helper import helper_binary
from tests.fakes.memory_channel import channel_pair

STEPS = (*range(12), 15, 20, 30, 50)


def children() -> set[str]:
    found: set[str] = set()
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError):
            found.update(Path(f"/proc/self/task/{thread}/children").read_text().split())
    return found


async def cancel_after(steps: int, run) -> bool:
    """Run in a scope that is cancelled after so many turns of the event loop.

    Returns whether it was done.
    """
    done = False

    async def work() -> None:
        nonlocal done
        await run()
        done = True

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    return done


@pytest.mark.parametrize("steps", STEPS)
async def test_opening_and_closing_a_process(steps):
    descriptors = len(os.listdir("/proc/self/fd"))
    processes = children()

    async def run() -> None:
        channel = await SubprocessChannel.open(["cat"])
        try:
            await channel.send(b"x")
            await channel.receive()
        finally:
            await channel.aclose()

    await cancel_after(steps, run)
    assert children() == processes
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.parametrize("steps", STEPS)
async def test_connecting_to_a_helper(tmp_path, steps):
    descriptors = len(os.listdir("/proc/self/fd"))
    processes = children()

    async def run() -> None:
        inner = await SubprocessChannel.open([helper_binary(), "serve", "--root", tmp_path])
        try:
            async with (
                open_delayed_channel(inner, 0.0) as channel,
                open_helper_transport(channel, compress=False) as transport,
            ):
                await transport.stat(b"")
        finally:
            await inner.aclose()

    await cancel_after(steps, run)
    assert children() == processes
    assert len(os.listdir("/proc/self/fd")) == descriptors


async def test_waiting_for_a_helper_that_says_nothing():
    async def connect() -> None:
        async with open_helper_transport(ours, compress=False):
            pytest.fail("connected")

    ours, theirs = channel_pair()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connect)
        assert b"heartbeat_ms" in await theirs.receive()
        tasks.cancel_scope.cancel()
    with pytest.raises(anyio.EndOfStream):
        await theirs.receive()
