"""Commands in a box: one after the other, in the background, and what they say.

Every wait is a thread's. A command that its caller gave up goes on, as with the real agent; it ends
with the box at the latest.
"""

from __future__ import annotations

import errno
import os
import secrets
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Annotated, Any

import msgspec

from sealos_devbox.server.agent.answers import AgentError, conflict, internal, missing
from sealos_devbox.server.agent.files import iso
from sealos_devbox.server.agent.logs import LogBuffer
from sealos_devbox.server.agent.workspace import Workspace
from sealos_devbox.server.processes import MARK, Processes

__all__ = ["BackgroundProcess", "ExecForm", "Launcher", "ProcessTable", "pump_lines"]

SYNC_SECONDS = 30
STREAM_SECONDS = 300
BACKGROUND_SECONDS = 7200
_ID_ALPHABET = "_-0123456789abcdefghijklmnopqrstuvwxyz"
_KEPT_SECONDS = 4 * 3600


class ExecForm(msgspec.Struct):
    """Body of the three routes that run a command."""

    command: str
    args: list[str] | None = None
    cwd: str | None = None
    env: dict[str, str] | None = None
    timeout: Annotated[int, msgspec.Meta(ge=0, le=2**62)] | None = None


def new_id() -> str:
    """Return an identifier as the agent makes them; it may begin with a hyphen."""
    return "".join(secrets.choice(_ID_ALPHABET) for _ in range(8))


@dataclass(frozen=True, slots=True)
class Launcher:
    """Starts commands in one box."""

    workspace: Workspace
    processes: Processes
    environment: Mapping[str, str]
    directory: str
    """The agent's own, which is where a command runs that names none: not the workspace."""

    def start(self, form: ExecForm, stdin: int | None = subprocess.DEVNULL) -> Any:  # noqa: ANN401
        """Start a command; raises OSError."""
        if form.args is None:
            try:
                arguments = shlex.split(form.command)
            except ValueError:
                arguments = []
            if not arguments:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), form.command)
        else:
            arguments = [form.command, *form.args]
        texts = [*arguments, *(form.env or {}), *(form.env or {}).values()]
        if any("\0" in text for text in texts) or any("=" in name for name in form.env or {}):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        cwd = self.directory if form.cwd is None else form.cwd
        if cwd not in (self.directory, "/"):  # where a client is that names all paths in full
            cwd = self.workspace.target(cwd)
        return self.processes.start(
            [os.fsencode(text) for text in arguments],
            cwd=cwd,
            environment={**self.environment, **(form.env or {}), MARK: self.environment[MARK]},
            stdin=stdin,
        )

    def run(self, form: ExecForm) -> dict[str, Any]:
        """Run a command to its end; blocks."""
        started = time.time()
        clock = time.monotonic()
        try:
            process = self.start(form)
        except OSError as error:
            text = f"{os.strerror(error.errno or 5)} (os error {error.errno})"
            if error.errno == errno.ENOENT:
                text = f'exec: "{form.command}": executable file not found in $PATH'
            fields = _finished("", text, 127, clock, started)
            raise AgentError(1600, "", fields) from None
        try:
            limit = SYNC_SECONDS if form.timeout is None else form.timeout
            stdout, stderr = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            # The child goes on; nobody listens to it any more.
            process.stdout.close()
            process.stderr.close()
            threading.Thread(target=process.wait, name="orphan", daemon=True).start()
            raise internal("Process execution timed out") from None
        code = process.returncode if process.returncode >= 0 else None
        return _finished(
            stdout.decode("utf-8", "replace"),
            stderr.decode("utf-8", "replace"),
            code,
            clock,
            started,
        )


def _finished(
    stdout: str, stderr: str, code: int | None, clock: float, started: float
) -> dict[str, Any]:
    return {
        "stdout": stdout,
        "stderr": stderr,
        "exitCode": code,
        "durationMs": int((time.monotonic() - clock) * 1000),
        "startTime": iso(started),
        "endTime": iso(time.time()),
    }


def pump_lines(pipe: IO[bytes], take: Callable[[str], None]) -> None:
    """Hand over line by line, until the end or until a line is no UTF-8."""
    with pipe:
        for raw in pipe:
            try:
                take(raw.decode())
            except UnicodeDecodeError:
                return


@dataclass(slots=True)
class BackgroundProcess:
    """A command that runs on its own."""

    identifier: str
    command: str
    process: subprocess.Popen[bytes]
    started: float
    log: LogBuffer = field(default_factory=LogBuffer)
    status: str = "running"
    exit_code: int | None = None
    ended: float | None = None

    def describe(self) -> dict[str, Any]:
        """Return what the routes show of it."""
        return {
            "processId": self.identifier,
            "pid": self.process.pid,
            "command": self.command,
            "processStatus": self.status,
            "startTime": iso(self.started),
            "endTime": None if self.ended is None else iso(self.ended),
            "exitCode": self.exit_code,
        }

    def watch(self, limit: float) -> None:
        """Read what it says and wait for its end, in threads."""
        for level in ("stdout", "stderr"):
            pipe = getattr(self.process, level)
            threading.Thread(
                target=pump_lines,
                args=(pipe, lambda text, level=level: self.log.add(level, text)),
                name=f"{level} of {self.identifier}",
                daemon=True,
            ).start()
        threading.Thread(
            target=self._wait, args=(limit,), name=f"end of {self.identifier}", daemon=True
        ).start()

    def _wait(self, limit: float) -> None:
        try:
            code = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.ended = time.time()
        self.exit_code = code if code >= 0 else 128 - code
        self.status = "killed" if code < 0 else "completed" if code == 0 else "failed"


class ProcessTable:
    """The background processes of one box."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._processes: dict[str, BackgroundProcess] = {}

    def start(self, launcher: Launcher, form: ExecForm) -> BackgroundProcess:
        """Start one; raises AgentError (1600) when it cannot be."""
        try:
            process = launcher.start(form)
        except OSError as error:
            text = f"{os.strerror(error.errno or 5)} (os error {error.errno})"
            raise AgentError(1600, f"Failed to spawn process: {text}") from None
        started = BackgroundProcess(new_id(), form.command, process, time.time())
        with self._lock:
            self._forget_old()
            self._processes[started.identifier] = started
        started.watch(BACKGROUND_SECONDS if form.timeout is None else min(form.timeout, 10**8))
        return started

    def list(self) -> list[BackgroundProcess]:
        """Return all that are remembered."""
        with self._lock:
            self._forget_old()
            return list(self._processes.values())

    def get(self, identifier: str) -> BackgroundProcess:
        """Return one; raises AgentError (1404)."""
        with self._lock:
            found = self._processes.get(identifier)
        if found is None:
            raise missing("Process not found")
        return found

    def kill(self, identifier: str, name: str | None) -> None:
        """Send a signal to the process itself, not to its children."""
        found = self.get(identifier)
        if found.status != "running":
            raise conflict("Process is not running")
        number = {
            "SIGTERM": signal.SIGTERM,
            "SIGINT": signal.SIGINT,
            "SIGHUP": signal.SIGHUP,
        }.get(name or "", signal.SIGKILL)
        found.process.send_signal(number)

    def _forget_old(self) -> None:
        limit = time.time() - _KEPT_SECONDS
        for identifier, process in list(self._processes.items()):
            if process.ended is not None and process.ended < limit:
                del self._processes[identifier]
