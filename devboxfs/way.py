"""The way to a box: what it is, and when another one is not taken in its place."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sealos_devbox import AsyncBox, ConnectError, FileTransport, Rung

__all__ = ["WayToBox", "is_weak", "way"]


class WayToBox:
    """A box as `vfs.link` connects to it, for as long as it is mounted."""

    def __init__(self, box: AsyncBox) -> None:
        self._box = box
        self.takes_weak = True
        """Whether a way without the helper will do. A mount that began with the helper promises
        what the others cannot keep: it waits for the helper."""

    @property
    def name(self) -> str:
        """The box's name."""
        return self._box.name

    @property
    def uid(self) -> str:
        """Its identity."""
        return self._box.uid

    @property
    def location(self) -> str:
        """Where it is, for people."""
        return self._box.location

    @asynccontextmanager
    async def open_transport(self) -> AsyncIterator[FileTransport]:
        """Open a transport; raises ConnectError for one that is too weak."""
        async with self._box.open_transport() as transport:
            if is_weak(transport) and not self.takes_weak:
                raise ConnectError("the box is reached by a weaker way than when it was mounted")
            yield transport


def is_weak(transport: FileTransport) -> bool:
    """Whether changes by it are neither atomic nor certain."""
    return "weak" in transport.peer.capabilities


def way(rung: Rung | None) -> dict[str, Any]:
    """Return how the box is reached, as the status says it."""
    if rung is None:
        return {}
    return {
        "rung": rung.name,
        "way": rung.description,
        "weaker": list(rung.weaker),
        "passed_over": dict(rung.passed_over),
    }
