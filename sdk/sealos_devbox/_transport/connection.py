"""Moves the bytes between a channel and a session.

The tasks of one connection, and how its end reaches those who wait.

Three tasks: the reader gives what arrives to the session, the writer is the only one that sends,
the heartbeat asks the session when it is time. They run shielded: a caller that is cancelled may
have to finish something over this connection, and it is closed by leaving its block, by nothing
else. The first failure ends all three; every exchange under way and every later one then raises it.
No await between looking at an exchange and waiting for it.
"""

from __future__ import annotations

import errno
import logging
from typing import Final

import anyio

from sealos_devbox._protocol.exchange import Exchange
from sealos_devbox._protocol.session import ClientSession, RequestTooLargeError
from sealos_devbox._transport.base import ByteChannel
from sealos_devbox._version import __version__
from sealos_devbox.errors import (
    ConnectError,
    DevboxError,
    ProtocolError,
    TransportError,
    file_error,
)
from sealos_devbox.types import PeerInfo

__all__ = ["HelperConnection"]

_log = logging.getLogger(__name__)

CLOSE_WAIT: Final = 15.0
"""For the channel to close; the subprocess channel takes ten at most."""
REASON_WAIT: Final = 1.0
"""For the reader to learn why sending failed: the end of the other direction tells more."""
NOISE_SHOWN: Final = 500


