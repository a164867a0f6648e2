"""Running commands in a box."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Literal, Self

import anyio

from sealos_devbox._async.connection import Connection, Link
from sealos_devbox._async.deadline import TIMEOUT, deadline
from sealos_devbox._transport.base import CommandStream
from sealos_devbox.errors import (
    BoxFileError,
    BoxFileNotFoundError,
    CommandFailedError,
    CommandNotFoundError,
    CommandTimeoutError,
)
from sealos_devbox.paths import BoxPath
from sealos_devbox.results import CommandResult

__all__ = ["AsyncProcess", "Command", "run_command"]

Command = str | Sequence[str]
"""A program with its arguments; as a str, a line for the box's shell (``sh -c``)."""

_STREAMS: dict[int, Literal["stdout", "stderr"]] = {1: "stdout", 2: "stderr"}
_PIECE = 64 * 1024


class AsyncProcess:
    """A command in a box, running from when the ``async with`` block is entered.

    Leaving the block kills it, with every process of its group that is still there. Its output has
    to be received: it waits when nobody does.
    """

    def __init__(
        self,
        connection: Connection,
        command: Command,
        *,
        cwd: BoxPath | None,
        env: Mapping[str, str] | None,
        terminal: tuple[int, int] | None,
    ) -> None:
        self._argv = _argv(command)
        self._connection = connection
        self._cwd = cwd
        self._env = None if env is None else dict(env)
        self._terminal = terminal
        self._link: Link | None = None
        self._stream: CommandStream | None = None
        self._used = False
        self._ended = False

    @property
    def exit_code(self) -> int | None:
        """The exit code after `receive` returned None; None when a signal ended the command."""
        return self._running.status[0] if self._ended else None

    @property
    def signal(self) -> int | None:
        """The signal that ended the command, after `receive` returned None."""
        return self._running.status[1] if self._ended else None

    async def receive(self) -> tuple[Literal["stdout", "stderr"], bytes] | None:
        """Return the next output, as soon as there is any; None when the command has ended.

        Raises CommandNotFoundError when the box has no such program.
        """
        if self._ended:
            return None
        try:
            output = await self._running.receive()
        except BoxFileNotFoundError as error:
            raise await self._missing(error) from error
        if output is None:
            self._ended = True
            return None
        return _STREAMS[output[0]], output[1]

    async def send(self, data: str | bytes) -> None:
        """Write to the command's standard input."""
        await self._running.send(data.encode() if isinstance(data, str) else data)

    async def send_eof(self) -> None:
        """Close the command's standard input."""
        await self._running.send_eof()

    async def send_signal(self, number: int) -> None:
        """Send a signal to the command's process group."""
        await self._running.signal(number)

    async def resize(self, rows: int, columns: int) -> None:
        """Tell the command's terminal its size."""
        await self._running.resize(rows, columns)

    async def __aenter__(self) -> Self:
        if self._used:
            raise RuntimeError("a process can be started once")
        self._used = True
        with deadline(TIMEOUT, "Connecting to the box"):
            self._link = link = await self._connection.link()
        stream = link.transport.exec(
            self._argv,
            cwd=None if self._cwd is None else await link.wire(self._cwd),
            env=self._env,
            pty=None if self._terminal is None else (*self._terminal, "xterm-256color"),
        )
        await stream.__aenter__()
        self._stream = stream
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._stream is not None:
            await self._stream.__aexit__(kind, value, traceback)

    @property
    def _running(self) -> CommandStream:
        if self._stream is None:
            raise RuntimeError("the command was not started: use it in a `with` block")
        return self._stream

    async def _missing(self, error: BoxFileNotFoundError) -> Exception:
        """Say what ENOENT meant: the program, or the directory to start it in."""
        if self._cwd is not None and self._link is not None:
            try:
                await self._link.transport.stat(await self._link.wire(self._cwd), follow=True)
            except BoxFileError as missing:
                missing.filename = os.fspath(self._cwd)
                return missing
        return CommandNotFoundError(f"There is no program {_shown(self._argv[0])} in the box.")


async def run_command(
    process: AsyncProcess,
    command: Command,
    input_data: str | bytes | None,
    timeout: float | None,
    *,
    check: bool,
) -> CommandResult:
    """Run a command to its end and return all of its output."""
    output: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
    started = anyio.current_time()

    def result(*, ended: bool) -> CommandResult:
        return CommandResult(
            stdout_bytes=bytes(output["stdout"]),
            stderr_bytes=bytes(output["stderr"]),
            exit_code=process.exit_code if ended else None,
            signal=process.signal if ended else None,
            duration=anyio.current_time() - started,
        )

    with anyio.move_on_after(timeout) as scope:
        async with process:
            await _communicate(process, input_data, output)
            # No await from here to the end of the block: what has ended has not timed out.
            finished = result(ended=True)
    if scope.cancelled_caught:
        raise CommandTimeoutError(
            f"{_shown(command)} was killed after {timeout:g} s.", result(ended=False)
        )
    if check and not finished.ok:
        how = (
            f"was ended by signal {finished.signal}"
            if finished.exit_code is None
            else f"ended with exit code {finished.exit_code}"
        )
        raise CommandFailedError(f"{_shown(command)} {how}.", finished)
    return finished


async def _communicate(
    process: AsyncProcess, input_data: str | bytes | None, output: dict[str, bytearray]
) -> None:
    data = input_data.encode() if isinstance(input_data, str) else input_data or b""

    async def feed() -> None:
        with _unread_input():
            for at in range(0, len(data), _PIECE):
                await process.send(data[at : at + _PIECE])
            await process.send_eof()

    async def collect() -> None:
        while (received := await process.receive()) is not None:
            output[received[0]] += received[1]

    if not data:
        await feed()
        await collect()
        return
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(feed)
        try:
            await collect()
        except Exception as error:  # noqa: BLE001 - carried out of the group, which would wrap it
            failure = error
        tasks.cancel_scope.cancel()  # what was not read will not be
    if failure is not None:
        raise failure


@contextmanager
def _unread_input() -> Iterator[None]:
    """Let a command end before it has read its input, as a pipe of a shell does."""
    try:
        yield
    except BoxFileError as error:
        if error.errno != errno.EPIPE:
            raise


def _argv(command: Command) -> list[bytes]:
    if isinstance(command, str):
        return [b"sh", b"-c", _bytes(command)]
    argv = [_bytes(argument) for argument in command]
    if not argv:
        raise ValueError("a command needs at least the program's name")
    return argv


def _bytes(argument: str) -> bytes:
    encoded = argument.encode("utf-8", "surrogateescape")
    if b"\0" in encoded:
        raise ValueError(f"an argument cannot contain a NUL: {argument!r}")
    return encoded


def _shown(command: Command | bytes) -> str:
    if isinstance(command, bytes):
        return repr(command.decode("utf-8", "surrogateescape"))
    return repr(command if isinstance(command, str) else list(command))
