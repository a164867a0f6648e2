"""What the file system needs of the SDK: one box, to which transports can be opened."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from sealos_devbox import FileTransport

__all__ = ["Box"]


class Box(Protocol):
    """The subset of sealos_devbox.AsyncBox that is used."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def uid(self) -> str:
        """Its identity: another one when it is deleted and made again."""
        ...

    @property
    def location(self) -> str:
        """Where it is, for people."""
        ...

    def open_transport(self) -> AbstractAsyncContextManager[FileTransport]:
        """Open a transport of its own; closed on exit."""
        ...
