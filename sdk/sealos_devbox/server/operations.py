"""Routes as data: what a request looks like, what answers it, what the answers look like.

One table makes the routes of the application and the OpenAPI document, so that neither can be
without the other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sealos_devbox.server.engine import Engine

__all__ = ["Answer", "Call", "Invalid", "Operation", "Parameter", "decode", "query_values"]


@dataclass(frozen=True, slots=True)
class Call:
    """One request, understood."""

    engine: Engine
    request: Request
    body: Any = None
    """As `Operation.body` says."""
    query: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The box that the path names."""
        return str(self.request.path_params["name"])


@dataclass(frozen=True, slots=True)
class Parameter:
    """One value in the query string."""

    name: str
    schema: Mapping[str, Any]
    required: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What an answer of one status looks like; `body` is a type, a schema, or None for nothing."""

    body: Any = None
    media: str = "application/json"
    text: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one route."""

    method: str
    path: str
    """As Starlette writes it."""
    handler: Callable[[Call], Awaitable[Any]]
    summary: str
    answers: Mapping[int, Answer]
    body: Any = None
    """The type that the body is converted to; None when no body is read."""
    body_mode: Literal["required", "optional"] = "required"
    parameters: tuple[Parameter, ...] = ()
    public: bool = False
    """Needs no credential where `public_routes` is set."""
    group: str = ""
    """Distinguishes the ways in which one interface answers errors."""


class Invalid(Exception):
    """A body or query that is not what the operation takes."""

    def __init__(self, path: list[str | int], message: str) -> None:
        super().__init__(message)
        self.path = path
        self.message = message

    @property
    def field(self) -> str:
        """The path, as JavaScript writes it."""
        text = ""
        for part in self.path:
            text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
        return text


async def decode(request: Request, kind: Any) -> Any:  # noqa: ANN401 - whatever `kind` is
    """Read the body as a value of a type.

    Raises msgspec.DecodeError when it is no JSON, Invalid when it is another value.
    """
    value = _whole(msgspec.json.decode(await request.body()))
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        raise Invalid(_parts(path.rstrip("`")), message) from None


def _whole(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Make integers of numbers such as 80.0: for JavaScript, and for JSON schema, they are."""
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if isinstance(value, dict):
        return {key: _whole(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_whole(inner) for inner in value]
    return value


def _parts(path: str) -> list[str | int]:
    """Split what msgspec says of a place: ``.ports[...].number``."""
    parts: list[str | int] = []
    for part in path.replace("[", ".[").split("."):
        if part.startswith("["):
            inner = part.strip("[]")
            parts.append(int(inner) if inner.isdigit() else 0)
        elif part and part != "]":
            parts.append(part)
    return parts


def query_values(request: Request, parameters: tuple[Parameter, ...]) -> dict[str, str]:
    """Return the parameters of the query that an operation knows."""
    given = request.query_params
    return {each.name: given[each.name] for each in parameters if each.name in given}


Handler = Callable[[Request], Awaitable[Response]]
