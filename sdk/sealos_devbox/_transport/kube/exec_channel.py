"""pods/exec as a byte channel: the standard streams of a process in a box.

What the process writes to its standard error is kept for diagnostics(). There is no task that
reads: who receives reads, so nothing piles up here. receive() is for one task at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import anyio

from sealos_devbox._protocol.exec_stream import OFFERED, Channel, ExecStatus, ExecStream
from sealos_devbox._transport.kube.access import KubernetesAccess, resource_path
from sealos_devbox._transport.kube.websocket import PING_INTERVAL, WebSocket
from sealos_devbox.errors import AccessDeniedError, DevboxError

__all__ = ["ExecChannel", "ExecTarget", "missing_exec_rights", "open_exec_channel"]

GRACE: Final = 3.0
"""For the process to end once its input has."""
CLOSE_WAIT: Final = 10.0
END_WAIT: Final = 2.0
"""For the server to close the connection once it has said how the process ended."""
STDERR_KEPT: Final = 8192
EXEC_VERBS: Final = ("get", "create")
"""An upgrade is a GET; servers from 1.35 on check `create` besides."""


@dataclass(frozen=True, slots=True)
class ExecTarget:
    """A container."""

    namespace: str
    pod: str
    container: str


class ExecChannel:
    """A ByteChannel to a process in a container. Made by open_exec_channel()."""

    def __init__(self, socket: WebSocket, stream: ExecStream, grace: float) -> None:
        self._socket = socket
        self._stream = stream
        self._grace = grace
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._eof_sent = False
        self._closing: anyio.Event | None = None

    @property
    def can_half_close(self) -> bool:
        """Whether send_eof() reaches the process: in version 5 of the protocol only."""
        return self._stream.can_half_close

    @property
    def subprotocol(self) -> str:
        """The version that the server chose."""
        return self._stream.subprotocol

    @property
    def status(self) -> ExecStatus | None:
        """How the process ended; known when receive() raises EndOfStream."""
        return self._stream.status

    async def send(self, data: bytes) -> None:
        """Send all of data; a cancelled send has sent a part that ends between messages."""
        for message in self._stream.stdin(data):
            await self._socket.send(message)
        if not data:
            await anyio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        """End the process's input, where the server can do that; else nothing."""
        if self._stream.can_half_close and not self._eof_sent:
            self._eof_sent = True
            await self._socket.send(self._stream.close_stdin())

    async def receive(self) -> bytes:
        """Return some of the process's standard output."""
        while True:
            output = await self.receive_output()
            data = [piece for channel, piece in output if channel is Channel.STDOUT]
            if data:
                return data[0] if len(data) == 1 else b"".join(data)

    async def receive_output(self) -> list[tuple[Channel, bytes]]:
        """Return what has arrived of both outputs, in order; at least one piece.

        Raises EndOfStream when the process has ended and the server has said how, and
        BrokenResourceError when the connection ended without that.
        """
        while True:
            fragments = None
            wait = END_WAIT if self._stream.status is not None else None
            try:
                with anyio.move_on_after(wait):
                    fragments = await self._socket.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError) as error:
                if self._stream.status is None:
                    raise anyio.BrokenResourceError from error
                raise anyio.EndOfStream from error
            if fragments is None:
                raise anyio.EndOfStream
            output = []
            for data, start, end in fragments:
                piece = self._stream.receive(data, start=start, end=end)
                if piece is not None:
                    output.append(piece)
                    if piece[0] is Channel.STDERR:
                        self._keep(piece[1])
            if output:
                return output

    async def aclose(self) -> None:
        """End the process's input and the connection. Safe to call twice."""
        with anyio.move_on_after(CLOSE_WAIT, shield=True):
            if self._closing is not None:
                await self._closing.wait()
                return
            self._closing = anyio.Event()
            last = None
            if self._stream.can_half_close and not self._eof_sent:
                last = self._stream.close_stdin()
            try:
                await self._socket.aclose(last, self._grace)
            finally:
                self._closing.set()

    def diagnostics(self) -> str:
        """Return the end of the process's standard error, and how it ended."""
        said = [b"".join(self._tail)[-STDERR_KEPT:].decode(errors="backslashreplace").strip()]
        status = self._stream.status
        if status is None:
            said.append(self._socket.closing_words)
        elif status.exit_code is not None:
            said.append(f"(exit status {status.exit_code})")
        else:
            said.append(f"({status.message})")
        return "\n".join(filter(None, said))

    def _keep(self, data: bytes) -> None:
        self._tail.append(data)
        self._tail_size += len(data)
        while self._tail_size - len(self._tail[0]) >= STDERR_KEPT:
            self._tail_size -= len(self._tail.popleft())


@asynccontextmanager
async def open_exec_channel(
    access: KubernetesAccess,
    target: ExecTarget,
    argv: Sequence[str],
    *,
    offered: Sequence[str] = OFFERED,
    grace: float = GRACE,
    ping_interval: float = PING_INTERVAL,
) -> AsyncIterator[ExecChannel]:
    """Start a program in a container; yields the channel to it, which the end of the block closes.

    argv: without a shell. It travels in the address, so it is to be short; what is long goes
    through the channel. grace: seconds that the program has to end by itself once its input has.
    Raises AccessDeniedError naming the rights that are missing, ConnectError when the server cannot
    be reached or a proxy before it passes no WebSockets on, other ServiceErrors for its refusals.
    """
    path = resource_path("pods", target.namespace, target.pod, "exec")
    params = [("command", argument) for argument in argv]
    params += [("container", target.container), ("stdin", "true"), ("stdout", "true")]
    params += [("stderr", "true"), ("tty", "false")]
    connecting = access.upgrade(path, params, offered)
    try:
        upgraded = await connecting.__aenter__()
    except AccessDeniedError as error:
        raise await _with_rights(access, target.namespace, error) from error
    try:
        stream = ExecStream(upgraded.subprotocol)
        socket = WebSocket(upgraded.stream, ping_interval=ping_interval)
        channel = ExecChannel(socket, stream, grace)
        tasks = anyio.create_task_group()
        await tasks.__aenter__()
        tasks.start_soon(socket.write)
        try:
            yield channel
        finally:
            # The caller's exception leaves as it is, not in a group.
            try:
                await channel.aclose()
            finally:
                socket.stop()
                await tasks.__aexit__(None, None, None)
    finally:
        await connecting.__aexit__(None, None, None)


async def missing_exec_rights(access: KubernetesAccess, namespace: str) -> list[str]:
    """Return the verbs on pods/exec that the user does not have; empty when nothing is missing."""
    return [verb for verb in EXEC_VERBS if not await access.may(namespace, verb, "pods", "exec")]


async def _with_rights(
    access: KubernetesAccess, namespace: str, error: AccessDeniedError
) -> AccessDeniedError:
    try:
        missing = await missing_exec_rights(access, namespace)
    except DevboxError:
        return error
    if not missing:
        return error
    verbs = " and ".join(repr(verb) for verb in missing)
    return AccessDeniedError(
        f"The right to run programs in the workspace {namespace!r} is missing: the verb"
        f"{'s' if len(missing) > 1 else ''} {verbs} on pods/exec. The server says: {error}",
        hop="cluster",
        status=error.status,
        hint="A role has to allow both: resources: [pods/exec], verbs: [get, create].",
    )
