"""multipart/form-data, read in pieces of any size (RFC 7578, RFC 2046 section 5.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.message import Message

__all__ = ["Data", "MultipartError", "MultipartReader", "Part", "PartEnd", "boundary_of"]

_HEADER_LIMIT = 16 * 1024


class MultipartError(ValueError):
    """The body is not what its content type says."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part begins."""

    name: str | None
    filename: str | None


@dataclass(frozen=True, slots=True)
class Data:
    """A piece of the part's content."""

    data: bytes


@dataclass(frozen=True, slots=True)
class PartEnd:
    """The part is complete."""


Event = Part | Data | PartEnd


def boundary_of(content_type: str) -> bytes:
    """Return the boundary; raises MultipartError when there is none."""
    message = Message()
    message["content-type"] = content_type
    boundary = message.get_param("boundary")
    if not isinstance(boundary, str) or not boundary or len(boundary) > 200:
        raise MultipartError("Invalid `boundary` for `multipart/form-data` request")
    return boundary.encode("latin-1", "replace")


class MultipartReader:
    """Bytes in, events out."""

    def __init__(self, boundary: bytes) -> None:
        # The first delimiter has no line break of its own before it.
        self._buffer = bytearray(b"\r\n")
        self._delimiter = b"\r\n--" + boundary
        self._state = "preamble"

    @property
    def complete(self) -> bool:
        """Whether the closing delimiter was seen."""
        return self._state == "end"

    def feed(self, data: bytes) -> list[Event]:
        """Take a piece; raises MultipartError when it cannot belong to a form."""
        self._buffer += data
        events: list[Event] = []
        while self._step(events):
            pass
        return events

    def _step(self, events: list[Event]) -> bool:
        if self._state == "delimiter":
            return self._after_delimiter()
        if self._state == "headers":
            return self._headers(events)
        if self._state == "end":
            self._buffer.clear()
            return False
        return self._content(events)

    def _content(self, events: list[Event]) -> bool:
        inside = self._state == "content"
        at = self._buffer.find(self._delimiter)
        if at >= 0:
            if inside:
                if at:
                    events.append(Data(bytes(self._buffer[:at])))
                events.append(PartEnd())
            del self._buffer[: at + len(self._delimiter)]
            self._state = "delimiter"
            return True
        # What could be the beginning of the delimiter waits.
        safe = len(self._buffer) - len(self._delimiter) + 1
        if safe > 0:
            if inside:
                events.append(Data(bytes(self._buffer[:safe])))
            del self._buffer[:safe]
        return False

    def _after_delimiter(self) -> bool:
        if len(self._buffer) < 2:
            return False
        if self._buffer[:2] == b"--":
            self._state = "end"
            return True
        at = self._buffer.find(b"\r\n")
        if at < 0:
            if len(self._buffer) > _HEADER_LIMIT:
                raise MultipartError("Error parsing `multipart/form-data` request")
            return False
        del self._buffer[: at + 2]
        self._state = "headers"
        return True

    def _headers(self, events: list[Event]) -> bool:
        at = 0 if self._buffer[:2] == b"\r\n" else self._buffer.find(b"\r\n\r\n")
        if at < 0:
            if len(self._buffer) > _HEADER_LIMIT:
                raise MultipartError("Error parsing `multipart/form-data` request")
            return False
        raw = bytes(self._buffer[:at])
        del self._buffer[: at + (4 if at else 2)]
        events.append(_part(raw))
        self._state = "content"
        return True


def _part(raw: bytes) -> Part:
    disposition = ""
    for line in raw.decode("utf-8", "replace").split("\r\n"):
        name, _, value = line.partition(":")
        if name.strip().lower() == "content-disposition":
            disposition = value.strip()
    return Part(_parameter(disposition, "name"), _parameter(disposition, "filename"))


def _parameter(disposition: str, name: str) -> str | None:
    """Return a parameter, which browsers and Node escape as WHATWG says: %0A, %0D, %22."""
    match = re.search(rf';\s*{name}="([^"]*)"', disposition, re.IGNORECASE)
    if match is None:
        match = re.search(rf";\s*{name}=([^;\s]*)", disposition, re.IGNORECASE)
    if match is None:
        return None
    text = match[1]
    for escaped, plain in (("%22", '"'), ("%0D", "\r"), ("%0A", "\n")):
        text = text.replace(escaped, plain)
    return text
