"""One command through the agent (sync-stream): no input, no terminal.

Its output goes through base64, since the agent drops what is not UTF-8 and waits for ends of lines:
it is whole, but a part of it may come late. Signals go to the command's process group, whose number
is the first thing that is said.
"""

from __future__ import annotations

import base64
import binascii
import errno
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Final, Self

import anyio

from sealos_devbox._transport.agent.client import NO_LIMIT, AgentClient, RunRequest
from sealos_devbox.errors import (
    CapabilityError,
    DevboxError,
    ProtocolError,
    TransportError,
    file_error,
)

__all__ = ["AgentCommand"]

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# fd 8 is the agent's stderr, 7 the pipe of the command's errors, 6 that of its output. The shell
# itself has nothing to say of how the command ended, and the status comes last, when both are over.
_SCRIPT: Final = """cd -- "$1" || exit 120
f=$2
shift 2
command -v "$1" >/dev/null 2>&1 || exit 127
# Each line is an event of its own.
w=
printf x | base64 -w 32000 >/dev/null 2>&1 && w='-w 32000'
exec 8>&2
{
    {
        setsid sh -c 'echo "P$$" >&8; exec "$@" 8>&-' sh "$@" </dev/null 2>&7 7>&-
        echo $? >"$f"
    } 7>&1 1>&6 6>&- 2>/dev/null | base64 $w >&8
} 6>&1 | base64 $w
printf '\\nX%s\\n' "$(cat "$f")"
rm -f "$f"
"""


class AgentCommand:
    """A CommandStream over the agent."""

    def __init__(
        self,
        client: AgentClient,
        workspace: str,
        argv: list[bytes],
        *,
        cwd: bytes | None,
        env: Mapping[str, str],
    ) -> None:
        for name in env:
            if not _NAME.fullmatch(name):
                raise ValueError(f"not the name of an environment variable: {name!r}")
        self._client = client
        self._program = argv[0]
        directory = workspace if not cwd else f"{workspace}/{_text(cwd)}"
        if cwd is not None and cwd.startswith(b"/"):
            directory = _text(cwd)
        ending = f"/tmp/devbox-exit-{secrets.token_hex(8)}"  # noqa: S108 - 64 random bits
        words = [f"{name}={value}" for name, value in env.items()]
        command = ["env", *words] if words else []
        self._request = RunRequest(
            ["sh", "-c", _SCRIPT, "sh", directory, ending, *command, *map(_text, argv)],
            "/",
            timeout=NO_LIMIT,
        )
        self._stack = AsyncExitStack()
        self._events: AsyncIterator[tuple[str, dict[str, Any]]] | None = None
        self._group: int | None = None
        self._exit: int | None = None
        self._status: tuple[int | None, int | None] | None = None

    @property
    def status(self) -> tuple[int | None, int | None]:
        """(exit code, signal) after receive() returned None; one of them is None."""
        if self._status is None:
            raise RuntimeError("the command has not ended yet")
        return self._status

    async def receive(self) -> tuple[int, bytes] | None:
        """Return (1, stdout bytes) or (2, stderr bytes), None when the command has ended."""
        if self._events is None:
            raise RuntimeError("the command is used in its `async with` block")
        async for name, value in self._events:
            piece = self._piece(name, value)
            if piece is not None:
                return piece
        if self._exit is None:
            raise TransportError("the agent's stream ended before the command did")
        if 128 < self._exit <= 192:
            self._status = (None, self._exit - 128)
        else:
            self._status = (self._exit, None)
        return None

    def _piece(self, name: str, value: dict[str, Any]) -> tuple[int, bytes] | None:
        line = str(value.get("output", "")).strip()
        if name in ("stdout", "stderr") and not line:
            return None
        if name == "stderr" and self._group is None:
            if not line.startswith("P") or not line[1:].isdigit():
                raise TransportError(f"the agent's shell said: {line[:300]}")
            self._group = int(line[1:])
        elif name == "stdout" and line.startswith("X") and line[1:].isdigit():
            self._exit = int(line[1:])
        elif name in ("stdout", "stderr"):
            return (1 if name == "stdout" else 2), _decoded(line)
        elif name == "complete":
            code = value.get("exitCode")
            if code == 127 and self._group is None:
                raise file_error(errno.ENOENT, self._program)
            if code == 120:
                raise file_error(errno.ENOENT, None)
        elif name == "error":
            raise TransportError(f"the agent cannot run a command: {value.get('error')}")
        return None

    async def send(self, data: bytes) -> None:
        """Fail: the agent gives a command no input."""
        if self._status is not None:
            raise file_error(errno.EPIPE, self._program)
        raise CapabilityError("a command through the agent has no input")

    async def send_eof(self) -> None:
        """Nothing to do: the input is empty."""

    async def signal(self, number: int) -> None:
        """Send a signal to the command's process group."""
        if self._group is not None and self._exit is None:
            argv = ["sh", "-c", f"kill -s {int(number)} -- -{self._group}"]
            await self._client.run(RunRequest(argv, "/"))

    async def resize(self, rows: int, columns: int) -> None:
        """Nothing to do: there is no terminal."""

    async def __aenter__(self) -> Self:
        """Start."""
        self._events = await self._stack.enter_async_context(self._client.stream(self._request))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Kill the command if it is still running."""
        try:
            if self._exit is None and self._group is not None:
                with anyio.move_on_after(10, shield=True):
                    try:
                        await self.signal(9)
                    except DevboxError:
                        if value is None:
                            raise
        finally:
            await self._stack.aclose()


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise CapabilityError("a command through the agent has to be UTF-8") from None


def _decoded(line: str) -> bytes:
    try:
        return base64.b64decode(line, validate=True)
    except binascii.Error as error:
        raise ProtocolError(f"the agent's shell said: {line[:300]!r}") from error
