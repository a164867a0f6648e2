"""The processes of boxes: started with a mark in their environment, found by it again.

A box's processes are children of whichever engine started them, or nobody's children any more; the
mark `DEVBOX_BOX_UID` is what every engine process, also a later one, tells them by. Stopping a box
is abrupt, as in production: SIGKILL, no warning.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["MARK", "Processes", "Usage", "box_environment"]

_log = logging.getLogger(__name__)

MARK = "DEVBOX_BOX_UID"
# What programs need of this machine's environment. The rest, in which the user's credentials are,
# stays outside of the boxes.
_PASSED = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "USER", "LOGNAME", "SHELL")
_KILL_SECONDS = 5.0
"""A guess: a process that is still there then is stuck in the kernel."""


def box_environment(uid: str, workspace: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a box's commands."""
    passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
    return {
        "PATH": os.defpath,
        **passed,
        "HOME": str(workspace),
        **variables,
        MARK: uid,
    }


@dataclass(frozen=True, slots=True)
class Usage:
    """What a box's processes use."""

    cpu_seconds: float
    """Of all processes seen so far; grows."""
    memory_bytes: int
    count: int


class Processes:
    """Starts, finds and kills the processes of boxes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # (pid, start time) -> uid or None: the environment of a process is read once after it has
        # had time to exec. Forked children show their parent's environment, hence their mark.
        self._known: dict[tuple[int, float], str | None] = {}

    def start(
        self,
        arguments: Sequence[str | bytes],
        *,
        cwd: Path | str,
        environment: Mapping[str, str],
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | None = subprocess.PIPE,
        stderr: int | None = subprocess.PIPE,
        session: bool = True,
    ) -> subprocess.Popen[bytes]:
        """Start a command in a session of its own; raises OSError when it cannot be."""
        return subprocess.Popen(
            arguments,
            cwd=cwd,
            env=dict(environment),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=session,
            restore_signals=True,
        )

    def find(self, uid: str | None = None) -> dict[str, list[psutil.Process]]:
        """Return the live processes by box; of one box only when `uid` is given."""
        found: dict[str, list[psutil.Process]] = {}
        seen: set[tuple[int, float]] = set()
        with self._lock:
            for process in psutil.process_iter():
                if process.pid == os.getpid():
                    continue  # an engine that runs in a box does not belong to its own boxes
                try:
                    started = process.create_time()
                    key = (process.pid, started)
                    seen.add(key)
                    if key in self._known:
                        owner = self._known[key]
                    else:
                        owner = process.environ().get(MARK)
                        # Between fork and exec a process shows what it was forked from, which is
                        # this engine for a command that is being started.
                        if owner is not None or time.time() - started > 5:
                            self._known[key] = owner
                    if owner is None or (uid is not None and owner != uid):
                        continue
                    if process.status() == psutil.STATUS_ZOMBIE:
                        continue
                except (psutil.Error, OSError):
                    continue  # gone, or another user's
                found.setdefault(owner, []).append(process)
            for gone in self._known.keys() - seen:
                del self._known[gone]
        return found

    def kill(self, uid: str) -> int:
        """Kill every process of a box; returns how many. Blocks until they are gone."""
        killed: set[int] = set()
        deadline = time.monotonic() + _KILL_SECONDS
        while alive := self.find(uid).get(uid, []):
            for process in alive:
                try:
                    process.send_signal(signal.SIGKILL)
                    killed.add(process.pid)
                except (psutil.Error, OSError):
                    continue
            if time.monotonic() > deadline:
                _log.warning("processes of the box %s do not end: %s", uid, sorted(killed))
                break
            # Not psutil's wait: it would take the exit status away from who started them.
            time.sleep(0.002)
        return len(killed)

    def usage(self) -> dict[str, Usage]:
        """Return what the processes of each box use now."""
        result = {}
        for uid, processes in self.find().items():
            cpu, memory = 0.0, 0
            for process in processes:
                try:
                    times = process.cpu_times()
                    cpu += times.user + times.system
                    memory += process.memory_info().rss
                except (psutil.Error, OSError):
                    continue
            result[uid] = Usage(cpu, memory, len(processes))
        return result
