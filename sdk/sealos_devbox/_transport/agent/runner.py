"""Scripts through the agent: what the shell transport needs, from whole files and commands.

The agent gives a command no input, and turns its output into text: so input is a file that is
written first, and output is base64.
"""

from __future__ import annotations

import base64
import binascii
import math
import secrets
from collections.abc import Mapping
from typing import Final

import anyio

from sealos_devbox._protocol.shell import quote
from sealos_devbox._transport.agent.client import AgentClient, RunRequest
from sealos_devbox._transport.agent.command import AgentCommand
from sealos_devbox._transport.shell.runner import ShellOutput
from sealos_devbox.errors import ProtocolError, TransportError
from sealos_devbox.types import Content

__all__ = ["AgentRunner"]

MAX_DATA: Final = 4 << 20
PART: Final = 512 * 1024
"""Bytes of one write: a proxy in front may refuse bodies over 1 MiB."""
ARGUMENT: Final = 100 * 1024
"""Bytes of a script that go as an argument; Linux allows 128 KiB."""
ENDING: Final = b"\n//exit//"

_WRAPPER: Final = """cd -- "$1" || exit 120
{ sh -c "$2" <"$3"; printf '\\n//exit//%s' $?; } 2>"$4" | base64
echo :
base64 <"$4"
rm -f "$4"
"""


class AgentRunner:
    """Runs scripts in the box's workspace, as the agent's user."""

    max_data = MAX_DATA
    streams = False

    def __init__(self, client: AgentClient, workspace: str) -> None:
        self._client = client
        self._workspace = workspace
        self._name = f"/tmp/devbox-shell-{secrets.token_hex(8)}"  # noqa: S108 - 64 random bits
        self._count = 0

    async def run(
        self, script: bytes, data: bytes | Content = b"", *, timeout: float = 60.0
    ) -> ShellOutput:
        """Run a script with `data` as its standard input, which ends after it."""
        if not isinstance(data, bytes):
            raise TypeError("the agent takes input as a whole")
        self._count += 1
        own = f"{self._name}-{self._count}"
        files: list[str] = []
        try:
            argument = await self._argument(script, own, files)
            source = "/dev/null"
            if data:
                source = own + "-in"
                await self._upload(source, data, files)
            argv = ["sh", "-c", _WRAPPER, "sh", self._workspace, argument, source, own + "-err"]
            completed = await self._client.run(RunRequest(argv, "/", timeout=math.ceil(timeout)))
        finally:
            if files:
                with anyio.move_on_after(10, shield=True):
                    await self._remove(files)
        return _output(completed.exit_code, completed.stdout, completed.stderr)

    async def _argument(self, script: bytes, own: str, files: list[str]) -> str:
        """Return the script as an argument, by way of a file when it cannot be one."""
        if len(script) <= ARGUMENT:
            try:
                return script.decode()
            except UnicodeDecodeError:
                pass  # a name in it is no UTF-8, and JSON carries no other text
        name = own + "-script"
        await self._upload(name, script, files)
        return f". {quote(name.encode()).decode()}"

    async def _upload(self, name: str, data: bytes, files: list[str]) -> None:
        """Make a file; `files` has what is to be removed, also when this is given up."""
        files.append(name)
        if len(data) <= PART:
            await self._client.write(name, data)
            return
        parts = [data[start : start + PART] for start in range(0, len(data), PART)]
        names = [f"{name}.{number}" for number in range(len(parts))]
        files += names
        async with anyio.create_task_group() as tasks:
            for part_name, part in zip(names, parts, strict=True):
                tasks.start_soon(self._client.write, part_name, part)
        argv = ["sh", "-c", 'n=$1; shift; cat "$@" >"$n"', "sh", name, *names]
        completed = await self._client.run(RunRequest(argv, "/"))
        if completed.exit_code:
            raise TransportError(f"the box cannot take a script's input: {completed.stderr[:300]}")

    async def _remove(self, files: list[str]) -> None:
        await self._client.run(RunRequest(["rm", "-f", *files], "/"))

    def command(
        self, argv: list[bytes], *, cwd: bytes | None, env: Mapping[str, str]
    ) -> AgentCommand:
        """Return a command whose output streams; it has no input."""
        return AgentCommand(self._client, self._workspace, argv, cwd=cwd, env=env)

    async def aclose(self) -> None:
        """Nothing is held."""


def _output(exit_code: int | None, stdout: str, stderr: str) -> ShellOutput:
    if exit_code == 120 or exit_code is None:
        raise TransportError(f"the agent's shell failed: {stderr[:300] or exit_code}")
    text, colon, complaints = stdout.partition(":\n")
    try:
        output = base64.b64decode(text)
        errors = base64.b64decode(complaints)
    except binascii.Error as error:
        raise ProtocolError("the agent's shell answered no base64") from error
    content, found, code = output.rpartition(ENDING)
    if not found or not colon or not code.isdigit():
        raise TransportError(f"a script was ended by something else: {stderr[:300]}")
    return ShellOutput(int(code), content, errors)
