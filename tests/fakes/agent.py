"""An agent for tests of the client: real processes and files, and mishaps on request.

It does what the contract of the in-box agent says for the routes that a channel needs, no more. The
embedded engine has the whole of it.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import anyio
import httpx
from anyio.streams.text import TextReceiveStream
from hypercorn.asyncio import serve as run
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from sealos_devbox._transport.agent.client import AgentClient
from sealos_devbox.secret import Secret

TOKEN = "bcdfghjklmnpqrstvwxz2456789bcdfg"


@dataclass
class FakeAgent:
    """What happens, and what is to happen."""

    writes: list[str] = field(default_factory=list)
    lose_answers: set[int] = field(default_factory=set)
    """Numbers of writes (from 0) that are done and answered with a gateway's 502."""
    refuse_writes: int = 0
    """Status that every write is answered with."""
    workspace: Path = Path("/")
    cut: threading.Event = field(default_factory=threading.Event)
    """Set: streams end in the middle."""
    commands: list[anyio.abc.Process] = field(default_factory=list)
    """What was started with its output as a stream; it goes on when nobody listens any more."""

    def app(self) -> Starlette:
        api = "/api/v1"
        return Starlette(
            lifespan=self.lifespan,
            routes=[
                Route(api + "/files/write", self.write, methods=["POST"]),
                Route(api + "/files/read", self.read),
                Route(api + "/process/exec-sync", self.run, methods=["POST"]),
                Route(api + "/process/sync-stream", self.stream, methods=["POST"]),
                Route("/health", self.health),
            ],
        )

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        yield
        for process in self.commands:
            with suppress(ProcessLookupError):
                process.kill()
            await process.aclose()

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": 0, "message": "success", "healthStatus": "ok"})

    async def write(self, request: Request) -> Response:
        if self._denied(request):
            return Response(status_code=401)
        number = len(self.writes)
        path = Path(request.query_params["path"])
        self.writes.append(path.name)
        if self.refuse_writes:
            return PlainTextResponse("<html>no</html>", self.refuse_writes)
        body = await request.body()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        if number in self.lose_answers:
            return PlainTextResponse("<html>bad gateway</html>", 502)
        return JSONResponse({"status": 0, "path": str(path), "size": len(body)})

    async def read(self, request: Request) -> Response:
        if self._denied(request):
            return Response(status_code=401)
        path = Path(request.query_params["path"])
        if path.is_dir():
            return _failure(1422, "Path is a directory, not a file")
        if not path.exists():
            return _failure(1404, "File not found")
        disposition = {"content-disposition": f'attachment; filename="{path.name}"'}
        return Response(
            path.read_bytes(), headers=disposition, media_type="application/octet-stream"
        )

    async def run(self, request: Request) -> Response:
        if self._denied(request):
            return Response(status_code=401)
        body = await request.json()
        try:
            # Shielded, as below: a client that is cancelled lets the server cancel this. (That is
            # what anyio.run_process leaves out.)
            with anyio.CancelScope(shield=True):
                process = await anyio.open_process(
                    [body["command"], *body["args"]],
                    stdin=DEVNULL,
                    cwd=self.workspace / body["cwd"],
                    env=body.get("env"),
                )
        except FileNotFoundError:
            text = f'exec: "{body["command"]}": executable file not found in $PATH'
            return JSONResponse({"status": 1600, "stdout": "", "stderr": text, "exitCode": 127})
        stdout, stderr = bytearray(), bytearray()

        async def collect(stream: anyio.abc.ByteReceiveStream, output: bytearray) -> None:
            async for piece in stream:
                output += piece

        async with process:
            async with anyio.create_task_group() as both:
                both.start_soon(collect, process.stdout, stdout)
                both.start_soon(collect, process.stderr, stderr)
            code = await process.wait()
        return JSONResponse(
            {
                "status": 0,
                "message": "success",
                "stdout": stdout.decode(errors="replace"),
                "stderr": stderr.decode(errors="replace"),
                "exitCode": code if code >= 0 else None,
            }
        )

    async def stream(self, request: Request) -> Response:
        if self._denied(request):
            return Response(status_code=401)
        return _Stream(await request.json(), self)

    def _denied(self, request: Request) -> bool:
        return request.headers.get("authorization") != f"Bearer {TOKEN}"


class _Stream(Response):
    """The events of a running command."""

    def __init__(self, body: dict[str, Any], agent: FakeAgent) -> None:
        super().__init__(media_type="text/event-stream")
        self._body = body
        self._cut = agent.cut
        self._commands = agent.commands

    async def _wait_cut(self) -> None:
        while not self._cut.is_set():
            await anyio.sleep(0.01)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

        async def say(event: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": event, "more_body": more})

        async def lines(name: str, stream: Any) -> None:
            rest = ""
            async for text in TextReceiveStream(stream):
                *whole, rest = (rest + text).split("\n")
                for line in whole:
                    await say(_event(name, output=line + "\n"))
            if rest:
                await say(_event(name, output=rest))

        async def end_with(wait: Callable[[], Awaitable[object]]) -> None:
            await wait()
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(end_with, receive)
            tasks.start_soon(end_with, self._wait_cut)
            await say(_event("start", timestamp="2026-01-12T07:00:02Z") + b": keep-alive\n\n")
            try:
                # Shielded: one that is cancelled between starting and returning is nobody's.
                with anyio.CancelScope(shield=True):
                    process = await anyio.open_process(
                        [self._body["command"], *self._body["args"]],
                        stdin=DEVNULL,
                        cwd=self._body["cwd"],
                    )
                self._commands.append(process)
            except OSError as error:
                await say(_event("error", error=str(error), durationMs=0))
            else:
                try:
                    async with anyio.create_task_group() as both:
                        both.start_soon(lines, "stdout", process.stdout)
                        both.start_soon(lines, "stderr", process.stderr)
                    code = await process.wait()
                    await say(_event("complete", exitCode=code if code >= 0 else None))
                finally:
                    for stream in (process.stdout, process.stderr):
                        with anyio.CancelScope(shield=True):
                            await stream.aclose()
            tasks.cancel_scope.cancel()
        if not self._cut.is_set():
            await say(b"", more=False)


def _event(name: str, **data: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


def _failure(status: int, message: str) -> Response:
    return JSONResponse({"status": status, "message": message})


@contextmanager
def serve(app: Any) -> Iterator[str]:
    """Serve an application on a loopback port, in a thread of its own, and yield its address."""
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.accesslog = config.errorlog = None
    config.graceful_timeout = 0.1
    config.shutdown_timeout = 0.5
    [socket] = config.create_sockets().insecure_sockets
    socket.listen()
    port = socket.getsockname()[1]
    config.bind = [f"fd://{socket.detach()}"]
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    thread = threading.Thread(
        target=lambda: loop.run_until_complete(run(app, config, shutdown_trigger=stop.wait))
    )
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        loop.close()


@asynccontextmanager
async def agent_client(agent: FakeAgent, token: str = TOKEN) -> AsyncIterator[AgentClient]:
    with serve(agent.app()) as url:
        async with httpx.AsyncClient(trust_env=False) as http:
            yield AgentClient(http, url, Secret(token))
