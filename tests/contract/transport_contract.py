"""What every FileTransport keeps: reading, changing, watching and running in a real directory.

A test class inherits and says how to open a transport to a directory. What a transport cannot do it
does not claim: those tests are skipped by its capabilities.
"""

from __future__ import annotations

import anyio
import pytest

from sealos_devbox.errors import (
    BoxFileNotFoundError,
    TransportError,
)
from tests.contract.transport_changing import ChangingContract
from tests.contract.transport_commands import CommandContract
from tests.contract.transport_reading import ReadingContract
from tests.contract.transport_watching import WatchingContract


class TransportContract(ReadingContract, ChangingContract, WatchingContract, CommandContract):
    """All of it."""

    async def test_many_calls_at_once(self, transport, root):
        for number in range(100):
            (root / f"f{number}").write_bytes(b"%d" % number)
        answers = []

        async def call(number: int) -> None:
            if number % 10 == 9:
                with pytest.raises(BoxFileNotFoundError):
                    await transport.stat(b"absent")
            else:
                _, content = await transport.read(b"f%d" % (number % 100))
                answers.append(int(content) == number % 100)

        async with anyio.create_task_group() as tasks:
            for number in range(self.at_once):
                tasks.start_soon(call, number)
        assert answers == [True] * (self.at_once * 9 // 10)

    async def test_round_trips_and_bytes_are_counted(self, transport, root):
        before = transport.round_trips, transport.bytes_sent, transport.bytes_received
        await transport.stat(b"")
        assert transport.round_trips == before[0] + 1
        assert 0 < transport.bytes_sent - before[1] < self.call_bytes
        assert 0 < transport.bytes_received - before[2] < 500

    async def test_closed_is_closed(self, root):
        async with self.open_transport(root) as transport:
            await transport.aclose()
            await transport.aclose()
            with pytest.raises(TransportError, match="closed"):
                await transport.stat(b"")
            with pytest.raises(TransportError, match="closed"):
                async with transport.snapshot(b"") as stream:
                    await stream.receive()
