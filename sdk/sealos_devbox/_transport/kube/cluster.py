"""The ways to a box in a cluster: pod, exec stream, and the helper or the box's own tools."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from sealos_devbox._transport.base import FileTransport
from sealos_devbox._transport.helper import open_helper_transport
from sealos_devbox._transport.kube.access import KubernetesAccess
from sealos_devbox._transport.kube.bootstrap import BootstrapOptions, open_helper_channel
from sealos_devbox._transport.kube.command import run_script
from sealos_devbox._transport.kube.pods import BoxPod, find_box
from sealos_devbox._transport.kube.runner import ExecRunner
from sealos_devbox._transport.shell.transport import open_shell_transport
from sealos_devbox.errors import CapabilityError

__all__ = ["ClusterTarget", "open_cluster_transport", "open_exec_transport"]

DEFAULT_USER = "devbox"


@dataclass(frozen=True, slots=True)
class ClusterTarget:
    """A box of a cluster, and how to reach it."""

    access: KubernetesAccess
    box: str
    namespace: str | None = None
    """None for that of the kubeconfig's context."""
    workspace: str | None = None
    """The directory to serve; None for the one in which the box's container starts."""
    user: str | None = None
    """Whom the helper works as where exec is root's; None for what the box's object says, and where
    it says nothing, `devbox`."""
    helper: Path | None = None
    """In place of the helpers in this package."""
    compress: bool = True
    """Whether the link is slow enough for zlib to pay."""


@asynccontextmanager
async def open_cluster_transport(
    target: ClusterTarget, *, on_end: Callable[[], None] | None = None
) -> AsyncIterator[FileTransport]:
    """Find the box, start the helper in it, and yield a transport to it.

    `on_end` is called once nothing more will come from it. Raises BoxNotFoundError, BoxStateError,
    AccessDeniedError, CapabilityError where the helper may not run in this box, and ConnectError.
    """
    pod, user = await _find(target)
    options = BootstrapOptions(
        root=target.workspace or pod.working_directory, user=user, helper=target.helper
    )
    async with open_helper_channel(target.access, pod.target, options) as channel:
        channel.on_end = on_end
        async with open_helper_transport(channel, compress=target.compress) as transport:
            yield transport


@asynccontextmanager
async def open_exec_transport(target: ClusterTarget) -> AsyncIterator[FileTransport]:
    """Find the box, and yield a transport by its own tools: nothing is put into it.

    Raises as open_cluster_transport does.
    """
    pod, user = await _find(target)
    workspace = target.workspace or pod.working_directory
    if not workspace:
        said = await run_script(target.access, pod.target, "pwd -P", timeout=30)
        workspace = said.stdout.decode(errors="surrogateescape").removesuffix("\n")
        if not workspace.startswith("/"):
            raise CapabilityError("The box does not say where its workspace is.", hop="box")
    runner = ExecRunner(target.access, pod.target, workspace=workspace, user=user)
    async with open_shell_transport(runner) as transport:
        yield transport


async def _find(target: ClusterTarget) -> tuple[BoxPod, str]:
    namespace = target.namespace or target.access.namespace
    pod = await find_box(target.access, namespace, target.box)
    if target.user is not None:
        return pod, target.user
    return pod, (pod.devbox.user if pod.devbox is not None else "") or DEFAULT_USER
