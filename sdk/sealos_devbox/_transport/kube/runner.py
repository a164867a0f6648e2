"""Scripts and commands by plain exec: what the shell transport needs."""

from __future__ import annotations

import contextlib
import errno
import secrets
from collections import deque
from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, Self

import anyio
import anyio.lowlevel

from sealos_devbox._protocol import streamed_command
from sealos_devbox._protocol.bootstrap import COMMAND
from sealos_devbox._protocol.exec_stream import Channel
from sealos_devbox._protocol.streamed_command import EndFinder
from sealos_devbox._transport.kube.access import KubernetesAccess
from sealos_devbox._transport.kube.command import run_script
from sealos_devbox._transport.kube.exec_channel import ExecChannel, ExecTarget, open_exec_channel
from sealos_devbox._transport.shell.runner import ShellOutput
from sealos_devbox.errors import (
    DeadlineExceededError,
    ServiceError,
    TransportError,
    file_error,
)
from sealos_devbox.types import Content

__all__ = ["ExecRunner", "StreamedCommand"]

MAX_DATA: Final = 16 << 20
PIECE: Final = 64 * 1024


class ExecRunner:
    """Runs scripts in a box's container, each by an exec of its own."""

    max_data = MAX_DATA
    streams = True

    def __init__(
        self, access: KubernetesAccess, target: ExecTarget, *, workspace: str, user: str
    ) -> None:
        self._access = access
        self._target = target
        self._workspace = workspace
        self._user = user

    async def run(
        self, script: bytes, data: bytes | Content = b"", *, timeout: float = 60.0
    ) -> ShellOutput:
        """Run a script with `data` as its standard input."""
        try:
            output = await run_script(
                self._access,
                self._target,
                script.decode(errors="surrogateescape"),
                data=data,
                directory=self._workspace,
                user=self._user,
                timeout=timeout,
            )
        except (ServiceError, DeadlineExceededError) as error:
            # The way was good when it was opened: the pod has gone, the right was taken away, or
            # the server is ill. Who looks for the box again finds out which.
            raise TransportError(str(error), hop="cluster", hint=error.hint) from error
        return ShellOutput(output.exit_code, output.stdout, output.stderr)

    def command(
        self, argv: list[bytes], *, cwd: bytes | None, env: Mapping[str, str]
    ) -> StreamedCommand:
        """Return a command whose streams the caller handles."""
        directory = self._workspace.encode(errors="surrogateescape")
        if cwd:
            directory = cwd if cwd.startswith(b"/") else directory + b"/" + cwd
        return StreamedCommand(
            self._access, self._target, argv, env, directory=directory, user=self._user
        )

    async def aclose(self) -> None:
        """Nothing is held."""


class StreamedCommand:
    """A CommandStream by exec."""

    def __init__(
        self,
        access: KubernetesAccess,
        target: ExecTarget,
        argv: list[bytes],
        env: Mapping[str, str],
        *,
        directory: bytes,
        user: str,
    ) -> None:
        self._access = access
        self._target = target
        self._program = argv[0]
        self._directory = directory
        nonce = secrets.token_hex(16)
        self._nonce = nonce
        self._line = streamed_command.wrapper(
            argv, env, directory=directory, user=user, nonce=nonce
        )
        self._stack = AsyncExitStack()
        self._channel: ExecChannel | None = None
        self._sending = anyio.Lock()
        self._out = EndFinder(nonce)
        self._err = EndFinder(nonce)
        self._ready: deque[tuple[int, bytes]] = deque()
        self._pid: int | None = None
        self._error_over = False
        self._status: tuple[int | None, int | None] | None = None

    @property
    def status(self) -> tuple[int | None, int | None]:
        """(exit code, signal) after receive() returned None; one of them is None."""
        if self._status is None:
            raise RuntimeError("the command has not ended yet")
        return self._status

    async def receive(self) -> tuple[int, bytes] | None:
        """Return (1, stdout bytes) or (2, stderr bytes), None when the command has ended."""
        channel = self._running()
        await anyio.lowlevel.checkpoint()
        while True:
            if self._ready:
                return self._ready.popleft()
            if self._status is not None:
                return None
            if self._out.said is not None and self._error_over:
                await self._end(channel, self._out.said)
                continue
            try:
                output = await channel.receive_output()
            except (anyio.EndOfStream, anyio.BrokenResourceError) as error:
                said = channel.diagnostics()
                raise TransportError(f"the connection to the command ended: {said}") from error
            for kind, data in output:
                self._take(kind, data)

    def _take(self, kind: Channel, data: bytes) -> None:
        if kind is Channel.STDOUT:
            self._keep(1, self._out.feed(data))
            return
        self._keep(2, self._err.feed(data))
        while self._err.said is not None and not self._error_over:
            # The first mark has the command's number, the second is the end.
            if self._pid is None and self._err.said:
                self._pid = self._err.said
                self._keep(2, self._err.next())
            else:
                self._error_over = True

    def _keep(self, stream: int, data: bytes) -> None:
        if data:
            self._ready.append((stream, data))

    async def _end(self, channel: ExecChannel, code: int) -> None:
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            async with self._sending:
                await channel.send(streamed_command.answer(self._nonce))
        if self._pid is None:
            path = self._program if code == 127 else self._directory
            raise file_error(errno.ENOENT, path)
        self._status = (None, code - 128) if 128 < code <= 192 else (code, None)

    async def send(self, data: bytes) -> None:
        """Write to the command's stdin; raises BoxFileError (EPIPE) when it has ended."""
        for start in range(0, len(data), PIECE):
            await self._send(streamed_command.piece(data[start : start + PIECE]))

    async def send_eof(self) -> None:
        """Close the command's stdin."""
        if self._status is None:
            await self._send(streamed_command.END)

    async def _send(self, message: bytes) -> None:
        channel = self._running()
        if self._status is not None:
            raise file_error(errno.EPIPE, self._program)
        try:
            async with self._sending:
                # A piece that is cut would take what follows for its rest.
                with anyio.CancelScope(shield=True):
                    await channel.send(message)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise file_error(errno.EPIPE, self._program) from error

    async def signal(self, number: int) -> None:
        """Send a signal to the command's process group."""
        self._running()
        while self._pid is None and self._status is None and self._out.said is None:
            channel = self._running()
            for kind, data in await channel.receive_output():
                self._take(kind, data)
        if self._pid is not None and self._status is None:
            script = f"kill -s {int(number)} -- -{self._pid} || kill -s {int(number)} {self._pid}"
            await run_script(self._access, self._target, script, timeout=20)

    async def resize(self, rows: int, columns: int) -> None:
        """Nothing to do: there is no terminal."""

    def _running(self) -> ExecChannel:
        if self._channel is None:
            raise RuntimeError("the command is used in its `async with` block")
        return self._channel

    async def __aenter__(self) -> Self:
        """Start."""
        self._channel = await self._stack.enter_async_context(
            open_exec_channel(self._access, self._target, COMMAND, grace=1.0)
        )
        await self._channel.send(self._line)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Kill the command if it is still running."""
        try:
            if self._status is None and self._pid is not None:
                with anyio.move_on_after(10, shield=True):
                    with contextlib.suppress(TransportError):
                        await self.signal(9)
        finally:
            self._channel = None
            await self._stack.aclose()
