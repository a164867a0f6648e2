"""A WebSocket over a connection that has been upgraded: one writer, no reader of its own.

`websockets` makes and parses the frames, its part without IO. Only the writer task writes, and only
the end of the connection ends it: a write that is cut in the middle would leave half a frame, after
which nothing more can be said. Who sends hands whole messages to its queue, so a caller that is
cancelled leaves a message out or sends it whole.

Pings are sent only when nothing else was: for proxies that cut what is idle. Their answer is not
waited for: the server does not read them while the program in the box does not read its input,
and a ping after that program's end can cost the end of its output.
"""

from __future__ import annotations

import contextlib
import ssl
from collections import deque
from typing import Final

import anyio
import anyio.lowlevel
import httpcore
from websockets.frames import Opcode
from websockets.protocol import Protocol, Side, State

from sealos_devbox.errors import ProtocolError

__all__ = ["Fragment", "WebSocket"]

READ_SIZE: Final = 256 * 1024
RECORD_SIZE: Final = 32 * 1024
"""No TLS record holds more; asking for it allocates so much."""
QUEUE_SIZE: Final = 256 * 1024
"""What waits for the writer: enough that it never waits for its callers, little enough that a small
message is not held up by it."""
MESSAGE_SIZE: Final = 4 * 1024 * 1024
"""The longest message taken; servers send 32 KiB."""
PING_INTERVAL: Final = 15.0
"""The shortest limit for an idle connection that is met with in front of clusters is 20 s."""

Fragment = tuple[bytes, bool, bool]
"""The data of a frame, and whether it begins and ends a message."""


