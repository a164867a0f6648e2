"""v2alpha of the control plane: bare bodies, real statuses, other units (contract, 6).

Written against the current lineage's custom resource, so under the older one it is served without
monitoring, as there.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Literal

import msgspec
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from sealos_devbox.errors import DevboxError
from sealos_devbox.server.control import boxes, forms, v1
from sealos_devbox.server.control import v1_values as values
from sealos_devbox.server.control.envelope import Failure
from sealos_devbox.server.control.v2alpha_forms import (
    CreateForm,
    PatchForm,
    Protocol,
    ReleaseForm,
)
from sealos_devbox.server.credentials import control_token, matches
from sealos_devbox.server.engine import Box, Engine
from sealos_devbox.server.operations import (
    Answer,
    Call,
    Invalid,
    Operation,
    Parameter,
    decode,
    query_values,
)
from sealos_devbox.server.record import ReleaseRecord, State
from sealos_devbox.server.refusals import Refusal
from sealos_devbox.server.templates import RUNTIMES_V2ALPHA

__all__ = ["OPERATIONS", "bare_endpoint"]

_log = logging.getLogger(__name__)

BASE = "/api/v2alpha/devbox"


def _quota(box: Box) -> dict[str, float]:
    return {"cpu": box.record.cpu_millis / 1000, "memory": box.record.memory_mib / 1024}


async def list_boxes(call: Call) -> list[dict[str, Any]]:
    """All boxes: cores, GiB, phases in lower case."""
    return [
        {
            "name": box.name,
            "uid": box.uid,
            "resourceType": "devbox",
            "runtime": box.record.runtime,
            "status": box.phase.lower(),
            "quota": _quota(box),
        }
        for box in await to_thread.run_sync(call.engine.boxes)
        if call.engine.templates.by_template(box.record.template_uid) is not None
    ]


async def create(call: Call) -> Response:
    """Make a box."""
    form: CreateForm = call.body
    if form.runtime not in RUNTIMES_V2ALPHA:
        raise Invalid(["runtime"], "Invalid enum value")
    forms.check_env(form.env)
    repository = call.engine.templates.find(form.runtime)
    if repository is None:
        raise Failure(404, "Runtime not found")
    ports = [
        forms.NewPortForm(
            number=port.number,
            protocol=_upper(port.protocol),
            exposes_public_domain=port.is_public,
            custom_domain=port.custom_domain,
        )
        for port in form.ports
    ] or [forms.NewPortForm(number=repository.app_port)]
    await to_thread.run_sync(
        partial(
            boxes.create,
            call.engine,
            form.name,
            repository,
            cpu=form.quota.cpu,
            memory=form.quota.memory,
            env=form.env,
            ports=ports,
            autostart=False,  # accepted, and not acted on
        )
    )
    return _json({"name": form.name, "status": "creating"}, 202)


def _upper(protocol: Protocol) -> Literal["HTTP", "GRPC", "WS"]:
    names: dict[Protocol, Literal["HTTP", "GRPC", "WS"]] = {
        "http": "HTTP",
        "grpc": "GRPC",
        "ws": "WS",
    }
    return names[protocol]


async def detail(call: Call) -> dict[str, Any]:
    """One box; without the agent's address."""
    engine = call.engine
    box = await to_thread.run_sync(engine.box, call.name)
    shown = values.detail(engine, box)
    gate = box.record.network == "SSHGate"
    ports = []
    for port in shown.ports:
        item = {
            "number": port.number,
            "portName": port.port_name,
            "protocol": port.protocol.lower(),
            "privateAddress": port.private_address,
            "publicAddress": port.public_address,
            "customDomain": port.custom_domain,
        }
        ports.append({key: value for key, value in item.items() if value is not msgspec.UNSET})
    answer: dict[str, Any] = {
        "name": box.name,
        "createdAt": values.iso(box.stored.created.timestamp()),
        "uid": box.uid,
        "resourceType": "devbox",
        "runtime": box.record.runtime,
        "image": box.record.image,
        "status": box.phase.lower(),
        "quota": _quota(box),
        "ssh": {
            "host": shown.ssh.host,
            "port": values.SSH_GATE_PORT if gate else shown.ssh.port or None,
            "user": shown.ssh.user,
            "workingDir": shown.ssh.working_dir,
            "privateKey": shown.ssh.private_key,
        },
        "env": shown.env,
        "ports": ports,
        "pods": [{"name": pod.name, "status": pod.status.lower()} for pod in shown.pods],
        "operationalStatus": shown.operational_status,
    }
    if box.running:
        seconds = max(0, int(engine.clock() - box.record.changed))
        answer["upTime"] = f"{seconds // 3600}h{seconds // 60 % 60}m{seconds % 60}s"
    return answer


