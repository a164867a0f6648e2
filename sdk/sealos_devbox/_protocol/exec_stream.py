"""The messages of a Kubernetes exec stream: channels, half-close, status. No IO.

A message is one byte that names the channel, then its data: 0 stdin, 1 stdout, 2 stderr, 3 the
status at the end, as JSON, 4 the size of a terminal; 255 closes a channel, in version 5 only
(k8s.io/apimachinery/pkg/util/remotecommand/constants.go). One message is one WebSocket frame: the
server of containerd takes every fragment for a message of its own, whose first byte is a channel.

Version 4 has no end of stdin. Versions before it have no status and are not offered.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sealos_devbox.errors import ProtocolError

__all__ = [
    "MESSAGE_SIZE",
    "OFFERED",
    "Channel",
    "ExecStatus",
    "ExecStream",
    "parse_status",
]

V5: Final = "v5.channel.k8s.io"
V4: Final = "v4.channel.k8s.io"
OFFERED: Final = (V5, V4)
"""In one handshake: an API server that knows version 5 chooses it, all others choose version 4."""

MESSAGE_SIZE: Final = 128 * 1024
"""The longest message that is sent. Servers take 32 MiB; a small message behind one this long does
not wait long."""
STATUS_SIZE: Final = 256 * 1024
"""Of the status. A longer one is none."""


class Channel(enum.IntEnum):
    """The first byte of a message."""

    STDIN = 0
    STDOUT = 1
    STDERR = 2
    STATUS = 3
    RESIZE = 4
    CLOSE = 255


@dataclass(frozen=True, slots=True)
class ExecStatus:
    """How a command ended, as the server says."""

    exit_code: int | None
    """None when it did not run to an end: `message` says why."""
    message: str = ""
    reason: str = ""


class ExecStream:
    """One exec stream, as the client sees it."""

    def __init__(self, subprotocol: str | None) -> None:
        """subprotocol: what the server chose. Raises ProtocolError when that was not offered."""
        if subprotocol not in OFFERED:
            raise ProtocolError(
                f"the server chose the subprotocol {subprotocol!r}, which was not offered"
            )
        self.subprotocol = subprotocol
        self.can_half_close = subprotocol == V5
        self._channel: int | None = None
        self._status = bytearray()

    def stdin(self, data: bytes | memoryview) -> Iterator[bytes]:
        """Yield the messages that carry the data."""
        view = memoryview(data)
        for start in range(0, len(view), MESSAGE_SIZE - 1):
            yield b"\x00" + view[start : start + MESSAGE_SIZE - 1]

    def close_stdin(self) -> bytes:
        """Return the message that ends stdin; only where can_half_close is true."""
        if not self.can_half_close:
            raise RuntimeError("version 4 of the exec stream has no end of stdin")
        return bytes((Channel.CLOSE, Channel.STDIN))

    def receive(self, data: bytes, *, start: bool, end: bool) -> tuple[Channel, bytes] | None:
        """Take a frame; returns output, as (STDOUT or STDERR, at least one byte), or None.

        start and end: whether the frame begins and ends a message. Servers do not fragment what
        they send; a proxy on the way may.
        """
        if start:
            if not data:
                if end:
                    return None
                raise ProtocolError("a message of the exec stream begins with an empty fragment")
            self._channel = data[0]
            data = data[1:]
        elif self._channel is None:
            raise ProtocolError("a fragment without a message")
        channel = self._channel
        if end:
            self._channel = None
        if channel == Channel.STATUS:
            if len(self._status) + len(data) > STATUS_SIZE:
                raise ProtocolError("the status of the exec stream has no end")
            self._status += data
            return None
        if data and channel in (Channel.STDOUT, Channel.STDERR):
            return Channel(channel), data
        # The server closing one of its channels says nothing that the status does not say; other
        # channels are not of this version, and what they carry is nothing to us.
        return None

    @property
    def status(self) -> ExecStatus | None:
        """How the command ended; None as long as the server has not said it."""
        return parse_status(bytes(self._status)) if self._status else None


def parse_status(data: bytes) -> ExecStatus:
    """Read a Status object of Kubernetes; what is none becomes a message."""
    try:
        status = json.loads(data)
    except ValueError:
        status = None
    if not isinstance(status, dict) or "status" not in status:
        text = data[:500].decode(errors="backslashreplace").strip()
        return ExecStatus(None, text or "the server gave no reason")
    if status["status"] == "Success":
        return ExecStatus(0)
    message = str(status.get("message") or "the server gave no reason")
    reason = str(status.get("reason") or "")
    return ExecStatus(_exit_code(status) if reason == "NonZeroExitCode" else None, message, reason)


def _exit_code(status: dict[str, object]) -> int | None:
    details = status.get("details")
    causes = details.get("causes") if isinstance(details, dict) else None
    for cause in causes if isinstance(causes, list) else ():
        if isinstance(cause, dict) and cause.get("reason") == "ExitCode":
            try:
                return int(str(cause.get("message")))
            except ValueError:
                return None
    return None
