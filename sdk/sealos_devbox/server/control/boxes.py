"""What both versions of the control plane do to boxes; they only say it differently."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sealos_devbox.server import names
from sealos_devbox.server.control.forms import NewPortForm, PortForm
from sealos_devbox.server.engine import Box, Engine
from sealos_devbox.server.record import (
    BoxRecord,
    DeploymentRecord,
    EnvVar,
    PortRecord,
    new_record,
)
from sealos_devbox.server.templates import Repository

__all__ = [
    "DEFAULT_AUTOSTART",
    "PortRefusalError",
    "bucketed",
    "create",
    "new_port",
    "operational_status",
    "set_ports",
    "set_resource",
]

# Run in the workspace, whose path on this machine no template can know.
DEFAULT_AUTOSTART = "nohup ./entrypoint.sh > /dev/null 2>&1 &"


class PortRefusalError(Exception):
    """A port could not be made or changed."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Created:
    """A new box, and the ports that it did not get."""

    box: Box
    failed: list[tuple[int, str]]


def create(
    engine: Engine,
    name: str,
    repository: Repository,
    *,
    cpu: float,
    memory: float,
    env: list[EnvVar],
    ports: list[NewPortForm],
    autostart: bool,
) -> Created:
    """Make a box; `cpu` in cores, `memory` in GiB."""
    template = repository.versions[0]
    record = new_record(
        name,
        runtime=repository.name,
        template_uid=template.uid,
        image=template.image,
        cpu_millis=round(cpu * 1000),
        memory_mib=round(memory * 1024),
    )
    if engine.settings.lineage == "R":
        record.network = "NodePort"
    record.env = list(env)
    failed = []
    for form in ports:
        try:
            record.ports.append(new_port(engine, name, record, form))
        except PortRefusalError as error:
            failed.append((form.number, str(error)))
    if autostart:
        record.autostart = DEFAULT_AUTOSTART
    return Created(engine.create(name, record), failed)


def new_port(engine: Engine, name: str, record: BoxRecord, form: NewPortForm) -> PortRecord:
    """Make a port; raises PortRefusalError when the number is taken in this box."""
    if any(port.number == form.number for port in record.ports):
        raise PortRefusalError(409, "PORT_CONFLICT", f"Port {form.number} already exists")
    return PortRecord(
        name=f"port-{names.letters(12)}",
        number=form.number,
        protocol=form.protocol,
        network_name=f"{name}-{names.letters(12)}",
        public=form.exposes_public_domain,
        public_host=(
            f"{names.letters(12)}.{engine.settings.domain}" if form.exposes_public_domain else ""
        ),
        custom_domain=form.custom_domain or "",
    )


def set_ports(engine: Engine, name: str, forms: list[PortForm]) -> list[PortRecord]:
    """Make the ports what `forms` says; what is done before one is refused stays done."""
    kept: list[PortRecord] = []
    refusal: PortRefusalError | None = None
    with engine.changing(name) as box:
        record = box.record
        named = {form.port_name for form in forms if form.port_name}
        record.ports = [port for port in record.ports if port.name in named]
        for form in forms:
            try:
                kept.append(_set_port(engine, name, record, form))
            except PortRefusalError as error:
                refusal = error
                break
    if refusal is not None:
        raise refusal
    return kept


def _set_port(engine: Engine, name: str, record: BoxRecord, form: PortForm) -> PortRecord:
    if not form.port_name:
        if form.number is None:
            raise PortRefusalError(500, "PORT_OPERATION_FAILED", "A new port must have a number")
        fresh = NewPortForm(
            number=form.number,
            protocol=form.protocol or "HTTP",
            exposes_public_domain=form.exposes_public_domain is not False,
            custom_domain=form.custom_domain,
        )
        port = new_port(engine, name, record, fresh)
        record.ports.append(port)
        return port
    found = [each for each in record.ports if each.name == form.port_name]
    if not found:
        raise PortRefusalError(404, "PORT_NOT_FOUND", f"Port {form.port_name} not found")
    port = found[0]
    if form.number is not None and any(
        other.number == form.number for other in record.ports if other is not port
    ):
        raise PortRefusalError(409, "PORT_CONFLICT", f"Port {form.number} already exists")
    port.number = form.number or port.number
    port.protocol = form.protocol or port.protocol
    if form.custom_domain is not None:
        port.custom_domain = form.custom_domain
    if form.exposes_public_domain is not None:
        port.public = form.exposes_public_domain
        if not port.public:
            port.public_host = ""
        elif not port.public_host:
            port.public_host = f"{names.letters(12)}.{engine.settings.domain}"
    return port