class HelperConnection:
    """One connection to a helper. Used by the transport and its streams."""

    def __init__(self, channel: ByteChannel, *, compress: bool, heartbeat: float) -> None:
        self.channel = channel
        self.session = ClientSession(
            client=f"sealos-devbox {__version__}",
            compress=compress,
            heartbeat=heartbeat,
            now=anyio.current_time(),
        )
        self.bytes_sent = 0
        self.bytes_received = 0
        self._greeted = anyio.Event()
        self._idle: anyio.Event | None = None
        self._scope = anyio.CancelScope(shield=True)
        self._stopped = anyio.Event()
        self._closing: anyio.Event | None = None

    @property
    def peer(self) -> PeerInfo:
        """What the helper said of itself."""
        peer = self.session.peer
        if peer is None:
            raise RuntimeError("the helper has not answered yet")
        return peer

    def open(
        self,
        op: str,
        *args: object,
        collect: bool = True,
        expected: int | None = None,
        bulk: bool = False,
        endless: bool = False,
        ordered: bool = False,
        cancellable: bool = True,
    ) -> Exchange:
        """Queue a request as ClientSession.open() does.

        Raises BoxFileError (E2BIG) when it does not fit into a frame.
        """
        try:
            return self.session.open(
                op,
                *args,
                now=anyio.current_time(),
                collect=collect,
                expected=expected,
                bulk=bulk,
                endless=endless,
                ordered=ordered,
                cancellable=cancellable,
            )
        except RequestTooLargeError as error:
            raise file_error(errno.E2BIG, None) from error

    def kick(self) -> None:
        """Wake the writer if there is something to send.

        Due after everything that is asked of the session.
        """
        if self._idle is not None and self.session.wants_write:
            self._idle.set()
            self._idle = None

    def cancel(self, exchange: Exchange) -> None:
        """Give up an exchange; nothing when it has ended."""
        self.session.cancel(exchange)
        self.kick()

    async def wait_changed(self, exchange: Exchange) -> None:
        """Wait until something has happened to a streamed exchange. Not for two tasks at once."""
        changed = anyio.Event()
        exchange.on_change = changed.set
        self.kick()
        try:
            await changed.wait()
        finally:
            exchange.on_change = None

    async def wait_done(self, exchange: Exchange) -> None:
        """Wait until a collected exchange has ended, one way or another.

        A cancelled wait gives it up.
        """
        if not exchange.done:
            done = anyio.Event()
            exchange.on_change = done.set
            self.kick()
            try:
                await done.wait()
            finally:
                if not exchange.done:
                    self.cancel(exchange)

    async def wait_room(self, exchange: Exchange) -> None:
        """Wait until some of what was queued to be sent is gone, or the exchange has ended."""
        room = anyio.Event()
        exchange.on_room = room.set
        self.kick()
        try:
            await room.wait()
        finally:
            exchange.on_room = None

    def outcome(self, exchange: Exchange, path: bytes | None) -> bytes:
        """Return the reply of an exchange that is done; raises what else ended it."""
        if exchange.error is not None:
            error = file_error(exchange.error.errno, path)
            if exchange.error.message:
                error.add_note(f"the helper says: {exchange.error.message}")
            raise error
        if exchange.reply is None:
            raise self.broken() from self.session.failure
        return exchange.reply

    def broken(self) -> DevboxError:
        """Make the error for a call on a connection that has ended."""
        failure = self.session.failure
        text = str(failure)
        said = self.channel.diagnostics()
        if said:
            text = f"{text}; it said: {said}"
        return ProtocolError(text) if isinstance(failure, ProtocolError) else TransportError(text)

    async def serve(self) -> None:
        """Move bytes until the connection ends; raises nothing. To be started before aclose()."""
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._read)
                    tasks.start_soon(self._write)
                    tasks.start_soon(self._beat)
        finally:
            self._stopped.set()

    async def greet(self, timeout: float) -> None:
        """Wait for the helper's first words; raises ConnectError when they do not come."""
        with anyio.move_on_after(timeout):
            await self._greeted.wait()
        failure = self.session.failure
        if failure is None and self.session.peer is None:
            failure = TransportError(f"the helper did not answer within {timeout:g} s")
        if failure is None:
            return
        text = str(failure)
        noise = self.session.noise[-NOISE_SHOWN:].decode(errors="backslashreplace").strip()
        for said in (self.channel.diagnostics(), noise):
            if said:
                text = f"{text}; it said: {said}"
        raise ConnectError(text, retryable=not isinstance(failure, ProtocolError)) from failure

    async def aclose(self) -> None:
        """Close the channel and end the tasks.

        What is under way raises TransportError. Safe to call twice.
        """
        if self._closing is not None:
            with anyio.move_on_after(CLOSE_WAIT, shield=True):
                await self._closing.wait()
            return
        self._closing = anyio.Event()
        self._fail(TransportError("the connection was closed"))
        try:
            with anyio.move_on_after(CLOSE_WAIT, shield=True):
                await self._stopped.wait()
                await self.channel.aclose()
        finally:
            self._closing.set()

    def _fail(self, failure: DevboxError) -> None:
        self.session.fail(failure)
        self._greeted.set()
        self._scope.cancel()

    async def _read(self) -> None:
        session = self.session
        try:
            while True:
                data = await self.channel.receive()
                self.bytes_received += len(data)
                session.receive_data(data, anyio.current_time())
                self.kick()
                if session.peer is not None:
                    self._greeted.set()
        except anyio.EndOfStream:
            self._fail(TransportError("the helper ended the connection"))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
            failure = TransportError("the connection to the helper broke")
            failure.__cause__ = error
            self._fail(failure)
        except DevboxError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - a bug of ours must not leave callers waiting
            self._fail_by_bug(error)

    async def _write(self) -> None:
        session = self.session
        try:
            while True:
                data = session.next_write(anyio.current_time())
                if data:
                    await self.channel.send(data)
                    self.bytes_sent += len(data)
                else:
                    self._idle = idle = anyio.Event()
                    await idle.wait()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
            await anyio.sleep(REASON_WAIT)
            failure = TransportError("nothing can be sent to the helper")
            failure.__cause__ = error
            self._fail(failure)
        except Exception as error:  # noqa: BLE001 - as above
            self._fail_by_bug(error)

    async def _beat(self) -> None:
        try:
            while True:
                await anyio.sleep_until(self.session.next_tick())
                self.session.tick(anyio.current_time())
                self.kick()
        except DevboxError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - as above
            self._fail_by_bug(error)

    def _fail_by_bug(self, error: Exception) -> None:
        _log.error("connection to the helper: %r", error, exc_info=error)
        failure = ProtocolError(f"internal error: {error!r}")
        failure.__cause__ = error
        self._fail(failure)
