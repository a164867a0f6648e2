"""From the JSON of each route to the models, in one unit each.

=================  ==========================  =====================================
route              CPU                         memory
=================  ==========================  =====================================
v1 list            millicores                  MiB
v1 detail          cores                       GiB
v2alpha            cores                       GiB
R (older) list     -                           -
R (older) get      millicores                  MiB
=================  ==========================  =====================================

States are capitalised in v1 and lower case in v2alpha. Fields that are missing or of another type
are taken as not said, unless nothing can be done without them: then ProtocolError is raised.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

from sealos_devbox._planning.quantities import GIB, MIB
from sealos_devbox.errors import ProtocolError
from sealos_devbox.models import (
    BoxInfo,
    BoxState,
    Deployment,
    EnvVar,
    Pod,
    Port,
    PortProtocol,
    Release,
    ReleaseState,
    Resources,
    Runtime,
    SecretRef,
    SshInfo,
    Template,
)
from sealos_devbox.secret import Secret

__all__ = [
    "agent_token",
    "flat_detail",
    "flat_list",
    "items",
    "moment",
    "pod_from_kubernetes",
    "release",
    "runtime",
    "state_of",
    "template",
    "v1_detail",
    "v1_list",
    "v2_detail",
    "v2_list",
]

AgentAddress = Callable[[str], str] | None
"""Makes the address of an agent from a box's unique ID; None where no address leads there."""

SSH_GATE_PORT = 2233
"""Where the gate for SSH listens in every region (v1 detail says 0)."""


def items(value: object, make: Callable[[dict[str, Any]], Any]) -> list[Any]:
    """Return the models for a list of objects."""
    if not isinstance(value, list):
        raise ProtocolError("A list was expected of the control plane.", hop="control-plane")
    return [make(item) for item in value if isinstance(item, dict)]


def state_of(value: object) -> BoxState:
    """Return the state for a phase in any capitalisation."""
    try:
        return BoxState(str(value).lower())
    except ValueError:
        return BoxState.UNKNOWN


def moment(value: object) -> datetime | None:
    """Return an aware datetime for what the service writes: RFC 3339, or epoch (milli)seconds."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value / 1000 if abs(value) > 1e11 else value
        return datetime.fromtimestamp(seconds, UTC)
    if not isinstance(value, str) or not value:
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


# -- boxes -----------------------------------------------------------------------------------------


def v1_list(item: dict[str, Any]) -> BoxInfo:
    """Return a box of v1's list."""
    given = _object(item.get("resources"))
    return BoxInfo(
        name=_needed(item, "name"),
        uid=_text(item.get("uid")) or "",
        state=state_of(item.get("status")),
        runtime=_text(item.get("runtime")) or "",
        resources=_resources(given.get("cpu"), given.get("memory"), cpu_unit=0.001, unit=MIB),
    )


def v2_list(item: dict[str, Any]) -> BoxInfo:
    """Return a box of v2alpha's list."""
    given = _object(item.get("quota"))
    return BoxInfo(
        name=_needed(item, "name"),
        uid=_text(item.get("uid")) or "",
        state=state_of(item.get("status")),
        runtime=_text(item.get("runtime")) or "",
        resources=_resources(given.get("cpu"), given.get("memory"), cpu_unit=1, unit=GIB),
        created_at=moment(item.get("createdAt")),
    )


def v1_detail(item: object, agent_at: AgentAddress) -> BoxInfo:
    """Return a box of v1's detail; `agent_at` makes the address of its agent."""
    return _detail(_object(item), "resources", agent_at, key_of=_decoded_key)


def v2_detail(item: object, agent_at: AgentAddress) -> BoxInfo:
    """Return a box of v2alpha's detail."""
    return _detail(_object(item), "quota", agent_at, key_of=_decoded_key)


def agent_token(item: object) -> Secret | None:
    """Return the agent's token of v1's detail, where it is base64."""
    token = _object(_object(item).get("agentServer")).get("token")
    if not isinstance(token, str) or not token:
        return None
    try:
        return Secret(base64.b64decode(token, validate=True).decode(), token)
    except (binascii.Error, UnicodeDecodeError):
        raise ProtocolError(
            "The token of the box's agent is not in base64.", hop="control-plane"
        ) from None


