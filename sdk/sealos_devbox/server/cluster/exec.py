"""`pods/exec` over WebSocket, protocols v4 and v5 (exec-stream contract, section 1).

A message is one channel byte and a payload. As with a real server, what the process does not read
holds everything up that the client sends after it, and a client that goes away does not end the
process: its stdin is closed, no more.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading
from contextlib import suppress
from typing import Any

import anyio
import msgspec
from anyio import to_thread
from starlette.websockets import WebSocket, WebSocketDisconnect

from sealos_devbox.server.engine import Box, Engine
from sealos_devbox.server.refusals import Refusal

__all__ = ["V4", "V5", "serve_exec"]

V4, V5 = "v4.channel.k8s.io", "v5.channel.k8s.io"
_STDIN, _STDOUT, _STDERR, _STATUS, _RESIZE, _CLOSE = 0, 1, 2, 3, 4, 255
_PIECE = 32 * 1024
"""What a real server sends at most in one message."""


class _Size(msgspec.Struct):
    width: int = msgspec.field(name="Width")
    height: int = msgspec.field(name="Height")


def _flag(websocket: WebSocket, name: str) -> bool:
    return websocket.query_params.get(name, "false") in ("true", "1")


def _choose(engine: Engine, websocket: WebSocket) -> str:
    offered = websocket.scope.get("subprotocols") or []
    for protocol in engine.settings.exec_protocols:
        if protocol in offered:
            return protocol
    raise Refusal(403, "Forbidden", f"none of the subprotocols is served: {', '.join(offered)}")


async def serve_exec(engine: Engine, box: Box, websocket: WebSocket) -> None:
    """Run a command for one client; raises Refusal instead of accepting what cannot be."""
    command = websocket.query_params.getlist("command")
    container = websocket.query_params.get("container", box.name)
    if not command:
        raise Refusal(400, "BadRequest", "you must specify at least 1 command")
    if container != box.name:
        text = f"container {container} is not valid for pod {websocket.path_params['name']}"
        raise Refusal(400, "BadRequest", text)
    streams = [name for name in ("stdin", "stdout", "stderr") if _flag(websocket, name)]
    if not streams:
        raise Refusal(400, "BadRequest", "you must specify at least 1 of stdin, stdout, stderr")
    if not box.running:
        text = f'unable to upgrade connection: container not found ("{container}")'
        raise Refusal(500, "InternalError", text)
    protocol = _choose(engine, websocket)
    await websocket.accept(subprotocol=protocol)
    session = _Session(websocket, protocol, streams)
    try:
        await session.send(_STDOUT, b"")  # says that the connection is there
        try:
            terminal = _flag(websocket, "tty")
            await to_thread.run_sync(session.start, engine, box, command, terminal)
        except OSError as error:
            text = error.strerror or str(error)
            if error.errno == errno.ENOENT:
                text = f'exec: "{command[0]}": executable file not found in $PATH'
            await session.status(_internal(f"error executing command in container: {text}"))
            await websocket.close(1000)
            return
        await session.run()
    except WebSocketDisconnect:
        return
    finally:
        session.close()


def _internal(message: str) -> dict[str, Any]:
    return {
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": "InternalError",
        "code": 500,
    }


class _Session:
    """One command and one connection."""

    def __init__(self, websocket: WebSocket, protocol: str, streams: list[str]) -> None:
        self._websocket = websocket
        self._protocol = protocol
        self._streams = streams
        self._sending = anyio.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stdin: int | None = None
        self._outputs: dict[int, int] = {}
        self._terminal: int | None = None

    # ---------------------------------------------------------------------------- process

    def start(self, engine: Engine, box: Box, command: list[str], terminal: bool) -> None:
        """Start the process; raises OSError."""
        environment = engine.environment(box)
        arguments = [os.fsencode(argument) for argument in command]
        if terminal:
            self._start_on_terminal(engine, box, arguments, environment)
            return
        process = engine.processes.start(
            arguments,
            cwd=box.workspace,
            environment=environment,
            stdin=subprocess.PIPE if "stdin" in self._streams else subprocess.DEVNULL,
            stdout=subprocess.PIPE if "stdout" in self._streams else subprocess.DEVNULL,
            stderr=subprocess.PIPE if "stderr" in self._streams else subprocess.DEVNULL,
        )
        self._process = process
        # The descriptors are this object's from here on: closed once, waited for without threads.
        if process.stdin is not None:
            self._stdin = _taken(process.stdin)
        if process.stdout is not None:
            self._outputs[_STDOUT] = _taken(process.stdout)
        if process.stderr is not None:
            self._outputs[_STDERR] = _taken(process.stderr)

    def _start_on_terminal(
        self, engine: Engine, box: Box, arguments: list[bytes], environment: dict[str, str]
    ) -> None:
        ours, theirs = pty.openpty()
        try:
            # setsid(1) makes the terminal the controlling one, which Popen cannot.
            self._process = engine.processes.start(
                [b"setsid", b"--ctty", *arguments],
                cwd=box.workspace,
                environment={"TERM": "xterm", **environment},
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                session=False,
            )
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        os.set_blocking(ours, False)
        self._terminal = ours
        self._outputs[_STDOUT] = ours
        if "stdin" in self._streams:
            self._stdin = ours

    async def run(self) -> None:
        """Move bytes until the process and its output have ended; then say how it ended."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._receive, tasks.cancel_scope)
            async with anyio.create_task_group() as outputs:
                for channel, descriptor in list(self._outputs.items()):
                    outputs.start_soon(self._copy, channel, descriptor)
            code = await self._exit_code()
            tasks.cancel_scope.cancel()
        if self._websocket.client_state.name != "CONNECTED":
            return
        await self.status(_exit_status(code))
        await self._websocket.close(1000)

    async def _exit_code(self) -> int:
        process = self._process
        assert process is not None  # noqa: S101 - run() comes after start()
        code = process.poll()
        if code is not None:
            return code
        try:
            descriptor = os.pidfd_open(process.pid)
        except (AttributeError, OSError):
            return await to_thread.run_sync(process.wait, abandon_on_cancel=True)
        try:
            await anyio.wait_readable(descriptor)
        finally:
            os.close(descriptor)
        return process.wait()

    async def _copy(self, channel: int, descriptor: int) -> None:
        while True:
            try:
                piece = os.read(descriptor, _PIECE)
            except BlockingIOError:
                await anyio.wait_readable(descriptor)
                continue
            except OSError as error:
                if error.errno == errno.EIO:
                    return  # the other side of a terminal is gone
                raise
            if not piece:
                return
            try:
                await self.send(channel, piece)
            except WebSocketDisconnect:
                return  # as `_receive` learns too

    # --------------------------------------------------------------------------- messages

    async def send(self, channel: int, payload: bytes) -> None:
        """Send one message."""
        async with self._sending:
            await self._websocket.send_bytes(bytes([channel]) + payload)

    async def status(self, status: dict[str, Any]) -> None:
        """Say how the process ended."""
        await self.send(_STATUS, msgspec.json.encode(status))

    async def _receive(self, scope: anyio.CancelScope) -> None:
        """Follow the client until it is gone, which ends the session but not the process."""
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                scope.cancel()
                return
            data = message.get("bytes")
            if data is None:
                data = (message.get("text") or "").encode()
            if data and not await self._take(data):
                await self._websocket.close(1002)
                scope.cancel()
                return

    async def _take(self, data: bytes) -> bool:
        """Follow one message; False when it ends the connection."""
        channel, payload = data[0], data[1:]
        if channel == _STDIN:
            await self._write(payload)
        elif channel == _RESIZE and self._terminal is not None:
            with suppress(msgspec.DecodeError, OSError, struct.error):
                size = msgspec.json.decode(payload, type=_Size)
                packed = struct.pack("HHHH", size.height, size.width, 0, 0)
                fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, packed)
        elif channel == _CLOSE and self._protocol == V5:
            if len(payload) != 1:
                return False
            if payload[0] == _STDIN:
                self._close_stdin()
        return True

    async def _write(self, payload: bytes) -> None:
        left = memoryview(payload)
        while left and self._stdin is not None:
            try:
                left = left[os.write(self._stdin, left) :]
            except BlockingIOError:
                await anyio.wait_writable(self._stdin)
            except OSError:
                self._close_stdin()  # nobody reads it any more

    def _close_stdin(self) -> None:
        if self._stdin is None:
            return
        if self._stdin != self._terminal:
            os.close(self._stdin)
        self._stdin = None

    def close(self) -> None:
        """Let go of the process, which may go on."""
        self._close_stdin()
        for descriptor in set(self._outputs.values()):
            os.close(descriptor)
        self._outputs.clear()
        process = self._process
        if process is not None and process.poll() is None:
            _reap_later(process)


def _reap_later(process: subprocess.Popen[bytes]) -> None:
    threading.Thread(target=process.wait, name="exec left behind", daemon=True).start()


def _taken(pipe: Any) -> int:  # noqa: ANN401 - a pipe of Popen
    descriptor = os.dup(pipe.fileno())
    pipe.close()
    os.set_blocking(descriptor, False)
    return descriptor


def _exit_status(code: int) -> dict[str, Any]:
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    shown = code if code > 0 else 128 - code
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {shown}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(shown)}]},
    }
