"""An exec stream that is cancelled while it is opened, used or closed leaves no connection."""

from __future__ import annotations

import os

import anyio
import pytest

from sealos_devbox._transport.kube.exec_channel import open_exec_channel
from tests.cancellation.test_channels import STEPS, cancel_after, children
from tests.contract.test_exec_channel import TARGET, access_to
from tests.fakes.exec_server import exec_server


@pytest.mark.parametrize("steps", [*STEPS, 70, 100, 150])
async def test_opening_and_closing(steps):
    descriptors, processes = len(os.listdir("/proc/self/fd")), children()

    async def run() -> None:
        async with open_exec_channel(access, TARGET, ["cat"]) as channel:
            await channel.send(b"x")
            await channel.receive()

    async with exec_server() as server:
        async with access_to(server) as access:
            await cancel_after(steps, run)
        with anyio.fail_after(20):
            while children() != processes:
                await anyio.sleep(0.01)
    assert len(os.listdir("/proc/self/fd")) == descriptors
