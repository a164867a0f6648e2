"""A small API server: answers what a test puts there, and runs exec on this machine.

It has the habits of the real ones that a client has to know: version 4 has no end of stdin, every
frame is a message of its own, the first message is an empty one on stdout, the status comes last,
and the connection is closed at once after it.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import anyio
import anyio.abc
from anyio.streams.tls import TLSListener
from websockets.frames import Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol


@dataclass
class Received:
    method: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    body: bytes = b""


Answer = tuple[int, dict[str, str], bytes]


def status(code: int, message: str, reason: str = "") -> Answer:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message}
    body |= {"reason": reason, "code": code}  # type: ignore[dict-item]
    return code, {"Content-Type": "application/json"}, json.dumps(body).encode()


def answer_json(body: Any) -> Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()


@dataclass
class ExecServer:
    url: str
    versions: tuple[str, ...] = ("v5.channel.k8s.io", "v4.channel.k8s.io")
    respond: Callable[[Received], Answer | None] = lambda request: None
    """Answers before anything else; None leaves the request to the server."""
    received: list[Received] = field(default_factory=list)
    frames: list[tuple[int, bool, bytes]] = field(default_factory=list)
    """(opcode, whether final, data) of what clients sent on exec streams."""
    streams: list[anyio.abc.ByteStream] = field(default_factory=list)
    """Of exec, to be cut."""

    async def serve(self, stream: anyio.abc.ByteStream) -> None:
        with suppress(anyio.BrokenResourceError, anyio.EndOfStream, ssl.SSLError):
            async with stream:
                while await self._request(stream):
                    pass

    async def _request(self, stream: anyio.abc.ByteStream) -> bool:
        data = b""
        while b"\r\n\r\n" not in data:
            data += await stream.receive()
        head, _, rest = data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        while len(rest) < int(headers.get("content-length", "0")):
            rest += await stream.receive()
        parts = urlsplit(target)
        request = Received(method, parts.path, parse_qsl(parts.query), headers, rest)
        self.received.append(request)
        answer = self.respond(request)
        if answer is None and parts.path.endswith("/exec") and "upgrade" in headers:
            await self._exec(stream, head + b"\r\n\r\n", request)
            return False
        code, extra, body = answer or status(404, f"no {parts.path}", "NotFound")
        extra = {"Content-Length": str(len(body)), **extra}
        lines = [f"HTTP/1.1 {code} .", *(f"{name}: {value}" for name, value in extra.items())]
        await stream.send("\r\n".join([*lines, "", ""]).encode() + body)
        return True

    async def _exec(self, stream: anyio.abc.ByteStream, head: bytes, request: Received) -> None:
        self.streams.append(stream)
        protocol = ServerProtocol(
            subprotocols=list(self.versions),  # type: ignore[arg-type]
            max_size=None,
        )
        protocol.receive_data(head)
        [event] = protocol.events_received()
        assert isinstance(event, Request)
        protocol.send_response(protocol.accept(event))
        sending = anyio.Lock()

        async def flush() -> None:
            # A client that has gone is noticed by who takes its input.
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                for piece in protocol.data_to_send():
                    if piece:
                        await stream.send(piece)

        async def say(channel: int, data: bytes) -> None:
            async with sending:
                if protocol.state is State.OPEN:
                    protocol.send_binary(bytes([channel]) + data)
                    await flush()

        await flush()
        argv = [value for name, value in request.query if name == "command"]
        await say(1, b"")
        try:
            # Shielded: one that is cancelled between starting and returning is nobody's.
            with anyio.CancelScope(shield=True):
                process = await anyio.open_process(argv, start_new_session=True)
        except OSError as error:
            await self._finish(say, {"message": f"exec: {error}", "reason": "InternalError"})
            return
        assert process.stdout
        assert process.stderr
        v5 = protocol.subprotocol == "v5.channel.k8s.io"

        async def take_output(channel: int, source: anyio.abc.ByteReceiveStream) -> None:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while True:
                    await say(channel, await source.receive(32768))

        async def take_input() -> None:
            assert process.stdin
            gone = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)
            with suppress(*gone):
                while protocol.state is State.OPEN:
                    protocol.receive_data(await stream.receive())
                    for frame in protocol.events_received():
                        self.frames.append((frame.opcode, frame.fin, bytes(frame.data)))  # type: ignore[union-attr]
                        await take_frame(frame)
                    async with sending:
                        await flush()
            await process.stdin.aclose()

        async def take_frame(frame: Any) -> None:
            assert process.stdin
            if frame.opcode not in (Opcode.BINARY, Opcode.TEXT, Opcode.CONT) or not frame.data:
                return
            if frame.data[0] == 0:
                with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                    await process.stdin.send(bytes(frame.data[1:]))
            elif bytes(frame.data) == b"\xff\x00" and v5:
                await process.stdin.aclose()

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(take_input)
                async with anyio.create_task_group() as outputs:
                    outputs.start_soon(take_output, 1, process.stdout)
                    outputs.start_soon(take_output, 2, process.stderr)
                code = await process.wait()
                if code:
                    causes = [{"reason": "ExitCode", "message": str(code % 256)}]
                    body = {"reason": "NonZeroExitCode", "details": {"causes": causes}}
                    await self._finish(say, {"message": f"exit code {code}", **body})
                else:
                    await self._finish(say, {"status": "Success"})
                async with sending:
                    if protocol.state is State.OPEN:
                        protocol.send_close(1000)
                    await flush()
                tasks.cancel_scope.cancel()
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            with anyio.CancelScope(shield=True):
                await process.aclose()

    async def _finish(self, say: Any, body: dict[str, Any]) -> None:
        await say(3, json.dumps({"metadata": {}, "status": "Failure", **body}).encode())


@asynccontextmanager
async def exec_server(context: ssl.SSLContext | None = None) -> AsyncIterator[ExecServer]:
    """Serve on a port of this machine."""
    listener: Any = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    if context is not None:
        listener = TLSListener(listener, context, standard_compatible=False)
    scheme = "http" if context is None else "https"
    server = ExecServer(f"{scheme}://127.0.0.1:{port}")
    tasks = anyio.create_task_group()
    await tasks.__aenter__()
    tasks.start_soon(listener.serve, server.serve)
    try:
        yield server
    finally:
        # The test's exception leaves as it is, not in a group.
        tasks.cancel_scope.cancel()
        await tasks.__aexit__(None, None, None)
        with anyio.CancelScope(shield=True):
            await listener.aclose()


def kubeconfig(url: str, cluster: dict[str, Any] | None = None, **user: Any) -> str:
    """A kubeconfig with one context; JSON is YAML."""
    return json.dumps(
        {
            "clusters": [{"name": "c", "cluster": {"server": url, **(cluster or {})}}],
            "users": [{"name": "u", "user": user}],
            "contexts": [
                {"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "ns-test"}}
            ],
            "current-context": "x",
        }
    )
