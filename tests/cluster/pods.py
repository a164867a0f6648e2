"""Pods as test boxes: those of the Devbox controllers, and plain ones with peculiarities."""

from typing import Any

from tests.cluster.daemons import NODE
from tests.node import images

PART_OF = {"app.kubernetes.io/managed-by": "sealos", "app.kubernetes.io/part-of": "devbox"}
FINALIZER = "devbox.sealos.io/finalizer"


def labels(box: str) -> dict[str, str]:
    """What a client finds the pod of a box by."""
    return {"app.kubernetes.io/name": box, **PART_OF}


def plain_pod(
    name: str,
    image: str = "posix",
    *,
    workspace: str = "",
    user: int | None = None,
    read_only_root: bool = False,
    noexec_tmp: str = "",
    command: list[str] | None = None,
    env: dict[str, str] | None = None,
    sidecars: tuple[str, ...] = (),
    memory: str = "",
) -> dict[str, Any]:
    """A pod with a box's name, labels and container.

    `workspace` and `noexec_tmp` are directories of this machine, mounted as the project and `/tmp`;
    `sidecars` are names of further containers.
    """
    container: dict[str, Any] = {
        "name": name,
        "image": images.reference(image),
        "imagePullPolicy": "Never",
        "env": [{"name": key, "value": value} for key, value in (env or {}).items()],
        "volumeMounts": [],
        "securityContext": {"readOnlyRootFilesystem": read_only_root},
    }
    volumes = []
    for volume, path, place in (
        ("workspace", workspace, images.PROJECT),
        ("tmp", noexec_tmp, "/tmp"),
    ):
        if path:
            volumes.append({"name": volume, "hostPath": {"path": path, "type": "Directory"}})
            container["volumeMounts"].append({"name": volume, "mountPath": place})
    if workspace:
        container["workingDir"] = images.PROJECT
    if command:
        container["command"] = command
    if user is not None:
        container["securityContext"] |= {"runAsUser": user, "runAsGroup": user}
    if memory:
        container["resources"] = {"limits": {"memory": memory}}
    others = [
        {"name": other, "image": images.reference("bare"), "imagePullPolicy": "Never"}
        for other in sidecars
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels(name)},
        "spec": _on_this_node([container, *others], volumes),
    }


def _on_this_node(containers: list[Any], volumes: list[Any]) -> dict[str, Any]:
    return {
        # There is no scheduler.
        "nodeName": NODE,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 3,
        "automountServiceAccountToken": False,
        "tolerations": [{"operator": "Exists"}],
        "containers": containers,
        "volumes": volumes,
    }


def devbox_pod(
    devbox: dict[str, Any], *, name: str, workspace: str, content_id: str
) -> dict[str, Any]:
    """The pod that the controller of either lineage makes for a `Devbox`."""
    meta, spec = devbox["metadata"], devbox["spec"]
    box, config = meta["name"], spec["config"]
    is_new = devbox["apiVersion"].endswith("/v1alpha2")
    env = list(config.get("env", []))
    if is_new:
        secret = {"name": box, "key": "SEALOS_DEVBOX_JWT_SECRET"}
        env.append({"name": "DEVBOX_JWT_SECRET", "valueFrom": {"secretKeyRef": secret}})
    else:
        env.append({"name": "SEALOS_DEVBOX_NAME", "value": f"{meta['namespace']}-{box}"})
    limits = {"ephemeral-storage": "10Gi", **spec["resource"]}
    container = {
        "name": box,
        "image": spec["image"],
        "imagePullPolicy": "Never",
        "workingDir": config["workingDir"],
        "env": env,
        "ports": config.get("ports") or [{"name": "devbox-ssh-port", "containerPort": 22}],
        "resources": {
            "limits": limits,
            "requests": {
                "cpu": _tenth(limits["cpu"]),
                "memory": _tenth(limits["memory"]),
                "ephemeral-storage": "500Mi",
            },
        },
        "volumeMounts": [
            {"name": "workspace", "mountPath": config["workingDir"]},
            *(
                {"name": "secret", "mountPath": path, "subPath": key, "readOnly": True}
                for key, path in SECRET_FILES.items()
            ),
            *config.get("volumeMounts", []),
        ],
    }
    for key in ("command", "args"):
        if config.get(key):
            container[key] = config[key]
    volumes = [
        {"name": "workspace", "hostPath": {"path": workspace, "type": "Directory"}},
        {"name": "secret", "secret": {"secretName": box, "defaultMode": 0o444}},
        *config.get("volumes", []),
    ]
    annotations = {
        "devbox.sealos.io/storage-limit": spec.get("storageLimit", "10Gi"),
        "devbox.sealos.io/content-id": content_id,
        "io.containerd.cri.runtime-handler": "devbox-runc",
    }
    pod_spec = _on_this_node([container], volumes) | {"hostname": box}
    if spec.get("runtimeClassName"):
        pod_spec["runtimeClassName"] = spec["runtimeClassName"]
    if not is_new:
        pod_spec["terminationGracePeriodSeconds"] = 300
    owner = {"apiVersion": devbox["apiVersion"], "kind": "Devbox", "name": box, "uid": meta["uid"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": labels(box) | config.get("labels", {}),
            "annotations": (annotations if is_new else {}) | config.get("annotations", {}),
            "finalizers": [FINALIZER],
            "ownerReferences": [{**owner, "controller": True}],
        },
        "spec": pod_spec,
    }


SECRET_FILES = {
    "SEALOS_DEVBOX_AUTHORIZED_KEYS": "/usr/start/.ssh/authorized_keys",
    "SEALOS_DEVBOX_PUBLIC_KEY": "/usr/start/.ssh/id.pub",
    "SEALOS_DEVBOX_ENV_PROFILE": "/etc/profile.d/env-profile.sh",
}


def profile(devbox: dict[str, Any], token: str) -> str:
    """The file that login shells read: the box's variables once more."""
    env = {it["name"]: it.get("value", "") for it in devbox["spec"]["config"].get("env", [])}
    env["DEVBOX_JWT_SECRET"] = token
    return "".join(f'export {key}="{value}"\n' for key, value in env.items())


def _tenth(quantity: str) -> str:
    """A tenth of `1000m`, `2`, `2048Mi` or `2Gi`."""
    number = quantity.rstrip("imKMGT")
    unit = quantity[len(number) :]
    if unit in ("", "Gi"):
        smaller = {"": ("m", 1000), "Gi": ("Mi", 1024)}[unit]
        return f"{int(number) * smaller[1] // 10}{smaller[0]}"
    return f"{int(number) // 10}{unit}"
