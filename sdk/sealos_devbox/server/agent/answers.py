"""The agent's envelope and its errors.

Success and failure are both HTTP 200 with a `status` in the body; what the framework of the real
agent refuses before a handler runs (bad JSON, wrong type, too large) is plain text with a real
status.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import anyio
import msgspec
from anyio import to_thread
from anyio.lowlevel import RunVar
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

__all__ = [
    "AgentError",
    "FrameworkRefusal",
    "conflict",
    "internal",
    "invalid",
    "json_body",
    "missing",
    "os_failure",
    "respond",
    "run",
    "success",
]

_log = logging.getLogger(__name__)

BODY_LIMIT = 2_097_152
_THREADS = 200
"""More than any test wants at once: a call of `exec-sync` holds one for as long as it lasts."""
_limiter: RunVar[anyio.CapacityLimiter] = RunVar("devbox_agent_threads")

T = TypeVar("T")


class AgentError(Exception):
    """An error that is answered inside the envelope."""

    def __init__(self, status: int, message: str, extra: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.extra = extra or {}


class FrameworkRefusal(Exception):
    """A refusal outside of the envelope."""

    def __init__(self, status: int, text: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def missing(message: str) -> AgentError:
    """Make the error for what does not exist."""
    return AgentError(1404, message)


def conflict(message: str) -> AgentError:
    """Make the error for what is in the way."""
    return AgentError(1409, message)


def invalid(message: str) -> AgentError:
    """Make the error for a request that makes no sense."""
    return AgentError(1422, message)


def internal(message: str) -> AgentError:
    """Make the error for everything else."""
    return AgentError(1500, message)


def os_failure(error: OSError) -> AgentError:
    """Make the error for an errno, with the text of the real agent's language."""
    number = error.errno or errno.EIO
    status = {errno.ENOENT: 1404, errno.EACCES: 1403, errno.EPERM: 1403}.get(number, 1500)
    return AgentError(status, f"{os.strerror(number)} (os error {number})")


def success(fields: dict[str, Any] | None = None) -> Response:
    """Answer success, with the fields beside the status."""
    return _json({"status": 0, "message": "success", **(fields or {})})


def _json(body: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")


async def run(function: Callable[..., T], *arguments: Any, abandon: bool = False) -> T:  # noqa: ANN401
    """Call what blocks in one of the agent's own threads."""
    try:
        limiter = _limiter.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(_THREADS)
        _limiter.set(limiter)
    return await to_thread.run_sync(
        function, *arguments, limiter=limiter, abandon_on_cancel=abandon
    )


async def json_body(request: Request, kind: type[T]) -> T:
    """Read a JSON body as the real agent's framework does."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json" and not content_type.endswith("+json"):
        raise FrameworkRefusal(415, "Expected request with `Content-Type: application/json`")
    body = await limited_body(request)
    try:
        value = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise FrameworkRefusal(400, f"Failed to parse the request body as JSON: {error}") from None
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        text = f"Failed to deserialize the JSON body into the target type: {error}"
        raise FrameworkRefusal(422, text) from None


async def limited_body(request: Request, limit: int = BODY_LIMIT) -> bytes:
    """Read a body that must not be larger than the framework's limit."""
    parts, size = [], 0
    async with aclosing(request.stream()) as stream:
        async for part in stream:
            size += len(part)
            if size > limit:
                raise FrameworkRefusal(413, "length limit exceeded")
            parts.append(part)
    return b"".join(parts)


async def respond(handler: Callable[[], Awaitable[Response]]) -> Response:
    """Run a handler and answer what it raises."""
    try:
        return await handler()
    except AgentError as error:
        body: dict[str, Any] = {"status": error.status, **error.extra}
        if error.message:
            body["message"] = error.message
        return _json(body)
    except OSError as error:
        return _json({"status": os_failure(error).status, "message": os_failure(error).message})
    except FrameworkRefusal as refusal:
        if not refusal.text:
            return Response(status_code=refusal.status)
        return PlainTextResponse(refusal.text, refusal.status)
