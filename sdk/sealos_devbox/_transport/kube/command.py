"""Short commands by exec: all of what they said, and their exit code."""

from __future__ import annotations

import contextlib
import secrets
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import anyio

from sealos_devbox._protocol.bootstrap import COMMAND
from sealos_devbox._protocol.exec_stream import OFFERED, Channel
from sealos_devbox._protocol.guarded_script import Collector, answer, wrapper
from sealos_devbox._transport.kube.access import KubernetesAccess
from sealos_devbox._transport.kube.exec_channel import ExecChannel, ExecTarget, open_exec_channel
from sealos_devbox.errors import (
    CapabilityError,
    ConnectError,
    DeadlineExceededError,
    ProtocolError,
    TransportError,
)
from sealos_devbox.types import Content

__all__ = ["CommandOutput", "run_command", "run_script"]

MAX_OUTPUT: Final = 64 * 1024 * 1024
PIECE: Final = 512 * 1024
"""Of an input that is read while it is sent: each is a visit to a thread."""


@dataclass(frozen=True, slots=True)
class CommandOutput:
    """What a command said, whole and byte for byte."""

    exit_code: int
    stdout: bytes
    stderr: bytes


async def run_command(
    access: KubernetesAccess,
    target: ExecTarget,
    argv: Sequence[str],
    *,
    data: bytes = b"",
    directory: str = "",
    user: str = "",
    timeout: float = 60.0,
) -> CommandOutput:
    """Run a program with `data` as its standard input; exit code 127 where there is none."""
    return await run_script(
        access,
        target,
        "exec " + shlex.join(argv),
        data=data,
        directory=directory,
        user=user,
        timeout=timeout,
    )


async def run_script(
    access: KubernetesAccess,
    target: ExecTarget,
    script: str,
    *,
    data: bytes | Content = b"",
    directory: str = "",
    user: str = "",
    timeout: float = 60.0,
    max_output: int = MAX_OUTPUT,
    offered: Sequence[str] = OFFERED,
) -> CommandOutput:
    """Run a script of the shell with `data` as its standard input, which ends after it.

    directory: in which it runs; empty for that of the container. user: as whom, where exec is
    root's and there is such a user. timeout: in seconds; of a Content, from when its last piece was
    taken. A script that is given up is killed, with what it started in its process group. Raises
    CapabilityError where there is no shell, DeadlineExceededError when it takes longer than
    `timeout`, TransportError when the connection broke: it may have run then. What a Content's
    chunks() raises leaves as it is.
    """
    nonce = secrets.token_hex(16)
    size = len(data) if isinstance(data, bytes) else data.size
    line = wrapper(script, size=size, directory=directory, user=user, nonce=nonce)
    collector = Collector(nonce)
    try:
        with anyio.fail_after(timeout) as deadline:

            def advance() -> None:
                deadline.deadline = anyio.current_time() + timeout

            async with open_exec_channel(
                access, target, COMMAND, offered=offered, grace=1.0
            ) as channel:
                sending = _Input(channel, line, data, advance)
                await _converse(channel, sending, collector, max_output)
                await channel.send(answer(nonce))
    except TimeoutError:
        raise DeadlineExceededError(
            f"The command did not end within {timeout:g} s.", hop="box"
        ) from None
    except anyio.BrokenResourceError as error:
        if not collector.complete:
            raise TransportError("The connection to the command broke.", hop="cluster") from error
    if collector.exit_code is None:
        raise ProtocolError("the command has no exit code")
    return CommandOutput(collector.exit_code, collector.stdout, collector.stderr)


class _Input:
    """What a script is sent: its line, then its standard input."""

    def __init__(
        self,
        channel: ExecChannel,
        line: bytes,
        data: bytes | Content,
        advance: Callable[[], None],
    ) -> None:
        self._channel = channel
        self._line = line
        self._data = data
        self._advance = advance

    async def send(self) -> None:
        """Send all of it; nothing more once nobody takes it."""
        # The end of the output tells more than that of the input.
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            if isinstance(self._data, bytes):
                await self._channel.send(self._line + self._data)
                return
            await self._channel.send(self._line)
            chunks = self._data.chunks()
            left = self._data.size
            while left:
                piece = await anyio.to_thread.run_sync(_taken, chunks, left, abandon_on_cancel=True)
                if not piece:
                    raise OSError("a content has fewer bytes than it said")
                left -= len(piece)
                await self._channel.send(piece)
                self._advance()


def _taken(chunks: Iterator[bytes], most: int) -> bytes:
    """Return the next bytes of a content, no more than `most`."""
    parts: list[bytes] = []
    size = 0
    for chunk in chunks:
        parts.append(chunk)
        size += len(chunk)
        if size >= PIECE:
            break
    if size > most:
        raise OSError("a content has more bytes than it said")
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _converse(
    channel: ExecChannel, sending: _Input, collector: Collector, max_output: int
) -> None:
    """Send the input while taking the output, until that is complete."""
    failure: Exception | None = None

    async with anyio.create_task_group() as tasks:

        async def send() -> None:
            nonlocal failure
            try:
                await sending.send()
            except OSError as error:
                # Not in a group. The script is ended with the channel.
                failure = error
                tasks.cancel_scope.cancel()

        tasks.start_soon(send)
        try:
            while not collector.complete and failure is None:
                for kind, data in await channel.receive_output():
                    if kind is Channel.STDOUT:
                        collector.add_stdout(data)
                    else:
                        collector.add_stderr(data)
                if collector.size > max_output:
                    failure = CapabilityError(
                        f"The command's output has more than {max_output:,} bytes.", hop="box"
                    )
        except anyio.EndOfStream:
            failure = _ended(channel)
        except anyio.BrokenResourceError as error:
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _ended(channel: ExecChannel) -> TransportError | CapabilityError:
    """Return the error for a wrapper that ended before it had said that the script has."""
    said = channel.diagnostics()
    status = channel.status
    if status is None or status.exit_code is None or status.exit_code in (125, 126, 127):
        return CapabilityError(f"No script can be run in the box: {said}", hop="box")
    return ConnectError(f"The command's shell was ended: {said}", hop="box")
