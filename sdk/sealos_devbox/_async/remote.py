"""A Devbox service elsewhere: a region's control plane, or an engine that somebody runs."""

from __future__ import annotations

import builtins
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from sealos_devbox._async.cluster_boxes import ClusterBoxes
from sealos_devbox._async.reachable import check_reachable
from sealos_devbox._async.service import BoxDetail, BoxRecord, ControlPlane
from sealos_devbox._transport.base import FileTransport
from sealos_devbox._transport.ladder import BoxTarget, open_box_transport
from sealos_devbox.config import RemoteSettings
from sealos_devbox.errors import (
    AuthenticationError,
    CapabilityError,
    ConfigurationError,
    ConnectError,
    DevboxError,
)
from sealos_devbox.models import Arrears
from sealos_devbox.secret import Secret

if TYPE_CHECKING:
    from sealos_devbox._async.control.credentials import Credentials
    from sealos_devbox._async.control.http import ControlHttp

__all__ = ["RemoteService"]

_log = logging.getLogger(__name__)


class RemoteService:
    """Boxes of a service that is spoken to over HTTP."""

    def __init__(self, settings: RemoteSettings) -> None:
        self._settings = settings
        self._opening = anyio.Lock()
        self._control: ControlPlane | None = None
        # From sealos_devbox._async.control, which is imported when the first request is due.
        self._http: ControlHttp | None = None
        self._credentials: Credentials | None = None
        self._cluster = ClusterBoxes(settings)
        self._no_control: DevboxError | None = None
        """Why the cluster is asked in place of the control plane."""

    @property
    def description(self) -> str:
        """Which service this is, for people to read."""
        if self._no_control is not None:
            return "the kubeconfig's cluster, whose control plane cannot be reached"
        if self._credentials is not None:
            return self._credentials.endpoint
        return self._settings.endpoint or "the control plane of the kubeconfig's cluster"

    @property
    def reason(self) -> str:
        """Why this service was chosen, for people to read."""
        return self._settings.reason

    async def get(self, name: str) -> BoxRecord:
        """Return a box."""
        control = await self._control_or_cluster()
        if control is None:
            return await self._cluster.get(name)
        return await self.record(await control.detail(name, full=True))

    async def list(self) -> builtins.list[BoxRecord]:
        """Return the boxes, by name."""
        control = await self._control_or_cluster()
        if control is None:
            return await self._cluster.list()
        found = [await self.record(BoxDetail(info)) for info in await control.list()]
        return sorted(found, key=lambda record: record.name)

    async def create_plain(self, name: str, *, exist_ok: bool) -> BoxRecord | None:
        """Return None: every box here is made from a template."""
        del name, exist_ok
        return None

    async def record(self, detail: BoxDetail) -> BoxRecord:
        """Return the record for a box that the control plane has described."""
        name = detail.info.name
        return BoxRecord(
            name=name,
            # Names are unique in a workspace; the older lineage's list has no uid.
            uid=detail.info.uid or name,
            location=f"{self.description}, box {name}",
            detail=detail,
        )

    async def delete(self, name: str) -> bool:
        """Leave it to the control plane."""
        del name
        return False

    async def arrears(self) -> Arrears | None:
        """Ask the cluster, where the credential is for one."""
        if not ClusterBoxes.named(self._settings):
            return None
        return await self._cluster.arrears()

    async def control(self) -> ControlPlane:
        """Return the control plane; at the first call, finds out which lineage it is."""
        if self._control is not None:
            return self._control
        async with self._opening:
            if self._control is None:
                self._control = await self._open()
            return self._control

    async def _control_or_cluster(self) -> ControlPlane | None:
        """Return the control plane, None where there is none and the cluster knows the boxes.

        An address that was only derived from the cluster's may be no control plane's: the cluster
        itself is what the kubeconfig names.
        """
        if self._no_control is None:
            try:
                return await self.control()
            except (ConnectError, ConfigurationError) as error:
                derived = isinstance(error, ConnectError) or error.code == "no-endpoint"
                if not derived or not ClusterBoxes.possible(self._settings):
                    raise
                _log.info("the cluster is asked for its boxes: %s", error)
                self._no_control = error
        return None

    @asynccontextmanager
    async def open_transport(
        self, record: BoxRecord, on_end: Callable[[], None] | None = None
    ) -> AsyncIterator[FileTransport]:
        """Open the best way to a box."""
        async with open_box_transport(await self.target(record), on_end) as transport:
            yield transport

    async def target(self, record: BoxRecord) -> BoxTarget:
        """Return everything that is known of the ways to a box."""
        control = await self._control_or_cluster()
        if control is None:
            return self._cluster_target(record)
        if record.detail is None or record.detail.info.ssh is None:
            record.detail = await control.detail(record.name)
        info = record.detail.info
        settings, credentials = self._settings, self._credentials

        async def agent_token() -> Secret:
            record.detail = await control.detail(record.name)
            if record.detail.agent_token is None:
                raise CapabilityError(f"The box {record.name!r} has no agent.")
            return record.detail.agent_token

        return BoxTarget(
            name=record.name,
            uid=record.uid,
            location=record.location,
            workspace=info.working_dir,
            user=info.ssh.user if info.ssh else None,
            kubeconfig=credentials.kubeconfig_text if credentials else None,
            kubeconfig_paths=settings.kubeconfig,
            context=settings.context,
            namespace=credentials.namespace if credentials else None,
            agent_url=info.agent_url,
            agent_token=agent_token if info.agent_url else None,
            transport=settings.transport,
            helper=settings.helper,
            ca_file=settings.ca_file,
            control_plane=credentials.endpoint if credentials else None,
            timeouts=settings.timeouts,
            previous=record.rung,
            on_rung=lambda rung: setattr(record, "rung", rung),
        )

    def _cluster_target(self, record: BoxRecord) -> BoxTarget:
        settings = self._settings
        return BoxTarget(
            name=record.name,
            uid=record.uid,
            location=record.location,
            kubeconfig=self._cluster.kubeconfig_text,
            kubeconfig_paths=settings.kubeconfig,
            context=settings.context,
            namespace=settings.namespace,
            transport=settings.transport,
            helper=settings.helper,
            ca_file=settings.ca_file,
            timeouts=settings.timeouts,
            previous=record.rung,
            on_rung=lambda rung: setattr(record, "rung", rung),
        )

    async def aclose(self) -> None:
        """Close what was opened for the control plane."""
        self._control = None
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    async def _open(self) -> ControlPlane:
        from sealos_devbox._async.control.credentials import Credentials
        from sealos_devbox._async.control.http import ControlHttp
        from sealos_devbox._async.control.probe import find_control
        from sealos_devbox._async.control.resource import ClusterResource, NoCustomResource

        settings = self._settings
        if self._http is None:
            self._credentials = credentials = await Credentials.load(settings)
            self._http = ControlHttp(
                credentials,
                settings.timeouts,
                requests_per_second=settings.requests_per_second,
                ca_file=settings.ca_file,
            )
        credentials = self._http.credentials
        resource = (
            ClusterResource(
                text=credentials.kubeconfig_text,
                paths=tuple(map(str, settings.kubeconfig)),
                context=settings.context,
                namespace=credentials.namespace,
            )
            if credentials.kubeconfig_text is not None or settings.kubeconfig
            else NoCustomResource()
        )
        if settings.endpoint is None and ClusterBoxes.possible(settings):
            await check_reachable(credentials.endpoint)
        try:
            return await find_control(self._http, resource)
        except AuthenticationError as error:
            if not error.hint:
                error.hint = "Check the kubeconfig, its context, and whether it has expired."
            raise
