"""The routes of the cluster's API. Errors are Status objects."""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from anyio import to_thread
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from sealos_devbox.errors import DevboxError
from sealos_devbox.server.cluster import objects
from sealos_devbox.server.cluster.exec import serve_exec
from sealos_devbox.server.credentials import control_token, matches
from sealos_devbox.server.engine import Box, Engine, secret_data
from sealos_devbox.server.record import EnvVar
from sealos_devbox.server.refusals import Refusal, invalid, not_found

__all__ = ["cluster_routes", "status_response", "unknown"]

GROUP = "/apis/devbox.sealos.io"
_PATCHES = ("application/merge-patch+json", "application/strategic-merge-patch+json")
_STATES = ("Running", "Paused", "Stopped", "Shutdown")
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m|k|M|G|Ki|Mi|Gi|Ti)?")
_FACTORS = {
    **{"": 1.0, "m": 0.001, "k": 1e3, "M": 1e6, "G": 1e9},
    **{"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40},
}


def status_response(refusal: Refusal) -> Response:
    """Answer what was refused."""
    return _json(refusal.body(), refusal.status)


def _json(body: Any, status: int = 200) -> Response:  # noqa: ANN401 - whatever JSON has
    return Response(msgspec.json.encode(body), status, media_type="application/json")


def authorize(engine: Engine, header: str | None) -> None:
    """Raise Refusal (401) unless the header has the engine's token."""
    if not matches(control_token(header), engine.token):
        raise Refusal(401, "Unauthorized", "Unauthorized")


def _namespaced(engine: Engine, request: HTTPConnection) -> None:
    namespace = request.path_params.get("namespace")
    if namespace is not None and namespace != engine.settings.namespace:
        raise Refusal(
            403, "Forbidden", f'User "devbox" has no rights in the namespace "{namespace}"'
        )


Handler = Callable[[Engine, Request], Awaitable[Any]]


def _endpoint(engine: Engine, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            authorize(engine, request.headers.get("authorization"))
            _namespaced(engine, request)
            answer = await handler(engine, request)
        except Refusal as refusal:
            return status_response(refusal)
        except DevboxError as error:
            return status_response(Refusal(500, "InternalError", str(error)))
        return answer if isinstance(answer, Response) else _json(answer)

    return endpoint


async def _body(request: Request) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(await request.body())
    except msgspec.DecodeError as error:
        raise Refusal(400, "BadRequest", f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise Refusal(400, "BadRequest", "the body is not an object")
    return body


# ---------------------------------------------------------------------------------- discovery


async def _version(engine: Engine, request: Request) -> dict[str, Any]:
    return {"major": "1", "minor": "30", "gitVersion": "v1.30.0-devbox-engine"}


async def _groups(engine: Engine, request: Request) -> dict[str, Any]:
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [await _group(engine, request)]}


async def _group(engine: Engine, request: Request) -> dict[str, Any]:
    served = objects.version(engine)
    one = {"groupVersion": f"{objects.GROUP}/{served}", "version": served}
    return {
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": objects.GROUP,
        "versions": [one],
        "preferredVersion": one,
    }


async def _resources(engine: Engine, request: Request) -> dict[str, Any]:
    served = objects.version(engine)
    if request.path_params["version"] != served:
        raise Refusal(404, "NotFound", "the server could not find the requested resource")
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{objects.GROUP}/{served}",
        "resources": [
            {
                "name": "devboxes",
                "singularName": "devbox",
                "namespaced": True,
                "kind": "Devbox",
                "verbs": ["delete", "get", "list", "patch"],
            }
        ],
    }


async def _access_review(engine: Engine, request: Request) -> Response:
    """Answer that whoever has the token may do what can be done here."""
    body = await _body(request)
    attributes = body.get("spec", {}).get("resourceAttributes", {})
    namespace = attributes.get("namespace") or engine.settings.namespace
    allowed = namespace == engine.settings.namespace
    return _json({**body, "status": {"allowed": allowed}}, 201)


# ------------------------------------------------------------------------------- pods, secrets


def _selected(request: Request, item: dict[str, Any]) -> bool:
    metadata, query = item["metadata"], request.query_params
    fields = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "status.phase": item["status"].get("phase", ""),
    }
    return objects.Selector(query.get("labelSelector", "")).fits(
        metadata["labels"]
    ) and objects.Selector(query.get("fieldSelector", "")).fits(fields)


