"""The agent's routes, for whichever box a request is for."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import psutil
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, Router, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from sealos_devbox.server.agent import files, search, sessions, transfers
from sealos_devbox.server.agent.answers import (
    FrameworkRefusal,
    json_body,
    missing,
    respond,
    run,
    success,
)
from sealos_devbox.server.agent.commands import ExecForm, Launcher, ProcessTable
from sealos_devbox.server.agent.sessions import SessionTable
from sealos_devbox.server.agent.streams import log_events, run_events
from sealos_devbox.server.agent.subscriptions import serve_logs
from sealos_devbox.server.agent.workspace import Workspace
from sealos_devbox.server.credentials import matches
from sealos_devbox.server.engine import Box, Engine
from sealos_devbox.server.operations import Parameter

__all__ = ["AGENT_ROUTES", "AgentApp"]

VERSION = "0.1.0"
_AGENT_PORTS = (22, 9757)


@dataclass(slots=True)
class _Agent:
    """What one box's agent remembers while the engine runs."""

    started: float
    processes: ProcessTable = field(default_factory=ProcessTable)
    sessions: SessionTable = field(default_factory=SessionTable)


@dataclass(frozen=True, slots=True)
class Visit:
    """One request to one box's agent."""

    request: Request
    engine: Engine
    box: Box
    agent: _Agent

    @property
    def workspace(self) -> Workspace:
        """The box's files."""
        return Workspace(self.box.workspace)

    @property
    def limit(self) -> int:
        """The largest file that is taken."""
        return self.engine.settings.max_file_size

    @property
    def identifier(self) -> str:
        """The process or session that the path names."""
        return str(self.request.path_params["id"])

    def launcher(self) -> Launcher:
        """Make what starts commands in the box."""
        directory = self.box.workspace.parent / "agent"
        directory.mkdir(exist_ok=True)
        environment = self.engine.environment(self.box)
        return Launcher(self.workspace, self.engine.processes, environment, str(directory))


Handler = Callable[[Visit], Awaitable[Response]]


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or int(text) >= 2**64:
        raise FrameworkRefusal(
            400, f"Failed to deserialize query string: {name}: invalid digit found in string"
        )
    return int(text)


def _flag(request: Request, name: str) -> bool:
    text = request.query_params.get(name, "false")
    if text not in ("true", "false"):
        raise FrameworkRefusal(
            400, f"Failed to deserialize query string: {name}: provided string was not a bool"
        )
    return text == "true"


async def list_files(visit: Visit) -> Response:
    """List a directory."""
    request = visit.request
    hidden = _flag(request, "showHidden")
    limit, offset = _number(request, "limit", 100), _number(request, "offset", 0)
    path = request.query_params.get("path", ".")

    def work() -> dict[str, Any]:
        if not os.path.exists(visit.workspace.target(path)):
            raise missing("Directory not found")
        return files.list_directory(
            visit.workspace, path, hidden=hidden, limit=limit, offset=offset
        )

    return success(await run(work))


async def read_file(visit: Visit) -> Response:
    """Send a whole file."""
    return await transfers.read(visit.workspace, visit.request)


async def write_file(visit: Visit) -> Response:
    """Write a whole file: JSON, a form, or raw bytes with `path` in the query."""
    return await transfers.write(visit.workspace, visit.request, visit.limit)


async def batch_upload(visit: Visit) -> Response:
    """Write many files."""
    return await transfers.batch_upload(visit.workspace, visit.request, visit.limit)


async def batch_download(visit: Visit) -> Response:
    """Send many files as one archive."""
    form = await json_body(visit.request, transfers.DownloadForm)
    return await transfers.batch_download(visit.workspace, form)


def _simple(
    function: Callable[..., dict[str, Any]], kind: type[Any], *, limited: bool = False
) -> Handler:
    async def handler(visit: Visit) -> Response:
        form = await json_body(visit.request, kind)
        more = [visit.limit] if limited else []
        return success(await run(function, visit.workspace, form, *more))

    handler.__doc__ = function.__doc__
    return handler


async def exec_sync(visit: Visit) -> Response:
    """Run a command and wait for it."""
    form = await json_body(visit.request, ExecForm)
    return success(await run(visit.launcher().run, form, abandon=True))


async def sync_stream(visit: Visit) -> Response:
    """Run a command and send its output as events."""
    form = await json_body(visit.request, ExecForm)
    events = run_events(visit.launcher(), form)
    return StreamingResponse(events, media_type="text/event-stream")


async def exec_background(visit: Visit) -> Response:
    """Start a command in the background."""
    form = await json_body(visit.request, ExecForm)
    started = await run(visit.agent.processes.start, visit.launcher(), form)
    return success(
        {
            "processId": started.identifier,
            "pid": started.process.pid,
            "processStatus": started.status,
        }
    )


async def list_processes(visit: Visit) -> Response:
    """List the background processes."""
    return success({"processes": [each.describe() for each in visit.agent.processes.list()]})


async def process_status(visit: Visit) -> Response:
    """Show one background process."""
    return success(visit.agent.processes.get(visit.identifier).describe())