def _detail(
    item: dict[str, Any],
    quota: str,
    agent_at: AgentAddress,
    *,
    key_of: Callable[[object], Secret | None],
) -> BoxInfo:
    given = _object(item.get(quota))
    status = _object(item.get("operationalStatus"))
    network = _object(status.get("network"))
    agent = _object(item.get("agentServer"))
    ssh = _object(item.get("ssh"))
    unique_id = _text(network.get("uniqueID")) or _text(agent.get("url"))
    # The agent is known by the control plane's word only: v1 says the unique ID where there is one.
    agent_id = _text(agent.get("url"))
    agent_url = agent_at(agent_id) if agent_id and agent_at else None
    port = _whole(ssh.get("port")) or None
    if network.get("type") == "SSHGate":
        port = SSH_GATE_PORT
    working_dir = _text(ssh.get("workingDir"))
    return BoxInfo(
        name=_needed(item, "name"),
        uid=_text(item.get("uid")) or "",
        state=state_of(item.get("status")),
        runtime=_text(item.get("runtime")) or "",
        resources=_resources(given.get("cpu"), given.get("memory"), cpu_unit=1, unit=GIB),
        image=_text(item.get("image")),
        created_at=moment(item.get("createdAt")),
        ssh=SshInfo(
            host=_text(ssh.get("host")) or "",
            port=port,
            user=_text(ssh.get("user")) or "devbox",
            working_dir=working_dir or "",
            private_key=key_of(ssh.get("privateKey")),
        )
        if ssh
        else None,
        env=tuple(_env(item.get("env"))),
        ports=tuple(port_of(one) for one in _objects(item.get("ports"))),
        pods=tuple(
            Pod(_text(one.get("name")) or "", (_text(one.get("status")) or "unknown").lower())
            for one in _objects(item.get("pods"))
        ),
        unique_id=unique_id,
        agent_url=agent_url,
        working_dir=working_dir,
    )


def flat_list(item: dict[str, Any]) -> BoxInfo:
    """Return a box of the older lineage's list, which says neither state nor size."""
    return BoxInfo(
        name=_needed(item, "name"),
        uid=_text(item.get("id")) or "",
        state=BoxState.UNKNOWN,
        runtime="",
        resources=Resources(0.0, 0),
        created_at=moment(item.get("createTime")),
    )


def flat_detail(item: object) -> BoxInfo:
    """Return a box of the older lineage's detail."""
    return _flat_detail(_object(item))


def _flat_detail(item: dict[str, Any]) -> BoxInfo:
    domain = _text(item.get("domain"))
    working_dir = _text(item.get("workingDir"))
    return BoxInfo(
        name=_needed(item, "name"),
        uid=_text(item.get("id")) or "",
        state=state_of(_object(item.get("status")).get("value", item.get("status"))),
        runtime=_text(item.get("iconId")) or "",
        resources=_resources(item.get("cpu"), item.get("memory"), cpu_unit=0.001, unit=MIB),
        image=_text(item.get("imageName")),
        created_at=moment(item.get("createTime")),
        ssh=SshInfo(
            host=domain or "",
            # 65535 is what it says while it does not know.
            port=None if _whole(item.get("sshPort")) in (0, 65535) else _whole(item.get("sshPort")),
            user=_text(item.get("userName")) or "devbox",
            working_dir=working_dir or "",
            private_key=_decoded_key(item.get("base64PrivateKey")),
        ),
        ports=tuple(port_of(one) for one in _objects(item.get("networks"))),
        working_dir=working_dir,
    )


def port_of(item: dict[str, Any]) -> Port:
    """Return a port of any route: of a detail, of an answer to create, of the older networks."""
    protocol = (_text(item.get("protocol")) or "http").lower()
    host = _text(item.get("publicHost")) or _text(item.get("publicDomain"))
    url = _text(item.get("publicAddress")) or (f"https://{host}" if host else None)
    if url and "://" not in url:
        url = f"https://{url}"
    number = _whole(item.get("number")) or _whole(item.get("port"))
    if number is None:
        raise ProtocolError("The control plane named a port without number.", hop="control-plane")
    public = item.get("exposesPublicDomain", item.get("isPublic", item.get("openPublicDomain")))
    return Port(
        number=number,
        protocol=cast("PortProtocol", protocol if protocol in ("http", "grpc", "ws") else "http"),
        public=public if isinstance(public, bool) else url is not None,
        name=_text(item.get("portName")),
        public_url=url,
        private_url=_text(item.get("privateAddress")),
        custom_domain=_text(item.get("customDomain")),
    )


