"""Which way to a box is taken.

The ways are rungs of a ladder, the best first:

========  =========================================================================================
helper    the helper in the box, over pods/exec of the cluster's API server
agent     through the box's agent over HTTPS: the helper where it may run, else the box's own tools
exec      the box's own tools by pods/exec
========  =========================================================================================

They are tried in this order, and the first that opens is taken; the configuration's `transport`
forces one. A name that is no rung is a plugin's (see PLUGINS.md). That there is no such box, or
that it does not run, is the answer and no reason to try another rung. What was reached by the
helper once is not reached by a weaker way afterwards: who relies on it would not notice.

One after another, not at once: the agent's opening puts the helper into the box, and a slow answer
of a better rung is no reason for a worse one. What cannot succeed is left out: the last rung after
the first has met no API server, and where it would not be taken.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from sealos_devbox._plugins import load_plugin
from sealos_devbox._transport.base import FileTransport
from sealos_devbox.config import Timeouts
from sealos_devbox.errors import (
    BoxNotFoundError,
    BoxStateError,
    CapabilityError,
    ConnectError,
    DevboxError,
    PaymentRequiredError,
    ServiceError,
)
from sealos_devbox.secret import Secret
from sealos_devbox.types import Rung

__all__ = ["RUNGS", "BoxTarget", "open_box_transport", "rung_of", "why_impossible"]

_log = logging.getLogger(__name__)

RUNGS = ("helper", "agent", "exec")
"""The rungs, best first; what `transport` can name, besides ``auto`` and plugins."""

TRANSPORT_PLUGINS = "sealos_devbox.transports"
"""The group of entry points: each a callable (target, on_end) -> async context manager."""

_ANSWERS = (BoxNotFoundError, BoxStateError, PaymentRequiredError)
"""What is said of the box, and not of the way to it."""


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
    previous: Rung | None = None
    """The way that was taken last; tried first."""
    on_rung: Callable[[Rung], None] | None = None
    """Told which way was taken."""


@asynccontextmanager
async def open_box_transport(
    target: BoxTarget, on_end: Callable[[], None] | None = None
) -> AsyncIterator[FileTransport]:
    """Open the best way to the box, or the one that is forced.

    `on_end` is called once nothing more will come from it. Raises what a rung says of the box;
    where no rung opens, the error of the only one that could be tried, or one that says what each
    met, which is a ConnectError when another attempt may succeed.
    """
    async with AsyncExitStack() as stack:
        transport, rung = await _Climb(target, on_end or _ignore).climb(stack)
        if target.on_rung is not None:
            target.on_rung(rung)
        yield transport


class _Climb:
    """One opening: what was tried, and what became of it."""

    def __init__(self, target: BoxTarget, on_end: Callable[[], None]) -> None:
        self._target = target
        self._on_end = on_end
        self._reasons: dict[str, str] = {}
        self._failures: list[DevboxError] = []
        self._no_cluster = False
        """Whether no connection to the API server came about."""

    async def climb(self, stack: AsyncExitStack) -> tuple[FileTransport, Rung]:
        """Return the transport, opened on the stack, and how it was reached."""
        target = self._target
        if target.transport != "auto" and target.transport not in RUNGS:
            plugin = load_plugin(TRANSPORT_PLUGINS, target.transport)
            transport = await stack.enter_async_context(plugin(target, self._on_end))
            return transport, rung_of(target.transport, transport)
        for name in self._order():
            reason = why_impossible(target, name)
            if name == "exec" and self._no_cluster:
                reason = "the API server cannot be reached, as the helper has found"
            if reason is not None:
                self._reasons[name] = reason
                continue
            try:
                transport = await self._try(name, stack)
            except _ANSWERS:
                raise
            except DevboxError as error:
                self._reasons[name] = str(error)
                self._failures.append(error)
                if name == "helper" and isinstance(error, ConnectError):
                    self._no_cluster = error.unreachable
                _log.info("box %s is not reached by %s: %s", target.name, name, error)
                continue
            return transport, self._chosen(name, transport)
        raise self._failure()

    def _order(self) -> list[str]:
        if self._target.transport != "auto":
            return [self._target.transport]
        previous = self._target.previous
        first = [previous.name] if previous is not None and previous.name in RUNGS else []
        return [*first, *(name for name in RUNGS if name not in first)]

    async def _try(self, name: str, stack: AsyncExitStack) -> FileTransport:
        previous = self._target.previous
        refused = previous is not None and not previous.weaker and self._is_auto
        weaker = CapabilityError(
            "it would be weaker than the way before, and is not taken unasked",
            hint=f"To take it all the same, ask for the transport {name!r}.",
        )
        if refused and name == "exec":  # the one that is never anything else
            raise weaker
        async with AsyncExitStack() as attempt:
            transport = await attempt.enter_async_context(
                open_rung(self._target, name, self._on_end)
            )
            if refused and "weak" in transport.peer.capabilities:
                raise weaker
            stack.push_async_exit(attempt.pop_all())
        return transport

    @property
    def _is_auto(self) -> bool:
        return self._target.transport == "auto"

    def _chosen(self, name: str, transport: FileTransport) -> Rung:
        better = RUNGS[: RUNGS.index(name)]
        passed = tuple((rung, self._reasons[rung]) for rung in better if rung in self._reasons)
        rung = replace(rung_of(name, transport), passed_over=passed)
        if rung != self._target.previous:
            said = "".join(f"; not {better}: {why}" for better, why in passed)
            level = logging.WARNING if rung.weaker and self._is_auto else logging.INFO
            _log.log(level, "box %s is reached by %s%s", self._target.name, rung.description, said)
        return rung

    def _failure(self) -> DevboxError:
        target, failures = self._target, self._failures
        if len(failures) == 1 or (failures and len({str(error) for error in failures}) == 1):
            return failures[0]
        said = "; ".join(f"{rung}: {reason}" for rung, reason in self._reasons.items())
        text = f"There is no way to the files of {target.name!r} ({said})."
        if not failures:
            return CapabilityError(text, hop="local", hint=_HINT)
        passing = any(error.retryable for error in failures)
        first = failures[0]
        kind: type[DevboxError] = CapabilityError
        if passing:
            kind = ConnectError
        elif isinstance(first, ServiceError):
            kind = type(first)
        hint = " ".join(dict.fromkeys(error.hint for error in failures if error.hint)) or _HINT
        error = kind(text, hop=first.hop, status=first.status, hint=hint)
        error.__cause__ = first
        return error


_HINT = (
    "Use a kubeconfig whose cluster can be reached from here and that may create pods/exec, which "
    "the workspace's owner and managers may."
)


def why_impossible(target: BoxTarget, name: str) -> str | None:
    """Return why a rung cannot even be tried; None when it can."""
    if name == "agent":
        if target.agent_url is None or target.agent_token is None:
            return "the service names no agent of the box"
        return _missing("httpx")
    if target.kubeconfig is None and not target.kubeconfig_paths:
        return "the credential is no kubeconfig"
    # They need packages of an extra, which other rungs do without.
    return _missing("kubernetes.config") or _missing("websockets")


def open_rung(
    target: BoxTarget, name: str, on_end: Callable[[], None]
) -> AbstractAsyncContextManager[FileTransport]:
    """Open one rung that is not impossible."""
    return _open_agent(target, on_end) if name == "agent" else _open_cluster(target, name, on_end)


@asynccontextmanager
async def _open_cluster(
    target: BoxTarget, name: str, on_end: Callable[[], None]
) -> AsyncIterator[FileTransport]:
    from sealos_devbox._transport.kube.access import KubernetesAccess
    from sealos_devbox._transport.kube.cluster import (
        ClusterTarget,
        open_cluster_transport,
        open_exec_transport,
    )
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
        opened = (
            open_exec_transport(cluster)
            if name == "exec"
            else open_cluster_transport(cluster, on_end=on_end)
        )
        async with opened as transport:
            yield transport


@asynccontextmanager
async def _open_agent(
    target: BoxTarget, on_end: Callable[[], None]
) -> AsyncIterator[FileTransport]:
    from sealos_devbox._transport.agent.transport import AgentTarget, open_agent_transport

    if target.agent_url is None or target.agent_token is None:
        raise CapabilityError("The service names no agent of the box.")
    agent = AgentTarget(
        target.agent_url,
        await target.agent_token(),
        helper=target.helper,
        ca_file=target.ca_file,
        renew=target.agent_token,
    )
    async with open_agent_transport(agent, on_end=on_end) as transport:
        yield transport


_DESCRIPTIONS = {
    ("helper", False): "the helper in the box, over pods/exec",
    ("agent", False): "the helper in the box, through the box's agent",
    ("agent", True): "the box's own tools, through its agent",
    ("exec", True): "the box's own tools, by pods/exec",
}

_WEAKER = (
    "a change and the check before it are two steps: what the box changes between them is lost",
    "a change whose answer was lost may be made twice",
    "changes in the box are seen after seconds, by looking at everything",
    "git here and git in the box do not exclude each other",
    "there are no extended attributes and no terminals",
)


def rung_of(name: str, transport: FileTransport) -> Rung:
    """Describe a way by what is at its end."""
    capabilities = transport.peer.capabilities
    weak = "weak" in capabilities
    weaker: tuple[str, ...] = _WEAKER if weak else ()
    if "tools:busybox" in capabilities:
        weaker += ("times are whole seconds",)
    description = _DESCRIPTIONS.get((name, weak), f"the plugin {name}")
    return Rung(name, description, weaker)


def _missing(package: str) -> str | None:
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        return f"the package {error.name} is not installed"
    return None


def _ignore() -> None:
    pass