async def kill_process(visit: Visit) -> Response:
    """Send a signal to a background process: SIGKILL unless another is named."""
    name = visit.request.query_params.get("signal")
    visit.agent.processes.kill(visit.identifier, name)
    return success({"success": True})


async def process_logs(visit: Visit) -> Response:
    """Show what a background process said, or follow it as events."""
    found = visit.agent.processes.get(visit.identifier)
    tail = _number(visit.request, "tail", -1)
    count = None if tail < 0 else tail
    accept = visit.request.headers.get("accept")
    if _flag(visit.request, "stream") or accept == "text/event-stream":
        return StreamingResponse(log_events(found.log, count), media_type="text/event-stream")
    lines, _ = found.log.tail(count)
    return success(
        {
            "processId": found.identifier,
            "pid": found.process.pid,
            "processStatus": found.status,
            "exitCode": found.exit_code,
            "logs": [line.raw for line in lines],
        }
    )


async def create_session(visit: Visit) -> Response:
    """Start a shell."""
    form = await json_body(visit.request, sessions.SessionForm)
    made = await run(visit.agent.sessions.create, visit.launcher(), form)
    keys = ("sessionId", "shell", "cwd", "sessionStatus")
    described = made.describe()
    return success({key: described[key] for key in keys})


async def list_sessions(visit: Visit) -> Response:
    """List the shells."""
    return success({"sessions": [each.describe() for each in visit.agent.sessions.list()]})


async def show_session(visit: Visit) -> Response:
    """Show one shell."""
    return success(visit.agent.sessions.get(visit.identifier).describe())


async def session_exec(visit: Visit) -> Response:
    """Type a command into a shell."""
    form = await json_body(visit.request, sessions.CommandForm)
    table = visit.agent.sessions
    return success(await run(table.execute, visit.identifier, form.command, abandon=True))


async def session_env(visit: Visit) -> Response:
    """Type exports into a shell."""
    form = await json_body(visit.request, sessions.EnvForm)
    table = visit.agent.sessions
    return success(await run(table.set_environment, visit.identifier, form.env, abandon=True))


async def session_cd(visit: Visit) -> Response:
    """Type `cd` into a shell."""
    form = await json_body(visit.request, sessions.CdForm)
    table = visit.agent.sessions
    return success(await run(table.change_directory, visit.identifier, form.path, abandon=True))


async def session_terminate(visit: Visit) -> Response:
    """Kill a shell."""
    return success(visit.agent.sessions.terminate(visit.identifier))


async def session_logs(visit: Visit) -> Response:
    """Show what a shell said."""
    session = visit.agent.sessions.get(visit.identifier)
    tail = _number(visit.request, "tail", -1)
    lines, _ = session.log.tail(None if tail < 0 else tail)
    return success({"sessionId": session.identifier, "logs": [line.raw for line in lines]})


def _listening(visit: Visit) -> list[int]:
    ports = set()
    for process in visit.engine.processes.find(visit.box.uid).get(visit.box.uid, []):
        try:
            for connection in process.net_connections("tcp"):
                if connection.laddr and connection.laddr.ip in ("0.0.0.0", "::"):  # noqa: S104
                    ports.add(connection.laddr.port)
        except (psutil.Error, OSError):
            continue
    return sorted(ports.difference(_AGENT_PORTS))


async def list_ports(visit: Visit) -> Response:
    """List the ports that the box's processes listen on, for everybody."""
    return success({"ports": await run(_listening, visit), "lastUpdatedAt": int(time.time())})


async def health(visit: Visit) -> Response:
    """Say that the agent is there."""
    uptime = f"{int(time.time() - visit.agent.started)}s"
    return success({"healthStatus": "ok", "uptime": uptime, "version": VERSION})


async def ready(visit: Visit) -> Response:
    """Say whether the workspace is there."""
    there = visit.box.workspace.is_dir()
    return success({"readinessStatus": "ready" if there else "not_ready", "workspace": there})


@dataclass(frozen=True, slots=True)
class AgentRoute:
    """One method of one route of the agent."""

    method: str
    path: str
    handler: Handler
    body: Any = None
    """The type of its JSON body; None when it has none."""
    parameters: tuple[Parameter, ...] = ()
    media: str = "application/json"
    """Of a success; failures are JSON always."""


_UNSIGNED = {"type": "integer", "minimum": 0, "maximum": 1_000_000}
_PATH = Parameter("path", {"type": "string"}, required=True)
_LIST = (
    Parameter("path", {"type": "string"}),
    Parameter("showHidden", {"type": "boolean"}),
    Parameter("limit", _UNSIGNED),
    Parameter("offset", _UNSIGNED),
)
_TAIL = (Parameter("tail", _UNSIGNED),)
_SIGNAL = (Parameter("signal", {"type": "string"}),)
_BYTES = "application/octet-stream"
_FILES, _PROCESS, _SESSION = "/api/v1/files", "/api/v1/process", "/api/v1/sessions"


