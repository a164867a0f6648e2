"""What the control plane is sent: the JSON of each route for what the models say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sealos_devbox._planning.quantities import (
    CPU_CHOICES,
    GIB,
    MEMORY_CHOICES,
    MIB,
    chosen,
    gib,
    storage_quantity,
)
from sealos_devbox._planning.spec import BoxSpec
from sealos_devbox._planning.templates import V2_RUNTIMES
from sealos_devbox.models import EnvVar, Port, PortRequest

__all__ = [
    "FLAT_RUNTIMES",
    "env_items",
    "env_patch",
    "flat_create",
    "old_create",
    "storage_patch",
    "v1_create",
    "v1_ports",
    "v1_resource",
    "v1_takes",
    "v2_create",
    "v2_quota",
    "v2_takes",
]

_FLAT_NAMES = {
    "debian-ssh": "Debian",
    "debian": "Debian",
    "cpp": "C++",
    "rust": "Rust",
    "java": "Java",
    "go": "Go",
    "python": "Python",
    "node.js": "Node.js",
    "net": ".Net",
    "c": "C",
    "php": "PHP",
}
FLAT_RUNTIMES = tuple(_FLAT_NAMES)
"""What the older lineage's flat route makes boxes of, by the names of the other routes."""


def v1_takes(cpu: float | None, memory: int | None) -> bool:
    """Whether v1 has these among its choices."""
    return (cpu is None or chosen(cpu, CPU_CHOICES) is not None) and (
        memory is None or chosen(memory / GIB, MEMORY_CHOICES) is not None
    )


def v2_takes(spec: BoxSpec) -> bool:
    """Whether v2alpha can make this box: its runtimes are a closed list, autostart does nothing."""
    return spec.template.runtime in V2_RUNTIMES and not (spec.autostart or spec.by_name)


def v1_create(spec: BoxSpec) -> dict[str, Any]:
    """Return the body of v1's create; `v1_takes` has been asked."""
    body: dict[str, Any] = {
        "name": spec.name,
        "runtime": spec.template.runtime,
        "resource": v1_resource(spec.cpu, spec.memory),
        "ports": v1_ports(spec.ports),
        "env": env_items(spec.env),
    }
    if spec.autostart:
        body["autostart"] = True
    if spec.by_name:
        body["isRuntimeName"] = True
    return body


def v1_resource(cpu: float | None, memory: int | None) -> dict[str, float]:
    """Return limits as v1 takes them, exactly as it lists them."""
    found: dict[str, float] = {}
    if cpu is not None:
        found["cpu"] = _short(chosen(cpu, CPU_CHOICES) or cpu)
    if memory is not None:
        found["memory"] = _short(chosen(memory / GIB, MEMORY_CHOICES) or gib(memory))
    return found


def v1_ports(ports: Sequence[PortRequest | Port]) -> list[dict[str, Any]]:
    """Return ports as v1 takes them: with its name, one that is there; without, a new one."""
    found = []
    for port in ports:
        item: dict[str, Any] = {"number": port.number, "protocol": port.protocol.upper()}
        item["exposesPublicDomain"] = port.public
        if port.custom_domain:
            item["customDomain"] = port.custom_domain
        if isinstance(port, Port) and port.name:
            item["portName"] = port.name
        found.append(item)
    return found


def env_items(env: Sequence[EnvVar]) -> list[dict[str, Any]]:
    """Return variables as both APIs and the custom resource take them: a list."""
    found: list[dict[str, Any]] = []
    for one in env:
        if one.secret is not None:
            reference = {"name": one.secret.name, "key": one.secret.key}
            found.append({"name": one.name, "valueFrom": {"secretKeyRef": reference}})
        else:
            found.append({"name": one.name, "value": one.value or ""})
    return found


def v2_create(spec: BoxSpec) -> dict[str, Any]:
    """Return the body of v2alpha's create."""
    ports = []
    for port in spec.ports:
        item: dict[str, Any] = {
            "number": port.number,
            "protocol": port.protocol,
            "isPublic": port.public,
        }
        if port.custom_domain:
            item["customDomain"] = port.custom_domain
        ports.append(item)
    return {
        "name": spec.name,
        "runtime": spec.template.runtime,
        "quota": v2_quota(spec.cpu, spec.memory),
        "ports": ports,
        "env": env_items(spec.env),
    }


def v2_quota(cpu: float | None, memory: int | None) -> dict[str, float]:
    """Return limits as v2alpha takes them."""
    found: dict[str, float] = {}
    if cpu is not None:
        found["cpu"] = _short(cpu)
    if memory is not None:
        found["memory"] = _short(gib(memory))
    return found


def old_create(spec: BoxSpec) -> dict[str, Any]:
    """Return the body of the older lineage's v1 create: no environment, but a storage size."""
    resource = v1_resource(spec.cpu, spec.memory)
    if spec.storage is not None:
        resource["storage"] = max(1, round(spec.storage / GIB))
    return {
        "name": spec.name,
        "runtime": spec.template.runtime,
        "resource": resource,
        "ports": v1_ports(spec.ports),
    }


def flat_create(spec: BoxSpec) -> dict[str, Any]:
    """Return the body of the older lineage's create: its own names, millicores, MiB, GiB."""
    body: dict[str, Any] = {
        "name": spec.name,
        "runtimeName": _FLAT_NAMES[spec.template.runtime],
        "cpu": round(spec.cpu * 1000),
        "memory": round(spec.memory / MIB),
    }
    if spec.storage is not None:
        body["storage"] = max(1, round(spec.storage / GIB))
    return body


def storage_patch(storage: int) -> dict[str, Any]:
    """Return the merge patch of a custom resource for a storage limit."""
    return {"spec": {"storageLimit": storage_quantity(storage)}}


def env_patch(env: Sequence[EnvVar]) -> dict[str, Any]:
    """Return the merge patch of a custom resource for an environment, which replaces the list."""
    return {"spec": {"config": {"env": env_items(env)}}}


def _short(number: float) -> float:
    return int(number) if float(number).is_integer() else number
