"""A box of a test cluster in the hands of a test: find it, run in it, kill it."""

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.cluster import ApiServer, Cluster
from tests.cluster.pods import labels
from tests.node.containerd import wait_for
from tests.node.enclosure import EnclosureError
from tests.node.exec_stream import V4, V5, ExecStream, Result, query


@dataclass(frozen=True)
class Box:
    """A running pod with the name, labels and container of a box.

    `workspace` is the directory of this machine that is mounted as `/home/devbox/project`.
    """

    cluster: Cluster
    namespace: str
    name: str
    workspace: Path

    @property
    def pods(self) -> str:
        """The path of the namespace's pods on the API server."""
        return f"/api/v1/namespaces/{self.namespace}/pods"

    def pod(self) -> dict[str, Any]:
        """The pod that runs now. Its name is the box's, except for boxes of v1alpha1."""
        selector = ",".join(f"{key}={value}" for key, value in labels(self.name).items())
        answer = self.cluster.http.get(self.pods, params={"labelSelector": selector})
        for pod in answer.raise_for_status().json()["items"]:
            if pod["status"].get("phase") == "Running" and is_up(pod):
                return dict(pod)
        raise EnclosureError(f"No pod of {self.name} is running.")

    def wait(self, timeout: float = 60) -> dict[str, Any]:
        """Return the pod once its container runs."""

        def pod() -> dict[str, Any] | None:
            try:
                return self.pod()
            except EnclosureError:
                return None

        found = wait_for(pod, f"pod {self.name}", self._explain, timeout)
        assert found
        return found

    def exec(
        self,
        *command: str,
        user: str = "owner",
        api: ApiServer | None = None,
        container: str | None = None,
        subprotocols: tuple[str, ...] = (V5, V4),
        stdin: bool = True,
        tty: bool = False,
        server: str = "",
        pod: str = "",
    ) -> ExecStream:
        """Open a raw exec session as a user; `server` replaces the address, for a proxy."""
        url = server or (api or self.cluster.api).url
        arguments = query(command, container=container or self.name, stdin=stdin, tty=tty)
        token = self.cluster.tokens[user]
        return ExecStream.open(
            f"{url}{self.pods}/{pod or self.pod()['metadata']['name']}/exec?{arguments}",
            headers={"authorization": f"Bearer {token}"},
            tls=self.cluster.tls(),
            subprotocols=subprotocols,
        )

    def run(self, *command: str, user: str = "owner") -> Result:
        """Run a command without input and return all that it said."""
        with self.exec(*command, user=user, stdin=False) as stream:
            return stream.rest()

    def delete_pod(self, grace: int = 0) -> None:
        """Delete the pod through the API, as the controller, an eviction or a user does.

        A box that a controller looks after gets a new pod; `wait` waits for it.
        """
        name = self.pod()["metadata"]["name"]
        self.cluster.delete(f"{self.pods}/{name}", grace=grace)

    def kill_container(self, signal_number: int = signal.SIGKILL) -> None:
        """Kill the container's first process behind Kubernetes' back, as a lack of memory does.

        The pod then is Failed, and stays.
        """
        self.cluster.containerd.ctr("tasks", "kill", "-s", int(signal_number), self.container_id())

    def container_id(self) -> str:
        statuses = self.pod()["status"]["containerStatuses"]
        identifiers = [it["containerID"] for it in statuses if it["name"] == self.name]
        return str(identifiers[0]).removeprefix("containerd://")

    def processes(self) -> list[str]:
        """The command lines in the container, asked of the runtime: no exec is involved."""
        listed = self.cluster.containerd.ctr("tasks", "ps", self.container_id()).stdout.decode()
        pids = [line.split()[0] for line in listed.splitlines()[1:]]
        found = []
        for pid in pids:
            done = self.cluster.enclosure.run("cat", f"/proc/{pid}/cmdline", check=False)
            found.append(done.stdout.rstrip(b"\0").replace(b"\0", b" ").decode())
        return [words for words in found if words]

    def _explain(self) -> str:
        answer = self.cluster.http.get(self.pods).json()["items"]
        states = [
            it["status"]
            for it in answer
            if labels(self.name).items() <= it["metadata"].get("labels", {}).items()
        ]
        return f"{states}\n{self.cluster.enclosure.log('kubelet')}"


def is_up(pod: dict[str, Any]) -> bool:
    """Whether all containers run and nobody has asked for the pod's end."""
    statuses = pod["status"].get("containerStatuses", [])
    return (
        "deletionTimestamp" not in pod["metadata"]
        and bool(statuses)
        and all("running" in status["state"] for status in statuses)
    )
