"""The process that repeats changes of the box on the mount, for local watchers.

It is started and ended here, given the operations of tokens, and heard. The daemon never waits for
that process, and what it does not manage is dropped.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import trio

from devboxfs.fuse.echo import Echo
from devboxfs.fuse.echo_tokens import PATIENCE

__all__ = ["Repeater"]

log = logging.getLogger(__name__)

RESTART = 1.0
"""Seconds between an unexpected end of the process and the next."""
END = 2.0
"""Seconds that the process may take to end once killed: what it waits for is answered here."""


class Repeater:
    """See the module."""

    def __init__(self, echo: Echo) -> None:
        self._echo = echo
        self._tokens = echo.tokens
        self._process: trio.Process | None = None
        self._resumed = trio.Event()
        self._resumed.set()

    async def run(self, mountpoint: Path) -> None:
        """Keep the process running until cancelled."""
        try:
            # In a thread: this process answers.
            root = await trio.to_thread.run_sync(os.stat, mountpoint, abandon_on_cancel=True)
            while True:
                await self._resumed.wait()
                await self._live(mountpoint, root.st_dev)
                if self._resumed.is_set():
                    log.warning("the process that repeats changes ended; another one is started")
                    await trio.sleep(RESTART)
        except OSError as exc:
            log.warning("local watchers hear nothing of changes in the box: %s", exc)
        finally:
            self.stop()

    def stop(self) -> None:
        """Give up what waits; names are invalidated from now on."""
        self._tokens.pid = None
        self._tokens.give_up()

    async def pause(self) -> None:
        """Take no more changes, and end the process: what it has open keeps the mount busy."""
        self._resumed = trio.Event()
        self.stop()
        process = self._process
        if process is not None:
            await _end(process)

    def resume(self) -> None:
        """Take changes again, by a new process."""
        self._resumed.set()

    async def _live(self, mountpoint: Path, device: int) -> None:
        program = Path(__file__).with_name("echo_process.py")
        # Isolated and without site-packages: it takes 20 ms to start and 10 MB.
        argv = [sys.executable, "-I", "-S", os.fspath(program), os.fspath(mountpoint), str(device)]
        process = await trio.lowlevel.open_process(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", start_new_session=True
        )
        try:
            if not self._resumed.is_set():
                return
            self._process = process
            self._tokens.pid = process.pid
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._feed, process)
                nursery.start_soon(self._look_after)
                await self._collect(process)
                nursery.cancel_scope.cancel()
        finally:
            self._process = None
            self.stop()
            with trio.CancelScope(shield=True):
                await _end(process)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    await trio.aclose_forcefully(pipe)

    async def _look_after(self) -> None:
        while True:
            if not (self._tokens or self._echo.missed):
                self._tokens.busy = trio.Event()
                await self._tokens.busy.wait()
            await trio.sleep(PATIENCE / 2)
            self._tokens.expire()
            self._echo.tell_of_missed()

    async def _feed(self, process: trio.Process) -> None:
        if process.stdin is None:
            raise RuntimeError("the process was started with a pipe")
        while True:
            await self._tokens.wait_wanted()
            lines = [
                json.dumps([token.number, token.operation, *token.arguments]).encode() + b"\n"
                for token in self._tokens.to_perform()
            ]
            try:
                if lines:
                    await process.stdin.send_all(b"".join(lines))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return

    async def _collect(self, process: trio.Process) -> None:
        if process.stdout is None:
            raise RuntimeError("the process was started with a pipe")
        rest = b""
        while data := await process.stdout.receive_some(65536):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                number, code = map(int, line.split())
                self._tokens.ended(number, code)


async def _end(process: trio.Process) -> None:
    process.kill()
    with trio.move_on_after(END):
        await process.wait()
        return
    log.warning("the process that repeats changes (pid %d) has not ended yet", process.pid)
