"""What every ByteChannel keeps. A test class inherits and says how to reach an echo.

What the echo sends back is what it was sent; it ends when its input does.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import anyio
import pytest

from sealos_devbox._transport.base import ByteChannel


class ChannelContract:
    def open_echo(self) -> AbstractAsyncContextManager[ByteChannel]:
        """A channel to an echo, closed when the block is left."""
        raise NotImplementedError

    async def receive_exactly(self, channel: ByteChannel, size: int) -> bytes:
        received = bytearray()
        while len(received) < size:
            data = await channel.receive()
            assert data, "receive() returns at least one byte"
            received += data
        assert len(received) == size
        return bytes(received)

    async def test_what_is_sent_comes_back(self):
        async with self.open_echo() as channel:
            for message in (b"x", b"hello\n", bytes(range(256))):
                await channel.send(message)
                assert await self.receive_exactly(channel, len(message)) == message

    async def test_nothing_is_sent_at_no_cost(self):
        async with self.open_echo() as channel:
            await channel.send(b"")
            await channel.send(b"x")
            assert await channel.receive() == b"x"

    async def test_much_in_both_directions_at_once(self):
        piece = bytes(range(256)) * 256
        count = 64

        async def send_all() -> None:
            for number in range(count):
                await channel.send(number.to_bytes(4, "big") + piece)

        async with self.open_echo() as channel, anyio.create_task_group() as tasks:
            tasks.start_soon(send_all)
            received = await self.receive_exactly(channel, count * (4 + len(piece)))
        expected = b"".join(number.to_bytes(4, "big") + piece for number in range(count))
        assert received == expected

    async def test_the_end_reaches_the_far_end_and_comes_back(self):
        async with self.open_echo() as channel:
            if not channel.can_half_close:
                pytest.skip("this channel has no half-close")
            await channel.send(b"last words")
            await channel.send_eof()
            assert await self.receive_exactly(channel, 10) == b"last words"
            for _ in range(2):
                with pytest.raises(anyio.EndOfStream):
                    await channel.receive()

    async def test_a_cancelled_receive_loses_nothing(self):
        async with self.open_echo() as channel:
            with anyio.move_on_after(0):
                await channel.receive()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(channel.receive)
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
            await channel.send(b"still here")
            assert await self.receive_exactly(channel, 10) == b"still here"

    async def test_closing_wakes_who_waits(self):
        raised = []

        async def wait() -> None:
            try:
                await channel.receive()
            except (anyio.ClosedResourceError, anyio.EndOfStream) as error:
                raised.append(error)

        async with self.open_echo() as channel, anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            with anyio.fail_after(10):
                await channel.aclose()
        assert len(raised) == 1

    async def test_closed_is_closed(self):
        async with self.open_echo() as channel:
            await channel.aclose()
            await channel.aclose()
            with pytest.raises(anyio.ClosedResourceError):
                await channel.send(b"x")
            with pytest.raises(anyio.ClosedResourceError):
                await channel.receive()

    async def test_closing_at_once_from_two_tasks(self):
        async with self.open_echo() as channel, anyio.create_task_group() as tasks:
            tasks.start_soon(channel.aclose)
            tasks.start_soon(channel.aclose)

    async def test_closing_works_in_a_cancelled_scope(self):
        async with self.open_echo() as channel:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await channel.aclose()
            with pytest.raises(anyio.ClosedResourceError):
                await channel.send(b"x")

    async def test_diagnostics_are_text(self):
        async with self.open_echo() as channel:
            assert isinstance(channel.diagnostics(), str)
