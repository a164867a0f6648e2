"""The client: boxes by name."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from anyio import to_thread

from sealos_devbox._async.box import AsyncBox
from sealos_devbox._async.connection import TaskHost
from sealos_devbox._async.embedded import EmbeddedEngine
from sealos_devbox.config import DevboxConfig
from sealos_devbox.server.store import StoredBox

__all__ = ["AsyncDevbox"]


class AsyncDevbox:
    """The boxes of one service, which is the one that the configuration means.

    Use it as ``async with AsyncDevbox() as devbox:``; the end of the block closes the connections
    of its boxes. Raises CapabilityError when a service is meant that cannot be used.
    """

    def __init__(self, config: DevboxConfig | None = None) -> None:
        self._engine = EmbeddedEngine((config or DevboxConfig()).settings())
        self._host = TaskHost()

    @property
    def service(self) -> str:
        """Which service this is, for people to read."""
        return self._engine.service

    @property
    def reason(self) -> str:
        """Why this service was chosen, for people to read."""
        return self._engine.reason

    async def create(self, name: str) -> AsyncBox:
        """Make a box; raises BoxExistsError when there is one of that name."""
        return self._box(await to_thread.run_sync(self._engine.store.create, name))

    async def get(self, name: str) -> AsyncBox:
        """Return the box of that name; raises BoxNotFoundError when there is none."""
        return self._box(await to_thread.run_sync(self._engine.store.get, name))

    async def get_or_create(self, name: str) -> AsyncBox:
        """Return the box of that name, which is made if need be; of two callers, both get it."""
        return self._box(await to_thread.run_sync(self._engine.store.get_or_create, name))

    async def list(self) -> list[AsyncBox]:
        """Return the boxes, by name."""
        stored = await to_thread.run_sync(self._engine.store.list)
        return [self._box(box) for box in stored]

    async def delete(self, name: str) -> None:
        """Remove a box with all its files; raises BoxNotFoundError when there is none."""
        await to_thread.run_sync(self._engine.store.delete, name)

    async def __aenter__(self) -> Self:
        await self._host.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return await self._host.__aexit__(kind, value, traceback)

    def _box(self, stored: StoredBox) -> AsyncBox:
        return AsyncBox(self._engine, stored, self._host)
