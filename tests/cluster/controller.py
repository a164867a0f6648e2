"""What the Devbox controller does to a box, as far as a client can see it.

It looks at all boxes several times a second: makes the Secret and the pod of one that should run,
deletes the pod (grace period 0, no warning to its processes) of one that should not, commits what
is stopped, and writes the status. A box's workspace is a directory of this machine, mounted into
each of its pods; in production the root filesystem is what survives. Images are not really
committed: a new `contentID` says that one was.
"""

import base64
import copy
import datetime
import os
import secrets
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.cluster.cluster import Cluster
from tests.cluster.definitions import GROUP, Version, custom_resources
from tests.cluster.pods import FINALIZER, devbox_pod, labels, profile
from tests.node.containerd import wait_for
from tests.node.enclosure import EnclosureError
from tests.node.images import USER

Json = dict[str, Any]
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
GOING = {"Paused": "Pausing", "Stopped": "Stopping", "Shutdown": "Shutting"}


class DevboxController:
    """A controller of one lineage, in a thread of its own; a context manager.

    `commit_seconds` is how long a commit takes. `hold_commits` keeps all commits from ending while
    it is set. An error that the controller did not expect is raised when it is left.
    """

    def __init__(self, cluster: Cluster, version: Version = "v1alpha2") -> None:
        self.cluster = cluster
        self.version = version
        self.commit_seconds = 0.5
        self.hold_commits = threading.Event()
        self._stopped = threading.Event()
        self._failure: Exception | None = None
        self._committing: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, name="devbox-controller", daemon=True)

    def __enter__(self) -> "DevboxController":
        for definition in custom_resources(self.version):
            name = self.cluster.create(DEFINITIONS, definition)["metadata"]["name"]

            def established(name: str = name) -> bool:
                status = self.cluster.get(f"{DEFINITIONS}/{name}").get("status", {})
                # The API server says null before it says anything.
                conditions = status.get("conditions") or []
                return any(
                    it["type"] == "Established" and it["status"] == "True" for it in conditions
                )

            wait_for(established, name, lambda: "it is not established")
        wait_for(
            lambda: self.cluster.http.get(f"{self._api}/devboxes").is_success,
            self._api,
            lambda: "it is not served",
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(30)
        if self._failure:
            raise self._failure

    # ------------------------------------------------------------------ what tests ask for

    @property
    def _api(self) -> str:
        return f"/apis/{GROUP}/{self.version}"

    def path(self, namespace: str, name: str = "") -> str:
        """Where the API server has a namespace's boxes, or one of them."""
        return f"{self._api}/namespaces/{namespace}/devboxes" + (f"/{name}" if name else "")

    def workspace(self, namespace: str, name: str) -> Path:
        """The directory of this machine that the box's pods have as their project."""
        return self.cluster.directory / "volumes" / f"{namespace}-{name}"

    def set_state(self, namespace: str, name: str, state: str) -> None:
        self.cluster.merge(self.path(namespace, name), {"spec": {"state": state}})

    def wait_for_phase(self, namespace: str, name: str, phase: str, timeout: float = 60) -> Json:
        """Return the box once its phase is this one."""
        seen: Json = {}

        def reached() -> bool:
            seen.update(self.cluster.get(self.path(namespace, name)))
            return bool(seen.get("status", {}).get("phase") == phase)

        wait_for(reached, f"{name} in phase {phase}", lambda: str(seen.get("status")), timeout)
        return seen

    def pod(self, namespace: str, name: str) -> Json | None:
        """The pod of a box, the newest if one is going while another comes."""
        selector = ",".join(f"{key}={value}" for key, value in labels(name).items())
        path = f"/api/v1/namespaces/{namespace}/pods"
        answer = self.cluster.http.get(path, params={"labelSelector": selector})
        pods: list[Json] = answer.raise_for_status().json()["items"]
        return max(pods, key=lambda pod: pod["metadata"]["creationTimestamp"], default=None)

    # ---------------------------------------------------------------------------- its work

    def _run(self) -> None:
        while not self._stopped.wait(0.1):
            try:
                boxes = self.cluster.http.get(f"{self._api}/devboxes").raise_for_status().json()
                for box in boxes["items"]:
                    # A list leaves these out of its items.
                    self._reconcile({"apiVersion": boxes["apiVersion"], "kind": "Devbox", **box})
                self._release_pods_of_deleted({box["metadata"]["uid"] for box in boxes["items"]})
            except httpx.HTTPError:
                continue  # the API server is being restarted, or somebody changed the object
            except EnclosureError as error:
                if " 409 " not in str(error) and " 404 " not in str(error):
                    self._failure = error
                    return
            except Exception as error:  # noqa: BLE001 - reported by __exit__
                self._failure = error
                return

    def _reconcile(self, box: Json) -> None:
        meta = box["metadata"]
        namespace, name = meta["namespace"], meta["name"]
        status = box.get("status", {})
        before = copy.deepcopy(status)
        if self.version == "v1alpha2" and "contentID" not in status:
            status |= {"contentID": str(uuid.uuid4()), "commitRecords": {}}
            unique = f"outdoor-before-{secrets.token_hex(2)}"
            status["network"] = {"type": box["spec"]["network"]["type"], "uniqueID": unique}
        self._make_companions(box)
        pod = self._current_pod(namespace, name)
        desired = box["spec"].get("state", "Running")
        if desired == "Running":
            if pod is None:
                pod = self._make_pod(box, status.get("contentID", ""))
        elif pod is not None:
            self._delete_pod(pod)
        elif desired != "Paused":
            self._commit(box, status)
        status["phase"] = self._phase(desired, pod, status)
        if self.version == "v1alpha2" and status["phase"] == desired:
            status["state"] = desired
        if status != before:
            self.cluster.merge(f"{self.path(namespace, name)}/status", {"status": status})

    def _phase(self, desired: str, pod: Json | None, status: Json) -> str:
        pod_phase = pod["status"].get("phase") if pod else None
        if pod_phase == "Failed":
            return "Error"
        if desired == "Running":
            return "Running" if pod_phase == "Running" else "Pending"
        if desired == "Paused":
            return "Pausing" if pod else "Paused"
        busy = pod is not None or self._commit_status(status) in ("Pending", "Committing")
        return GOING[desired] if busy else desired

    def _commit_status(self, status: Json) -> str:
        record = status.get("commitRecords", {}).get(status.get("contentID", ""), {})
        return str(record.get("commitStatus", ""))

    def _commit(self, box: Json, status: Json) -> None:
        """One step of Pending -> Committing -> Success with a new `contentID`."""
        if self.version != "v1alpha2" or status.get("state") in ("Stopped", "Shutdown"):
            return
        content, uid = status["contentID"], box["metadata"]["uid"]
        record = status["commitRecords"].setdefault(
            content, {"baseImage": box["spec"]["image"], "node": "localhost"}
        )
        match record.get("commitStatus"):
            case None:
                record |= {"commitStatus": "Pending", "generateTime": _now()}
            case "Pending":
                record |= {"commitStatus": "Committing", "updateTime": _now()}
                self._committing[uid] = time.monotonic()
            case "Committing":
                began = self._committing.get(uid, 0)
                is_over = time.monotonic() - began >= self.commit_seconds
                if is_over and not self.hold_commits.is_set():
                    record |= {"commitStatus": "Success", "commitTime": _now(), "node": ""}
                    record["commitImage"] = f"{box['metadata']['name']}:{content[:8]}"
                    status["contentID"] = str(uuid.uuid4())
                    status["state"] = box["spec"]["state"]

    def _current_pod(self, namespace: str, name: str) -> Json | None:
        """The box's pod; one that is being deleted is let go, and is none."""
        pod = self.pod(namespace, name)
        if pod and "deletionTimestamp" in pod["metadata"]:
            self._release(pod)
            return None
        return pod

    def _make_pod(self, box: Json, content_id: str) -> Json:
        meta = box["metadata"]
        namespace, name = meta["namespace"], meta["name"]
        workspace = self.workspace(namespace, name)
        if not workspace.exists():
            workspace.mkdir(parents=True)
            workspace.chmod(0o755)
            os.chown(workspace, USER, USER)
        pod_name = name if self.version == "v1alpha2" else f"{name}-{secrets.token_hex(3)[:5]}"
        pod = devbox_pod(box, name=pod_name, workspace=str(workspace), content_id=content_id)
        return self.cluster.create(f"/api/v1/namespaces/{namespace}/pods", pod)

    def _delete_pod(self, pod: Json) -> None:
        meta = pod["metadata"]
        self.cluster.delete(f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}")
        self._release(pod)

    def _release(self, pod: Json) -> None:
        """Take the finalizer off, so that the API server forgets the pod."""
        meta = pod["metadata"]
        if FINALIZER in meta.get("finalizers", []):
            path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
            # With its UID: a new pod of the same name keeps its finalizer.
            self.cluster.merge(path, {"metadata": {"uid": meta["uid"], "finalizers": None}})

    def _release_pods_of_deleted(self, alive: set[str]) -> None:
        """Delete the pods of boxes that are gone, which is garbage collection's business."""
        selector = {"labelSelector": "app.kubernetes.io/part-of=devbox"}
        pods = self.cluster.http.get("/api/v1/pods", params=selector).raise_for_status().json()
        for pod in pods["items"]:
            owners = {it["uid"] for it in pod["metadata"].get("ownerReferences", [])}
            if owners and not owners & alive:
                self._delete_pod(pod)

    def _make_companions(self, box: Json) -> None:
        meta = box["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/secrets"
        if self.cluster.http.get(f"{path}/{meta['name']}").status_code != 404:
            return
        key = Ed25519PrivateKey.generate()
        public = key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
        token = secrets.token_hex(16)
        values = {
            "SEALOS_DEVBOX_JWT_SECRET": token.encode(),
            "SEALOS_DEVBOX_PUBLIC_KEY": public,
            "SEALOS_DEVBOX_PRIVATE_KEY": private,
            "SEALOS_DEVBOX_AUTHORIZED_KEYS": public,
            "SEALOS_DEVBOX_ENV_PROFILE": profile(box, token).encode(),
        }
        data = {key: base64.b64encode(value).decode() for key, value in values.items()}
        self.cluster.create(path, {"metadata": {"name": meta["name"]}, "data": data})


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
