"""The client: boxes by name."""

from __future__ import annotations

import builtins
import difflib
import logging
import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import anyio

from sealos_devbox._async.box import AsyncBox
from sealos_devbox._async.connection import TaskHost
from sealos_devbox._async.creation import make_box, note_template
from sealos_devbox._async.embedded import EmbeddedService
from sealos_devbox._async.remote import RemoteService
from sealos_devbox._async.service import BoxRecord, Service
from sealos_devbox._planning.names import check_box_name, made_name
from sealos_devbox._planning.quantities import parse_cpu, parse_size
from sealos_devbox._planning.requested import env_variables, port_requests
from sealos_devbox._planning.spec import BoxRequest
from sealos_devbox.config import DevboxConfig, EmbeddedSettings, Settings
from sealos_devbox.errors import BoxExistsError, BoxNotFoundError, DevboxError
from sealos_devbox.models import Arrears, EnvVar, Port, PortRequest, Runtime, Template

__all__ = ["AsyncDevbox"]

_log = logging.getLogger(__name__)


class AsyncDevbox:
    """The boxes of one service, which is the one that the configuration means.

    Use it as ``async with AsyncDevbox() as devbox:``; the end of the block closes the connections
    of its boxes. Nothing is sent before the first call. Raises ConfigurationError when the service
    that is meant cannot be told, CapabilityError when it is ruled out.
    """

    def __init__(self, config: DevboxConfig | None = None) -> None:
        self._host = TaskHost()
        self._service = _service((config or DevboxConfig()).settings(), self._host)

    @property
    def service(self) -> str:
        """Which service this is, for people to read."""
        return self._service.description

    @property
    def is_embedded(self) -> bool:
        """Whether this is the embedded engine, whose boxes are directories of this machine."""
        return isinstance(self._service, EmbeddedService)

    @property
    def reason(self) -> str:
        """Why this service was chosen, for people to read."""
        return self._service.reason

    async def create(
        self,
        name: str | None = None,
        *,
        language: str | None = None,
        runtime: str | None = None,
        template: str | None = None,
        cpu: float | str | None = None,
        memory: int | str | None = None,
        storage: int | str | None = None,
        ports: Sequence[int | PortRequest | Port] = (),
        env: Mapping[str, str] | Sequence[EnvVar] | None = None,
        autostart: bool = False,
        wait: bool = True,
        timeout: float = 300.0,
    ) -> AsyncBox:
        """Make a box; raises BoxExistsError when there is one of that name.

        `runtime` names a template of the region, ``"python"`` or ``"python:3.11"``; `language` is
        enough too. A region has one version of each template, so the nearest is taken, and when it
        is not what was asked for, the log and `template` of the box say so. `template` takes none
        but the one of that name, also one that `templates` does not list. Without all three, the
        embedded engine makes a box that is an empty directory.

        `cpu` is in cores or as ``"500m"``, by default 1; `memory` and `storage` in bytes or as
        ``"2Gi"``, by default 2 GiB and what the service gives. Regions take cpu 0.1, 0.2, 0.5, 1,
        2, 4, 8, 16 and memory 0.1, 0.5, 1, 2, 4, 8, 16, 32 GiB, and for most runtimes anything
        between 0.1 and 32. What a region does not have is ValueError, with what is nearest.
        `storage` is set on the box's object in the cluster, where
        the credential allows it; else an error is raised before anything is made.

        With `wait`, returns when the box can be used. Raises DeadlineExceededError after `timeout`
        seconds; the box may be there all the same. A failed request is repeated only after looking
        whether the box was made. Leaving the block of a box that this made deletes it.
        """
        request = box_request(
            language, runtime, cpu, memory, storage, ports, env, autostart, template
        )
        if name is None:
            name = made_name(language or (runtime or "").partition(":")[0], os.urandom(8))
        check_box_name(name)
        return await self._create(name, request, wait=wait, timeout=timeout)

    async def get(self, name: str) -> AsyncBox:
        """Return the box of that name; raises BoxNotFoundError when there is none."""
        check_box_name(name)
        try:
            return self._box(await self._service.get(name))
        except BoxNotFoundError as error:
            if not error.hint:
                error.hint = await self._suggestion(name)
            raise

    async def get_or_create(
        self,
        name: str,
        *,
        language: str | None = None,
        runtime: str | None = None,
        template: str | None = None,
        cpu: float | str | None = None,
        memory: int | str | None = None,
        storage: int | str | None = None,
        ports: Sequence[int | PortRequest | Port] = (),
        env: Mapping[str, str] | Sequence[EnvVar] | None = None,
        autostart: bool = False,
        wait: bool = True,
        timeout: float = 300.0,
    ) -> AsyncBox:
        """Return the box of that name, which is made if need be; of two callers, both get it.

        What is asked for besides the name is for a box that has to be made, see `create`: one that
        there is stays as it is, stopped too. Leaving the block of this box does not delete it.
        """
        request = box_request(
            language, runtime, cpu, memory, storage, ports, env, autostart, template
        )
        check_box_name(name)
        if request.is_plain:
            record = await self._service.create_plain(name, exist_ok=True)
            if record is not None:
                return self._box(record)
        while True:
            try:
                return self._box(await self._service.get(name))
            except BoxNotFoundError:
                pass
            try:
                box = await self._create(name, request, wait=wait, timeout=timeout)
            except BoxExistsError:
                continue  # somebody else was faster, or has deleted it since: look again
            box.keep()
            return box

    async def delete(self, name: str, *, wait: bool = True, timeout: float = 120.0) -> None:
        """Remove a box with all its files; raises BoxNotFoundError when there is none."""
        check_box_name(name)
        await self._box(BoxRecord(name, name, self.service)).delete(wait=wait, timeout=timeout)

    async def list(self) -> builtins.list[AsyncBox]:
        """Return the boxes, by name.

        A region lists no box whose template it has no longer; `get` finds that by its name.
        """
        return [self._box(record) for record in await self._service.list()]

    async def arrears(self) -> Arrears | None:
        """Return what the cluster holds against a workspace whose account is in arrears.

        None where nothing shows it: there is nothing, or the credential is no kubeconfig, or may
        not read it. Two requests at once, to the cluster's API server; raises ConnectError when
        that cannot be reached.
        """
        return await self._service.arrears()

    async def templates(self) -> builtins.list[Template]:
        """Return what the region makes boxes from: one template of each runtime."""
        return await (await self._service.control()).templates()

    async def runtimes(self) -> builtins.list[Runtime]:
        """Return the runtimes of the region's templates, with what is known of them."""
        return await (await self._service.control()).runtimes()

    async def __aenter__(self) -> Self:
        await self._host.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        await self._service.aclose()
        return await self._host.__aexit__(kind, value, traceback)

    async def _create(
        self, name: str, request: BoxRequest, *, wait: bool, timeout: float
    ) -> AsyncBox:
        if request.is_plain:
            record = await self._service.create_plain(name, exist_ok=False)
            if record is not None:
                record.owned = True
                return self._box(record)
        ends = anyio.current_time() + timeout
        record = await make_box(self._service, name, request, timeout)
        record.owned = True
        box = self._box(record)
        if wait:
            await box.wait_until_ready(timeout=max(ends - anyio.current_time(), 0.0))
        note_template(record)
        return box

    def _box(self, record: BoxRecord) -> AsyncBox:
        return AsyncBox(self._service, record, self._host)

    async def _suggestion(self, name: str) -> str:
        try:
            names = [record.name for record in await self._service.list()]
        except DevboxError as error:
            _log.debug("no suggestion for %s: %s", name, error)
            return ""
        near = difflib.get_close_matches(name, names, n=3)
        return f"Did you mean {' or '.join(map(repr, near))}?" if near else ""


def box_request(
    language: str | None,
    runtime: str | None,
    cpu: float | str | None,
    memory: int | str | None,
    storage: int | str | None,
    ports: Sequence[int | PortRequest | Port],
    env: Mapping[str, str] | Sequence[EnvVar] | None,
    autostart: bool,
    template: str | None,
) -> BoxRequest:
    """Check what can be checked without the region; raises ValueError."""
    if template is not None and (runtime is not None or language is not None):
        raise ValueError("template names one, and runtime and language look for one: give either")
    if template == "":
        raise ValueError("a template has a name")
    return BoxRequest(
        language,
        runtime,
        None if cpu is None else parse_cpu(cpu),
        None if memory is None else parse_size(memory),
        None if storage is None else parse_size(storage, "storage"),
        port_requests(ports),
        env_variables(env or ()),
        autostart,
        template,
    )


def _service(settings: Settings, host: TaskHost) -> Service:
    if isinstance(settings, EmbeddedSettings):
        return EmbeddedService(settings, host)
    return RemoteService(settings)
