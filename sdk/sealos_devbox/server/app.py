"""The engine as one ASGI application.

Which part of the service a request is for::

    Host: devbox-<uniqueID>-agent.<any domain>    the agent of that box
    /box/<uniqueID>/agent/...                     the same, where names do not resolve
    /api/v1/namespaces/..., /apis/...             the cluster's API
    /api/v1/devbox..., /api/v2alpha/devbox...     the control plane
    /openapi.json, /openapi-agent.json            what there is
    /_engine/faults                               faults, where `EngineSettings.admin` allows it

The application works without its lifespan too (in process, through an ASGI transport): then boxes
are brought up to date when somebody looks at them, and samples are taken only when asked for.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
from anyio import to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import Receive, Scope, Send

from sealos_devbox.server.admin import admin_routes
from sealos_devbox.server.agent.routes import AGENT_ROUTES, AgentApp
from sealos_devbox.server.cluster.routes import cluster_routes, unknown
from sealos_devbox.server.control import flat, v1, v2alpha
from sealos_devbox.server.control.envelope import envelope_endpoint
from sealos_devbox.server.engine import Engine
from sealos_devbox.server.faults import FaultMiddleware, Faults
from sealos_devbox.server.openapi import agent_document, control_document
from sealos_devbox.server.operations import Operation
from sealos_devbox.server.settings import EngineSettings

__all__ = ["create_app"]

_log = logging.getLogger(__name__)

_TICK_SECONDS = 0.1
_HOST = re.compile(r"devbox-([a-z0-9-]+)-(agent|\d{1,5})\..+")
_BOX_PATH = re.compile(r"/box/([a-z0-9-]+)/(agent|\d{1,5})(?:/.*)?", re.DOTALL)
_CLUSTER_PATHS = ("/apis", "/api/v1/namespaces/", "/version")
_NOT_FOUND = (
    "<!DOCTYPE html><html><head><title>404: This page could not be found</title></head></html>"
)


def create_app(settings: EngineSettings, *, engine: Engine | None = None) -> Starlette:
    """Make the application of an engine; `app.state` has `engine` and `faults`."""
    engine = engine or Engine(settings)
    faults = Faults()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_tick, engine)
            tasks.start_soon(_sample, engine)
            yield
            tasks.cancel_scope.cancel()

    dispatch = _Dispatch(engine, faults)
    app = Starlette(lifespan=lifespan)
    # Not a mount: its pattern does not take a path with a line break.
    app.router.default = FaultMiddleware(dispatch, faults)
    app.state.engine = engine
    app.state.faults = faults
    return app


async def _tick(engine: Engine) -> None:
    """Bring boxes up to date while nobody looks."""
    while True:
        try:
            await to_thread.run_sync(engine.tick)
        except OSError as error:
            _log.warning("the boxes could not be looked at: %s", error)
        await anyio.sleep(_TICK_SECONDS)


async def _sample(engine: Engine) -> None:
    """Look at the boxes' processes at regular intervals."""
    while True:
        try:
            boxes = await to_thread.run_sync(engine.boxes)
            await to_thread.run_sync(engine.metrics.sample, boxes)
        except OSError as error:
            _log.warning("no sample of the boxes could be taken: %s", error)
        await anyio.sleep(engine.settings.sample_seconds)


class _Dispatch:
    """Finds out which part of the service a request is for."""

    def __init__(self, engine: Engine, faults: Faults) -> None:
        enveloped, bare = control_operations(engine)
        documents = {
            "/openapi.json": control_document("Devbox control plane", [*enveloped, *bare]),
            "/openapi-agent.json": agent_document(AGENT_ROUTES),
        }
        routes = [*admin_routes(engine, faults, documents), *control_routes(engine)]
        self._control = Router(routes, default=_no_page, redirect_slashes=False)
        self._cluster = Router(cluster_routes(engine), default=unknown, redirect_slashes=False)
        self._agents = AgentApp(engine)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        if match := _HOST.fullmatch(host):
            await self._box(match[1], match[2], scope, receive, send)
        elif match := _BOX_PATH.fullmatch(path):
            # Starlette's routers look for what comes after `root_path`.
            root = scope.get("root_path", "") + f"/box/{match[1]}/{match[2]}"
            inner = {**scope, "root_path": root}
            await self._box(match[1], match[2], inner, receive, send)
        elif path.startswith(_CLUSTER_PATHS):
            await self._cluster(scope, receive, send)
        else:
            await self._control(scope, receive, send)

    async def _box(
        self, unique_id: str, port: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if port != "agent":
            # A port of an embedded box is a port of this machine: whoever may, asks for it there.
            # Passing it on would open every loopback service of the user to other origins.
            text = "httpgate: ports of embedded boxes are ports of this machine"
            await PlainTextResponse(text, 502)(scope, receive, send)
            return
        await self._agents.serve(unique_id, scope, receive, send)


def control_operations(engine: Engine) -> tuple[list[Operation], list[Operation]]:
    """Return what v1 and v2alpha serve, in this engine's lineage."""
    if engine.settings.lineage == "R":
        return list(flat.OPERATIONS), list(v2alpha.OPERATIONS)
    return list(v1.OPERATIONS), [*v2alpha.OPERATIONS, v2alpha.MONITOR]


def control_routes(engine: Engine) -> list[BaseRoute]:
    """Return the routes of the control plane."""
    enveloped, bare = control_operations(engine)
    return [
        *(_route(each, envelope_endpoint(engine, each)) for each in enveloped),
        *(_route(each, v2alpha.bare_endpoint(engine, each)) for each in bare),
    ]


def _route(operation: Operation, endpoint: Callable[[Request], Awaitable[Response]]) -> Route:
    return Route(operation.path, endpoint, methods=[operation.method])


async def _no_page(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer what the web front answers to an address it does not know."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1000})
        return
    await HTMLResponse(_NOT_FOUND, 404)(scope, receive, send)
