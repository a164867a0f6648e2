# Generated from _async/box.py by sdk/tools/generate_sync.py (make generate).
"""One box."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from sealos_devbox._async.box import AsyncBox
from sealos_devbox._async.process import Command
from sealos_devbox._sync._portal import Portal
from sealos_devbox._sync.files import Files
from sealos_devbox._sync.process import Process
from sealos_devbox.paths import BoxPath
from sealos_devbox.results import CommandResult

__all__ = ["Box"]


class Box:
    """A box: its files, and commands in it.

    Connects when it is first used, and again on the next call after the way to it broke; a call
    that failed is never repeated by itself. Leaving its ``with`` block closes the connection,
    and nothing else: the box stays.
    """

    def __init__(self, portal: Portal, asynchronous: AsyncBox) -> None:
        self._portal = portal
        self._async = asynchronous

    def __repr__(self) -> str:
        return repr(self._async).replace("Async", "", 1)

    @property
    def name(self) -> str:
        """The box's name."""
        return self._async.name

    @property
    def uid(self) -> str:
        """What tells the box from any other, one of the same name made later included."""
        return self._async.uid

    @property
    def location(self) -> str:
        """Which service the box belongs to and where its files are, for people to read."""
        return self._async.location

    @property
    def fs(self) -> Files:
        """The box's files."""
        return Files(self._portal, self._async.fs)

    def run(
        self,
        command: Command,
        *,
        cwd: BoxPath | None = None,
        env: Mapping[str, str] | None = None,
        input: str | bytes | None = None,
        timeout: float | None = None,
        check: bool = False,
    ) -> CommandResult:
        """Run a command in the box to its end and return its output, all of it in memory.

        A str is a line for the box's shell; a sequence is a program with its arguments, which no
        shell sees. `cwd`, by default the workspace, is a directory in it. `env` is added to the
        box's environment. `input` is its standard input, which is empty by default. After `timeout`
        seconds the command and its process group are killed and CommandTimeoutError is raised, with
        the output so far. With `check`, CommandFailedError is raised unless it ended with exit code
        0. Raises CommandNotFoundError when the box has no such program.
        """
        return self._portal.call(
            self._async.run, command, cwd=cwd, env=env, input=input, timeout=timeout, check=check
        )

    def open_process(
        self,
        command: Command,
        *,
        cwd: BoxPath | None = None,
        env: Mapping[str, str] | None = None,
        terminal: tuple[int, int] | None = None,
    ) -> Process:
        """Prepare a command whose streams the caller handles; entering the answer starts it.

        `terminal`: (rows, columns) of a terminal that the command gets instead of pipes.
        """
        return Process(
            self._portal, self._async.open_process(command, cwd=cwd, env=env, terminal=terminal)
        )

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        self._portal.call(self._async.aclose)

    def __enter__(self) -> Self:
        self._entered = self._portal.enter(self._async)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._entered.leave()
