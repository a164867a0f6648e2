"""The seam between the public API and the services: who keeps boxes, and who knows them.

A `Service` finds boxes and opens ways to them. What only a control plane can do (lifecycle, ports,
releases, metrics) goes through its `ControlPlane`, of which there is one implementation for each
lineage of the API. The embedded engine keeps directories, so that files need no control plane
there; its control plane is started when something asks for it.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from sealos_devbox._planning.spec import BoxSpec
from sealos_devbox._transport.base import FileTransport
from sealos_devbox.models import (
    Arrears,
    BoxInfo,
    Deployment,
    EnvVar,
    Metrics,
    Pod,
    Port,
    PortRequest,
    Release,
    Runtime,
    Template,
    TemplateMatch,
)
from sealos_devbox.secret import Secret
from sealos_devbox.types import Rung

__all__ = ["BoxDetail", "BoxRecord", "ControlPlane", "Service"]


@dataclass(frozen=True, slots=True)
class BoxDetail:
    """What a control plane says of one box."""

    info: BoxInfo
    agent_token: Secret | None = None


@dataclass(slots=True)
class BoxRecord:
    """One box as its service knows it; `detail` is replaced when the service is asked again."""

    name: str
    uid: str
    location: str
    """Which service the box belongs to and where its files are, for people to read."""
    detail: BoxDetail | None = None
    """What was last heard; None when the control plane has not been asked."""
    directory: Path | None = None
    """The workspace, where it is a directory of this machine."""
    template: TemplateMatch | None = None
    """Which template was taken, for a box that this client made."""
    notes: tuple[str, ...] = ()
    """What went wrong without undoing that it was made."""
    rung: Rung | None = None
    """How it was last reached."""
    owned: bool = field(default=False)
    """Whether leaving the box's ``with`` block deletes it: it was made by `create`."""


class ControlPlane(Protocol):
    """The control plane's calls, each a request or few, in one unit each (models.py).

    Every call raises ServiceError, BoxNotFoundError, DeadlineExceededError or TransportError.
    """

    @property
    def description(self) -> str:
        """Which API this is, for people to read."""
        ...

    async def list(self) -> builtins.list[BoxInfo]:
        """Return all boxes."""
        ...

    async def detail(self, name: str, *, full: bool = False) -> BoxDetail:
        """Return one box; `full` asks for what needs another request, as when it was made."""
        ...

    async def create(self, spec: BoxSpec) -> builtins.list[str]:
        """Make a box; returns what went wrong without undoing it, for people to read.

        The caller knows that there was none of that name.
        """
        ...

    async def start(self, name: str) -> None:
        """Ask that it runs; raises BoxStateError while it is being committed."""
        ...

    async def pause(self, name: str) -> None:
        """Ask that it stops, its file system kept."""
        ...

    async def shutdown(self, name: str) -> None:
        """Ask that it stops and gives its network up."""
        ...

    async def delete(self, name: str) -> None:
        """Ask that it goes, with all that is in it."""
        ...

    async def set_resources(self, name: str, cpu: float | None, memory: int | None) -> None:
        """Change its limits; None leaves one as it is."""
        ...

    async def set_ports(
        self, name: str, ports: Sequence[PortRequest | Port]
    ) -> builtins.list[Port]:
        """Make these its ports: a Port stays, or is changed by its name; what is left out goes."""
        ...

    async def autostart(self, name: str, command: str | None) -> None:
        """Have a command run in it; None for its template's release command."""
        ...

    async def pods(self, name: str) -> builtins.list[Pod]:
        """Return its pods."""
        ...

    async def releases(self, name: str) -> builtins.list[Release]:
        """Return its releases, newest first."""
        ...

    async def create_release(self, name: str, tag: str, description: str) -> None:
        """Ask for a release, which is pending until the box has been stopped."""
        ...

    async def delete_release(self, name: str, tag: str) -> None:
        """Remove a release."""
        ...

    async def deploy_release(self, name: str, tag: str) -> Deployment:
        """Run a release as an application."""
        ...

    async def deployments(self, name: str) -> builtins.list[Deployment]:
        """Return the applications that run its releases."""
        ...

    async def metrics(
        self, name: str, start: datetime, end: datetime, step: float, *, allow_shared: bool
    ) -> Metrics:
        """Return what it used; raises MetricsUnreliableError when that cannot be told."""
        ...

    async def templates(self) -> builtins.list[Template]:
        """Return what boxes can be made from."""
        ...

    async def runtimes(self) -> builtins.list[Runtime]:
        """Return what is known of the kinds of templates."""
        ...

    @property
    def has_agents(self) -> bool:
        """Whether boxes have agents that can be reached."""
        ...

    async def agent_health(self, detail: BoxDetail) -> str | None:
        """Ask the box's agent: None when it is well, else what is wrong."""
        ...

    async def check_resource(self) -> None:
        """Raise what the two below would, if that can be told before."""
        ...

    async def set_storage(self, name: str, storage: int) -> None:
        """Change the limit of its root file system, on its custom resource."""
        ...

    async def set_env(self, name: str, env: Sequence[EnvVar]) -> None:
        """Replace its environment, on its custom resource."""
        ...


class Service(Protocol):
    """Boxes by name, and ways to them."""

    @property
    def description(self) -> str:
        """Which service this is, for people to read."""
        ...

    @property
    def reason(self) -> str:
        """Why this service was chosen, for people to read."""
        ...

    async def get(self, name: str) -> BoxRecord:
        """Return a box; raises BoxNotFoundError."""
        ...

    async def list(self) -> builtins.list[BoxRecord]:
        """Return the boxes, by name."""
        ...

    async def create_plain(self, name: str, *, exist_ok: bool) -> BoxRecord | None:
        """Make a box without a template; None where every box needs one.

        With `exist_ok`, of two callers both get it.
        """
        ...

    async def record(self, detail: BoxDetail) -> BoxRecord:
        """Return the record for a box that the control plane has described."""
        ...

    async def delete(self, name: str) -> bool:
        """Remove a box here; False where that is the control plane's business."""
        ...

    async def arrears(self) -> Arrears | None:
        """Return what is held against the workspace's account; None where nothing shows it."""
        ...

    async def control(self) -> ControlPlane:
        """Return the control plane, which is found, or started, at the first call."""
        ...

    def open_transport(
        self, record: BoxRecord, on_end: Callable[[], None] | None = None
    ) -> AbstractAsyncContextManager[FileTransport]:
        """Open a way to a box; `on_end` is called once nothing more will come from it."""
        ...

    async def aclose(self) -> None:
        """Close what was opened for the control plane. Safe to call twice."""
        ...
