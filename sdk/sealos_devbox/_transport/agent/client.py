"""The in-box agent's HTTP interface, whole, as it is.

Paths are str: absolute, or relative to the agent's workspace. What a POSIX file system would do
differently is said at each method; `_transport.agent.transport` builds on these what the file API
promises.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx

from sealos_devbox._protocol.agent import SseParser, answer, failure_of, refusal
from sealos_devbox.errors import ConnectError, ProtocolError, TransportError
from sealos_devbox.secret import Secret

__all__ = ["AgentClient", "Completed", "RunRequest"]

CONNECT: Final = 4.0
"""Seconds: the first packet and the two that repeat it, after one second and three."""
TIMEOUT: Final = httpx.Timeout(30.0, connect=CONNECT)
ALL: Final = 1_000_000
"""A page large enough for any directory; the default is 100 entries."""
NO_LIMIT: Final = 365 * 24 * 3600
"""Seconds a streamed command may run: the agent has no 'for ever'."""
QUIET: Final = 60.0
"""Seconds after which a stream without a keep-alive (one comes every 15) is taken for dead."""
PIECE: Final = 128 * 1024

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A program with its arguments, which no shell sees."""

    argv: Sequence[str]
    cwd: str
    env: Mapping[str, str] | None = None
    timeout: int = 30
    """Seconds; at its end the agent answers, and the child runs on."""

    def body(self) -> Json:
        """Return the request: always with `args`, since older builds take `command` apart."""
        body: Json = {
            "command": self.argv[0],
            "args": list(self.argv[1:]),
            "cwd": self.cwd,
            "timeout": self.timeout,
        }
        if self.env:
            body["env"] = dict(self.env)
        return body


@dataclass(frozen=True, slots=True)
class Completed:
    """How a command ended."""

    exit_code: int | None
    """None when a signal ended it."""
    stdout: str
    """Text: what was not UTF-8 has been replaced."""
    stderr: str


