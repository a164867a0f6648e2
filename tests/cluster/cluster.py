"""One cluster: its daemons in an enclosure, and what tests ask of it as its administrator."""

import contextlib
import itertools
import json
import secrets
import signal
import ssl
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import httpx
import yaml

from tests.cluster import binaries
from tests.cluster.certificates import Authority, signing_key
from tests.cluster.daemons import (
    NODE,
    api_server_arguments,
    etcd_arguments,
    kubelet_arguments,
)
from tests.cluster.users import USERS, CredentialPlugin, Proof, groups, role_objects
from tests.node import images
from tests.node.containerd import RUNTIME, Containerd, install, wait_for
from tests.node.enclosure import Enclosure, EnclosureError, free_ports

NAMESPACE = "ns-test"
PREFIXES = {"v1": "/api/v1", "rbac": "/apis/rbac.authorization.k8s.io/v1"}
SERVER_NAME = "api.cluster.internal"
"""A further name in the API server's certificate, for `tls-server-name`."""

_numbers = itertools.count(1)


class ApiServer:
    """A kube-apiserver; a cluster may have several, which differ by their feature gates."""

    def __init__(self, cluster: "Cluster", name: str, port: int, gates: Mapping[str, bool]) -> None:
        self._cluster = cluster
        self.name = name
        self.port = port
        self.gates = dict(gates)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def start(self) -> None:
        arguments = api_server_arguments(
            self._cluster.directory, self._cluster.ports["etcd"], self.port, self.gates
        )
        program = binaries.directory() / "kube-apiserver"
        self._cluster.enclosure.spawn(self.name, [program, *arguments])
        self.wait()

    def wait(self) -> None:
        """Return when it says that it is ready."""

        def ready() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                return self._cluster.http.get(f"{self.url}/readyz", timeout=2).is_success
            return False

        wait_for(ready, self.name, lambda: self._cluster.enclosure.log(self.name))

    def stop(self, signal_number: int = signal.SIGTERM) -> None:
        self._cluster.enclosure.stop(self.name, signal_number)

    def restart(self, signal_number: int = signal.SIGKILL) -> None:
        """End it, abruptly unless told otherwise, and start it again on the same port."""
        self.stop(signal_number)
        self.start()


