"""From a box's name to the container in which its programs run.

The pod is found by its labels: it has the box's name in one lineage of the service, and a new name
at each start in the other. Where there is none, the Devbox object says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import anyio

from sealos_devbox._transport.kube.access import KubernetesAccess, resource_path
from sealos_devbox._transport.kube.exec_channel import ExecTarget
from sealos_devbox.errors import (
    AccessDeniedError,
    BoxNotFoundError,
    BoxStateError,
    CapabilityError,
    DevboxError,
)

__all__ = ["BoxPod", "DevboxObject", "find_box", "find_devbox", "list_boxes"]

GROUP: Final = "devbox.sealos.io"
VERSIONS: Final = ("v1alpha2", "v1alpha1")
"""Those known, the newest first."""
NAME_LABEL: Final = "app.kubernetes.io/name"
RESTING: Final = {"Paused": "paused", "Stopped": "stopped", "Shutdown": "shut down"}


@dataclass(frozen=True, slots=True)
class DevboxObject:
    """What the custom resource says of a box."""

    version: str
    uid: str
    state: str
    """As it is wanted: Running, Paused, Stopped or Shutdown."""
    phase: str
    user: str
    """Empty where nothing is said."""
    working_directory: str


@dataclass(frozen=True, slots=True)
class BoxPod:
    """A running pod of a box."""

    target: ExecTarget
    uid: str
    """Of the pod: another one after each start."""
    working_directory: str
    """Of the container; empty for that of its image."""
    devbox: DevboxObject | None
    """None where it cannot be read."""


async def find_box(access: KubernetesAccess, namespace: str, box: str) -> BoxPod:
    """Find the running pod of a box; two requests at once.

    Raises BoxNotFoundError, BoxStateError where the box does not run, and AccessDeniedError where
    the user may not look for it.
    """
    devbox: DevboxObject | None = None
    unreadable: DevboxError | None = None
    missing: BoxNotFoundError | None = None

    async def look() -> None:
        nonlocal devbox, missing, unreadable
        try:
            devbox = await find_devbox(access, namespace, box)
        except BoxNotFoundError as error:
            missing = error
        except DevboxError as error:
            unreadable = error

    pods: list[dict[str, Any]] = []
    failure: DevboxError | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look)
        try:
            pods = await access.list(
                resource_path("pods", namespace),
                [
                    (
                        "labelSelector",
                        f"app.kubernetes.io/name={box},app.kubernetes.io/part-of=devbox",
                    )
                ],
            )
        except DevboxError as error:
            failure = error
            tasks.cancel_scope.cancel()
    if isinstance(failure, AccessDeniedError):
        raise AccessDeniedError(
            f"The right to find the pod of the box {box!r} is missing: the verb 'list' on pods in "
            f"{namespace!r}. The server says: {failure}",
            hop="cluster",
            status=failure.status,
            hint=failure.hint,
        ) from failure
    if failure is not None:
        raise failure
    running = [pod for pod in pods if _is_running(pod)]
    if running:
        newest = max(running, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))
        return _box_pod(newest, namespace, box, devbox)
    if missing is not None:
        raise missing
    raise _why_not(pods, namespace, box, devbox, unreadable)


async def find_devbox(access: KubernetesAccess, namespace: str, name: str) -> DevboxObject | None:
    """Read the custom resource of a box; None where the cluster has no such resources.

    Raises BoxNotFoundError when there is no box of that name, and what else the server says.
    """
    version = VERSIONS[0]
    found = await _get(access, version, namespace, name)
    if found is None:
        served = await _served_versions(access)
        known = [version for version in VERSIONS if version in served]
        if not known:
            return None
        if known[0] != version:
            version = known[0]
            found = await _get(access, version, namespace, name)
        if found is None:
            raise BoxNotFoundError(f"There is no box {name!r} in {namespace!r}.", hop="cluster")
    spec, status = found.get("spec") or {}, found.get("status") or {}
    config = spec.get("config") or {}
    return DevboxObject(
        version=version,
        uid=str(found["metadata"].get("uid") or ""),
        state=str(spec.get("state") or "Running"),
        phase=str(status.get("phase") or ""),
        user=str(config.get("user") or ""),
        working_directory=str(config.get("workingDir") or ""),
    )


async def list_boxes(
    access: KubernetesAccess, namespace: str, name: str | None = None
) -> dict[str, str | None]:
    """Return the uids of all boxes, or of one, by name.

    Where Devbox objects may not be read, or are none, the pods are asked, which know no uid. Raises
    what the server says to that.
    """
    try:
        found = await _list_devboxes(access, namespace, name)
    except AccessDeniedError:
        found = None
    if found is not None:
        return found
    labels = ["app.kubernetes.io/part-of=devbox"]
    if name is not None:
        labels.append(f"{NAME_LABEL}={name}")
    pods = await access.list(
        resource_path("pods", namespace), [("labelSelector", ",".join(labels))]
    )
    names = (str((pod["metadata"].get("labels") or {}).get(NAME_LABEL) or "") for pod in pods)
    return {found: None for found in names if found}


async def _list_devboxes(
    access: KubernetesAccess, namespace: str, name: str | None
) -> dict[str, str | None] | None:
    if name is not None:
        try:
            devbox = await find_devbox(access, namespace, name)
        except BoxNotFoundError:
            return {}
        return None if devbox is None else {name: devbox.uid}
    served = await _served_versions(access)
    for version in VERSIONS:
        if version in served:
            path = resource_path("devboxes", namespace, group=f"{GROUP}/{version}")
            boxes = await access.list(path)
            return {
                str(box["metadata"]["name"]): str(box["metadata"].get("uid") or "") for box in boxes
            }
    return None


async def _get(
    access: KubernetesAccess, version: str, namespace: str, name: str
) -> dict[str, Any] | None:
    group = f"{GROUP}/{version}"
    try:
        return await access.get(resource_path("devboxes", namespace, name, group=group))
    except DevboxError as error:
        # A resource that is not served is a 404 too, and not always a Status object.
        if error.status == 404:
            return None
        raise


async def _served_versions(access: KubernetesAccess) -> set[str]:
    try:
        group = await access.get(f"/apis/{GROUP}")
    except DevboxError as error:
        if error.status == 404:
            return set()
        raise
    return {str(version.get("version")) for version in group.get("versions") or ()}


def _is_running(pod: dict[str, Any]) -> bool:
    return (
        not pod["metadata"].get("deletionTimestamp")
        and (pod.get("status") or {}).get("phase") == "Running"
    )


def _box_pod(pod: dict[str, Any], namespace: str, box: str, devbox: DevboxObject | None) -> BoxPod:
    containers = pod["spec"]["containers"]
    for container in containers:
        if container["name"] == box:
            break
    else:
        names = ", ".join(container["name"] for container in containers)
        raise CapabilityError(
            f"The pod {pod['metadata']['name']!r} of the box has no container {box!r}; "
            f"it has {names}.",
            hop="cluster",
        )
    return BoxPod(
        target=ExecTarget(namespace, str(pod["metadata"]["name"]), box),
        uid=str(pod["metadata"]["uid"]),
        working_directory=str(container.get("workingDir") or ""),
        devbox=devbox,
    )


def _why_not(
    pods: list[dict[str, Any]],
    namespace: str,
    box: str,
    devbox: DevboxObject | None,
    unreadable: DevboxError | None,
) -> DevboxError:
    """Return the error for a box without a running pod."""
    resting = RESTING.get(devbox.state) if devbox is not None else None
    if resting:
        return BoxStateError(
            f"The box {box!r} is {resting}.", hop="cluster", hint="Start it, and try again."
        )
    if pods:
        trouble = _trouble(pods[-1])
        if (pods[-1].get("status") or {}).get("reason") == "Evicted":
            hint = "Its pod was put out: its disk or memory was full, or the account is in arrears."
            return BoxStateError(
                f"The box {box!r} does not run: {trouble}.",
                hop="cluster",
                hint=f"{hint} Look at both, then start it.",
            )
        return BoxStateError(f"The box {box!r} does not run yet: {trouble}.", hop="cluster")
    if devbox is not None:
        phase = devbox.phase or "Pending"
        return BoxStateError(
            f"The box {box!r} does not run yet: it is {phase!r} and has no pod.", hop="cluster"
        )
    why = f" ({unreadable})" if unreadable is not None else ""
    return BoxNotFoundError(
        f"There is no pod of a box {box!r} in {namespace!r}{why}.",
        hop="cluster",
        hint="Look at the name, at the namespace of the kubeconfig's context, and whether the box "
        "is started.",
    )


def _trouble(pod: dict[str, Any]) -> str:
    status = pod.get("status") or {}
    name = pod["metadata"]["name"]
    if pod["metadata"].get("deletionTimestamp"):
        return f"its pod {name} is being removed"
    for container in status.get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason"):
            return ": ".join(filter(None, (str(waiting["reason"]), waiting.get("message"))))
    for condition in status.get("conditions") or ():
        if condition.get("status") == "False" and condition.get("message"):
            return str(condition["message"])
    said = status.get("message") or status.get("reason")
    return f"its pod {name} is {status.get('phase', 'Pending')}" + (f" ({said})" if said else "")