def set_resource(engine: Engine, name: str, *, cpu: float | None, memory: float | None) -> Box:
    """Change the limits of a box."""
    with engine.changing(name) as box:
        if cpu is not None:
            box.record.cpu_millis = round(cpu * 1000)
        if memory is not None:
            box.record.memory_mib = round(memory * 1024)
        box.record.generation += 1
    return engine.box(name)


def deploy(engine: Engine, name: str, tag: str) -> DeploymentRecord | None:
    """Deploy a release; None when it is not there or not finished."""
    with engine.changing(name) as box:
        if not any(r.tag == tag and r.status == "Success" for r in box.record.releases):
            return None
        repository = engine.templates.find(box.record.runtime)
        deployment = DeploymentRecord(
            name=f"{name}-release-{names.letters(6)}",
            tag=tag,
            host=f"{names.letters(12)}.{engine.settings.domain}",
            port=repository.app_port if repository else 8080,
        )
        box.record.deployments.append(deployment)
        return deployment


def node_port(box: Box) -> int:
    """Return the port that a box of the older lineage has on every node."""
    return 30000 + int.from_bytes(box.record.unique_id.encode()[-2:]) % 2768


def operational_status(engine: Engine, box: Box) -> dict[str, Any]:
    """Return `status` of the custom resource (kubernetes.md 2.2)."""
    record = box.record
    network: dict[str, Any] = {"type": record.network}
    if record.network == "SSHGate":
        network["uniqueID"] = record.unique_id if box.phase != "Pending" else ""
    else:
        network["nodePort"] = node_port(box)
    status: dict[str, Any] = {
        "observedGeneration": record.generation,
        "phase": box.phase,
        "state": record.settled,
        "network": network,
        "contentID": record.content_id,
        "node": "" if box.phase in ("Stopped", "Shutdown") else "embedded",
        "conditions": [],
        "commitRecords": {},
    }
    committing = box.phase in ("Stopping", "Shutting")
    status["commitRecords"][record.content_id] = {
        "baseImage": record.image,
        "commitImage": f"registry.invalid/{engine.settings.namespace}/{box.name}:commit",
        "node": status["node"],
        "commitStatus": "Committing" if committing else "Pending",
    }
    return status


def bucketed(
    engine: Engine, name: str, start: float, end: float, step: float
) -> list[tuple[float, float, float]]:
    """Return (time, CPU, memory) at each step, in percent.

    Averages every box whose name begins with this one's up to its last dash, as the monitoring of
    the service does.
    """
    prefix = name.rpartition("-")[0] or name
    boxes = engine.boxes()
    engine.metrics.sample(boxes, if_older_than=engine.settings.sample_seconds)
    samples = [
        sample
        for box in boxes
        if box.name.startswith(prefix)
        for sample in engine.metrics.series(box.uid, start - step, end)
    ]
    buckets: dict[int, list[tuple[float, float]]] = {}
    for sample in samples:
        # The first moment of the series that is not before the sample.
        index = max(0, -int(-(sample.time - start) // step))
        buckets.setdefault(index, []).append((sample.cpu, sample.memory))
    points = []
    for index in sorted(buckets):
        values = buckets[index]
        at = start + index * step
        if at > end:
            at = end
        cpu = sum(value[0] for value in values) / len(values)
        memory = sum(value[1] for value in values) / len(values)
        points.append((at, cpu, memory))
    return points