async def _pods(engine: Engine, request: Request) -> dict[str, Any]:
    boxes = await to_thread.run_sync(engine.boxes)
    pods = [pod for box in boxes if (pod := objects.pod(engine, box)) is not None]
    return objects.listing("Pod", "v1", [pod for pod in pods if _selected(request, pod)])


async def find_pod(engine: Engine, name: str) -> Box:
    """Return the box whose pod has that name; raises Refusal (404)."""
    for box in await to_thread.run_sync(engine.boxes):
        if box.record.state == "Running" and objects.pod_name(engine, box) == name:
            return box
    raise not_found(name, "pods")


async def _pod(engine: Engine, request: Request) -> dict[str, Any]:
    box = await find_pod(engine, request.path_params["name"])
    found = objects.pod(engine, box)
    if found is None:
        raise not_found(box.name, "pods")
    return found


async def _secret(engine: Engine, request: Request) -> dict[str, Any]:
    try:
        box = await to_thread.run_sync(engine.box, request.path_params["name"])
    except Refusal:
        raise not_found(request.path_params["name"], "secrets") from None
    encoded = {
        key: base64.b64encode(value.encode()).decode() for key, value in secret_data(box).items()
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {"name": box.name, "namespace": engine.settings.namespace},
        "data": encoded,
    }


async def _no_upgrade(engine: Engine, request: Request) -> Response:
    raise Refusal(400, "BadRequest", "Upgrade request required")


# -------------------------------------------------------------------------------------- boxes


def _known_version(engine: Engine, request: Request) -> None:
    if request.path_params["version"] != objects.version(engine):
        raise Refusal(404, "NotFound", "the server could not find the requested resource")


async def _devboxes(engine: Engine, request: Request) -> dict[str, Any]:
    _known_version(engine, request)
    boxes = await to_thread.run_sync(engine.boxes)
    items = [objects.devbox(engine, box) for box in boxes]
    api = f"{objects.GROUP}/{objects.version(engine)}"
    return objects.listing("Devbox", api, [item for item in items if _selected(request, item)])


async def _devbox(engine: Engine, request: Request) -> dict[str, Any]:
    _known_version(engine, request)
    box = await to_thread.run_sync(engine.box, request.path_params["name"])
    return objects.devbox(engine, box)


async def _delete(engine: Engine, request: Request) -> dict[str, Any]:
    _known_version(engine, request)
    await to_thread.run_sync(engine.delete, request.path_params["name"])
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}


async def _patch(engine: Engine, request: Request) -> dict[str, Any]:
    _known_version(engine, request)
    name = request.path_params["name"]
    content_type = request.headers.get("content-type", "").partition(";")[0].strip()
    if content_type not in _PATCHES:
        raise Refusal(
            415, "UnsupportedMediaType", f"the engine takes patches as {' or '.join(_PATCHES)}"
        )
    spec = (await _body(request)).get("spec") or {}
    if not isinstance(spec, dict):
        raise invalid(name, "spec: Invalid value")
    return objects.devbox(engine, await to_thread.run_sync(apply_spec, engine, name, spec))


