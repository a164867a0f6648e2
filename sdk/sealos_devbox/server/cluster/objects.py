"""Boxes and pods as objects of the cluster (kubernetes contract, 2 and 3)."""

from __future__ import annotations

from typing import Any

from sealos_devbox.server.control.boxes import operational_status
from sealos_devbox.server.control.v1_values import iso
from sealos_devbox.server.engine import Box, Engine

__all__ = ["Selector", "devbox", "listing", "pod"]

GROUP = "devbox.sealos.io"


def version(engine: Engine) -> str:
    """Return the version of the group that the lineage serves."""
    return "v1alpha2" if engine.settings.lineage == "M" else "v1alpha1"


def resource_version(box: Box) -> str:
    """Return a number that grows with every change."""
    return str(int(box.record.changed * 1000) + box.record.generation)


def devbox(engine: Engine, box: Box) -> dict[str, Any]:
    """Return the custom resource of a box."""
    record = box.record
    env = [_variable(variable) for variable in record.env]
    return {
        "apiVersion": f"{GROUP}/{version(engine)}",
        "kind": "Devbox",
        "metadata": {
            "name": box.name,
            "namespace": engine.settings.namespace,
            "uid": box.uid,
            "creationTimestamp": iso(box.stored.created.timestamp()),
            "generation": record.generation,
            "resourceVersion": resource_version(box),
            "labels": record.labels,
        },
        "spec": {
            "state": record.state,
            "image": record.image,
            "templateID": record.template_uid,
            "resource": {"cpu": f"{record.cpu_millis}m", "memory": f"{record.memory_mib}Mi"},
            "storageLimit": record.storage_limit,
            "runtimeClassName": "devbox-runtime",
            "network": {"type": record.network, "extraPorts": []},
            "config": {
                "user": "devbox",
                "workingDir": str(box.workspace),
                "releaseCommand": ["/bin/bash", "-c"],
                "releaseArgs": [f"{box.workspace}/entrypoint.sh"],
                "env": env,
            },
        },
        "status": operational_status(engine, box),
    }


def _variable(variable: Any) -> dict[str, Any]:  # noqa: ANN401 - a record's
    if variable.value_from is None:
        return {"name": variable.name, "value": variable.value}
    reference = variable.value_from.secret_key_ref
    source = {"secretKeyRef": {"name": reference.name, "key": reference.key}}
    return {"name": variable.name, "valueFrom": source}


def pod(engine: Engine, box: Box) -> dict[str, Any] | None:
    """Return the pod of a box; None while it has none."""
    if box.record.state != "Running":
        return None
    ready = box.running
    record = box.record
    limits = {"cpu": f"{record.cpu_millis}m", "memory": f"{record.memory_mib}Mi"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(engine, box),
            "namespace": engine.settings.namespace,
            # A new pod for every start.
            "uid": f"{box.uid[:-12]}{int(record.changed * 1000) % 16**12:012x}",
            "creationTimestamp": iso(record.changed),
            "resourceVersion": resource_version(box),
            "labels": {**labels(box), **record.labels},
            "annotations": {
                "devbox.sealos.io/content-id": record.content_id,
                "devbox.sealos.io/storage-limit": record.storage_limit,
            },
            "ownerReferences": [
                {
                    "apiVersion": f"{GROUP}/{version(engine)}",
                    "kind": "Devbox",
                    "name": box.name,
                    "uid": box.uid,
                    "controller": True,
                }
            ],
        },
        "spec": {
            "hostname": box.name,
            "restartPolicy": "Never",
            "containers": [
                {
                    "name": box.name,
                    "image": record.image,
                    "workingDir": str(box.workspace),
                    "env": [
                        *(_variable(variable) for variable in record.env),
                        {
                            "name": "DEVBOX_JWT_SECRET",
                            "valueFrom": {
                                "secretKeyRef": {
                                    "name": box.name,
                                    "key": "SEALOS_DEVBOX_JWT_SECRET",
                                }
                            },
                        },
                    ],
                    "resources": {"limits": limits},
                }
            ],
        },
        "status": {
            "phase": "Running" if ready else "Pending",
            "podIP": "127.0.0.1" if ready else None,
            "startTime": iso(record.changed),
            "containerStatuses": [
                {
                    "name": box.name,
                    "ready": ready,
                    "restartCount": 0,
                    "image": record.image,
                    "imageID": "",
                    "state": (
                        {"running": {"startedAt": iso(record.changed)}}
                        if ready
                        else {"waiting": {"reason": "ContainerCreating"}}
                    ),
                }
            ],
        },
    }


def pod_name(engine: Engine, box: Box) -> str:
    """Return the pod's name: in the older lineage a new one at each start."""
    if engine.settings.lineage == "M":
        return box.name
    return f"{box.name}-{int(box.record.changed * 1000) % 36**5:05x}"[:63]


def labels(box: Box) -> dict[str, str]:
    """Return the labels that the service gives to every pod."""
    return {
        "app.kubernetes.io/name": box.name,
        "app.kubernetes.io/managed-by": "sealos",
        "app.kubernetes.io/part-of": "devbox",
    }


def listing(kind: str, api: str, items: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a list of objects."""
    numbers = [int(item["metadata"]["resourceVersion"]) for item in items]
    newest = str(max(numbers, default=1))
    return {
        "apiVersion": api,
        "kind": f"{kind}List",
        "metadata": {"resourceVersion": newest},
        "items": items,
    }


class Selector:
    """A label or field selector: `a=b`, `a==b`, `a!=b`, `a`, `!a`, joined by commas."""

    def __init__(self, text: str) -> None:
        self._terms = [term.strip() for term in text.split(",") if term.strip()]

    def fits(self, values: dict[str, str]) -> bool:
        """Whether all terms are true of the values."""
        return all(self._true(term, values) for term in self._terms)

    def _true(self, term: str, values: dict[str, str]) -> bool:
        if "!=" in term:
            name, _, value = term.partition("!=")
            return values.get(name.strip()) != value.strip()
        if "=" in term:
            name, _, value = term.partition("=")
            return values.get(name.strip()) == value.lstrip("=").strip()
        if term.startswith("!"):
            return term[1:].strip() not in values
        return term in values