async def patch(call: Call) -> None:
    """Change sizes and ports."""
    form: PatchForm = call.body
    await to_thread.run_sync(call.engine.box, call.name)
    if form.quota is not None:
        await to_thread.run_sync(
            partial(
                boxes.set_resource,
                call.engine,
                call.name,
                cpu=form.quota.cpu,
                memory=form.quota.memory,
            )
        )
    if form.ports is not None:
        wanted = [
            forms.PortForm(
                port_name=port.port_name,
                number=port.number,
                protocol=None if port.protocol is None else _upper(port.protocol),
                exposes_public_domain=port.is_public,
                custom_domain=port.custom_domain,
            )
            for port in form.ports
        ]
        await to_thread.run_sync(boxes.set_ports, call.engine, call.name, wanted)


async def delete(call: Call) -> None:
    """Remove a box; one that does not exist is removed already."""
    try:
        await to_thread.run_sync(call.engine.delete, call.name)
    except Refusal as refusal:
        if refusal.status != 404:
            raise


async def _state(call: Call, state: State) -> None:
    await to_thread.run_sync(call.engine.set_state, call.name, state)


async def start(call: Call) -> None:
    """Ask for a running box."""
    await _state(call, "Running")


async def pause(call: Call) -> None:
    """Ask for a stopped box."""
    await _state(call, "Stopped")


async def shutdown(call: Call) -> None:
    """Stop a box and give its network back."""
    await _state(call, "Shutdown")


async def restart(call: Call) -> None:
    """Stop a box and start it."""
    await v1.restart(call)


async def autostart(call: Call) -> None:
    """Run a command once the box runs."""
    await v1.autostart(call)


async def private_key(call: Call) -> dict[str, str]:
    """The SSH key of a box, decoded."""
    box = await to_thread.run_sync(call.engine.box, call.name)
    return {"privateKey": box.record.private_key}


async def templates(call: Call) -> list[values.TemplateItem]:
    """The runtimes of the region."""
    return await v1.templates(call)


async def list_releases(call: Call) -> list[dict[str, Any]]:
    """The releases of a box, newest first."""
    items = []
    for release in await v1.list_releases(call):
        item: dict[str, Any] = msgspec.to_builtins(release)
        item["createdAt"] = item.pop("createTime")
        items.append(item)
    return items


async def create_release(call: Call) -> Response:
    """Stop the box, make a release of it, and start it again."""
    form: ReleaseForm = call.body
    box = await to_thread.run_sync(call.engine.box, call.name)
    release = ReleaseRecord(
        uid=str(uuid.uuid4()),
        tag=form.tag,
        description=form.release_description,
        created=call.engine.clock(),
        start_after=form.start_devbox_after_release and box.record.state == "Running",
        exec_command=form.exec_command,
    )
    await to_thread.run_sync(v1.add_release, call, release)
    if box.record.state in ("Running", "Paused"):
        await _state(call, "Stopped")
    return _json({"name": f"{call.name}-{form.tag}", "status": "creating"}, 202)


async def delete_release(call: Call) -> None:
    """Remove a release, if it exists."""
    try:
        await to_thread.run_sync(v1.remove_release, call)
    except Refusal as refusal:
        if refusal.status != 404:
            raise


async def deploy_release(call: Call) -> None:
    """Make an application of a release."""
    tag = call.request.path_params["tag"]
    if await to_thread.run_sync(boxes.deploy, call.engine, call.name, tag) is None:
        raise Failure(404, f"Release {tag} not found")


async def list_deployments(call: Call) -> list[values.DeployedApp]:
    """The applications that were made of the releases of a box."""
    return await v1.list_deployments(call)


async def monitor(call: Call) -> list[values.MonitorPoint]:
    """Use over time, in percent."""
    return await v1.monitor_points(call, 1.0)


# --------------------------------------------------------------------------------- answering


def _json(body: Any, status: int = 200) -> Response:  # noqa: ANN401 - whatever JSON has
    return Response(msgspec.json.encode(body), status, media_type="application/json")


_KINDS = {
    400: ("validation_error", "INVALID_PARAMETER"),
    401: ("authentication_error", "AUTHENTICATION_REQUIRED"),
    404: ("resource_error", "NOT_FOUND"),
    409: ("resource_error", "CONFLICT"),
    422: ("operation_error", "KUBERNETES_ERROR"),
    500: ("internal_error", "INTERNAL_ERROR"),
}


def _error(status: int, message: str, details: Any = None, code: str = "") -> Response:  # noqa: ANN401
    kind, usual = _KINDS.get(status, _KINDS[500])
    error: dict[str, Any] = {"type": kind, "code": code or usual, "message": message}
    if details is not None:
        error["details"] = details
    return _json({"error": error}, status)


