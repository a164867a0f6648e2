"""The command `devboxfs` without the seconds that its imports take, and with faults.

A process that has imported everything waits for orders and forks for each of them; the fork runs
the command line with its own arguments, environment and output. A mount is in the foreground there,
so that the fork is the daemon. `Forks` is the side that gives orders.

Lines of JSON both ways. An order has a number, `argv`, `env`, `output` (a file) and perhaps
`fault` and `counts` (see fault_points.py); the answers with its number are `pid`, `ready` when a
mount serves, and `ended` with the exit status, negative for a signal.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.accounts import Account, as_launcher
from tests.support.commands import clean_environment
from tests.support.fault_points import Fault

ROOT = Path(__file__).parents[2]


class Fork:
    """One command that runs or has run."""

    def __init__(self, forks: Forks, number: int) -> None:
        self._forks = forks
        self._number = number

    def _said(self, word: str) -> Any:
        return self._forks.said[self._number].get(word)

    @property
    def status(self) -> int | None:
        """How it ended; None while it runs."""
        ended: int | None = self._said("ended")
        return ended

    def wait_ready(self, timeout: float = 60) -> bool:
        """Wait until the mount serves, or the command ended without."""
        self._forks.listen(lambda: self._said("ready") or self.status is not None, timeout)
        return bool(self._said("ready"))

    def wait(self, timeout: float = 60) -> int:
        """Wait for the end and return how it was."""
        self._forks.listen(lambda: self.status is not None, timeout)
        assert self.status is not None
        return self.status

    def kill(self) -> None:
        """Kill it with SIGKILL and wait for that."""
        self._forks.listen(lambda: self._said("pid") is not None, 10)
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                as_launcher(os.kill, self._said("pid"), signal.SIGKILL)
        self.wait(10)


class Forks:
    """Starts commands for an account; a context manager."""

    def __init__(self, account: Account, home: Path) -> None:
        self.said: dict[int, dict[str, Any]] = {}
        self._buffer = b""
        environment = {**clean_environment(home), "PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}"}
        argv = [*account.prefix(), sys.executable, "-P", "-m", "tests.support.forks"]
        self._process = as_launcher(
            lambda: subprocess.Popen(
                argv, cwd="/", env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        )

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(30)

    def start(
        self,
        argv: Sequence[str | os.PathLike[str]],
        env: Mapping[str, str],
        output: Path,
        *,
        fault: Fault | None = None,
        counts: Path | None = None,
    ) -> Fork:
        number = len(self.said)
        self.said[number] = {}
        order: dict[str, Any] = {
            "number": number,
            "argv": [os.fspath(part) for part in argv],
            "env": dict(env),
            "output": os.fspath(output),
        }
        if fault is not None:
            order |= {"fault": dataclasses.asdict(fault), "counts": os.fspath(counts)}
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        return Fork(self, number)

    def listen(self, until: Any, timeout: float) -> None:
        """Take what is said until a condition holds."""
        ends = time.monotonic() + timeout
        source = self._process.stdout.fileno()
        while not until():
            left = ends - time.monotonic()
            heard, _, _ = select.select([source], [], [], max(0, left))
            assert heard, f"not within {timeout} s"
            data = os.read(source, 65536)
            assert data, "the process that starts commands has ended"
            *lines, self._buffer = (self._buffer + data).split(b"\n")
            for line in lines:
                answer = json.loads(line)
                self.said[answer.pop("number")].update(answer)


# ------------------------------------------------------------------------- the one that forks


def _say(descriptor: int, **answer: object) -> None:
    os.write(descriptor, json.dumps(answer).encode() + b"\n")  # short, hence in one piece


def _perform(order: dict[str, Any], answers: int) -> None:
    """Be the command; does not return."""
    from devboxfs.cli import main
    from devboxfs.config import MountConfig
    from devboxfs.control import ControlServer
    from devboxfs.mount import serve
    from tests.support import fault_points

    output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.setsid()
    os.environ.clear()
    os.environ.update(order["env"])
    if "fault" in order:
        fault_points.install(Fault(**order["fault"]), Path(order["counts"]))

    async def serving(config: MountConfig, ready: Any, control: ControlServer) -> None:
        def say_ready() -> None:
            ready()
            _say(answers, number=order["number"], ready=True)

        await serve(config, say_ready, control)

    main(order["argv"], serve=serving)


IMPORTED = (
    "anyio._backends._trio",
    "devboxfs.cli",
    "devboxfs.control",
    "devboxfs.daemon",
    "devboxfs.logs",
    "devboxfs.mount",
    "devboxfs.overview",
    "devboxfs.preflight",
    "devboxfs.unmounting",
    "logging.handlers",
    "platformdirs.unix",
    "sealos_devbox._async.embedded",
    "tests.support.fault_points",
)
"""What the commands import when they need it."""


def _serve() -> None:
    answers = os.dup(1)
    os.set_inheritable(answers, False)
    os.dup2(2, 1)
    for module in IMPORTED:
        importlib.import_module(module)
    running: dict[int, tuple[int, int]] = {}  # by pidfd: pid and number
    buffer = b""
    while True:
        for source in select.select([0, *running], [], [])[0]:
            if source:
                pid, number = running.pop(source)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                os.close(source)
                _say(answers, number=number, ended=status)
                continue
            data = os.read(0, 65536)
            if not data:
                for pid, _ in running.values():
                    os.kill(pid, signal.SIGKILL)
                return
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                order = json.loads(line)
                pid = os.fork()
                if not pid:
                    for descriptor in running:
                        os.close(descriptor)
                    _perform(order, answers)
                running[os.pidfd_open(pid)] = pid, order["number"]
                _say(answers, number=order["number"], pid=pid)


if __name__ == "__main__":
    _serve()
