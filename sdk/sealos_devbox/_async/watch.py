"""Watching a directory in a box."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from sealos_devbox._async.connection import Connection
from sealos_devbox._async.deadline import deadline
from sealos_devbox._async.values import WatchEvent, WatchKind, file_info
from sealos_devbox._async.writing import resolve_paths
from sealos_devbox._transport.base import RecordStream
from sealos_devbox.paths import BoxPath, path_text
from sealos_devbox.types import Event

__all__ = ["AsyncWatch", "watch_events"]

# Bits of a mask; see inotify(7).
_IN_MODIFY = 0x2
_IN_ATTRIB = 0x4
_IN_CLOSE_WRITE = 0x8
_IN_MOVED_TO = 0x80
_IN_CREATE = 0x100
_IN_UNMOUNT = 0x2000
_IN_Q_OVERFLOW = 0x4000


class AsyncWatch:
    """The changes below a directory, from when the ``async with`` block is entered.

    Iterate over it, or call `receive`. It has a connection of its own, on which nothing is
    written: a box does not report a client's own changes on the connection that made them.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        path: BoxPath,
        *,
        recursive: bool,
        timeout: float | None,
    ) -> None:
        self._connect = connect
        self._path = path
        self._recursive = recursive
        self._timeout = timeout
        self._connection: Connection | None = None
        self._stream: RecordStream[Event] | None = None
        self._below = b""
        self._ready: deque[WatchEvent] = deque()
        self._over = False

    async def receive(self) -> WatchEvent | None:
        """Return the next change, as soon as there is one; None when the watch is over.

        It is over when the watched workspace is gone. Raises TransportError when the way to the
        box broke: what happened since is not known then, and a new watch has to be made.
        """
        if self._stream is None:
            raise RuntimeError("the watch is not open: use it in a `with` block")
        while not self._ready:
            if self._over:
                return None
            events = await self._stream.receive()
            if events is None:
                self._over = True
                continue
            for event in watch_events(events):
                if self._wants(event):
                    self._ready.append(event)
            self._over = any(event.mask & _IN_UNMOUNT for event in events)
        return self._ready.popleft()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WatchEvent:
        event = await self.receive()
        if event is None:
            raise StopAsyncIteration
        return event

    async def __aenter__(self) -> Self:
        if self._connection is not None:
            raise RuntimeError("a watch can be used once")
        self._connection = self._connect()
        try:
            with deadline(self._timeout, "Beginning to watch"):
                link = await self._connection.link()
                path = await link.wire(self._path)
                if path:
                    (path,) = await resolve_paths(link, [path], final=True)
                self._below = path
                stream = link.transport.watch(path, walk=True)
                await stream.__aenter__()
                await stream.receive()
        except BaseException:
            await self._connection.aclose()
            raise
        self._stream = stream
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The connection is this watch's own: closing it ends the request with it.
        self._stream = None
        if self._connection is not None:
            await self._connection.aclose()

    def _wants(self, event: WatchEvent) -> bool:
        if self._recursive or event.kind == "overflow":
            return True
        here = path_text(self._below)
        return event.path == here or _directory(event.path) == here


def _directory(path: str) -> str:
    return path.rpartition("/")[0] or "."


def watch_events(events: list[Event]) -> list[WatchEvent]:
    """Say in the words of the API what the box reported (PROTOCOL.md section 7)."""
    said = []
    for index, event in enumerate(events):
        path = path_text(event.path)
        if event.mask & _IN_Q_OVERFLOW:
            said.append(WatchEvent("overflow", path))
        elif event.attr is None:
            # The old name of what was moved comes as an event of its own, right before that of the
            # new. (The same name may be told of more than once: frames are joined on the way here.)
            after = events[index + 1 : index + 2]
            if not (after and after[0].moved_from == event.path):
                said.append(WatchEvent("deleted", path))
        elif event.mask:  # else an entry changed, and the directory's times with it: no news
            old_path = None if event.moved_from is None else path_text(event.moved_from)
            info = file_info(event.path, event.attr)
            said.append(WatchEvent(_kind(event), path, old_path, info))
    return said


def _kind(event: Event) -> WatchKind:
    if event.moved_from is not None:
        return "moved"
    if event.mask & (_IN_CREATE | _IN_MOVED_TO):
        return "created"
    if event.mask & (_IN_MODIFY | _IN_CLOSE_WRITE):
        return "modified"
    return "attributes" if event.mask & _IN_ATTRIB else "modified"
