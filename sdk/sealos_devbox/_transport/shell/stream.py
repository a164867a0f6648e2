"""The contents of a large file as one stream: no answer is waited for between its pieces."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, Self

from sealos_devbox._protocol import shell
from sealos_devbox._transport.base import CommandStream
from sealos_devbox.errors import TransportError, file_error
from sealos_devbox.types import Attributes

__all__ = ["ContentStream", "reading_script"]

TAKEN: Final = 512 * 1024
"""Bytes handed over at once: each time costs the caller a visit to its file."""
COMPLAINT: Final = b"//complaint//"


def reading_script(
    dialect: shell.Dialect, path: bytes, offset: int, length: int, *, follow: bool
) -> bytes:
    """Return the script that writes the contents to its output, then what the file is."""
    word = shell.quote(shell.relative(path))
    return (
        shell.PRELUDE
        + b"""dd if=%s bs=1048576 iflag=fullblock,skip_bytes,count_bytes \
skip=%d count=%d 2>/dev/null || { printf %s; ls -dL %s; exit 1; } >&2
{ %s; } >&2
"""
        % (word, offset, length, COMPLAINT, word, dialect.describe([path], follow=follow))
    )


class ContentStream:
    """A RecordStream of pieces in order, and of the attributes after reading as the last record.

    A command that is run to its end has its output acknowledged, so that no tail is lost.
    """

    def __init__(
        self,
        start: Callable[[], CommandStream],
        dialect: shell.Dialect,
        path: bytes,
        count: Callable[[int], None],
    ) -> None:
        self._start = start
        self._dialect = dialect
        self._path = path
        self._stack = AsyncExitStack()
        self._command: CommandStream | None = None
        self._said = bytearray()
        self._over = False
        self._count = count

    async def receive(self) -> list[bytes | Attributes] | None:
        """Return the next pieces, None after the attributes."""
        if self._over:
            return None
        if self._command is None:
            raise RuntimeError("the stream is used in its `async with` block")
        pieces: list[bytes] = []
        size = 0
        while size < TAKEN:
            output = await self._command.receive()
            if output is None:
                return [*self._joined(pieces), self._attributes(self._command)]
            number, data = output
            if number == 2:
                self._said += data
            else:
                pieces.append(data)
                size += len(data)
            self._count(len(data))
        return self._joined(pieces)

    def _joined(self, pieces: list[bytes]) -> list[bytes | Attributes]:
        return [b"".join(pieces)] if pieces else []

    def _attributes(self, command: CommandStream) -> Attributes:
        self._over = True
        code, _ = command.status
        said = bytes(self._said)
        if said.startswith(COMPLAINT):
            # EIO for what `ls` finds nothing wrong with.
            raise file_error(shell.errno_of(said), self._path)
        if code:
            raise TransportError("the command that reads the file was ended")
        found = self._dialect.parse(said) if said.endswith((b"\0", b"//\n")) else []
        if len(found) != 1:
            raise file_error(shell.errno_of(said) if said else errno.ENOENT, self._path)
        return found[0][1]

    async def __aenter__(self) -> Self:
        """Start."""
        self._command = await self._stack.enter_async_context(self._start())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Kill the command if it is still running."""
        self._command = None
        await self._stack.aclose()
