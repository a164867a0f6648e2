# Generated from _async/client.py by sdk/tools/generate_sync.py (make generate).
"""The client: boxes by name."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from sealos_devbox._async.client import AsyncDevbox
from sealos_devbox._sync._portal import Portal
from sealos_devbox._sync.box import Box
from sealos_devbox.config import DevboxConfig

__all__ = ["Devbox"]


class Devbox:
    """The boxes of one service, which is the one that the configuration means.

    Use it as ``with Devbox() as devbox:``; the end of the block closes the connections
    of its boxes. Raises CapabilityError when a service is meant that cannot be used.
    """

    def __init__(self, config: DevboxConfig | None = None) -> None:
        self._async = AsyncDevbox(config)
        self._portal = Portal(self._async)

    @property
    def service(self) -> str:
        """Which service this is, for people to read."""
        return self._async.service

    @property
    def reason(self) -> str:
        """Why this service was chosen, for people to read."""
        return self._async.reason

    def create(self, name: str) -> Box:
        """Make a box; raises BoxExistsError when there is one of that name."""
        return Box(self._portal, self._portal.call(self._async.create, name))

    def get(self, name: str) -> Box:
        """Return the box of that name; raises BoxNotFoundError when there is none."""
        return Box(self._portal, self._portal.call(self._async.get, name))

    def get_or_create(self, name: str) -> Box:
        """Return the box of that name, which is made if need be; of two callers, both get it."""
        return Box(self._portal, self._portal.call(self._async.get_or_create, name))

    def list(self) -> list[Box]:
        """Return the boxes, by name."""
        return [Box(self._portal, item) for item in self._portal.call(self._async.list)]

    def delete(self, name: str) -> None:
        """Remove a box with all its files; raises BoxNotFoundError when there is none."""
        self._portal.call(self._async.delete, name)

    def close(self) -> None:
        """Close all connections; further calls raise RuntimeError. Done at exit if not before."""
        self._portal.close()

    def __enter__(self) -> Self:
        self._portal.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._portal.close()