class Cluster:
    """A cluster of one node. `close` ends it, as does the end of the process that started it."""

    def __init__(self, enclosure: Enclosure) -> None:
        self.enclosure = enclosure
        self.directory = enclosure.directory
        self.containerd = Containerd(enclosure)
        self.ports: dict[str, int] = {}
        self.tokens: dict[str, str] = {}
        self.api = ApiServer(self, "kube-apiserver", 0, {})

    # ------------------------------------------------------------------------------ lifecycle

    @classmethod
    def start(cls, label: str = "cluster", *, stay: bool = False) -> Self:
        """Build what is missing and start everything; returns when the node is ready."""
        binaries.build()
        install()
        archive = images.archive()
        cluster = cls(Enclosure.start(label, stay=stay))
        try:
            cluster._prepare()
            cluster._start_etcd()
            cluster.containerd.start()
            cluster.containerd.import_images(archive)
            cluster.api.start()
            cluster._start_kubelet()
            cluster.make_namespace(NAMESPACE)
            cluster._wait_for_node()
        except BaseException:
            cluster.close()
            raise
        return cluster

    @classmethod
    def attach(cls, directory: Path) -> Self:
        """The cluster that another process started there."""
        cluster = cls(Enclosure.attach(directory))
        state = json.loads((directory / "state.json").read_text())
        cluster.ports, cluster.tokens = state["ports"], state["tokens"]
        cluster.api.port = cluster.ports["api"]
        return cluster

    def close(self) -> None:
        """Stop the daemons from the top down, and then remove everything."""
        self.http.close()
        with contextlib.suppress(OSError, EnclosureError, ValueError):
            running = self.enclosure.running()
            last = ["etcd", "containerd"]
            first = sorted(name for name in running if name not in last)  # kubelet comes last
            for name in [*reversed(first), *last]:
                self.enclosure.stop(name, patience=3)
        self.enclosure.close()

    def extra_api_server(self, name: str, gates: Mapping[str, bool]) -> ApiServer:
        """Start another API server beside the first, over the same objects."""
        server = ApiServer(self, name, free_ports(1)[0], gates)
        server.start()
        return server

    def restart_kubelet(self) -> None:
        """Kill it and start it; return when it knows the pods that it has."""
        self.enclosure.stop("kubelet", signal.SIGKILL)
        self._start_kubelet()
        self._wait_for_kubelet()

    def restart_containerd(self) -> None:
        """Kill it and start it; return when the kubelet has found it. Containers go on."""
        self.containerd.restart()
        self._wait_for_kubelet()

    def _wait_for_kubelet(self) -> None:
        """Return when it knows the pods that it has, and the runtime answers it."""
        kubelet = f"https://127.0.0.1:{self.ports['kubelet']}"

        def uids(url: str) -> set[str]:
            items = self.http.get(url).raise_for_status().json()["items"] or []
            return {pod["metadata"]["uid"] for pod in items}

        def knows() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                uids(f"{kubelet}/runningpods/")
                return uids("/api/v1/pods") <= uids(f"{kubelet}/pods")
            return False

        wait_for(knows, "the kubelet", lambda: self.enclosure.log("kubelet"))

    # ------------------------------------------------------------------------- administration

    @cached_property
    def http(self) -> httpx.Client:
        """A client with the administrator's certificate; paths are relative to the API server."""
        return httpx.Client(
            base_url=self.api.url, verify=self.tls("admin"), timeout=30, trust_env=False
        )

    def tls(self, user: str | None = None) -> ssl.SSLContext:
        """Trust in this cluster's servers only, with a user's certificate if one is named."""
        context = ssl.create_default_context(cafile=str(self.directory / "pki" / "ca.crt"))
        if user:
            certificate = self.directory / "pki" / f"{user}.crt"
            context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        return context

    def create(self, path: str, value: Mapping[str, Any]) -> dict[str, Any]:
        """POST an object; one that exists already is returned as it is."""
        answer = self.http.post(path, json=value)
        if answer.status_code == 409:
            answer = self.http.get(f"{path}/{value['metadata']['name']}")
        return _checked(answer)

    def get(self, path: str) -> dict[str, Any]:
        return _checked(self.http.get(path))

    def merge(self, path: str, patch: Mapping[str, Any]) -> dict[str, Any]:
        """PATCH an object by merging."""
        headers = {"content-type": "application/merge-patch+json"}
        return _checked(self.http.patch(path, content=json.dumps(patch), headers=headers))

    def delete(self, path: str, *, grace: int = 0) -> None:
        """DELETE an object, at once unless told otherwise; one that is not there is no error."""
        answer = self.http.delete(path, params={"gracePeriodSeconds": grace})
        if answer.status_code != 404:
            _checked(answer)

    def make_namespace(self, name: str) -> str:
        """Make a namespace in which the users of `users.py` have their rights."""
        self.create("/api/v1/namespaces", {"metadata": {"name": name}})
        for plural, value in role_objects(name):
            self.create(f"{PREFIXES['rbac']}/namespaces/{name}/{plural}", value)
        return name

    def service_account_token(self, name: str, namespace: str = NAMESPACE) -> str:
        """A token as a pod finds it mounted, of a service account with an owner's rights."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts"
        self.create(path, {"metadata": {"name": name}})
        bindings = f"{PREFIXES['rbac']}/namespaces/{namespace}/rolebindings"
        subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
        rbac = "rbac.authorization.k8s.io"
        reference = {"kind": "Role", "name": "owner", "apiGroup": rbac}
        binding = {"metadata": {"name": f"sa-{name}"}, "subjects": [subject], "roleRef": reference}
        self.create(bindings, binding)
        asked = self.http.post(f"{path}/{name}/token", json={"spec": {"expirationSeconds": 3600}})
        token: str = _checked(asked)["status"]["token"]
        return token

    # ------------------------------------------------------------------------------- access

    def kubeconfig(
        self,
        user: str = "owner",
        by: Proof = "token",
        *,
        server: str = "",
        namespace: str = NAMESPACE,
        context: str = "test",
        cluster_settings: Mapping[str, object] | None = None,
    ) -> Path:
        """Write a kubeconfig, readable by its owner only, and return its path.

        `server` replaces the address, for a proxy or another API server of the cluster;
        `cluster_settings` adds to the cluster's entry (`tls-server-name`, `proxy-url`, ...).
        """
        pki = self.directory / "pki"
        credentials: dict[str, object]
        match by:
            case "token":
                credentials = {"token": self.tokens[user]}
            case "token-file":
                path = self.directory / "kubeconfigs" / f"{next(_numbers)}.token"
                path.touch(mode=0o600)
                path.write_text(self.tokens[user])
                credentials = {"tokenFile": str(path)}
            case "certificate":
                credentials = {
                    "client-certificate": str(pki / f"{user}.crt"),
                    "client-key": str(pki / f"{user}.key"),
                }
            case "exec":
                credentials = {
                    "exec": {
                        "apiVersion": "client.authentication.k8s.io/v1",
                        "command": str(self.credential_plugin(user).command),
                        "interactiveMode": "Never",
                        "provideClusterInfo": True,
                    }
                }
            case "none":
                credentials = {}
        entry = {
            "server": server or self.api.url,
            "certificate-authority": str(pki / "ca.crt"),
            **(cluster_settings or {}),
        }
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": context,
            "clusters": [{"name": "test", "cluster": entry}],
            "users": [{"name": user, "user": credentials}],
            "contexts": [
                {
                    "name": context,
                    "context": {"cluster": "test", "user": user, "namespace": namespace},
                }
            ],
        }
        path = self.directory / "kubeconfigs" / f"{next(_numbers)}-{user}-{by}.yaml"
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(config))
        return path

    def credential_plugin(self, user: str) -> CredentialPlugin:
        """The exec plugin that kubeconfigs of this user name."""
        directory = self.directory / "plugins" / user
        if directory.exists():
            return CredentialPlugin(directory)
        return CredentialPlugin.make(directory, self.tokens[user])

    # ------------------------------------------------------------------------------- starting

    def _prepare(self) -> None:
        names = ("etcd", "etcd_peer", "api", "kubelet")
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.api.port = self.ports["api"]
        for name in ("kubeconfigs", "plugins", "volumes", "kubelet"):
            (self.directory / name).mkdir()
        authority = Authority(self.directory / "pki")
        authority.server("api", SERVER_NAME)
        authority.server("kubelet")
        for user in USERS:
            authority.client(user, *groups(user))
        signing_key(self.directory / "pki" / "service-accounts.key")
        self.tokens = {user: secrets.token_hex(16) for user in USERS}
        lines = []
        for user, token in self.tokens.items():
            member = f',"{",".join(groups(user))}"' if groups(user) else ""
            lines.append(f"{token},{user},{user}{member}\n")
        (self.directory / "tokens.csv").touch(mode=0o600)
        (self.directory / "tokens.csv").write_text("".join(lines))
        (self.directory / "state.json").touch(mode=0o600)
        state = {"ports": self.ports, "tokens": self.tokens}
        (self.directory / "state.json").write_text(json.dumps(state))

    def _start_etcd(self) -> None:
        arguments = etcd_arguments(self.directory, self.ports["etcd"], self.ports["etcd_peer"])
        self.enclosure.spawn("etcd", [binaries.directory() / "etcd", *arguments])

    def _start_kubelet(self) -> None:
        kubeconfig = self.kubeconfig("admin", "certificate")
        arguments = kubelet_arguments(self.directory, self.ports["kubelet"], kubeconfig)
        self.enclosure.spawn("kubelet", [binaries.directory() / "kubelet", *arguments])

    def _wait_for_node(self) -> None:
        def ready() -> bool:
            answer = self.http.get(f"/api/v1/nodes/{NODE}")
            if not answer.is_success:
                return False
            conditions = answer.json()["status"].get("conditions", [])
            return any(it["type"] == "Ready" and it["status"] == "True" for it in conditions)

        wait_for(ready, "a ready node", lambda: self.enclosure.log("kubelet"))
        handler = {"metadata": {"name": "devbox-runtime"}, "handler": RUNTIME}
        self.create("/apis/node.k8s.io/v1/runtimeclasses", handler)


def _checked(answer: httpx.Response) -> dict[str, Any]:
    if not answer.is_success:
        request = answer.request
        raise EnclosureError(f"{request.method} {request.url}: {answer.status_code} {answer.text}")
    value: dict[str, Any] = answer.json()
    return value
