"""Short commands by exec: all of what they said, and their exit code."""

from __future__ import annotations

import contextlib
import secrets
import shlex
from collections.abc import Sequence
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

__all__ = ["CommandOutput", "run_command", "run_script"]

MAX_OUTPUT: Final = 64 * 1024 * 1024


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
    data: bytes = b"",
    directory: str = "",
    user: str = "",
    timeout: float = 60.0,
    max_output: int = MAX_OUTPUT,
    offered: Sequence[str] = OFFERED,
) -> CommandOutput:
    """Run a script of the shell with `data` as its standard input, which ends after it.

    directory: in which it runs; empty for that of the container. user: as whom, where exec is
    root's and there is such a user. A script that is given up is killed, with what it started in
    its process group. Raises CapabilityError where there is no shell, DeadlineExceededError when it
    takes longer than `timeout`, TransportError when the connection broke: it may have run then.
    """
    nonce = secrets.token_hex(16)
    line = wrapper(script, size=len(data), directory=directory, user=user, nonce=nonce)
    collector = Collector(nonce)
    try:
        with anyio.fail_after(timeout):
            async with open_exec_channel(
                access, target, COMMAND, offered=offered, grace=1.0
            ) as channel:
                await _converse(channel, line + data, collector, max_output)
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


async def _converse(
    channel: ExecChannel, sent: bytes, collector: Collector, max_output: int
) -> None:
    """Send the input while taking the output, until that is complete."""
    failure: Exception | None = None

    async def send() -> None:
        # The end of the output tells more than that of the input.
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await channel.send(sent)

    async with anyio.create_task_group() as tasks:
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
