"""What the service says of boxes: one model, whichever route it came by.

One unit each: cores, bytes, percent from 0 to 100 of the limit, datetimes with a time zone (UTC),
durations in seconds. What a route does not say is None, never a guess.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal

from sealos_devbox.secret import Secret

__all__ = [
    "Arrears",
    "BoxHealth",
    "BoxInfo",
    "BoxState",
    "Deployment",
    "EnvVar",
    "MetricSample",
    "Metrics",
    "Pod",
    "Port",
    "PortProtocol",
    "PortRequest",
    "Release",
    "ReleaseState",
    "Resources",
    "Runtime",
    "SecretRef",
    "SshInfo",
    "Template",
    "TemplateMatch",
]


class BoxState(StrEnum):
    """What a box is doing. A box that is ``running`` need not answer yet: see wait_until_ready."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    """Without a pod, its disk kept where it was. Only the cluster's API brings a box there."""
    STOPPING = "stopping"
    STOPPED = "stopped"
    """Without a pod, its root file system kept as an image: what `pause` comes to."""
    SHUTTING = "shutting"
    SHUTDOWN = "shutdown"
    """As stopped, and its network has been given up."""
    DELETING = "deleting"
    ERROR = "error"
    UNKNOWN = "unknown"

    @property
    def changing(self) -> bool:
        """Whether it leads to another state by itself."""
        return self in _CHANGING


_CHANGING = frozenset(
    {
        BoxState.PENDING,
        BoxState.PAUSING,
        BoxState.STOPPING,
        BoxState.SHUTTING,
        BoxState.DELETING,
    }
)


@dataclass(frozen=True, slots=True)
class Resources:
    """What a box may use."""

    cpu: float
    """Cores."""
    memory: int
    """Bytes."""
    storage: int | None = None
    """Bytes of its root file system; None where the service does not say."""


@dataclass(frozen=True, slots=True)
class SecretRef:
    """One key of a Kubernetes Secret."""

    name: str
    key: str


@dataclass(frozen=True, slots=True)
class EnvVar:
    """A variable of a box's environment: a value, or where in the cluster it is taken from."""

    name: str
    value: str | None = None
    secret: SecretRef | None = None


PortProtocol = Literal["http", "grpc", "ws"]


@dataclass(frozen=True, slots=True)
class PortRequest:
    """A port as it is asked for."""

    number: int
    protocol: PortProtocol = "http"
    public: bool = True
    """Whether it gets an address on the internet, open to everybody."""
    custom_domain: str | None = None


@dataclass(frozen=True, slots=True)
class Port:
    """A port of a box that the service forwards."""

    number: int
    protocol: PortProtocol
    public: bool
    name: str | None = None
    """What the service calls it."""
    public_url: str | None = None
    private_url: str | None = None
    """For programs in the same workspace."""
    custom_domain: str | None = None


@dataclass(frozen=True, slots=True)
class SshInfo:
    """How SSH reaches a box."""

    host: str
    port: int | None
    """None when it is not known yet."""
    user: str
    working_dir: str
    private_key: Secret | None = None
    """In OpenSSH's PEM format."""

    @property
    def command(self) -> str:
        """A command line, but for the key."""
        port = "" if self.port in (None, 22) else f" -p {self.port}"
        return f"ssh{port} {self.user}@{self.host}"


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of a box."""

    name: str
    state: str
    """Kubernetes' phase in lower case, as ``running``."""
    ip: str | None = None
    node: str | None = None
    restarts: int | None = None


@dataclass(frozen=True, slots=True)
class BoxInfo:
    """One box, at the moment when the service was asked."""

    name: str
    uid: str
    state: BoxState
    runtime: str
    resources: Resources
    image: str | None = None
    created_at: datetime | None = None
    ssh: SshInfo | None = None
    env: tuple[EnvVar, ...] = ()
    ports: tuple[Port, ...] = ()
    pods: tuple[Pod, ...] = ()
    unique_id: str | None = None
    """The box's name in public addresses; None until the service has given it one."""
    agent_url: str | None = None
    """The address of its agent, if it has one and it is known yet."""
    working_dir: str | None = None
    """The workspace's path in the box."""


ReleaseState = Literal["pending", "success", "failed", "unknown"]


@dataclass(frozen=True, slots=True)
class Release:
    """An image made of a box."""

    tag: str
    state: ReleaseState
    """``pending`` until the box has been stopped and its image is there."""
    description: str
    created_at: datetime | None = None
    image: str | None = None
    uid: str | None = None


@dataclass(frozen=True, slots=True)
class Deployment:
    """An application that runs a release."""

    name: str
    kind: str
    tag: str | None = None
    domains: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Template:
    """What the region makes boxes from."""

    runtime: str
    """What `create` calls it."""
    user: str = "devbox"
    working_dir: str = "/home/devbox/project"
    ports: tuple[int, ...] = ()
    """Where its example program listens."""
    release_command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Runtime:
    """A kind of template: what it is called, and what is known of it."""

    name: str
    kind: str | None = None
    """``language``, ``framework``, ``os``, ``service`` or ``custom``, where the region says so."""
    description: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TemplateMatch:
    """Which template was taken for what was asked for."""

    requested: str
    runtime: str
    exact: bool
    """Whether it is all of what was asked for, its version included."""
    note: str = ""
    """What is different, for people to read; empty when it is exact."""


@dataclass(frozen=True, slots=True)
class MetricSample:
    """What a box used at one moment."""

    time: datetime
    cpu_percent: float
    """Of its limit, 0 to 100."""
    memory_percent: float
    """Of its limit, 0 to 100."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """What a box used over a time."""

    start: datetime
    end: datetime
    step: float
    """Seconds between two samples, as asked for."""
    samples: tuple[MetricSample, ...]
    shared_with: tuple[str, ...] = ()
    """Other boxes that the service averaged in; empty unless `allow_shared` was given."""


@dataclass(frozen=True, slots=True)
class Arrears:
    """What the cluster holds against a workspace whose account is in arrears."""

    status: str = ""
    """How the workspace is marked, such as ``SuspendCompleted``; empty where it is not, or where
    that cannot be read."""
    no_pods: bool = False
    """Whether a quota of nothing keeps pods from being made."""

    @property
    def deletes(self) -> bool:
        """Whether what is in the workspace is being removed, or has been."""
        return self.status.startswith("FinalDeletion")


@dataclass(frozen=True, slots=True)
class BoxHealth:
    """Whether a box can be used now."""

    ok: bool
    """Whether it runs, and something in it answers."""
    state: BoxState
    agent: Literal["ok", "failing", "unreachable", "none"]
    """What its agent says; ``none`` when it has none that is known."""
    detail: str = field(default="")
    """What is wrong, for people to read."""
