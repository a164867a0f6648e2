"""The way to a box in a cluster: pod, exec stream, helper."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from sealos_devbox._transport.base import FileTransport
from sealos_devbox._transport.helper import open_helper_transport
from sealos_devbox._transport.kube.access import KubernetesAccess
from sealos_devbox._transport.kube.bootstrap import BootstrapOptions, open_helper_channel
from sealos_devbox._transport.kube.pods import find_box

__all__ = ["ClusterTarget", "open_cluster_transport"]

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
    namespace = target.namespace or target.access.namespace
    pod = await find_box(target.access, namespace, target.box)
    user = target.user
    if user is None:
        user = (pod.devbox.user if pod.devbox is not None else "") or DEFAULT_USER
    options = BootstrapOptions(
        root=target.workspace or pod.working_directory, user=user, helper=target.helper
    )
    async with open_helper_channel(target.access, pod.target, options) as channel:
        channel.on_end = on_end
        async with open_helper_transport(channel, compress=target.compress) as transport:
            yield transport
