"""The exec stream of Kubernetes as it is on the wire, for tests that assert what servers do.

A minimal blocking client over the sans-IO part of `websockets`, which shares nothing with the SDK's
transport. (The library's own blocking client reads and writes one TLS socket from two threads: with
Python 3.11 one in twenty of its handshakes with these servers got no answer.)
"""

import contextlib
import json
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlencode

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

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


class Ended(Exception):
    """The connection has ended: with this close code, or with None if nobody said goodbye."""

    def __init__(self, code: int | None) -> None:
        super().__init__(code)
        self.code = code


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
            if cause.get("reason") == "ExitCode":
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


def check_upgraded(answer: Response | None, trouble: Exception | None) -> None:
    if answer and answer.status_code != 101:
        raise Refused(answer.status_code, bytes(answer.body or b""))
    if trouble:
        raise trouble


class ExecStream:
    """One exec session. `subprotocol` is what the server chose; `socket` is TLS where there is."""

    def __init__(self, connection: socket.socket, protocol: ClientProtocol) -> None:
        self.socket = connection
        self.pongs = 0
        self._protocol = protocol
        self._messages: deque[bytes] = deque()
        self._unsent = b""
        self._is_at_end = False
        self._response: Response | None = None

    @classmethod
    def open(
        cls,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        subprotocols: Sequence[str] = (V5, V4),
        timeout: float = 30,
    ) -> Self:
        """Connect and upgrade. Raises Refused when the server answers otherwise."""
        uri = parse_uri(url.replace("http", "ws", 1))
        connection = socket.create_connection((uri.host, uri.port), timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            connection = tls.wrap_socket(connection, server_hostname=uri.host)
        connection.setblocking(False)
        names = [Subprotocol(name) for name in subprotocols]
        protocol = ClientProtocol(uri, subprotocols=names, max_size=None)
        stream = cls(connection, protocol)
        request = protocol.connect()
        request.headers.update(headers or {})
        protocol.send_request(request)
        try:
            stream._pump(lambda: bool(stream._response or protocol.handshake_exc), timeout)
            check_upgraded(stream._response, protocol.handshake_exc)
        except BaseException:
            connection.close()
            raise
        return stream

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            if self._protocol.state is State.OPEN:
                self._protocol.send_close(1000)
                self._pump(lambda: not self._unsent, 1)
        self.socket.close()

    @property
    def subprotocol(self) -> str | None:
        return self._protocol.subprotocol

    def send(self, data: bytes, channel: int = STDIN) -> None:
        """Send one message and return when the system has taken it. Raises Ended."""
        if self._protocol.state is not State.OPEN:
            raise Ended(self._close_code())
        self._protocol.send_binary(bytes([channel]) + data)
        self._flush()

    def send_fragments(self, *fragments: bytes) -> None:
        """Send one message in several frames."""
        for number, fragment in enumerate(fragments):
            is_last = number == len(fragments) - 1
            if number == 0:
                self._protocol.send_binary(fragment, fin=is_last)
            else:
                self._protocol.send_continuation(fragment, fin=is_last)
        self._flush()

    def close_stdin(self) -> None:
        """Half-close: a v5 server ends the command's standard input."""
        self._protocol.send_binary(bytes([CLOSE, STDIN]))
        self._flush()

    def ping(self, timeout: float = 30) -> bool:
        """Send a ping, and say whether it was answered in time."""
        before = self.pongs
        self._protocol.send_ping(b"")
        with contextlib.suppress(TimeoutError):
            self._pump(lambda: self.pongs > before, timeout)
        return self.pongs > before

    def receive(self, timeout: float = 30) -> tuple[int, bytes]:
        """The next message, empty ones too. Raises Ended after the last, TimeoutError if none."""
        self._pump(lambda: bool(self._messages) or self._is_at_end, timeout)
        if not self._messages:
            raise Ended(self._close_code())
        message = self._messages.popleft()
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
        parts: dict[int, list[bytes]] = {STDOUT: [], STDERR: []}
        try:
            while True:
                channel, data = self.receive(timeout)
                result.messages.append(bytes([channel]) + data)
                if channel in parts:
                    parts[channel].append(data)
                elif channel == STATUS and data:
                    result.status = json.loads(data)
        except Ended as end:
            result.close_code = end.code
        result.stdout, result.stderr = b"".join(parts[STDOUT]), b"".join(parts[STDERR])
        return result

    def _close_code(self) -> int | None:
        return self._protocol.close_rcvd.code if self._protocol.close_rcvd else None

    # Both directions are moved at once: a server that cannot write does not read.

    def _flush(self, timeout: float = 60) -> None:
        self._pump(lambda: not self._unsent, timeout)

    def _pump(self, is_done: Callable[[], bool], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while True:
            self._unsent += b"".join(self._protocol.data_to_send())
            self._write()
            self._read()
            if is_done():
                return
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError("the server did not do it in time")
            writers = [self.socket] if self._unsent else []
            # A while at most: TLS may hold back what it has read already, or wait to read.
            select.select([self.socket], writers, [], min(remaining, 0.2))

    def _write(self) -> None:
        try:
            while self._unsent:
                sent = self.socket.send(self._unsent)
                self._unsent = self._unsent[sent:]
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError:
            self._unsent = b""
            self._is_at_end = True

    def _read(self) -> None:
        try:
            while not self._is_at_end:
                data = self.socket.recv(262_144)
                if not data:
                    self._protocol.receive_eof()
                    self._is_at_end = True
                else:
                    self._protocol.receive_data(data)
                self._take_events()
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError:
            self._is_at_end = True

    def _take_events(self) -> None:
        for event in self._protocol.events_received():
            if isinstance(event, Response):
                self._response = event
            elif isinstance(event, Frame) and event.opcode in (Opcode.BINARY, Opcode.CONT):
                self._messages.append(bytes(event.data))
            elif isinstance(event, Frame) and event.opcode is Opcode.PONG:
                self.pongs += 1
            elif isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                raise AssertionError("the server sent text")
            elif isinstance(event, Frame) and event.opcode is Opcode.CLOSE:
                self._is_at_end = True
