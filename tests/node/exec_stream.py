"""The exec stream of Kubernetes as it is on the wire, for tests that assert what servers do.

A minimal blocking client over the library `websockets`; it shares nothing with the SDK's transport.
"""

import json
import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlencode

from websockets.exceptions import ConnectionClosed, ConnectionClosedOK, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

STDIN, STDOUT, STDERR, STATUS, RESIZE = range(5)
CLOSE = 255
V5, V4 = "v5.channel.k8s.io", "v4.channel.k8s.io"


class Refused(Exception):
    """The server did not upgrade: its HTTP status and the `Status` object in the body."""

    def __init__(self, code: int, body: bytes) -> None:
        super().__init__(code, body)
        self.code = code
        self.body = body

    @property
    def status(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.body)
        return value


@dataclass
class Result:
    """Everything that came until the server closed."""

    stdout: bytes = b""
    stderr: bytes = b""
    status: dict[str, Any] = field(default_factory=dict)
    messages: list[bytes] = field(default_factory=list)
    close_code: int | None = None

    @property
    def exit_code(self) -> int | None:
        """What the status says; None where it does not say."""
        if self.status.get("status") == "Success":
            return 0
        for cause in self.status.get("details", {}).get("causes", []):
            if cause["reason"] == "ExitCode":
                return int(cause["message"])
        return None


def query(
    command: Iterable[str],
    *,
    container: str = "",
    stdin: bool = True,
    tty: bool = False,
) -> str:
    pairs = [("command", word) for word in command]
    if container:
        pairs.append(("container", container))
    flags = {"stdin": stdin, "stdout": True, "stderr": not tty, "tty": tty}
    return urlencode([*pairs, *((name, "true") for name, on in flags.items() if on)])


class ExecStream:
    """One exec session. `subprotocol` is what the server chose."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.subprotocol = connection.subprotocol

    @classmethod
    def open(
        cls,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        subprotocols: Sequence[str] = (V5, V4),
    ) -> Self:
        try:
            connection = connect(
                url.replace("http", "ws", 1),
                additional_headers=headers,
                ssl=tls,
                subprotocols=[Subprotocol(name) for name in subprotocols],
                compression=None,
                proxy=None,
                max_size=None,
                ping_interval=None,
                open_timeout=30,
                close_timeout=5,
            )
        except InvalidStatus as error:
            raise Refused(error.response.status_code, error.response.body or b"") from None
        return cls(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def send(self, data: bytes, channel: int = STDIN) -> None:
        self.connection.send(bytes([channel]) + data)

    def close_stdin(self) -> None:
        """Half-close: a v5 server ends the command's standard input."""
        self.connection.send(bytes([CLOSE, STDIN]))

    def receive(self, timeout: float = 30) -> tuple[int, bytes]:
        """The next message, empty ones too. Raises websockets' ConnectionClosed at the end."""
        message = self.connection.recv(timeout)
        assert isinstance(message, bytes), "the server sent text"
        return message[0], message[1:]

    def read(self, count: int, channel: int = STDOUT, timeout: float = 30) -> bytes:
        """At least `count` bytes of one channel; what comes on others meanwhile is an error."""
        data = b""
        while len(data) < count:
            number, part = self.receive(timeout)
            assert number == channel or not part, (number, part)
            data += part
        return data

    def rest(self, timeout: float = 30) -> Result:
        """Everything until the connection ends, in whatever way."""
        result = Result()
        for message in self._until_the_end(timeout):
            result.messages.append(message)
            channel, data = message[0], message[1:]
            if channel == STDOUT:
                result.stdout += data
            elif channel == STDERR:
                result.stderr += data
            elif channel == STATUS and data:
                result.status = json.loads(data)
        result.close_code = self.connection.close_code
        return result

    def _until_the_end(self, timeout: float) -> Iterator[bytes]:
        while True:
            try:
                message = self.connection.recv(timeout)
            except (ConnectionClosedOK, ConnectionClosed):
                return
            assert isinstance(message, bytes), "the server sent text"
            yield message
