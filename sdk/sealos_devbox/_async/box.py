"""One box."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self

import anyio

from sealos_devbox._async.connection import Connection, TaskHost
from sealos_devbox._async.files import AsyncFiles
from sealos_devbox._async.lifecycle import Lifecycle
from sealos_devbox._async.process import AsyncProcess, Command, run_command
from sealos_devbox._async.releases import AsyncReleases
from sealos_devbox._async.service import BoxRecord, ControlPlane, Service
from sealos_devbox._planning.quantities import parse_cpu, parse_size
from sealos_devbox._planning.requested import (
    env_variables,
    kept_ports,
    port_requests,
    with_port,
    without_port,
)
from sealos_devbox._transport.base import FileTransport
from sealos_devbox.errors import BoxNotFoundError, CapabilityError, DevboxError
from sealos_devbox.models import (
    BoxHealth,
    BoxInfo,
    EnvVar,
    Metrics,
    MetricSample,
    Pod,
    Port,
    PortProtocol,
    PortRequest,
    SshInfo,
    TemplateMatch,
)
from sealos_devbox.paths import BoxPath
from sealos_devbox.results import CommandResult
from sealos_devbox.types import Rung

__all__ = ["AsyncBox"]

_log = logging.getLogger(__name__)

_CLEAN_UP_TIMEOUT = 60.0
"""Seconds that leaving the block of a box may take for having it deleted (a guess)."""


class AsyncBox:
    """A box: its life, its files, and commands in it.

    Connects to it when its files or commands are first used, and again on the next call after the
    way to it broke; a call that failed is never repeated by itself. Leaving its ``async with``
    block closes the connection; **a box that `create` made is also deleted**, with all that is in
    it, while one that `get` or `get_or_create` returned stays.

    What the service says of it is a snapshot, `info`; calls that ask the service bring it up to
    date. They raise ServiceError when it refuses, TransportError when it cannot be reached, and
    BoxNotFoundError when the box is gone.
    """

    def __init__(self, service: Service, record: BoxRecord, host: TaskHost) -> None:
        self._service = service
        self._record = record
        self._host = host
        self._connection = self._connect()
        self._files = AsyncFiles(self._connection, self._connect)
        self._releases = AsyncReleases(service, record)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}, {self.location}>"

    @property
    def name(self) -> str:
        """The box's name."""
        return self._record.name

    @property
    def uid(self) -> str:
        """What tells the box from any other, one of the same name made later included."""
        return self._record.uid

    @property
    def location(self) -> str:
        """Which service the box belongs to and where its files are, for people to read."""
        return self._record.location

    @property
    def info(self) -> BoxInfo | None:
        """What the service last said of it; None when it has not been asked: see `refresh`."""
        return None if self._record.detail is None else self._record.detail.info

    @property
    def template(self) -> TemplateMatch | None:
        """Which template was taken for what `create` was asked for; None for other boxes."""
        return self._record.template

    @property
    def rung(self) -> Rung | None:
        """How the box was last reached, and why by no better way; None before the first time."""
        return self._record.rung

    @property
    def notes(self) -> tuple[str, ...]:
        """What went wrong when it was made without undoing it, as a port that was not opened."""
        return self._record.notes

    @property
    def releases(self) -> AsyncReleases:
        """The releases of the box."""
        return self._releases

    @property
    def fs(self) -> AsyncFiles:
        """The box's files."""
        return self._files

    async def run(
        self,
        command: Command,
        *,
        cwd: BoxPath | None = None,
        env: Mapping[str, str] | None = None,
        input: str | bytes | None = None,
        timeout: float | None = None,
        check: bool = False,
    ) -> CommandResult:
        """Run a command in the box to its end and return its output, all of it in memory.

        A str is a line for the box's shell; a sequence is a program with its arguments, which no
        shell sees. `cwd`, by default the workspace, is a directory in it. `env` is added to the
        box's environment. `input` is its standard input, which is empty by default. After `timeout`
        seconds the command and its process group are killed and CommandTimeoutError is raised, with
        the output so far. With `check`, CommandFailedError is raised unless it ended with exit code
        0. Raises CommandNotFoundError when the box has no such program.
        """
        process = self.open_process(command, cwd=cwd, env=env)
        return await run_command(process, command, input, timeout, check=check)

    def open_process(
        self,
        command: Command,
        *,
        cwd: BoxPath | None = None,
        env: Mapping[str, str] | None = None,
        terminal: tuple[int, int] | None = None,
    ) -> AsyncProcess:
        """Prepare a command whose streams the caller handles; entering the answer starts it.

        `terminal`: (rows, columns) of a terminal that the command gets instead of pipes.
        """
        return AsyncProcess(self._connection, command, cwd=cwd, env=env, terminal=terminal)

    @asynccontextmanager
    async def open_transport(self) -> AsyncIterator[FileTransport]:
        """Open a connection of the caller's own, on the level of the transport.

        For programs that manage connections themselves: nothing is reconnected.
        """
        async with self._service.open_transport(self._record) as transport:
            yield transport

    # -- its life ----------------------------------------------------------------------------------

    async def refresh(self) -> BoxInfo:
        """Ask the service what it knows of the box now."""
        control = await self._service.control()
        self._record.detail = await control.detail(self.name, full=True)
        return self._record.detail.info

    async def start(self, *, wait: bool = True, timeout: float = 300.0) -> None:
        """Have it run; with `wait`, until it does. Does nothing to a box that runs.

        Waits for a commit that is under way. That it runs does not say that anything in it answers:
        see `wait_until_ready`. Raises DeadlineExceededError after `timeout` seconds.
        """
        await (await self._life()).start(wait=wait, timeout=timeout)

    async def pause(self, *, wait: bool = True, timeout: float = 600.0) -> None:
        """Have it stop, with its files kept and its processes killed; with `wait`, until it has.

        The service stops it at once, without a signal to its processes, and commits its file system
        to an image, which takes seconds to minutes.
        """
        await self.aclose()
        await (await self._life()).pause(wait=wait, timeout=timeout)

    async def shutdown(self, *, wait: bool = True, timeout: float = 600.0) -> None:
        """Have it stop as `pause` does, and give its network addresses up as well."""
        await self.aclose()
        await (await self._life()).shutdown(wait=wait, timeout=timeout)

    async def restart(self, *, timeout: float = 900.0) -> None:
        """Have it stop, wait until its file system is committed, and have it run again.

        The service's own restart does not wait for the commit, and can leave the box stopped.
        """
        await self.aclose()
        await (await self._life()).restart(timeout=timeout)

    async def delete(self, *, wait: bool = True, timeout: float = 120.0) -> None:
        """Remove the box with all that is in it; with `wait`, until the service has forgotten it.

        Raises BoxNotFoundError when there is none of its name.
        """
        await self.aclose()
        if await self._service.delete(self.name):
            return
        control = await self._service.control()
        await control.delete(self.name)
        if wait:
            await (await self._life()).wait_until_gone(timeout=timeout)

    async def wait_until_ready(self, *, timeout: float = 300.0) -> BoxInfo:
        """Wait until the box runs and its agent answers, or a way to its files opens.

        Raises BoxStateError when it is stopped or in an error that lasts.
        """
        return await (await self._life()).wait_until_ready(timeout=timeout)

    async def health(self) -> BoxHealth:
        """Say whether the box can be used now."""
        return await (await self._life()).health()

    # -- its settings ------------------------------------------------------------------------------

    async def update(
        self,
        *,
        cpu: float | str | None = None,
        memory: int | str | None = None,
        storage: int | str | None = None,
        ports: Sequence[int | PortRequest | Port] | None = None,
        env: Mapping[str, str] | Sequence[EnvVar] | None = None,
    ) -> BoxInfo:
        """Change its limits, ports or environment; what is None stays as it is.

        `cpu` in cores or as ``"500m"``; `memory` and `storage` in bytes or as ``"2Gi"``. `ports`
        and `env` replace all that there are. `storage` and `env` have no field in the REST API and
        are set on the box's object in the cluster, for which the credential has to be a kubeconfig
        with that right; else CapabilityError or AccessDeniedError is raised, and nothing has been
        changed. Values that the service would refuse are ValueError. A running box may be restarted
        by the service for this. Not atomic: limits come first, then ports, then the rest.
        """
        cores = None if cpu is None else parse_cpu(cpu)
        size = None if memory is None else parse_size(memory)
        disk = None if storage is None else parse_size(storage, "storage")
        wanted = None if ports is None else port_requests(ports)
        variables = None if env is None else env_variables(env)
        control = await self._service.control()
        if disk is not None or variables is not None:
            await control.check_resource()
        if cores is not None or size is not None:
            await control.set_resources(self.name, cores, size)
        if wanted is not None:
            present = (await control.detail(self.name)).info.ports
            await control.set_ports(self.name, kept_ports(present, wanted))
        if disk is not None:
            await control.set_storage(self.name, disk)
        if variables is not None:
            await control.set_env(self.name, variables)
        return await self.refresh()

    async def ports(self) -> list[Port]:
        """Return the ports that the service forwards."""
        return list((await self.refresh()).ports)

    async def open_port(
        self,
        number: int,
        *,
        protocol: PortProtocol = "http",
        public: bool = True,
        custom_domain: str | None = None,
    ) -> Port:
        """Have a port forwarded, beside those that are; with `public`, from the whole internet."""
        (request,) = port_requests([PortRequest(number, protocol, public, custom_domain)])
        control = await self._service.control()
        present = (await control.detail(self.name)).info.ports
        found = await control.set_ports(self.name, with_port(present, request))
        for port in found:
            if port.number == number:
                return port
        raise DevboxError(f"The service did not open port {number}.", hop="control-plane")

    async def close_port(self, number: int) -> None:
        """Have a port no longer forwarded; raises ValueError when it is not."""
        control = await self._service.control()
        present = (await control.detail(self.name)).info.ports
        await control.set_ports(self.name, without_port(present, number))

    async def env(self) -> list[EnvVar]:
        """Return the variables that the box was given."""
        return list((await self.refresh()).env)

    async def ssh(self) -> SshInfo:
        """Return how SSH reaches the box; raises CapabilityError when the service does not say."""
        found = (await self.refresh()).ssh
        if found is None:
            raise CapabilityError("The service does not say how SSH reaches this box.")
        return found

    async def autostart(self, command: str | None = None) -> None:
        """Have a command run in the box; by default what its template runs for a release.

        Needs the right to make RBAC objects in the workspace. What the command prints is kept
        nowhere.
        """
        await (await self._service.control()).autostart(self.name, command)

    # -- what it does ------------------------------------------------------------------------------

    async def pods(self) -> list[Pod]:
        """Return its pods: one when it runs, none when it is stopped."""
        return await (await self._service.control()).pods(self.name)

    async def metrics(
        self,
        start: datetime | None = None,
        end: datetime | None = None,
        step: float = 120.0,
        *,
        allow_shared: bool = False,
    ) -> Metrics:
        """Return what the box used of its CPU and memory, by default in the last three hours.

        Times have a time zone; `step` is in seconds. The service tells boxes apart by the beginning
        of their names up to the last hyphen: where that makes it average other boxes in,
        MetricsUnreliableError is raised, unless `allow_shared`.
        """
        last = datetime.now(UTC) if end is None else end
        first = last - timedelta(hours=3) if start is None else start
        if first.tzinfo is None or last.tzinfo is None:
            raise ValueError("start and end need a time zone")
        if first >= last:
            raise ValueError("start must be earlier than end")
        if step <= 0:
            raise ValueError("step must be positive")
        control = await self._service.control()
        return await control.metrics(self.name, first, last, step, allow_shared=allow_shared)

    async def metrics_latest(self, *, allow_shared: bool = False) -> MetricSample | None:
        """Return the newest figures of the last ten minutes, None when there are none."""
        now = datetime.now(UTC)
        found = await self.metrics(
            now - timedelta(minutes=10), now, 60.0, allow_shared=allow_shared
        )
        return found.samples[-1] if found.samples else None

    # -- its connection ----------------------------------------------------------------------------

    def keep(self) -> None:
        """Have the box stay when its block is left, also if `create` made it."""
        self._record.owned = False

    async def aclose(self) -> None:
        """Close the connection; the next call opens another."""
        await self._connection.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
        if self._record.owned:
            await self._clean_up(value)

    async def _clean_up(self, raised: BaseException | None) -> None:
        try:
            # Also when the block was cancelled: what it made would stay, and cost.
            with anyio.fail_after(_CLEAN_UP_TIMEOUT, shield=True):
                await self.delete(wait=False)
        except BoxNotFoundError:
            return
        except (DevboxError, TimeoutError) as error:
            if raised is None:
                raise
            _log.warning("the box %s was not deleted: %s", self.name, error)

    async def _life(self) -> Lifecycle:
        async def try_connection() -> None:
            await self._connection.link()

        control: ControlPlane = await self._service.control()
        return Lifecycle(self._record, control, try_connection)

    def _connect(self) -> Connection:
        def open_transport(
            on_end: Callable[[], None],
        ) -> AbstractAsyncContextManager[FileTransport]:
            return self._service.open_transport(self._record, on_end)

        # The root directory of an embedded box is this machine's: what is there is not the box's.
        alias = True if self._record.directory is not None else None
        return Connection(self._host, open_transport, alias=alias)