def bare_endpoint(engine: Engine, operation: Operation) -> Callable[[Request], Awaitable[Response]]:
    """Make the endpoint of an operation of v2alpha."""

    async def endpoint(request: Request) -> Response:
        given = control_token(request.headers.get("authorization"))
        present = request.headers.get("authorization") and engine.settings.public_routes
        if not matches(given, engine.token) and not (operation.public and present):
            # Only this one route says what is wrong.
            if operation.group == "templates":
                return _error(401, "Unauthorized")
            return _error(500, "Internal server error")
        try:
            return await _carry_out(engine, operation, request)
        except Invalid as problem:
            details = [{"field": problem.field, "message": problem.message}]
            return _error(400, "Invalid request body", details)
        except msgspec.DecodeError:
            return _error(400, "Invalid JSON in request body")
        except Failure as failure:
            return _error(failure.code, failure.message, failure.data)
        except boxes.PortRefusalError as error:
            return _error(error.status, str(error))
        except Refusal as refusal:
            code = "ALREADY_EXISTS" if refusal.reason == "AlreadyExists" else ""
            return _error(refusal.status, refusal.message, code=code)
        except DevboxError as error:
            _log.error("%s %s: %s", request.method, request.url.path, error)
            return _error(500, str(error))

    return endpoint


async def _carry_out(engine: Engine, operation: Operation, request: Request) -> Response:
    body = None
    if operation.body is not None and (operation.body_mode == "required" or await request.body()):
        body = await decode(request, operation.body)
    query = query_values(request, operation.parameters)
    result = await operation.handler(Call(engine, request, body, query))
    if isinstance(result, Response):
        return result
    return Response(status_code=204) if result is None else _json(result)


_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["type", "code", "message"],
            "properties": {
                "type": {"type": "string"},
                "code": {"type": "string"},
                "message": {"type": "string"},
                "details": {},
            },
        }
    },
}
Item = dict[str, Any]
Apps = list[values.DeployedApp]


def _operation(
    method: str,
    path: str,
    handler: Any,  # noqa: ANN401 - a handler, whatever it answers
    success: tuple[int, Any],
    *codes: int,
    **more: Any,  # noqa: ANN401 - of Operation
) -> Operation:
    answers = {success[0]: Answer(success[1])}
    answers.update({code: Answer(_ERROR) for code in (*codes, 500)})
    summary = (handler.__doc__ or "").strip().splitlines()[0]
    return Operation(method, BASE + path, handler, summary, answers, **more)


_MONITOR: tuple[Parameter, ...] = v1.MONITOR_PARAMETERS
OPERATIONS = (
    _operation("GET", "", list_boxes, (200, list[Item])),
    _operation("POST", "", create, (202, Item), 400, 404, 409, body=CreateForm),
    _operation(
        "GET", "/templates", templates, (200, list[values.TemplateItem]), 401,
        public=True, group="templates",
    ),
    _operation("GET", "/{name}", detail, (200, Item), 404),
    _operation("PATCH", "/{name}", patch, (204, None), 400, 404, 409, 422, body=PatchForm),
    _operation("DELETE", "/{name}", delete, (204, None)),
    _operation("POST", "/{name}/start", start, (204, None), 404, 422),
    _operation("POST", "/{name}/pause", pause, (204, None), 400, 404, 422, body=forms.Nothing),
    _operation("POST", "/{name}/restart", restart, (204, None), 400, 404, 422, body=forms.Nothing),
    _operation(
        "POST", "/{name}/shutdown", shutdown, (204, None), 400, 404, 422, body=forms.Nothing
    ),
    _operation(
        "POST", "/{name}/autostart", autostart, (204, None), 400, 404,
        body=forms.AutostartForm, body_mode="optional",
    ),
    _operation("GET", "/{name}/privatekey", private_key, (200, Item), 404),
    _operation("GET", "/{name}/releases", list_releases, (200, list[Item]), 404),
    _operation(
        "POST", "/{name}/releases", create_release, (202, Item), 400, 404, 409, 422,
        body=ReleaseForm,
    ),
    _operation("DELETE", "/{name}/releases/{tag}", delete_release, (204, None)),
    _operation("POST", "/{name}/releases/{tag}/deploy", deploy_release, (204, None), 404),
    _operation("GET", "/{name}/deployments", list_deployments, (200, Apps), 404),
)  # fmt: skip
"""What both lineages have."""
MONITOR = _operation(
    "GET", "/{name}/monitor", monitor, (200, list[values.MonitorPoint]), 400, parameters=_MONITOR
)
"""Of the current lineage only."""
