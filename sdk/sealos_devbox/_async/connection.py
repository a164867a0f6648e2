"""One shared transport to a box, opened when it is first needed and again after it broke.

Each transport lives in a task of its own, in the task group of the client: the calls that use it
come from any task, and the context that holds it open must be left in the task that entered it.
No await between looking at the current link and taking it: a link that was discarded is not handed
out again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType

import anyio
from anyio.abc import TaskGroup, TaskStatus

from sealos_devbox._transport.base import FileTransport
from sealos_devbox.errors import BoxFileError, CapabilityError, DevboxError, TransportError
from sealos_devbox.paths import BoxPath, box_path, names_alias

__all__ = ["Connection", "Link", "TaskHost"]

_log = logging.getLogger(__name__)

# Clocks closer than this are taken for one: a box on this machine, or two that are kept by NTP.
_SAME_CLOCK_NS = 1_000_000_000

# How long the far end is given to end by itself when the last user of a link has gone (a guess).
_CLOSE_TIMEOUT = 5.0


OpenTransport = Callable[[Callable[[], None]], AbstractAsyncContextManager[FileTransport]]
"""Opens a transport; the argument is to be called when the far end has gone, by whatever way."""


class TaskHost:
    """Owns the tasks of a client; its exit ends them."""

    def __init__(self) -> None:
        self._group: TaskGroup | None = None
        self._connections: set[Connection] = set()

    @property
    def group(self) -> TaskGroup:
        """The open task group; raises RuntimeError outside of the client's ``async with``."""
        if self._group is None:
            raise RuntimeError(
                "the client is not open: use it as `async with AsyncDevbox() as devbox:`"
            )
        return self._group

    def add(self, connection: Connection) -> None:
        """Have an open connection closed when the host exits."""
        self._connections.add(connection)

    def remove(self, connection: Connection) -> None:
        """Forget a closed connection."""
        self._connections.discard(connection)

    async def __aenter__(self) -> TaskHost:
        if self._group is not None:
            raise RuntimeError("the client is open already")
        group = anyio.create_task_group()
        await group.__aenter__()
        self._group = group
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        group = self.group
        self._group = None
        connections = list(self._connections)
        for connection in connections:
            connection.close_soon()
        for connection in connections:
            await connection.aclose()
        group.cancel_scope.cancel()
        try:
            return await group.__aexit__(kind, value, traceback)
        except BaseExceptionGroup as failures:
            # The tasks here never raise: what is in the group is what the caller's block raised,
            # which is to leave as it was.
            if failures.exceptions == (value,):
                return False
            raise


class Link:
    """A transport with what is known of its far end."""

    def __init__(self, transport: FileTransport, *, alias: bool | None = None) -> None:
        self.transport = transport
        self._alias = alias
        self.root = transport.peer.root
        offset = transport.peer.clock_ns - time.time_ns()
        self._clock_offset_ns = offset if abs(offset) > _SAME_CLOCK_NS else 0

    async def wire(self, path: BoxPath) -> bytes:
        """Return the path on the wire for one that a caller wrote; raises ValueError.

        One round trip, once, for a path below ``/workspace``: whether that means the workspace
        depends on what the box has there.
        """
        if self._alias is None and names_alias(path, self.root):
            self._alias = not await self._has_other_workspace()
        return box_path(path, self.root, alias=self._alias is not False)

    async def _has_other_workspace(self) -> bool:
        command = [b"sh", b"-c", b"[ -d /workspace ] && ! [ /workspace -ef . ]"]
        try:
            async with self.transport.exec(command) as stream:
                while await stream.receive() is not None:
                    pass
                return stream.status[0] == 0
        except (BoxFileError, CapabilityError):
            return False  # it has no shell, or this way runs no commands

    def now_ns(self) -> int:
        """Return the box's time, for the mtime of what is written into it."""
        return time.time_ns() + self._clock_offset_ns


class _Served:
    """A link and the task that holds it."""

    def __init__(self) -> None:
        self.link: Link | None = None
        self.stop = anyio.Event()
        self.stopped = anyio.Event()

    @property
    def connected(self) -> Link:
        """The link; there is one from when the task has said that it started."""
        if self.link is None:
            raise RuntimeError("not connected")
        return self.link


class Connection:
    """Hands out the shared link, connecting when there is none."""

    def __init__(
        self,
        host: TaskHost,
        open_transport: OpenTransport,
        *,
        alias: bool | None = None,
    ) -> None:
        """Make it; `alias`: whether ``/workspace`` means the workspace, None for asking the box."""
        self._host = host
        self._open_transport = open_transport
        self._alias = alias
        self._connecting = anyio.Lock()
        self._current: _Served | None = None
        self._closing: _Served | None = None

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Link]:
        """Lend the link. A TransportError in the block makes the next caller connect again."""
        served = await self._served()
        try:
            yield served.connected
        except TransportError:
            self._discard(served)
            raise

    def close_soon(self) -> None:
        """Have the link closed, if one is open, without waiting."""
        self._host.remove(self)
        if self._current is not None:
            self._closing = self._current
            self._discard(self._current)

    async def link(self) -> Link:
        """Return the link, for a user that is the only one of this connection."""
        return (await self._served()).connected

    async def aclose(self) -> None:
        """Close the link, if one is open; the next use opens another."""
        self.close_soon()
        served, self._closing = self._closing, None
        if served is None:
            return
        with anyio.move_on_after(_CLOSE_TIMEOUT, shield=True):
            await served.stopped.wait()

    def _discard(self, served: _Served) -> None:
        served.stop.set()
        if self._current is served:
            self._current = None

    async def _served(self) -> _Served:
        if self._current is not None:
            return self._current
        async with self._connecting:
            if self._current is not None:
                return self._current
            served = _Served()
            self._host.add(self)
            await self._host.group.start(self._serve, served)
            if not served.stop.is_set():
                self._current = served
            return served

    async def _serve(self, served: _Served, *, task_status: TaskStatus[None]) -> None:
        try:
            # A link that dies while nobody uses it is left at once, and the next call gets another.
            async with self._open_transport(lambda: self._discard(served)) as transport:
                served.link = Link(transport, alias=self._alias)
                task_status.started()
                await served.stop.wait()
        except DevboxError as error:
            if served.link is None:
                raise  # to the caller that is waiting for the connection
            # Whoever uses the link has got the error from its own call.
            _log.debug("link to the box ended: %s", error)
        finally:
            if self._current is served:
                self._current = None
            served.stopped.set()