def apply_spec(engine: Engine, name: str, spec: dict[str, Any]) -> Box:
    """Change what a merge patch of `spec` says; all of it or nothing."""
    unknown = set(spec) - {"state", "resource", "storageLimit", "config", "network"}
    if unknown:
        raise invalid(name, f"the engine cannot change spec.{sorted(unknown)[0]}")
    resource = spec.get("resource") or {}
    cpu, memory = resource.get("cpu"), resource.get("memory")
    changes: dict[str, Any] = {}
    if cpu is not None:
        changes["cpu_millis"] = round(_quantity(name, cpu) * 1000)
    if memory is not None:
        changes["memory_mib"] = round(_quantity(name, memory) / 2**20)
    if "storageLimit" in spec:
        _quantity(name, spec["storageLimit"])
        changes["storage_limit"] = str(spec["storageLimit"])
    env = (spec.get("config") or {}).get("env")
    if env is not None:
        changes["env"] = _environment(name, env)
    state = spec.get("state")
    if state is not None and state not in _STATES:
        raise invalid(name, f'spec.state: Unsupported value: "{state}"')
    if any(isinstance(value, int) and value <= 0 for value in changes.values()):
        raise invalid(name, "spec.resource: must be positive")
    if state is not None:
        engine.set_state(name, state)
    with engine.changing(name) as box:
        for field, value in changes.items():
            setattr(box.record, field, value)
        if changes:
            box.record.generation += 1
    return engine.box(name)


def _environment(name: str, env: Any) -> list[EnvVar]:  # noqa: ANN401 - of a body
    try:
        found = msgspec.convert(env, list[EnvVar])
    except msgspec.ValidationError as error:
        raise invalid(name, f"spec.config.env: {error}") from None
    for variable in found:
        if not variable.name or "=" in variable.name:
            raise invalid(name, "spec.config.env: not the name of a variable")
    return found


def _quantity(name: str, value: Any) -> float:  # noqa: ANN401 - of a body
    match = _QUANTITY.fullmatch(str(value))
    if match is None:
        raise invalid(name, f"quantities must match {_QUANTITY.pattern}: {value}")
    return float(match[1]) * _FACTORS[match[2] or ""]


def cluster_routes(engine: Engine) -> list[BaseRoute]:
    """Return the routes of the cluster's API."""
    pods = "/api/v1/namespaces/{namespace}/pods"
    boxes = GROUP + "/{version}/namespaces/{namespace}/devboxes"
    table: list[tuple[str, str, Handler]] = [
        ("GET", "/version", _version),
        ("GET", "/apis", _groups),
        ("GET", GROUP, _group),
        ("GET", GROUP + "/{version}", _resources),
        ("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", _access_review),
        ("GET", pods, _pods),
        ("GET", pods + "/{name}", _pod),
        ("GET", pods + "/{name}/exec", _no_upgrade),
        ("POST", pods + "/{name}/exec", _no_upgrade),
        ("GET", "/api/v1/namespaces/{namespace}/secrets/{name}", _secret),
        ("GET", boxes, _devboxes),
        ("GET", boxes + "/{name}", _devbox),
        ("PATCH", boxes + "/{name}", _patch),
        ("DELETE", boxes + "/{name}", _delete),
    ]
    routes: list[BaseRoute] = [
        Route(path, _endpoint(engine, handler), methods=[method]) for method, path, handler in table
    ]

    async def execute(websocket: WebSocket) -> None:
        await _exec(engine, websocket)

    return [WebSocketRoute(pods + "/{name}/exec", execute), *routes]


async def _exec(engine: Engine, websocket: WebSocket) -> None:
    try:
        authorize(engine, websocket.headers.get("authorization"))
        _namespaced(engine, websocket)
        box = await find_pod(engine, websocket.path_params["name"])
        await serve_exec(engine, box, websocket)
    except Refusal as refusal:
        await websocket.send_denial_response(status_response(refusal))


async def unknown(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer an address that the API does not have."""
    refusal = Refusal(404, "NotFound", "the server could not find the requested resource")
    if scope["type"] == "websocket":
        await WebSocket(scope, receive, send).send_denial_response(status_response(refusal))
        return
    await status_response(refusal)(scope, receive, send)
