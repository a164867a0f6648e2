# Generated from _async/watch.py by sdk/tools/generate_sync.py (make generate).
"""Watching a directory in a box."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from sealos_devbox._async.values import WatchEvent
from sealos_devbox._async.watch import AsyncWatch
from sealos_devbox._sync._portal import Portal

__all__ = ["Watch"]


class Watch:
    """The changes below a directory, from when the ``with`` block is entered.

    Iterate over it, or call `receive`. It has a connection of its own, on which nothing is
    written: a box does not report a client's own changes on the connection that made them.
    """

    def __init__(self, portal: Portal, asynchronous: AsyncWatch) -> None:
        self._portal = portal
        self._async = asynchronous

    def receive(self) -> WatchEvent | None:
        """Return the next change, as soon as there is one; None when the watch is over.

        It is over when the watched workspace is gone. Raises TransportError when the way to the
        box broke: what happened since is not known then, and a new watch has to be made.
        """
        return self._portal.call(self._async.receive)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> WatchEvent:
        try:
            return self._portal.call(self._async.__anext__)
        except StopAsyncIteration:
            raise StopIteration from None

    def __enter__(self) -> Self:
        self._entered = self._portal.enter(self._async)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._entered.leave()
