"""Which way to a box is taken.

The ways are rungs of a ladder, the best first: the helper over a byte channel, the box's agent over
HTTPS, plain exec. One is chosen by what the box and the caller's rights offer, or is forced by the
configuration's `transport`; a name that is no rung is a plugin's (see PLUGINS.md).

This version has the helper, started through the cluster's API server.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sealos_devbox._plugins import load_plugin
from sealos_devbox._transport.base import FileTransport
from sealos_devbox.config import Timeouts
from sealos_devbox.errors import CapabilityError
from sealos_devbox.secret import Secret

__all__ = ["RUNGS", "BoxTarget", "open_box_transport"]

RUNGS = ("helper", "agent", "exec")
"""The rungs, best first; what `transport` can name, besides ``auto`` and plugins."""

TRANSPORT_PLUGINS = "sealos_devbox.transports"
"""The group of entry points: each a callable (target, on_end) -> async context manager."""


@dataclass(frozen=True, slots=True)
class BoxTarget:
    """Everything that is known of a box and of the ways to it."""

    name: str
    uid: str
    location: str
    """For messages."""
    workspace: str | None = None
    """The workspace's path in the box; None when the box has to say it."""
    user: str | None = None
    """Whose files the workspace has."""
    kubeconfig: Secret | None = None
    """The text of a kubeconfig that reaches the cluster, where it is in no file."""
    kubeconfig_paths: tuple[Path, ...] = ()
    """The files of the kubeconfig, merged as kubectl does; empty where the credential is none."""
    context: str | None = None
    """Of the kubeconfig; None for its current one."""
    namespace: str | None = None
    """None for the context's."""
    agent_url: str | None = None
    """Without a slash at the end."""
    agent_token: Callable[[], Awaitable[Secret]] | None = None
    """Asks the control plane; called again when the agent refuses the last one."""
    transport: str = "auto"
    """``auto``, one of RUNGS, or a plugin's name."""
    helper: Path | None = None
    """The helper's executable; None for those in this package."""
    ca_file: Path | None = None
    control_plane: str | None = None
    """Its address; an engine that is one process has the cluster's API there as well."""
    timeouts: Timeouts = field(default_factory=Timeouts)


@asynccontextmanager
async def open_box_transport(
    target: BoxTarget, on_end: Callable[[], None] | None = None
) -> AsyncIterator[FileTransport]:
    """Open the best way to the box, or the one that is forced.

    `on_end` is called once nothing more will come from it. Raises CapabilityError, saying why each
    rung cannot be used, when none can; ConnectError when one could and does not answer.
    """
    if target.transport != "auto" and target.transport not in RUNGS:
        plugin = load_plugin(TRANSPORT_PLUGINS, target.transport)
        async with plugin(target, on_end or _ignore) as transport:
            yield transport
        return
    reasons: dict[str, str] = {}
    opened = _open_helper(target, on_end or _ignore, reasons)
    if opened is None:
        raise CapabilityError(_why_not(target, reasons), hop="local", hint=_HINT)
    async with opened as transport:
        yield transport


_HINT = (
    "Use a kubeconfig whose cluster can be reached from here and that may create pods/exec, which "
    "the workspace's owner and managers may."
)


def _open_helper(
    target: BoxTarget, on_end: Callable[[], None], reasons: dict[str, str]
) -> AbstractAsyncContextManager[FileTransport] | None:
    if target.transport not in ("auto", "helper"):
        reasons[target.transport] = "this version has no such rung"
        return None
    if target.kubeconfig is None and not target.kubeconfig_paths:
        reasons["helper"] = "the credential is no kubeconfig"
        return None
    try:
        # Imported here: they need packages of an extra, which other rungs do without.
        importlib.import_module("kubernetes.config")
        importlib.import_module("websockets")
    except ModuleNotFoundError as error:
        reasons["helper"] = f"the package {error.name} is not installed"
        return None
    return _open_cluster(target, on_end)


@asynccontextmanager
async def _open_cluster(
    target: BoxTarget, on_end: Callable[[], None]
) -> AsyncIterator[FileTransport]:
    from sealos_devbox._transport.kube.access import KubernetesAccess
    from sealos_devbox._transport.kube.cluster import ClusterTarget, open_cluster_transport
    from sealos_devbox._transport.kube.kubeconfig import KubeconfigSource

    source = KubeconfigSource(
        paths=tuple(map(str, target.kubeconfig_paths)),
        text=None if target.kubeconfig is None else target.kubeconfig.reveal(),
        context=target.context,
    )
    async with await KubernetesAccess.load(source) as access:
        cluster = ClusterTarget(
            access,
            target.name,
            namespace=target.namespace,
            # Not the working directory that the control plane names: sandbox images have another,
            # and the box knows.
            workspace=None,
            user=target.user,
            helper=target.helper,
        )
        async with open_cluster_transport(cluster, on_end=on_end) as transport:
            yield transport


def _why_not(target: BoxTarget, reasons: dict[str, str]) -> str:
    said = "; ".join(f"{rung}: {reason}" for rung, reason in reasons.items())
    return f"There is no way to the files of {target.name!r} ({said})."


def _ignore() -> None:
    pass
