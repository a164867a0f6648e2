# Generated from _async/box.py by sdk/tools/generate_sync.py (make generate).
"""One box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Self

from sealos_devbox._async.box import AsyncBox
from sealos_devbox._async.process import Command
from sealos_devbox._sync._portal import Portal
from sealos_devbox._sync.files import Files
from sealos_devbox._sync.process import Process
from sealos_devbox._sync.releases import Releases
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

__all__ = ["Box"]


class Box:
    """A box: its life, its files, and commands in it.

    Connects to it when its files or commands are first used, and again on the next call after the
    way to it broke; a call that failed is never repeated by itself. Leaving its ``with``
    block closes the connection; **a box that `create` made is also deleted**, with all that is in
    it, while one that `get` or `get_or_create` returned stays.

    What the service says of it is a snapshot, `info`; calls that ask the service bring it up to
    date. They raise ServiceError when it refuses, TransportError when it cannot be reached, and
    BoxNotFoundError when the box is gone.
    """

    def __init__(self, portal: Portal, asynchronous: AsyncBox) -> None:
        self._portal = portal
        self._async = asynchronous

    def __repr__(self) -> str:
        return repr(self._async).replace("Async", "", 1)

    @property
    def name(self) -> str:
        """The box's name."""
        return self._async.name

    @property
    def uid(self) -> str:
        """What tells the box from any other, one of the same name made later included."""
        return self._async.uid

    @property
    def location(self) -> str:
        """Which service the box belongs to and where its files are, for people to read."""
        return self._async.location

    @property
    def info(self) -> BoxInfo | None:
        """What the service last said of it; None when it has not been asked: see `refresh`."""
        return self._async.info

    @property
    def template(self) -> TemplateMatch | None:
        """Which template was taken for what `create` was asked for; None for other boxes."""
        return self._async.template

    @property
    def rung(self) -> Rung | None:
        """How the box was last reached, and why by no better way; None before the first time."""
        return self._async.rung

    @property
    def notes(self) -> tuple[str, ...]:
        """What went wrong when it was made without undoing it, as a port that was not opened."""
        return self._async.notes

    @property
    def releases(self) -> Releases:
        """The releases of the box."""
        return Releases(self._portal, self._async.releases)

    @property
    def fs(self) -> Files:
        """The box's files."""
        return Files(self._portal, self._async.fs)

    def run(
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
        return self._portal.call(
            self._async.run, command, cwd=cwd, env=env, input=input, timeout=timeout, check=check
        )

    def open_process(
        self,
        command: Command,
        *,
        cwd: BoxPath | None = None,
        env: Mapping[str, str] | None = None,
        terminal: tuple[int, int] | None = None,
    ) -> Process:
        """Prepare a command whose streams the caller handles; entering the answer starts it.

        `terminal`: (rows, columns) of a terminal that the command gets instead of pipes.
        """
        return Process(
            self._portal, self._async.open_process(command, cwd=cwd, env=env, terminal=terminal)
        )

    def refresh(self) -> BoxInfo:
        """Ask the service what it knows of the box now."""
        return self._portal.call(self._async.refresh)

    def start(self, *, wait: bool = True, timeout: float = 300.0) -> None:
        """Have it run; with `wait`, until it does. Does nothing to a box that runs.

        Waits for a commit that is under way. That it runs does not say that anything in it answers:
        see `wait_until_ready`. Raises DeadlineExceededError after `timeout` seconds.
        """
        self._portal.call(self._async.start, wait=wait, timeout=timeout)

    def pause(self, *, wait: bool = True, timeout: float = 600.0) -> None:
        """Have it stop, with its files kept and its processes killed; with `wait`, until it has.

        The service stops it at once, without a signal to its processes, and commits its file system
        to an image, which takes seconds to minutes.
        """
        self._portal.call(self._async.pause, wait=wait, timeout=timeout)

    def shutdown(self, *, wait: bool = True, timeout: float = 600.0) -> None:
        """Have it stop as `pause` does, and give its network addresses up as well."""
        self._portal.call(self._async.shutdown, wait=wait, timeout=timeout)

    def restart(self, *, timeout: float = 900.0) -> None:
        """Have it stop, wait until its file system is committed, and have it run again.

        The service's own restart does not wait for the commit, and can leave the box stopped.
        """
        self._portal.call(self._async.restart, timeout=timeout)

    def delete(self, *, wait: bool = True, timeout: float = 120.0) -> None:
        """Remove the box with all that is in it; with `wait`, until the service has forgotten it.

        Raises BoxNotFoundError when there is none of its name.
        """
        self._portal.call(self._async.delete, wait=wait, timeout=timeout)

    def wait_until_ready(self, *, timeout: float = 300.0) -> BoxInfo:
        """Wait until the box runs and its agent answers, or a way to its files opens.

        Raises BoxStateError when it is stopped or in an error that lasts.
        """
        return self._portal.call(self._async.wait_until_ready, timeout=timeout)

    def health(self) -> BoxHealth:
        """Say whether the box can be used now."""
        return self._portal.call(self._async.health)

    def update(
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
        return self._portal.call(
            self._async.update, cpu=cpu, memory=memory, storage=storage, ports=ports, env=env
        )

    def ports(self) -> list[Port]:
        """Return the ports that the service forwards."""
        return self._portal.call(self._async.ports)

    def open_port(
        self,
        number: int,
        *,
        protocol: PortProtocol = "http",
        public: bool = True,
        custom_domain: str | None = None,
    ) -> Port:
        """Have a port forwarded, beside those that are; with `public`, from the whole internet."""
        return self._portal.call(
            self._async.open_port,
            number,
            protocol=protocol,
            public=public,
            custom_domain=custom_domain,
        )

    def close_port(self, number: int) -> None:
        """Have a port no longer forwarded; raises ValueError when it is not."""
        self._portal.call(self._async.close_port, number)

    def env(self) -> list[EnvVar]:
        """Return the variables that the box was given."""
        return self._portal.call(self._async.env)

    def ssh(self) -> SshInfo:
        """Return how SSH reaches the box; raises CapabilityError when the service does not say."""
        return self._portal.call(self._async.ssh)

    def autostart(self, command: str | None = None) -> None:
        """Have a command run in the box; by default what its template runs for a release.

        Needs the right to make RBAC objects in the workspace. What the command prints is kept
        nowhere.
        """
        self._portal.call(self._async.autostart, command)

    def pods(self) -> list[Pod]:
        """Return its pods: one when it runs, none when it is stopped."""
        return self._portal.call(self._async.pods)

    def metrics(
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
        return self._portal.call(self._async.metrics, start, end, step, allow_shared=allow_shared)

    def metrics_latest(self, *, allow_shared: bool = False) -> MetricSample | None:
        """Return the newest figures of the last ten minutes, None when there are none."""
        return self._portal.call(self._async.metrics_latest, allow_shared=allow_shared)

    def keep(self) -> None:
        """Have the box stay when its block is left, also if `create` made it."""
        self._async.keep()

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        self._portal.call(self._async.aclose)

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
