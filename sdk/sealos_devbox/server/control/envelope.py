"""v1's envelope, and who gets which answer when something is wrong (control-plane.md 4.1).

The routes are of two groups, which answer the same mistakes differently: in `first` a missing
credential is 403 and the cluster's refusals keep their status; in `second` both are 500. The older
lineage says it all with HTTP 200.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sealos_devbox.errors import DevboxError
from sealos_devbox.server.control.boxes import PortRefusalError
from sealos_devbox.server.credentials import control_token, matches
from sealos_devbox.server.engine import Engine
from sealos_devbox.server.operations import Call, Invalid, Operation, decode, query_values
from sealos_devbox.server.refusals import Refusal

__all__ = ["Bare", "Failure", "envelope_endpoint", "envelope_schema"]

_log = logging.getLogger(__name__)


class Envelope(msgspec.Struct, rename="camel"):
    """What every answer of v1 is wrapped in."""

    code: int
    status_text: str
    message: str
    data: Any = None


class Failure(Exception):
    """An answer that is no success."""

    def __init__(
        self,
        code: int,
        message: str,
        data: Any = None,  # noqa: ANN401 - whatever JSON has
        status_text: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data
        self.status_text = status_text


class Bare(msgspec.Struct):
    """An answer without envelope, or with a status of its own."""

    data: Any
    status: int = 200
    wrapped: bool = False


def envelope_schema(data: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of an envelope around data of a schema."""
    return {
        "type": "object",
        "required": ["code", "statusText", "message", "data"],
        "properties": {
            "code": {"type": "integer"},
            "statusText": {"type": "string"},
            "message": {"type": "string"},
            "data": data,
        },
    }


def _respond(engine: Engine, envelope: Envelope) -> Response:
    status = 200 if engine.settings.lineage == "R" else envelope.code
    return Response(msgspec.json.encode(envelope), status, media_type="application/json")


def envelope_endpoint(
    engine: Engine, operation: Operation
) -> Callable[[Request], Awaitable[Response]]:
    """Make the endpoint of an operation of v1."""
    first = operation.group == "first"

    async def endpoint(request: Request) -> Response:
        try:
            result = await _answer(engine, operation, request)
        except Failure as failure:
            return _respond(
                engine,
                Envelope(failure.code, failure.status_text, failure.message, failure.data),
            )
        except PortRefusalError as error:
            data = {"type": error.kind, "message": str(error)}
            return _respond(engine, Envelope(error.status, "", str(error), data))
        except Refusal as refusal:
            if not first:
                status = refusal.status if refusal.status in (404, 409, 422) else 500
                text = "Devbox not found" if status == 404 else refusal.message
                return _respond(engine, Envelope(status, "", text, refusal.body()))
            return _respond(
                engine,
                Envelope(refusal.status, "", "HTTP request failed", refusal.message),
            )
        except DevboxError as error:
            _log.error("%s %s: %s", request.method, request.url.path, error)
            return _respond(engine, Envelope(500, "", "Internal server error", str(error)))
        if isinstance(result, Bare) and not result.wrapped:
            return Response(msgspec.json.encode(result.data), media_type="application/json")
        if isinstance(result, Bare):
            return _respond(engine, Envelope(result.status, "", "", result.data))
        return _respond(engine, Envelope(200, "", "", result))

    return endpoint


async def _answer(engine: Engine, operation: Operation, request: Request) -> Any:  # noqa: ANN401
    first = operation.group == "first"
    if not (operation.public and engine.settings.public_routes):
        given = control_token(request.headers.get("authorization"))
        if not matches(given, engine.token):
            if first:
                raise Failure(403, "credential error", status_text="unAuthorization")
            raise Failure(500, "Internal server error")
    body = None
    if operation.body is not None:
        try:
            if operation.body_mode == "required" or await request.body():
                body = await decode(request, operation.body)
        except msgspec.DecodeError:
            raise Failure(500, "Internal server error") from None
        except Invalid as problem:
            raise invalid_body(problem) from None
    query = query_values(request, operation.parameters)
    try:
        return await operation.handler(Call(engine, request, body, query))
    except Invalid as problem:
        raise invalid_body(problem) from None


def invalid_body(problem: Invalid) -> Failure:
    """Make the answer to a body that is not what was asked for."""
    issue = {"code": "custom", "path": problem.path, "message": problem.message}
    return Failure(400, "Invalid request body", [issue])