class AgentClient:
    """Calls to one agent. The token is sent with every request and shown by nothing."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        base_url: str,
        token: Secret,
        renew: Callable[[], Awaitable[Secret]] | None = None,
    ) -> None:
        """Make it; `renew` returns the token anew, when the agent refuses it."""
        self._http = http
        self._base = base_url.rstrip("/")
        self._token = token
        self._renew = renew
        self.requests = 0
        """Sent so far."""

    def __repr__(self) -> str:
        return f"<AgentClient {self._base}>"

    @property
    def base_url(self) -> str:
        """Where the agent is."""
        return self._base

    # -- health ------------------------------------------------------------------------------------

    async def health(self) -> Json:
        """Return {healthStatus, uptime, version}; needs no token, and proves nothing about it."""
        return await self._get("/health")

    async def ready(self) -> bool:
        """Whether the agent has its workspace."""
        return bool((await self._get("/health/ready")).get("workspace"))

    async def ports(self) -> list[int]:
        """Return the TCP ports in use on a wildcard address, without those of sshd and agent."""
        return list((await self._get("/api/v1/ports"))["ports"])

    # -- files -------------------------------------------------------------------------------------

    async def list_directory(
        self, path: str, *, hidden: bool = True, limit: int = ALL, offset: int = 0
    ) -> list[Json]:
        """Return [{name, path, size, isDir, permissions, modified}].

        Symbolic links look like files. An entry that vanishes meanwhile fails the whole call.
        """
        query = {
            "path": path,
            "showHidden": "true" if hidden else "false",
            "limit": str(limit),
            "offset": str(offset),
        }
        return list((await self._get("/api/v1/files/list", query, path))["files"])

    @asynccontextmanager
    async def read(self, path: str) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        """Yield (size, pieces) of a whole file; links are followed."""
        request = self._http.build_request(
            "GET",
            self._base + "/api/v1/files/read",
            params={"path": path},
            timeout=TIMEOUT,
        )
        async with self._sent(request) as response:
            if "content-disposition" not in response.headers:
                # A failure: HTTP 200 all the same, and no content type tells it apart.
                answer(await response.aread(), path)
                raise ProtocolError("the agent answered neither a file nor a failure")
            size = int(response.headers.get("content-length", -1))
            yield size, response.aiter_bytes(PIECE)

    async def write(self, path: str, content: bytes | AsyncIterator[bytes]) -> int:
        """Write a whole file in place and return the number of bytes received.

        Makes missing parents; follows links; not atomic; keeps the mode of what is there.
        """
        response = await self._send(
            "POST",
            "/api/v1/files/write",
            params={"path": path},
            content=content,
            headers={"Content-Type": "application/octet-stream"},
        )
        return int(answer(response.content, path)["size"])

    async def delete(self, path: str, *, recursive: bool = False) -> None:
        """Remove a file or directory. A dangling link cannot be removed."""
        await self._post("/api/v1/files/delete", {"path": path, "recursive": recursive}, path)

    async def move(self, source: str, destination: str, *, overwrite: bool = False) -> None:
        """Move; with `overwrite` the destination is removed first, whatever it is."""
        if source == destination:
            return  # the agent would destroy it
        body = {"source": source, "destination": destination, "overwrite": overwrite}
        await self._post("/api/v1/files/move", body, source)

    async def rename(self, old: str, new: str) -> None:
        """Rename; never replaces (EEXIST)."""
        await self._post("/api/v1/files/rename", {"oldPath": old, "newPath": new}, old)

    async def chmod(
        self, path: str, mode: int, *, recursive: bool = False, owner: str | None = None
    ) -> None:
        """Set the permission bits (0777); links are followed."""
        body: Json = {"path": path, "mode": f"{mode & 0o777:04o}", "recursive": recursive}
        if owner is not None:
            body["owner"] = owner
        await self._post("/api/v1/files/chmod", body, path)

    async def search(self, directory: str, pattern: str) -> list[str]:
        """Return the files whose name contains the pattern, in any case."""
        body = {"dir": directory, "pattern": pattern}
        return list((await self._post("/api/v1/files/search", body, directory))["files"])

    async def find(self, directory: str, keyword: str) -> list[str]:
        """Return the text files that contain the keyword."""
        body = {"dir": directory, "keyword": keyword}
        return list((await self._post("/api/v1/files/find", body, directory))["files"])

    async def replace(self, files: Sequence[str], old: str, new: str) -> list[Json]:
        """Replace literal text in files; returns [{file, status, replacements, error?}]."""
        body = {"files": list(files), "from": old, "to": new}
        return list((await self._post("/api/v1/files/replace", body))["results"])

    async def batch_upload(self, files: Mapping[str, bytes]) -> list[Json]:
        """Write several files; returns [{path, success, size?, error?}] in order."""
        for path in files:
            if any(character in path for character in ';"\r\n'):
                raise ValueError(f"a name that multipart cannot carry: {path!r}")
        parts = [
            ("files", (path, content, "application/octet-stream"))
            for path, content in files.items()
        ]
        response = await self._send("POST", "/api/v1/files/batch-upload", files=parts)
        return list(answer(response.content, None)["results"])

    @asynccontextmanager
    async def batch_download(
        self, paths: Sequence[str], format: str = "tar"
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Yield the pieces of an archive of several files; links arrive as copies."""
        request = self._http.build_request(
            "POST",
            self._base + "/api/v1/files/batch-download",
            json={"paths": list(paths), "format": format},
            timeout=TIMEOUT,
        )
        async with self._sent(request) as response:
            if response.headers.get("content-type", "").startswith("application/json"):
                answer(await response.aread(), None)
            yield response.aiter_bytes(PIECE)

    # -- processes ---------------------------------------------------------------------------------

    async def run(self, request: RunRequest) -> Completed:
        """Run a program to its end (exec-sync): no stdin; its output is text.

        Raises BoxFileError when it cannot be started: ENOENT also for a missing `cwd`.
        """
        timeout = httpx.Timeout(request.timeout + 10.0, connect=CONNECT)
        response = await self._send(
            "POST", "/api/v1/process/exec-sync", json=request.body(), timeout=timeout
        )
        value = json.loads(response.content)
        if value.get("status") == 1600:
            said = str(value.get("stderr") or "")
            raise failure_of({"status": 1404, "message": said}, request.argv[0])
        value = answer(response.content, request.argv[0])
        return Completed(value.get("exitCode"), str(value["stdout"]), str(value["stderr"]))

    @asynccontextmanager
    async def stream(self, request: RunRequest) -> AsyncIterator[AsyncIterator[tuple[str, Json]]]:
        """Start a program and yield its events (sync-stream).

        ``start``, ``stdout`` and ``stderr`` (a line each, in `output`), ``complete`` (`exitCode`),
        ``error``. The end of the stream is the end: ``complete`` may come before the last output.
        Leaving the block does not end the program.
        """
        http_request = self._http.build_request(
            "POST",
            self._base + "/api/v1/process/sync-stream",
            json=request.body(),
            headers={"Accept": "text/event-stream"},
            timeout=httpx.Timeout(QUIET, connect=CONNECT),
        )
        async with self._sent(http_request) as response:
            yield _events(response)

    async def start(self, request: RunRequest) -> str:
        """Start a program in the background and return its id."""
        body = {**request.body()}
        answered = await self._post("/api/v1/process/exec", body, request.argv[0])
        return str(answered["processId"])

    async def processes(self) -> list[Json]:
        """Return [{processId, pid, command, processStatus, startTime, endTime, exitCode}]."""
        return list((await self._get("/api/v1/process/list"))["processes"])

    async def process(self, id: str) -> Json:
        """Return one process, as `processes` describes it."""
        return await self._get(f"/api/v1/process/{_segment(id)}/status")

    async def kill(self, id: str, signal: str = "SIGTERM") -> None:
        """Send SIGTERM, SIGINT, SIGHUP or SIGKILL to a process, not to its group."""
        if signal not in ("SIGTERM", "SIGINT", "SIGHUP", "SIGKILL"):
            raise ValueError(f"the agent cannot send {signal}: it would send SIGKILL")
        path = f"/api/v1/process/{_segment(id)}/kill"
        response = await self._send("POST", path, params={"signal": signal})
        answer(response.content, None)

    async def logs(self, id: str, tail: int | None = None) -> list[str]:
        """Return the newest lines of a process's output, each with its stream before it."""
        query = {} if tail is None else {"tail": str(tail)}
        return list((await self._get(f"/api/v1/process/{_segment(id)}/logs", query))["logs"])

    # -- requests ----------------------------------------------------------------------------------

    async def _get(
        self, route: str, query: Mapping[str, str] | None = None, path: str | None = None
    ) -> Json:
        response = await self._send("GET", route, params=dict(query or {}))
        return answer(response.content, path)

    async def _post(self, route: str, body: Json, path: str | None = None) -> Json:
        response = await self._send("POST", route, json=body)
        return answer(response.content, path)

    async def _send(
        self,
        method: str,
        route: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: httpx.Timeout = TIMEOUT,
        **options: Any,  # noqa: ANN401 - httpx declares them
    ) -> httpx.Response:
        request = self._http.build_request(
            method,
            self._base + route,
            headers=headers,
            timeout=timeout,
            **options,
        )
        async with self._sent(request) as response:
            await response.aread()
            return response

    @asynccontextmanager
    async def _sent(self, request: httpx.Request) -> AsyncIterator[httpx.Response]:
        self.requests += 1
        token = self._token
        with _our_errors():
            request.headers["Authorization"] = f"Bearer {token.reveal()}"
            response = await self._http.send(request, stream=True)
            if response.status_code == 401 and await self._renewed(token, request):
                await response.aclose()
                self.requests += 1
                request.headers["Authorization"] = f"Bearer {self._token.reveal()}"
                response = await self._http.send(request, stream=True)
            try:
                if response.status_code != 200:
                    raise refusal(response.status_code, await response.aread())
                yield response
            finally:
                await response.aclose()

    async def _renewed(self, refused: Secret, request: httpx.Request) -> bool:
        """Get another token than the one that was refused, for a request that can be repeated."""
        if self._renew is None or not isinstance(request.stream, httpx.ByteStream):
            return False
        if self._token is refused:
            self._token = await self._renew()
        return self._token.reveal() != refused.reveal()


@contextmanager
def _our_errors() -> Iterator[None]:
    try:
        yield
    except httpx.ConnectTimeout as error:
        raise ConnectError(
            f"the agent cannot be reached: no connection came about within {CONNECT:g} s"
        ) from error
    except httpx.ConnectError as error:
        raise ConnectError(f"the agent cannot be reached: {error}") from error
    except httpx.TimeoutException as error:
        raise TransportError("the agent did not answer in time") from error
    except httpx.HTTPError as error:
        raise TransportError(f"the way to the agent broke: {error}") from error


async def _events(response: httpx.Response) -> AsyncIterator[tuple[str, Json]]:
    parser = SseParser()
    with _our_errors():
        async for piece in response.aiter_raw():
            for name, data in parser.feed(piece):
                try:
                    value = json.loads(data)
                except ValueError as error:
                    raise ProtocolError("the agent sent an event that is no JSON") from error
                yield name, value


def _segment(id: str) -> str:
    """Check an id before it becomes a part of a path."""
    if not id or any(not (c.isalnum() or c in "_-") for c in id):
        raise ValueError(f"not the id of a process: {id!r}")
    return id
