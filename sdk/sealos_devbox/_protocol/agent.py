"""The in-box agent's answers, without any IO.

The agent is an HTTP server in the box, behind the gateway of the cluster. Three families of answers
have to be told apart:

* its own: HTTP 200 with ``{"status": 0, "message": ..., ...}``, the fields flat beside `status`. A
  `status` other than 0 is a failure although the HTTP status is 200; where the operating system
  refused, the message ends in ``(os error N)``, and N is a Linux errno;
* those of its HTTP library: 401 (no or a wrong token), 400, 404, 405, 413, 415, 422, all without
  the envelope;
* those of the gateway while the box starts or is stopped (404 ``devbox not found``, 503 ``devbox
  not running``, 502 ``httpgate: ...``), and of the proxy before it (413, 502, 504 as HTML).
"""

from __future__ import annotations

import errno as _errno
import re
from typing import Any, Final

import msgspec

from sealos_devbox.errors import (
    BoxFileError,
    CapabilityError,
    ConnectError,
    DevboxError,
    ProtocolError,
    TransportError,
    file_error,
)

__all__ = ["SseParser", "answer", "failure_of", "refusal"]

_OS_ERROR: Final = re.compile(r"\(os error (\d+)\)")
_NAMED_ERROR: Final = re.compile(r"^(E[A-Z]+):")
"""How the agent words a failed chown."""

_BY_STATUS: Final = {
    1404: _errno.ENOENT,
    1403: _errno.EACCES,
    1409: _errno.EEXIST,
    1422: _errno.EINVAL,
}
_DIRECTORY_GIVEN: Final = "Path is a directory"
_TOO_LARGE: Final = "File too large"
SHOWN: Final = 300
"""Characters of a foreign text in a message of ours."""


def answer(body: bytes, path: str | bytes | None) -> dict[str, Any]:
    """Return the fields of a successful answer; raises what the envelope says otherwise."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"the agent's answer is no JSON: {_shown(body)}") from error
    if not isinstance(value, dict) or not isinstance(value.get("status"), int):
        raise ProtocolError(f"the agent's answer has no status: {_shown(body)}")
    if value["status"] != 0:
        raise failure_of(value, path)
    return value


def failure_of(value: dict[str, Any], path: str | bytes | None) -> DevboxError:
    """Make the error for an envelope whose status is not 0."""
    status, message = value["status"], str(value.get("message") or "")
    number = _errno_of(status, message)
    if number is None:
        return ProtocolError(f"the agent failed: {message or 'it gave no reason'} ({status})")
    error: BoxFileError = file_error(number, path)
    if message:
        error.add_note(f"the agent says: {message[:SHOWN]}")
    return error


def _errno_of(status: int, message: str) -> int | None:
    if match := _OS_ERROR.search(message):
        return int(match[1])
    if match := _NAMED_ERROR.match(message):
        number = getattr(_errno, match[1], None)
        return number if isinstance(number, int) else None
    if message.startswith(_DIRECTORY_GIVEN):
        return _errno.EISDIR
    if message.startswith(_TOO_LARGE):
        return _errno.EFBIG
    return _BY_STATUS.get(status)


def refusal(status: int, body: bytes) -> DevboxError:
    """Make the error for an HTTP status other than 200: it has no envelope."""
    text = body.decode(errors="replace").strip()
    if status == 401:
        return ConnectError(
            "the agent in the box does not accept the token",
            hint="The token changes when the box is made again: look the box up anew.",
            retryable=False,
        )
    if text.startswith("devbox not found"):
        return ConnectError(
            "the gateway knows no such box",
            hint="It may have been deleted, or not have been started yet.",
        )
    if text.startswith("devbox not running"):
        return ConnectError("the box is not running", hint="Start it, or wait until it is ready.")
    if text.startswith("httpgate:"):
        return ConnectError(
            "no agent answers in the box",
            hint="It starts a moment after the box; images without it need the exec stream.",
        )
    if status in (404, 405):
        return CapabilityError("this build of the agent does not have that route")
    if status == 413:
        return file_error(_errno.EFBIG, None)
    if status in (408, 429, 502, 503, 504):
        return TransportError(f"the gateway answered {status} in the agent's place")
    return ProtocolError(f"the agent refused the request: {status} {_shown(body)}".rstrip())


def _shown(body: bytes) -> str:
    text = body[:SHOWN].decode(errors="replace")
    return " ".join(text.split())


class SseParser:
    """Server-sent events from pieces of bytes (WHATWG HTML, section 9.2).

    Lines end in LF, CR or CRLF; a comment line (the agent's keep-alive) is nothing.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._after_cr = False
        self._event = ""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[tuple[str, bytes]]:
        """Return (event, data) of what is complete now; the name is empty where none was given."""
        if self._after_cr and piece:
            self._after_cr = False
            piece = piece.removeprefix(b"\n")
        if b"\r" in piece:
            self._after_cr = piece.endswith(b"\r")
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, self._rest = (self._rest + piece).split(b"\n")
        events = []
        for line in lines:
            if line:
                self._field(line)
            elif self._data or self._event:
                events.append((self._event, b"\n".join(self._data)))
                self._event, self._data = "", []
        return events

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._event = value.decode(errors="replace")
