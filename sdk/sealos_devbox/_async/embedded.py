"""The embedded engine as the client sees it: boxes that are directories, helpers that are children.

The engine's boxes are reached by a helper on this machine, one process for each connection. Its
control plane is an application in this process, which is started at the first call that needs it:
mounting a box and working with its files does without.
"""

from __future__ import annotations

import builtins
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import anyio
from anyio import to_thread

from sealos_devbox._async.connection import TaskHost
from sealos_devbox._async.service import BoxDetail, BoxRecord, ControlPlane
from sealos_devbox._transport.base import ByteChannel, FileTransport
from sealos_devbox._transport.delayed import open_delayed_channel
from sealos_devbox._transport.helper import open_helper_transport
from sealos_devbox._transport.helper_bundle import find_helper
from sealos_devbox._transport.ladder import RUNGS, BoxTarget, open_box_transport
from sealos_devbox._transport.noticing import NoticingChannel
from sealos_devbox._transport.subprocess import SubprocessChannel
from sealos_devbox.config import EmbeddedSettings
from sealos_devbox.errors import CapabilityError
from sealos_devbox.models import Arrears
from sealos_devbox.secret import Secret
from sealos_devbox.server.store import BoxStore, StoredBox
from sealos_devbox.types import Rung

__all__ = ["EmbeddedService"]


class EmbeddedService:
    """Finds boxes and opens ways to them."""

    def __init__(self, settings: EmbeddedSettings, host: TaskHost) -> None:
        if settings.transport in RUNGS and settings.transport != "helper":
            raise CapabilityError(
                f"A box of the embedded engine is not reached by {settings.transport!r}.",
                hint="Leave the transport out, or take the helper.",
            )
        self._settings = settings
        self._host = host
        self._store = BoxStore(settings.data_dir)
        self._starting = anyio.Lock()
        self._control: ControlPlane | None = None
        self._stop: Callable[[], Awaitable[None]] | None = None

    @property
    def description(self) -> str:
        """Which service this is, for people to read."""
        return f"the embedded engine ({self._settings.data_dir})"

    @property
    def reason(self) -> str:
        """Why this service was chosen, for people to read."""
        return self._settings.reason

    async def get(self, name: str) -> BoxRecord:
        """Return a box; the control plane is not asked."""
        return self._record(await to_thread.run_sync(self._store.get, name))

    async def list(self) -> builtins.list[BoxRecord]:
        """Return the boxes, by name; the control plane is not asked."""
        return [self._record(box) for box in await to_thread.run_sync(self._store.list)]

    async def create_plain(self, name: str, *, exist_ok: bool) -> BoxRecord | None:
        """Make a box that is an empty directory."""
        make = self._store.get_or_create if exist_ok else self._store.create
        return self._record(await to_thread.run_sync(make, name))

    async def record(self, detail: BoxDetail) -> BoxRecord:
        """Return the record for a box that the control plane has described."""
        record = await self.get(detail.info.name)
        record.detail = detail
        return record

    async def delete(self, name: str) -> bool:
        """Remove a box with its directory; False where the engine runs and has to do it."""
        if self._control is not None:
            return False
        await to_thread.run_sync(self._store.delete, name)
        return True

    async def arrears(self) -> Arrears | None:
        """Return None: directories of this machine cost nothing."""
        return None

    async def control(self) -> ControlPlane:
        """Return the engine's control plane, which is started in this process at the first call."""
        if self._control is not None:
            return self._control
        async with self._starting:
            if self._control is None:
                self._control = await self._start()
            return self._control

    def open_transport(
        self, record: BoxRecord, on_end: Callable[[], None] | None = None
    ) -> AbstractAsyncContextManager[FileTransport]:
        """Start a helper on the box's workspace and connect to it."""
        if self._settings.transport in ("auto", "helper"):
            return self._open_helper(record, on_end)
        return open_box_transport(
            BoxTarget(
                name=record.name,
                uid=record.uid,
                location=record.location,
                workspace=str(record.directory),
                transport=self._settings.transport,
                helper=self._settings.helper,
                timeouts=self._settings.timeouts,
                on_rung=lambda rung: setattr(record, "rung", rung),
            ),
            on_end,
        )

    async def aclose(self) -> None:
        """Stop the control plane, if it was started."""
        self._control = None
        stop, self._stop = self._stop, None
        if stop is not None:
            await stop()

    async def _start(self) -> ControlPlane:
        # Imported here, with what they import: mounting a box and working with its files does
        # without.
        try:
            import httpx

            from sealos_devbox.server.app import create_app
            from sealos_devbox.server.settings import EngineSettings
        except ModuleNotFoundError as error:
            raise CapabilityError(
                f"The embedded engine's control plane needs the package {error.name}, which is not "
                "installed.",
                hint="Install it with: pip install 'sealos-devbox[server]'",
            ) from None
        from sealos_devbox._async.control.asgi import Lifespan
        from sealos_devbox._async.control.credentials import Credentials
        from sealos_devbox._async.control.http import ControlHttp
        from sealos_devbox._async.control.modern import ModernControl
        from sealos_devbox._async.control.resource import EngineResource

        # Nobody else can send a request to this application, but it asks for a credential.
        settings = EngineSettings(self._settings.data_dir, token=secrets.token_urlsafe(24))
        app = await to_thread.run_sync(create_app, settings)
        life = Lifespan(app)
        await self._host.group.start(life.run)
        http = ControlHttp(
            Credentials(Secret(settings.token or ""), endpoint="http://localhost"),
            self._settings.timeouts,
            requests_per_second=self._settings.requests_per_second,
            transport=httpx.ASGITransport(app, raise_app_exceptions=False),
        )

        async def stop() -> None:
            await http.aclose()
            await life.stop()

        self._stop = stop
        # Its agents are at addresses that lead nowhere while it serves no port.
        return ModernControl(http, EngineResource(http, settings.namespace), agents=False)

    def _record(self, stored: StoredBox) -> BoxRecord:
        return BoxRecord(
            name=stored.name,
            uid=stored.uid,
            location=f"embedded engine, files in {stored.workspace}",
            directory=stored.workspace,
        )

    @asynccontextmanager
    async def _open_helper(
        self, record: BoxRecord, on_end: Callable[[], None] | None
    ) -> AsyncIterator[FileTransport]:
        helper = self._settings.helper or find_helper()
        channel: ByteChannel = await SubprocessChannel.open(
            [helper, "serve", "--root", str(record.directory)]
        )
        async with AsyncExitStack() as stack:
            delay = self._settings.link_delay_ms / 2000  # seconds, each way
            if delay:
                channel = await stack.enter_async_context(open_delayed_channel(channel, delay))
            if on_end is not None:
                channel = NoticingChannel(channel, on_end)
            transport = await stack.enter_async_context(
                open_helper_transport(channel, compress=False)
            )
            record.rung = Rung("helper", "the helper, as a child of this process")
            yield transport