def _form(
    name: str, function: Callable[..., dict[str, Any]], kind: type[Any], *, limited: bool = False
) -> AgentRoute:
    handler = _simple(function, kind, limited=limited)
    return AgentRoute("POST", f"{_FILES}/{name}", handler, kind)


AGENT_ROUTES = (
    AgentRoute("GET", "/health", health),
    AgentRoute("GET", "/health/ready", ready),
    AgentRoute("GET", f"{_FILES}/list", list_files, parameters=_LIST),
    AgentRoute("GET", f"{_FILES}/read", read_file, parameters=(_PATH,), media=_BYTES),
    AgentRoute("GET", f"{_FILES}/download", read_file, parameters=(_PATH,), media=_BYTES),
    AgentRoute("POST", f"{_FILES}/write", write_file, transfers.WriteForm),
    AgentRoute("POST", f"{_FILES}/batch-upload", batch_upload, "multipart/form-data"),
    AgentRoute(
        "POST", f"{_FILES}/batch-download", batch_download, transfers.DownloadForm, media="*/*"
    ),
    _form("delete", files.delete, files.DeleteForm),
    _form("move", files.move, files.MoveForm),
    _form("rename", files.rename, files.RenameForm),
    _form("chmod", files.change_mode, files.ChmodForm),
    _form("search", search.search, search.SearchForm),
    _form("find", search.find, search.FindForm, limited=True),
    _form("replace", search.replace, search.ReplaceForm, limited=True),
    AgentRoute("POST", f"{_PROCESS}/exec", exec_background, ExecForm),
    AgentRoute("POST", f"{_PROCESS}/exec-sync", exec_sync, ExecForm),
    AgentRoute("POST", f"{_PROCESS}/sync-stream", sync_stream, ExecForm, media="text/event-stream"),
    AgentRoute("GET", f"{_PROCESS}/list", list_processes),
    AgentRoute("GET", f"{_PROCESS}/{{id}}/status", process_status),
    AgentRoute("POST", f"{_PROCESS}/{{id}}/kill", kill_process, parameters=_SIGNAL),
    AgentRoute("GET", f"{_PROCESS}/{{id}}/logs", process_logs, parameters=_TAIL),
    AgentRoute("POST", f"{_SESSION}/create", create_session, sessions.SessionForm),
    AgentRoute("GET", _SESSION, list_sessions),
    AgentRoute("GET", f"{_SESSION}/{{id}}", show_session),
    AgentRoute("POST", f"{_SESSION}/{{id}}/exec", session_exec, sessions.CommandForm),
    AgentRoute("POST", f"{_SESSION}/{{id}}/env", session_env, sessions.EnvForm),
    AgentRoute("POST", f"{_SESSION}/{{id}}/cd", session_cd, sessions.CdForm),
    AgentRoute("POST", f"{_SESSION}/{{id}}/terminate", session_terminate),
    AgentRoute("GET", f"{_SESSION}/{{id}}/logs", session_logs, parameters=_TAIL),
    AgentRoute("GET", "/api/v1/ports", list_ports),
)


class AgentApp:
    """Serves the agents of all boxes, and what httpgate says when there is none."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._agents: dict[str, _Agent] = {}
        routes: list[Any] = [
            Route(each.path, self._endpoint(each.handler), methods=[each.method])
            for each in AGENT_ROUTES
        ]
        routes.append(WebSocketRoute("/ws", self._logs))
        self._router = Router(routes, redirect_slashes=False, default=_nothing)

    async def serve(self, unique_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request for the box of that public host key."""
        box = await run(self._engine.by_unique_id, unique_id)
        if box is None:
            await _refuse(404, "devbox not found", scope, receive, send)
            return
        if not box.running:
            await _refuse(503, "devbox not running", scope, receive, send)
            return
        health_route = scope["path"].endswith(("/health", "/health/ready", "/health/live"))
        public = health_route and self._engine.settings.public_routes
        headers = dict(scope["headers"])
        given = headers.get(b"authorization", b"").decode("latin-1")
        expected = f"Bearer {box.record.secret}"
        if not public and not matches(given, expected):
            await _refuse(401, "", scope, receive, send)
            return
        agent = self._agents.setdefault(box.uid, _Agent(time.time()))
        scope = {**scope, "devbox": (box, agent)}
        await self._router(scope, receive, send)

    def _endpoint(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            box, agent = request.scope["devbox"]
            visit = Visit(request, self._engine, box, agent)
            return await respond(lambda: handler(visit))

        return endpoint

    async def _logs(self, websocket: WebSocket) -> None:
        _, agent = websocket.scope["devbox"]
        await serve_logs(websocket, agent.processes, agent.sessions)


async def _refuse(status: int, text: str, scope: Scope, receive: Receive, send: Send) -> None:
    response = PlainTextResponse(text, status) if text else Response(status_code=status)
    if scope["type"] == "websocket":
        await WebSocket(scope, receive, send).send_denial_response(response)
        return
    await response(scope, receive, send)


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    await _refuse(404, "", scope, receive, send)
