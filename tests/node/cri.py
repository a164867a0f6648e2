"""The container runtime interface over gRPC, as the kubelet speaks it.

The stubs are generated when first needed, from the `api.proto` of the Go module `k8s.io/cri-api`,
and kept in the cache directory.
"""

import importlib
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc

from tests.cluster import binaries
from tests.node import images
from tests.node.cache import cache_directory, making
from tests.node.enclosure import EnclosureError

PROTO = "pkg/apis/runtime/v1/api.proto"


def module_version() -> str:
    """The version of `k8s.io/cri-api` that belongs to the Kubernetes of the test clusters."""
    return binaries.version().replace("v1.", "v0.", 1)


@cache
def stubs() -> tuple[ModuleType, ModuleType]:
    """The messages and the services. Raises NoModulesError where the module cannot be had."""
    directory = cache_directory() / f"cri-api-{module_version()}"
    with making(directory) as aside:
        if aside:
            generate(aside)
    if str(directory) not in sys.path:
        sys.path.append(str(directory))
    return importlib.import_module("cri_api_pb2"), importlib.import_module("cri_api_pb2_grpc")


def generate(directory: Path) -> None:
    module = binaries.download("k8s.io/cri-api", module_version())
    shutil.copyfile(module / PROTO, directory / "cri_api.proto")
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", ".", "--python_out", "."]
    done = subprocess.run(
        [*command, "--grpc_python_out", ".", "cri_api.proto"],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise EnclosureError(f"protoc: {done.stderr}")


class Runtime:
    """containerd as the kubelet sees it: sandboxes, containers and addresses for exec."""

    def __init__(self, socket: Path) -> None:
        self._messages, services = stubs()
        self._channel = grpc.insecure_channel(f"unix://{socket}")
        self._service = services.RuntimeServiceStub(self._channel)
        self._sandboxes: list[str] = []

    def close(self) -> None:
        for sandbox in self._sandboxes:
            self.call("StopPodSandbox", pod_sandbox_id=sandbox)
            self.call("RemovePodSandbox", pod_sandbox_id=sandbox)
        self._channel.close()

    def call(self, method: str, **fields: object) -> Any:
        """Call a method of the runtime service with the fields of its request."""
        request = getattr(self._messages, f"{method}Request")(**fields)
        return getattr(self._service, method)(request, timeout=60)

    def start(
        self,
        name: str,
        image: str = "posix",
        *,
        mounts: Mapping[Path, str] | None = None,
        user: int | None = None,
        read_only_root: bool = False,
        working_directory: str = "",
    ) -> str:
        """Start a container in a sandbox of its own, with the machine's network; return its ID."""
        m = self._messages
        node_network = m.LinuxSandboxSecurityContext(
            namespace_options=m.NamespaceOption(network=m.NODE)
        )
        sandbox = m.PodSandboxConfig(
            metadata=m.PodSandboxMetadata(name=name, uid=name, namespace="tests"),
            linux=m.LinuxPodSandboxConfig(security_context=node_network),
        )
        sandbox_id = self.call("RunPodSandbox", config=sandbox).pod_sandbox_id
        self._sandboxes.append(sandbox_id)
        security = m.LinuxContainerSecurityContext(
            namespace_options=m.NamespaceOption(network=m.NODE),
            readonly_rootfs=read_only_root,
            run_as_user=None if user is None else m.Int64Value(value=user),
            run_as_group=None if user is None else m.Int64Value(value=user),
        )
        config = m.ContainerConfig(
            metadata=m.ContainerMetadata(name=name),
            image=m.ImageSpec(image=images.reference(image)),
            working_dir=working_directory,
            mounts=[
                m.Mount(host_path=str(path), container_path=place)
                for path, place in (mounts or {}).items()
            ],
            linux=m.LinuxContainerConfig(security_context=security),
        )
        container = self.call(
            "CreateContainer", pod_sandbox_id=sandbox_id, config=config, sandbox_config=sandbox
        )
        self.call("StartContainer", container_id=container.container_id)
        return str(container.container_id)

    def exec_url(self, container: str, *command: str, stdin: bool = True, tty: bool = False) -> str:
        """An address of the streaming server that serves one exec session."""
        answer = self.call(
            "Exec",
            container_id=container,
            cmd=command,
            stdin=stdin,
            stdout=True,
            stderr=not tty,
            tty=tty,
        )
        return str(answer.url)

    def exec_sync(self, container: str, *command: str) -> tuple[bytes, bytes, int]:
        """Run a command; return what it wrote to both outputs and its exit code."""
        done = self.call("ExecSync", container_id=container, cmd=command, timeout=30)
        return done.stdout, done.stderr, done.exit_code
