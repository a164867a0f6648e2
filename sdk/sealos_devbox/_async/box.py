"""One box."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Self

from sealos_devbox._async.connection import Connection, TaskHost
from sealos_devbox._async.files import AsyncFiles
from sealos_devbox._async.process import AsyncProcess, Command, run_command
from sealos_devbox._async.service import BoxRecord, Service
from sealos_devbox._transport.base import FileTransport
from sealos_devbox.paths import BoxPath
from sealos_devbox.results import CommandResult

__all__ = ["AsyncBox"]


class AsyncBox:
    """A box: its files, and commands in it.

    Connects when it is first used, and again on the next call after the way to it broke; a call
    that failed is never repeated by itself. Leaving its ``async with`` block closes the connection,
    and nothing else: the box stays.
    """

    def __init__(self, service: Service, record: BoxRecord, host: TaskHost) -> None:
        self._service = service
        self._record = record
        self._host = host
        self._connection = self._connect()
        self._files = AsyncFiles(self._connection, self._connect)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}, {self.location}>"

    @property
    def name(self) -> str:
        """The box's name."""
        return self._record.name

    @property
    def uid(self) -> str:
        """What tells the box from any other, one of the same name made later included."""
        return self._record.uid

    @property
    def location(self) -> str:
        """Which service the box belongs to and where its files are, for people to read."""
        return self._record.location

    @property
    def fs(self) -> AsyncFiles:
        """The box's files."""
        return self._files

    async def run(
        self,
        command: Command,
        *,
        cwd: BoxPath | None = None,
        env: Mapping[str, str] | None = None,
        input: str | bytes | None = None,
        timeout: float | None = None,
        check: bool = False,
    ) -> CommandResult:
        """Run a command in the box to its end and return its output, all of it in memory.

        A str is a line for the box's shell; a sequence is a program with its arguments, which no
        shell sees. `cwd`, by default the workspace, is a directory in it. `env` is added to the
        box's environment. `input` is its standard input, which is empty by default. After `timeout`
        seconds the command and its process group are killed and CommandTimeoutError is raised, with
        the output so far. With `check`, CommandFailedError is raised unless it ended with exit code
        0. Raises CommandNotFoundError when the box has no such program.
        """
        process = self.open_process(command, cwd=cwd, env=env)
        return await run_command(process, command, input, timeout, check=check)

    def open_process(
        self,
        command: Command,
        *,
        cwd: BoxPath | None = None,
        env: Mapping[str, str] | None = None,
        terminal: tuple[int, int] | None = None,
    ) -> AsyncProcess:
        """Prepare a command whose streams the caller handles; entering the answer starts it.

        `terminal`: (rows, columns) of a terminal that the command gets instead of pipes.
        """
        return AsyncProcess(self._connection, command, cwd=cwd, env=env, terminal=terminal)

    @asynccontextmanager
    async def open_transport(self) -> AsyncIterator[FileTransport]:
        """Open a connection of the caller's own, on the level of the transport.

        For programs that manage connections themselves: nothing is reconnected.
        """
        async with self._service.open_transport(self._record) as transport:
            yield transport

    async def aclose(self) -> None:
        """Close the connection; the next call opens another."""
        await self._connection.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _connect(self) -> Connection:
        def open_transport(
            on_end: Callable[[], None],
        ) -> AbstractAsyncContextManager[FileTransport]:
            return self._service.open_transport(self._record, on_end)

        return Connection(self._host, open_transport)
