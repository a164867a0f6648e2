"""Sessions: a shell with pipes, into which lines are typed."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec

from sealos_devbox.server.agent.answers import internal, missing
from sealos_devbox.server.agent.commands import ExecForm, Launcher, new_id, pump_lines
from sealos_devbox.server.agent.files import iso
from sealos_devbox.server.agent.logs import LogBuffer

__all__ = ["CdForm", "CommandForm", "EnvForm", "SessionForm", "SessionTable"]

_KEPT_SECONDS = 30 * 60


class SessionForm(msgspec.Struct, rename="camel"):
    """Body of `sessions/create`."""

    working_dir: str | None = None
    env: dict[str, str] | None = None
    shell: str | None = None


class CommandForm(msgspec.Struct):
    """Body of `sessions/{id}/exec`."""

    command: str


class EnvForm(msgspec.Struct):
    """Body of `sessions/{id}/env`."""

    env: dict[str, str]


class CdForm(msgspec.Struct):
    """Body of `sessions/{id}/cd`."""

    path: str


@dataclass(slots=True)
class Session:
    """One shell."""

    identifier: str
    shell: str
    cwd: str
    env: dict[str, str]
    process: subprocess.Popen[bytes]
    created: float
    used: float
    status: str = "active"
    ended: float | None = None
    log: LogBuffer = field(default_factory=LogBuffer)

    def describe(self) -> dict[str, Any]:
        """Return what the routes show of it."""
        return {
            "sessionId": self.identifier,
            "shell": self.shell,
            "cwd": self.cwd,
            "env": self.env,
            "sessionStatus": self.status,
            "createdAt": iso(self.created),
            "lastUsedAt": iso(self.used),
        }

    def type(self, line: str) -> None:
        """Type a line; raises AgentError when the shell is gone."""
        self.used = time.time()
        stdin = self.process.stdin
        try:
            if stdin is None or self.status != "active":
                raise BrokenPipeError
            stdin.write(line.encode() + b"\n")
            stdin.flush()
        except (OSError, ValueError):
            raise internal("Broken pipe (os error 32)") from None

    def watch(self) -> None:
        """Read what it says and wait for its end, in threads."""
        for level in ("stdout", "stderr"):
            threading.Thread(
                target=pump_lines,
                args=(
                    getattr(self.process, level),
                    lambda text, level=level: self.log.add(level, text),
                ),
                name=f"{level} of {self.identifier}",
                daemon=True,
            ).start()
        threading.Thread(target=self._wait, name="session", daemon=True).start()

    def _wait(self) -> None:
        self.process.wait()
        self.status = "terminated"
        self.ended = time.time()
        if self.process.stdin is not None:
            self.process.stdin.close()


class SessionTable:
    """The sessions of one box."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}

    def create(self, launcher: Launcher, form: SessionForm) -> Session:
        """Start a shell; raises AgentError when there is no such shell or directory."""
        shell = form.shell or shutil.which("bash") or "/bin/bash"
        cwd = form.working_dir or "."
        command = ExecForm(shell, [], cwd, form.env)
        try:
            process = launcher.start(command, stdin=subprocess.PIPE)
        except OSError as error:
            raise internal(f"Failed to spawn session: {error.strerror}") from None
        now = time.time()
        shown = launcher.workspace.lexical(cwd)
        session = Session(new_id(), shell, shown, form.env or {}, process, now, now)
        session.watch()
        with self._lock:
            self._sessions[session.identifier] = session
        return session

    def list(self) -> list[Session]:
        """Return the sessions that are remembered."""
        limit = time.time() - _KEPT_SECONDS
        with self._lock:
            for identifier, session in list(self._sessions.items()):
                if session.ended is not None and session.ended < limit:
                    del self._sessions[identifier]
            return list(self._sessions.values())

    def get(self, identifier: str) -> Session:
        """Return one; raises AgentError (1404)."""
        with self._lock:
            found = self._sessions.get(identifier)
        if found is None:
            raise missing("Session not found")
        return found

    def execute(self, identifier: str, command: str) -> dict[str, Any]:
        """Type a command; what it says is only in the log."""
        session = self.get(identifier)
        session.log.add("exec", command + "\n")
        session.type(command)
        return {"exitCode": 0, "stdout": "", "stderr": "", "duration": 0}

    def set_environment(self, identifier: str, env: dict[str, str]) -> dict[str, Any]:
        """Type exports, not quoted."""
        session = self.get(identifier)
        for name, value in env.items():
            session.type(f"export {name}={value}")
            session.env[name] = value
        return {"success": True}

    def change_directory(self, identifier: str, path: str) -> dict[str, Any]:
        """Type `cd`, not quoted and not checked."""
        session = self.get(identifier)
        session.log.add("cd", path + "\n")
        session.type(f"cd {path}")
        session.cwd = path
        return {"workingDir": path}

    def terminate(self, identifier: str) -> dict[str, Any]:
        """Kill the shell."""
        session = self.get(identifier)
        session.process.kill()
        session.status = "terminated"
        return {"success": True}
