"""Answers that are taken while the request is running: records, and a command's output."""

from __future__ import annotations

import builtins
import errno
from collections.abc import Callable
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

import anyio
import anyio.lowlevel
from msgspec.msgpack import Decoder

from sealos_devbox._protocol import messages
from sealos_devbox._protocol.exchange import Exchange
from sealos_devbox._transport.connection import HelperConnection
from sealos_devbox.errors import file_error

__all__ = ["Command", "Records"]

TAKEN: Final = 131072
"""Bytes decoded at once: about a millisecond of the event loop."""
ROOM: Final = 256 * 1024
"""Bytes of input that wait to be sent before send() waits."""

WireT = TypeVar("WireT")
RecordT = TypeVar("RecordT")


class Records(Generic[WireT, RecordT]):
    """A RecordStream over one request, or over several that are asked at once."""

    def __init__(
        self,
        connection: HelperConnection,
        path: bytes | None,
        decoder: Decoder[list[WireT]],
        start: Callable[[], list[Exchange]],
        adapt: Callable[[int, list[WireT]], list[RecordT]],
    ) -> None:
        self._connection = connection
        self._path = path
        self._decoder = decoder
        self._start = start
        self._adapt = adapt
        self._exchanges: list[Exchange] | None = None
        self._current = 0

    async def receive(self) -> builtins.list[RecordT] | None:
        """Return the next records, None when the request has ended.

        Raises what ended it otherwise.
        """
        if self._exchanges is None:
            raise RuntimeError("the stream is used in its `async with` block")
        await anyio.lowlevel.checkpoint()
        connection = self._connection
        while self._current < len(self._exchanges):
            exchange = self._exchanges[self._current]
            taken = connection.session.take(exchange, TAKEN, anyio.current_time())
            if taken:
                connection.kick()
                records: list[WireT] = []
                for _, payload in taken:
                    more: list[WireT] = messages.decode(self._decoder, payload)
                    records += more
                return self._adapt(self._current, records)
            if exchange.done:
                connection.outcome(exchange, self._path)
                self._current += 1
            else:
                await connection.wait_changed(exchange)
        return None

    async def __aenter__(self) -> Self:
        """Start."""
        self._exchanges = self._start()
        self._connection.kick()
        await anyio.lowlevel.cancel_shielded_checkpoint()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Cancel the request if it is still running."""
        for exchange in self._exchanges or ():
            self._connection.cancel(exchange)
        self._exchanges = None


class Command:
    """A CommandStream: one running command (sdk/PROTOCOL.md section 8)."""

    def __init__(
        self, connection: HelperConnection, program: bytes, args: tuple[object, ...]
    ) -> None:
        self._connection = connection
        self._program = program
        self._args = args
        self._exchange: Exchange | None = None
        self._status: tuple[int | None, int | None] | None = None

    @property
    def status(self) -> tuple[int | None, int | None]:
        """(exit code, signal) after receive() returned None; one of them is None."""
        if self._status is None:
            raise RuntimeError("the command has not ended yet")
        return self._status

    async def receive(self) -> tuple[int, bytes] | None:
        """Return (1, stdout bytes) or (2, stderr bytes), None when the command has ended."""
        exchange = self._running()
        await anyio.lowlevel.checkpoint()
        connection = self._connection
        while True:
            taken = connection.session.take(exchange, 0, anyio.current_time())
            if taken:
                connection.kick()
                substream, payload = taken[0]
                return substream + 1, bytes(payload)
            if exchange.done:
                reply = connection.outcome(exchange, self._program)
                ending = messages.decode(messages.EXIT_REPLY, reply).result
                self._status = (ending.exit_code, ending.signal)
                return None
            await connection.wait_changed(exchange)

    async def send(self, data: bytes) -> None:
        """Write to the command's stdin; raises BoxFileError (EPIPE) when it has ended."""
        exchange = self._running()
        await anyio.lowlevel.checkpoint()
        while exchange.out_bytes >= ROOM and not exchange.done:
            await self._connection.wait_room(exchange)
        if exchange.done:
            if exchange.failure is not None:
                raise self._connection.broken() from exchange.failure
            raise file_error(errno.EPIPE, self._program)
        self._connection.session.send_data(exchange, data)
        self._connection.kick()

    async def send_eof(self) -> None:
        """Close the command's stdin."""
        exchange = self._running()
        await anyio.lowlevel.checkpoint()
        self._connection.session.send_end(exchange)
        self._connection.kick()

    async def signal(self, number: int) -> None:
        """Send a signal to the command's process group."""
        await self._control("signal", number)

    async def resize(self, rows: int, columns: int) -> None:
        """Tell a pty its size."""
        await self._control("resize", rows, columns)

    async def _control(self, *args: object) -> None:
        exchange = self._running()
        await anyio.lowlevel.checkpoint()
        self._connection.session.control(exchange, *args)
        self._connection.kick()

    def _running(self) -> Exchange:
        if self._exchange is None:
            raise RuntimeError("the command is used in its `async with` block")
        return self._exchange

    async def __aenter__(self) -> Self:
        """Start."""
        self._exchange = self._connection.open("exec", *self._args, collect=False, endless=True)
        self._connection.kick()
        await anyio.lowlevel.cancel_shielded_checkpoint()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Kill the command if it is still running."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            self._connection.cancel(exchange)
