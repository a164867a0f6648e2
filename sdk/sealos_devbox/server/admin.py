"""Routes of the engine itself: its description, and faults where they are allowed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from sealos_devbox.server.credentials import control_token, matches
from sealos_devbox.server.engine import Engine
from sealos_devbox.server.faults import Fault, Faults

__all__ = ["admin_routes"]


def _json(body: Any, status: int = 200) -> Response:  # noqa: ANN401 - whatever JSON has
    return Response(msgspec.json.encode(body), status, media_type="application/json")


def admin_routes(
    engine: Engine, faults: Faults, documents: dict[str, dict[str, Any]]
) -> list[BaseRoute]:
    """Return the routes; `documents` by path. Faults have none unless the settings allow it."""

    def guarded(
        handler: Callable[[Request], Awaitable[Response]],
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            given = control_token(request.headers.get("authorization"))
            if not matches(given, engine.token):
                return _json({"error": "the engine's token is needed"}, 401)
            return await handler(request)

        return endpoint

    async def document(request: Request) -> Response:
        return _json(documents[request.url.path])

    async def show(_: Request) -> Response:
        return _json({"waiting": faults.waiting(), "hits": faults.hits})

    async def add(request: Request) -> Response:
        try:
            faults.add(msgspec.json.decode(await request.body(), type=Fault))
        except (msgspec.DecodeError, ValueError) as error:
            return _json({"error": str(error)}, 400)
        return Response(status_code=204)

    async def clear(_: Request) -> Response:
        faults.clear()
        return Response(status_code=204)

    routes: list[BaseRoute] = [
        Route(path, guarded(document), methods=["GET"]) for path in documents
    ]
    if engine.settings.admin:
        path = "/_engine/faults"
        routes += [
            Route(path, guarded(show), methods=["GET"]),
            Route(path, guarded(add), methods=["POST"]),
            Route(path, guarded(clear), methods=["DELETE"]),
        ]
    return routes
