"""What v1 answers (control-plane.md 4)."""

from __future__ import annotations

import base64
import time
from datetime import UTC, datetime
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from sealos_devbox.server.control.boxes import node_port, operational_status
from sealos_devbox.server.engine import Box, Engine
from sealos_devbox.server.record import EnvVar, PortRecord, ReleaseRecord

__all__ = [
    "detail",
    "encoded_key",
    "list_item",
    "node_port",
    "port_item",
    "release_item",
    "ssh_host",
]

SSH_GATE_PORT = 2233


class Resources(Struct):
    """Sizes; the unit depends on the route."""

    cpu: float
    memory: float


class ListItem(Struct, rename="camel"):
    """One box of the list: millicores and Mi."""

    name: str
    uid: str
    runtime: str
    status: str
    resources: Resources
    resource_type: Literal["devbox"] = "devbox"


class PortItem(Struct, rename="camel"):
    """One port as create and the changes of ports answer it."""

    port_name: str
    number: int
    protocol: str
    network_name: str
    exposes_public_domain: bool
    public_domain: str
    custom_domain: str
    service_name: str
    private_address: str


class PortError(Struct):
    """A port that could not be made."""

    port: int
    error: str


class Summary(Struct, rename="camel"):
    """How many ports were made."""

    total_ports: int
    successful_ports: int
    failed_ports: int


class CreatedBox(Struct, rename="camel"):
    """A new box."""

    name: str
    ssh_port: int
    base64_private_key: str
    user_name: str
    working_dir: str
    domain: str
    ports: list[PortItem]
    summary: Summary
    port_errors: list[PortError] | UnsetType = UNSET
    autostarted: bool | UnsetType = UNSET


class Ssh(Struct, rename="camel"):
    """How a box is reached by SSH."""

    host: str
    port: int
    user: str
    working_dir: str
    private_key: str


class DetailPort(Struct, rename="camel"):
    """One port as the detail shows it."""

    number: int
    port_name: str
    protocol: str
    service_name: str
    private_address: str
    private_host: str
    network_name: str
    public_host: str | UnsetType = UNSET
    public_address: str | UnsetType = UNSET
    custom_domain: str | UnsetType = UNSET


class Pod(Struct):
    """One pod of a box."""

    name: str
    status: str


class AgentServer(Struct):
    """How the agent is reached."""

    url: str
    """Only the unique ID, empty while the network is made."""
    token: str
    """Base64 of the secret."""


class Detail(Struct, rename="camel"):
    """One box: cores and GiB."""

    name: str
    uid: str
    runtime: str
    image: str
    status: str
    resources: Resources
    ssh: Ssh
    env: list[EnvVar]
    ports: list[DetailPort]
    pods: list[Pod]
    operational_status: dict[str, Any]
    agent_server: AgentServer | UnsetType = UNSET
    resource_type: Literal["devbox"] = "devbox"


class ReleaseStatus(Struct):
    """The state of a release, twice."""

    value: str
    label: str


class ReleaseItem(Struct, rename="camel"):
    """One release."""

    id: str
    name: str
    devbox_name: str
    create_time: str
    tag: str
    start_devbox_after_release: bool
    status: ReleaseStatus
    description: str
    image: str


class MonitorPoint(Struct, rename="camel"):
    """Use at one moment."""

    timestamp: int
    readable_time: str
    cpu: float
    memory: float


class TemplateItem(Struct):
    """One runtime."""

    runtime: str
    config: dict[str, Any]


class DeployedApp(Struct, rename="camel"):
    """One application that was made of a release."""

    name: str
    resource_type: str
    tag: str


def encoded_key(box: Box) -> str:
    """Return the private key as v1 hands it out."""
    return base64.b64encode(box.record.private_key.encode()).decode()


def ssh_host(engine: Engine) -> str:
    """Return where the region's SSH gate would be."""
    return engine.settings.domain


def list_item(box: Box) -> ListItem:
    """Describe a box in the list."""
    return ListItem(
        name=box.name,
        uid=box.uid,
        runtime=box.record.runtime,
        status=box.phase,
        resources=Resources(box.record.cpu_millis, box.record.memory_mib),
    )


def port_item(engine: Engine, box: Box, port: PortRecord) -> PortItem:
    """Describe a port that was made."""
    return PortItem(
        port_name=port.name,
        number=port.number,
        protocol=port.protocol,
        network_name=port.network_name,
        exposes_public_domain=port.public,
        public_domain=port.public_host,
        custom_domain=port.custom_domain,
        service_name=box.name,
        private_address=_private(engine, box, port),
    )


def _private(engine: Engine, box: Box, port: PortRecord) -> str:
    scheme = {"HTTP": "http", "GRPC": "grpc", "WS": "ws"}[port.protocol]
    return f"{scheme}://{box.name}.{engine.settings.namespace}:{port.number}"


def _detail_port(engine: Engine, box: Box, port: PortRecord) -> DetailPort:
    scheme = {"HTTP": "https", "GRPC": "grpcs", "WS": "wss"}[port.protocol]
    host = port.custom_domain or port.public_host
    return DetailPort(
        number=port.number,
        port_name=port.name,
        protocol=port.protocol,
        service_name=box.name,
        private_address=_private(engine, box, port),
        private_host=f"{box.name}.{engine.settings.namespace}",
        network_name=port.network_name,
        public_host=host or UNSET,
        public_address=f"{scheme}://{host}" if host else UNSET,
        custom_domain=port.custom_domain or UNSET,
    )


def detail(engine: Engine, box: Box) -> Detail:
    """Describe a box."""
    record = box.record
    status = operational_status(engine, box)
    agent: AgentServer | UnsetType = UNSET
    if record.network == "SSHGate":
        token = base64.b64encode(record.secret.encode()).decode()
        agent = AgentServer(status["network"]["uniqueID"], token)
    return Detail(
        name=box.name,
        uid=box.uid,
        runtime=record.runtime,
        image=record.image,
        status=box.phase,
        resources=Resources(record.cpu_millis / 1000, record.memory_mib / 1024),
        ssh=Ssh(
            host=ssh_host(engine),
            port=status["network"].get("nodePort", 0),
            user="devbox",
            working_dir=str(box.workspace),
            private_key=encoded_key(box),
        ),
        env=record.env,
        ports=[_detail_port(engine, box, port) for port in record.ports],
        pods=pods(box),
        operational_status=status,
        agent_server=agent,
    )


def pods(box: Box) -> list[Pod]:
    """Return the pods of a box."""
    return [Pod(box.name, box.phase)] if box.phase in ("Running", "Pending") else []


def release_item(box: Box, release: ReleaseRecord) -> ReleaseItem:
    """Describe a release."""
    return ReleaseItem(
        id=release.uid,
        name=f"{box.name}-{release.tag}",
        devbox_name=box.name,
        create_time=iso(release.created),
        tag=release.tag,
        start_devbox_after_release=release.start_after,
        status=ReleaseStatus(release.status, release.status),
        description=release.description or "release notes",
        image=release.image,
    )


def iso(at: float) -> str:
    """Write a time as the cluster does."""
    return datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def monitor_point(at: float, cpu: float, memory: float, factor: float) -> MonitorPoint:
    """Describe the use at one moment; v1 multiplies percent by 100 once more."""
    readable = time.strftime("%Y/%m/%d %H:%M", time.localtime(at))
    return MonitorPoint(int(at), readable, round(cpu * factor, 2), round(memory * factor, 2))
