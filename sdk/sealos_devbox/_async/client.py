"""The client: boxes by name."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from sealos_devbox._async.box import AsyncBox
from sealos_devbox._async.connection import TaskHost
from sealos_devbox._async.embedded import EmbeddedService
from sealos_devbox._async.service import BoxRecord, Service
from sealos_devbox.config import DevboxConfig, EmbeddedSettings, Settings
from sealos_devbox.errors import CapabilityError

__all__ = ["AsyncDevbox"]


class AsyncDevbox:
    """The boxes of one service, which is the one that the configuration means.

    Use it as ``async with AsyncDevbox() as devbox:``; the end of the block closes the connections
    of its boxes. Raises CapabilityError when a service is meant that cannot be used.
    """

    def __init__(self, config: DevboxConfig | None = None) -> None:
        self._host = TaskHost()
        self._service = _service((config or DevboxConfig()).settings(), self._host)

    @property
    def service(self) -> str:
        """Which service this is, for people to read."""
        return self._service.description

    @property
    def reason(self) -> str:
        """Why this service was chosen, for people to read."""
        return self._service.reason

    async def create(self, name: str) -> AsyncBox:
        """Make a box; raises BoxExistsError when there is one of that name."""
        record = await self._service.create_plain(name, exist_ok=False)
        if record is None:
            raise CapabilityError("This service makes boxes from templates only.")
        return self._box(record)

    async def get(self, name: str) -> AsyncBox:
        """Return the box of that name; raises BoxNotFoundError when there is none."""
        return self._box(await self._service.get(name))

    async def get_or_create(self, name: str) -> AsyncBox:
        """Return the box of that name, which is made if need be; of two callers, both get it."""
        record = await self._service.create_plain(name, exist_ok=True)
        return self._box(record or await self._service.get(name))

    async def list(self) -> list[AsyncBox]:
        """Return the boxes, by name."""
        return [self._box(record) for record in await self._service.list()]

    async def delete(self, name: str) -> None:
        """Remove a box with all its files; raises BoxNotFoundError when there is none."""
        await self._service.delete(name)

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

    def _box(self, record: BoxRecord) -> AsyncBox:
        return AsyncBox(self._service, record, self._host)


def _service(settings: Settings, host: TaskHost) -> Service:
    if isinstance(settings, EmbeddedSettings):
        return EmbeddedService(settings, host)
    raise CapabilityError("This version can use the embedded engine only.")
