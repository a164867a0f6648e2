"""Faults that a test asks for: latency, refusals, cut and slow bodies, a gateway's error pages.

A fault waits for a request that it fits, as often as it is told to, and is then used up. Faults can
be added from the same process (`app.state.faults.add`) or through `/_engine/faults`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import MutableMapping
from typing import Any, Literal

import anyio
import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["ConnectionCutError", "Fault", "FaultMiddleware", "Faults"]

GATEWAY_PAGE = (
    "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n"
    "<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>"
)


class ConnectionCutError(ConnectionResetError):
    """Ends a response in its middle: the server closes the connection."""


class Fault(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One fault."""

    kind: Literal["latency", "status", "after", "page", "cut", "short", "slow"]
    """What happens: `latency` waits `seconds`; `status` answers `status` at once; `after` lets the
    request be carried out and then answers `status`; `page` answers a gateway's HTML page; `cut`
    ends the connection after `bytes` of the body; `short` drops all of the body but `bytes` and
    announces the shorter length; `slow` sends `bytes` at a time, `seconds` apart."""
    method: str | None = None
    path: str = ".*"
    """A regular expression that the whole path has to fit."""
    times: int | None = 1
    """How often; None: always."""
    seconds: float = 0.0
    status: int = 503
    headers: dict[str, str] = {}
    body: str = ""
    bytes: int = 1


class Faults:
    """The faults that are waiting."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self.hits: list[tuple[str, str, str]] = []
        """Kind, method and path of what was hit, in order."""

    def add(self, fault: Fault) -> None:
        """Add a fault; raises ValueError when its path is no regular expression."""
        try:
            re.compile(fault.path)
        except re.error as error:
            raise ValueError(f"{fault.path!r}: {error}") from None
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        """Forget all faults and hits."""
        with self._lock:
            self._faults.clear()
            self.hits.clear()

    def waiting(self) -> list[Fault]:
        """Return the faults that have not been used up."""
        with self._lock:
            return list(self._faults)

    def take(self, method: str, path: str) -> list[Fault]:
        """Return the faults that fit a request, each counted as used."""
        found = []
        with self._lock:
            for fault in list(self._faults):
                if fault.method not in (None, method) or not re.fullmatch(fault.path, path):
                    continue
                found.append(fault)
                self.hits.append((fault.kind, method, path))
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times <= 0:
                        self._faults.remove(fault)
        return found


class FaultMiddleware:
    """Applies faults around an application."""

    def __init__(self, app: ASGIApp, faults: Faults) -> None:
        self._app = app
        self._faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, and spoil it."""
        if scope["type"] != "http" or not self._faults.waiting():
            await self._app(scope, receive, send)
            return
        if scope["path"].startswith("/_engine/"):
            await self._app(scope, receive, send)
            return
        for fault in self._faults.take(scope["method"], scope["path"]):
            if fault.kind == "latency":
                await anyio.sleep(fault.seconds)
            elif fault.kind == "status":
                await _answer(send, fault.status, fault.headers, fault.body)
                return
            elif fault.kind == "page":
                headers = {"content-type": "text/html", **fault.headers}
                await _answer(send, fault.status, headers, fault.body or GATEWAY_PAGE)
                return
            else:
                send = _faulty(fault, send)
        await self._app(scope, receive, send)


def _faulty(fault: Fault, send: Send) -> Send:
    """Return a `send` that does to the response what the fault says."""
    if fault.kind == "after":
        return _Replacing(fault, send)
    if fault.kind == "slow":
        return _Slow(fault, send)
    return _Short(fault, send)


class _Replacing:
    """Answers something else than what was done."""

    def __init__(self, fault: Fault, send: Send) -> None:
        self._fault, self._send, self._sent = fault, send, False

    async def __call__(self, message: Message) -> None:
        if not self._sent:
            self._sent = True
            await _answer(self._send, self._fault.status, self._fault.headers, self._fault.body)


class _Slow:
    """Sends the body in pieces, with pauses."""

    def __init__(self, fault: Fault, send: Send) -> None:
        self._fault, self._send = fault, send

    async def __call__(self, message: Message) -> None:
        if message["type"] != "http.response.body":
            await self._send(message)
            return
        body, size = message.get("body", b""), max(1, self._fault.bytes)
        for start in range(0, len(body), size):
            await self._send(
                {
                    "type": "http.response.body",
                    "body": body[start : start + size],
                    "more_body": True,
                }
            )
            await anyio.sleep(self._fault.seconds)
        more = message.get("more_body", False)
        await self._send({"type": "http.response.body", "body": b"", "more_body": more})


class _Short:
    """Sends the beginning of the body; then ends the connection, or says that this was all."""

    def __init__(self, fault: Fault, send: Send) -> None:
        self._fault, self._send = fault, send
        self._left = fault.bytes
        self._start: MutableMapping[str, Any] | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if self._fault.kind == "short":
                message = dict(message)
                message["headers"] = [
                    (name, value)
                    for name, value in message["headers"]
                    if name.lower() != b"content-length"
                ]
            await self._send(message)
            return
        if message["type"] != "http.response.body":
            await self._send(message)
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        part = body[: self._left]
        self._left -= len(part)
        if self._fault.kind == "short":
            await self._send({"type": "http.response.body", "body": part, "more_body": more})
            return
        await self._send({"type": "http.response.body", "body": part, "more_body": True})
        if len(part) < len(body) or not more:
            raise ConnectionCutError("cut, as a fault asked for")


async def _answer(send: Send, status: int, headers: dict[str, str], body: str) -> None:
    content = body.encode()
    named = {"content-type": "text/plain", **{k.lower(): v for k, v in headers.items()}}
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                *((name.encode(), value.encode()) for name, value in named.items()),
                (b"content-length", str(len(content)).encode()),
            ],
        }
    )
    await send({"type": "http.response.body", "body": content})
