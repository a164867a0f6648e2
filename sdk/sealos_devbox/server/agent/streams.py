"""Server-sent events: a command's output as it comes, and the log of a background process."""

from __future__ import annotations

import os
import queue
import subprocess
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from sealos_devbox.server.agent.answers import run
from sealos_devbox.server.agent.commands import STREAM_SECONDS, ExecForm, Launcher, pump_lines
from sealos_devbox.server.agent.files import iso
from sealos_devbox.server.agent.logs import LogBuffer

__all__ = ["log_events", "run_events"]

_KEEP_ALIVE_SECONDS = 15.0
_LOOK_SECONDS = 0.5
"""How long a thread waits before it looks whether its client is still there."""


def _event(name: str, data: dict[str, Any]) -> bytes:
    stamped = {**data, "timestamp": iso(time.time())}
    return f"event: {name}\ndata: {msgspec.json.encode(stamped).decode()}\n\n".encode()


class _Run:
    """One command and the events that come of it."""

    def __init__(self, launcher: Launcher, form: ExecForm) -> None:
        self.events: queue.Queue[bytes] = queue.Queue(1000)
        self.done = threading.Event()
        self._launcher, self._form = launcher, form
        self._gone = threading.Event()

    def work(self) -> None:
        """Run the command to its end."""
        started = time.monotonic()
        self._put("start", {})
        try:
            process = self._launcher.start(self._form)
        except OSError as error:
            text = f"{os.strerror(error.errno or 5)} (os error {error.errno})"
            self._put("error", {"error": text, "durationMs": 0})
            self.done.set()
            return
        pumps = [
            threading.Thread(
                target=pump_lines,
                args=(
                    getattr(process, level),
                    lambda text, level=level: self._put(level, {"output": text}),
                ),
                name=f"{level} of {process.pid}",
                daemon=True,
            )
            for level in ("stdout", "stderr")
        ]
        for pump in pumps:
            pump.start()
        limit = STREAM_SECONDS if self._form.timeout is None else self._form.timeout
        try:
            code = process.wait(min(limit, 10**8))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            elapsed = int((time.monotonic() - started) * 1000)
            self._put("error", {"error": "Execution timeout", "durationMs": elapsed})
        else:
            elapsed = int((time.monotonic() - started) * 1000)
            self._put("complete", {"exitCode": code if code >= 0 else None, "duration": elapsed})
        for pump in pumps:
            pump.join()
        self.done.set()

    def _put(self, name: str, data: dict[str, Any]) -> None:
        event = _event(name, data)
        while not self._gone.is_set():
            try:
                self.events.put(event, timeout=_LOOK_SECONDS)
                return
            except queue.Full:
                continue

    def next(self) -> bytes | None:
        """Return the next event; None when none came for a while, b"" at the end."""
        deadline = time.monotonic() + _LOOK_SECONDS
        while True:
            finished = self.done.is_set()
            try:
                return self.events.get(timeout=0.0 if finished else 0.02)
            except queue.Empty:
                if finished:
                    return b""
                if time.monotonic() > deadline:
                    return None

    def leave(self) -> None:
        """Let the threads go on without a reader: the command is not killed."""
        self._gone.set()


async def run_events(launcher: Launcher, form: ExecForm) -> AsyncIterator[bytes]:
    """Yield the events of a command until its output has ended."""
    running = _Run(launcher, form)
    threading.Thread(target=running.work, name="sync-stream", daemon=True).start()
    quiet = time.monotonic()
    try:
        while True:
            event = await run(running.next, abandon=True)
            if event == b"":
                return
            if event is not None:
                quiet = time.monotonic()
                yield event
            elif time.monotonic() - quiet > _KEEP_ALIVE_SECONDS:
                quiet = time.monotonic()
                yield b":\n\n"
    finally:
        running.leave()


async def log_events(log: LogBuffer, tail: int | None) -> AsyncIterator[bytes]:
    """Yield the log, first what there is, then what comes; never ends by itself."""
    lines, number = log.tail(tail)
    quiet = time.monotonic()
    while True:
        for line in lines:
            pieces = line.raw.rstrip("\n").replace("\r\n", "\n").replace("\r", "\n").split("\n")
            yield ("".join(f"data: {piece}\n" for piece in pieces) + "\n").encode()
            quiet = time.monotonic()
        if time.monotonic() - quiet > _KEEP_ALIVE_SECONDS:
            quiet = time.monotonic()
            yield b":\n\n"
        lines, number = await run(log.after, number, _LOOK_SECONDS, abandon=True)