class WebSocket:
    """Messages over an upgraded connection."""

    def __init__(
        self, stream: httpcore.AsyncNetworkStream, *, ping_interval: float = PING_INTERVAL
    ) -> None:
        self._stream = stream
        self._tls: ssl.SSLObject | None = stream.get_extra_info("ssl_object")
        self._protocol = Protocol(Side.CLIENT, max_size=MESSAGE_SIZE)
        self._ping_interval = ping_interval
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._work = anyio.Event()
        self._room = anyio.Event()
        self._failure: Exception | None = None
        self._in_message = False
        self._receiving = anyio.CancelScope()
        self._reading = False
        self._idle = anyio.Event()
        self._writing = anyio.CancelScope(shield=True)
        self._closed = False
        self.ended = False
        """Whether the peer has ended the connection."""

    @property
    def closing_words(self) -> str:
        """How the peer ended the connection, for people to read; empty when it said nothing."""
        close = self._protocol.close_rcvd
        if close is None or close.code == 1000:
            return close.reason if close is not None else ""
        return f"{close.code} {close.reason}".strip()

    async def send(self, message: bytes) -> None:
        """Queue a message, after waiting for room. All of it is sent, or nothing."""
        self._check()
        await anyio.lowlevel.checkpoint()
        while self._queued >= QUEUE_SIZE and not self._closed and self._failure is None:
            self._room = anyio.Event()
            await self._room.wait()
        self.send_nowait(message)

    def send_nowait(self, message: bytes) -> None:
        """Queue a message, whether there is room or not."""
        self._check()
        # One frame, never fragments: see sealos_devbox._protocol.exec_stream.
        self._protocol.send_binary(message)
        self._flush()

    async def receive(self) -> list[Fragment]:
        """Return the data frames that have arrived, at least one.

        Raises EndOfStream once the peer has ended the connection, by a close frame or without.
        Cancelled, it has lost nothing.
        """
        while True:
            if self._closed:
                raise anyio.ClosedResourceError
            if self.ended:
                raise anyio.EndOfStream
            data = None
            self._reading = True
            try:
                with anyio.CancelScope() as self._receiving:
                    data = await self._read()
            finally:
                self._reading = False
                self._idle.set()
            if data is None:
                raise anyio.ClosedResourceError
            fragments = self._parse(data)
            if fragments:
                return fragments

    async def write(self) -> None:
        """Write what is queued until stop(); to be run by one task."""
        with self._writing:
            try:
                while True:
                    if not self._queue:
                        await self._wait_for_work()
                        continue
                    data = self._queue[0] if len(self._queue) == 1 else b"".join(self._queue)
                    self._queue.clear()
                    await self._stream.write(data)
                    self._queued -= len(data)
                    self._room.set()
            except (httpcore.NetworkError, httpcore.TimeoutException, OSError) as error:
                self._failure = error
                self._room.set()

    def stop(self) -> None:
        """Let write() end."""
        self._writing.cancel()
        self._room.set()

    async def aclose(self, last_message: bytes | None, grace: float) -> None:
        """Say goodbye, wait a while for the peer to end the connection, and close it.

        last_message: ends the peer's work, which then ends the connection; without one a close
        frame does. To be called once, shielded.
        """
        self._closed = True
        self._receiving.cancel()
        self._room.set()
        while self._reading:
            self._idle = anyio.Event()
            await self._idle.wait()
        if self._failure is None and not self.ended:
            with anyio.move_on_after(grace), contextlib.suppress(anyio.BrokenResourceError):
                if self._protocol.state is State.OPEN:
                    if last_message is not None:
                        self._protocol.send_binary(last_message)
                    else:
                        self._protocol.send_close(1000)
                    self._flush()
                while not self.ended:
                    self._parse(await self._read())
            # What the peer's close frame was answered with, or our own.
            with anyio.move_on_after(grace / 4):
                if self._protocol.state is State.OPEN:
                    self._protocol.send_close(1000)
                    self._flush()
                while self._queued and self._failure is None:
                    self._room = anyio.Event()
                    await self._room.wait()
        self.stop()
        with contextlib.suppress(httpcore.NetworkError, OSError):
            await self._stream.aclose()

    def _check(self) -> None:
        if self._closed:
            raise anyio.ClosedResourceError
        if self._failure is not None:
            raise anyio.BrokenResourceError from self._failure
        if self.ended or self._protocol.state is not State.OPEN:
            raise anyio.BrokenResourceError

    async def _read(self) -> bytes:
        try:
            return self._with_decrypted(await self._stream.read(READ_SIZE))
        except (httpcore.NetworkError, httpcore.TimeoutException, OSError) as error:
            self.ended = True
            raise anyio.BrokenResourceError(str(error)) from error

    def _with_decrypted(self, data: bytes) -> bytes:
        """Return the data and what can be decrypted of what came with it, up to READ_SIZE.

        A read through the layers brings one TLS record, 16 KiB at most, and costs more than to
        decrypt it. What ends the connection is left for the next read to tell.
        """
        if self._tls is None or not data:
            return data
        pieces = [data]
        size = len(data)
        with contextlib.suppress(ssl.SSLError):
            while size < READ_SIZE and (piece := self._tls.read(RECORD_SIZE)):
                pieces.append(piece)
                size += len(piece)
        return data if len(pieces) == 1 else b"".join(pieces)

    def _parse(self, data: bytes) -> list[Fragment]:
        """Take what has arrived; returns its data frames."""
        protocol = self._protocol
        if not data:
            self.ended = True
            protocol.receive_eof()
            return []
        protocol.receive_data(data)
        self._flush()
        fragments: list[Fragment] = []
        for frame in protocol.events_received():
            opcode = getattr(frame, "opcode", None)
            if opcode in (Opcode.BINARY, Opcode.TEXT, Opcode.CONT):
                fin = bool(getattr(frame, "fin", True))
                start = opcode is not Opcode.CONT
                fragments.append((bytes(getattr(frame, "data", b"")), start, fin))
            elif opcode is Opcode.CLOSE:
                self.ended = True
        if protocol.parser_exc is not None and not self.ended:
            self.ended = True
            raise ProtocolError(f"the server broke the WebSocket protocol: {protocol.parser_exc}")
        return fragments

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._queue.append(data)
                self._queued += len(data)
        if self._queue:
            self._work.set()

    async def _wait_for_work(self) -> None:
        self._work = anyio.Event()
        with anyio.move_on_after(self._ping_interval) as waited:
            await self._work.wait()
        if waited.cancelled_caught and self._protocol.state is State.OPEN:
            self._protocol.send_ping(b"")
            self._flush()