def pod_from_kubernetes(item: dict[str, Any]) -> Pod:
    """Return a pod of the web interface's route, which is Kubernetes' object and more."""
    status = _object(item.get("status"))
    metadata = _object(item.get("metadata"))
    phase = _text(status.get("phase")) or _text(status.get("value")) or "unknown"
    return Pod(
        name=_text(item.get("podName")) or _text(metadata.get("name")) or "",
        state=phase.lower(),
        ip=_text(item.get("ip")) or _text(status.get("podIP")),
        node=_text(item.get("nodeName")) or _text(_object(item.get("spec")).get("nodeName")),
        restarts=_whole(item.get("restarts")),
    )


# -- releases and templates ------------------------------------------------------------------------


def release(item: dict[str, Any]) -> Release:
    """Return a release of v1 or v2alpha."""
    status = item.get("status")
    value = str(_object(status).get("value", status)).lower()
    description = _text(item.get("description")) or ""
    return Release(
        tag=_needed(item, "tag"),
        state=cast(
            "ReleaseState", value if value in ("pending", "success", "failed") else "unknown"
        ),
        # What the service puts where nothing was written.
        description="" if description == "release notes" else description,
        created_at=moment(item.get("createTime", item.get("createdAt"))),
        image=_text(item.get("image")),
        uid=_text(item.get("id")),
    )


def deployment(item: dict[str, Any]) -> Deployment:
    """Return an application that runs a release."""
    return Deployment(
        name=_needed(item, "name"),
        kind=_text(item.get("resourceType")) or "deployment",
        tag=_text(item.get("tag")),
    )


def template(item: dict[str, Any]) -> Template:
    """Return a template."""
    config = _object(item.get("config"))
    ports = (_whole(one.get("port")) for one in _objects(config.get("appPorts")))
    command = [*_texts(config.get("releaseCommand")), *_texts(config.get("releaseArgs"))]
    return Template(
        runtime=_needed(item, "runtime"),
        user=_text(config.get("user")) or "devbox",
        working_dir=_text(config.get("workingDir")) or "/home/devbox/project",
        ports=tuple(port for port in ports if port is not None),
        release_command=tuple(command),
    )


def runtime(item: dict[str, Any]) -> Runtime:
    """Return a repository of templates."""
    tags = (_text(one.get("name")) for one in _objects(item.get("tags")))
    return Runtime(
        name=_text(item.get("iconId")) or _needed(item, "uid"),
        kind=(_text(item.get("kind")) or "").lower() or None,
        description=_text(item.get("description")) or "",
        tags=tuple(tag for tag in tags if tag),
    )


# -- parts -----------------------------------------------------------------------------------------


def _resources(cpu: object, memory: object, *, cpu_unit: float, unit: int) -> Resources:
    return Resources(
        cpu=round(_number(cpu) * cpu_unit, 6),
        memory=round(_number(memory) * unit),
    )


def _env(value: object) -> list[EnvVar]:
    found = []
    for one in _objects(value):
        reference = _object(_object(one.get("valueFrom")).get("secretKeyRef"))
        secret = (
            SecretRef(str(reference.get("name", "")), str(reference.get("key", "")))
            if reference
            else None
        )
        content = one.get("value")
        found.append(
            EnvVar(
                _needed(one, "name"),
                None if secret is not None or content is None else str(content),
                secret,
            )
        )
    return found


def _decoded_key(value: object) -> Secret | None:
    """Return a private key that may be in base64: v1 and v2alpha's detail encode it."""
    if not isinstance(value, str) or not value:
        return None
    if "PRIVATE KEY" in value:
        return Secret(value)
    try:
        return Secret(base64.b64decode(value, validate=True).decode(), value)
    except (binascii.Error, UnicodeDecodeError):
        raise ProtocolError(
            "The private key of the box is not in base64.", hop="control-plane"
        ) from None


def _needed(item: dict[str, Any], key: str) -> str:
    value = item.get(key)
    if not isinstance(value, str) or not value:
        raise ProtocolError(f"The control plane left out {key!r}.", hop="control-plane")
    return value


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _texts(value: object) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _whole(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, str) and value.isdigit() else None


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return 0.0
    try:
        return float(value)
    except ValueError:
        return 0.0
