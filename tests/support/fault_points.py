"""Places at which a daemon of a test dies, loses the link, or loses its helper; each is numbered.

`install` is called in the daemon's process before it does anything. From then on this process
counts, per kind, the points that it passes, and at one of them strikes. The kinds:

journal     each system call that changes the journal: before it, when half of a write is on the
            disk, and after it
sent        each frame to the helper: before it, when half of it is gone, and after it
received    each frame from the helper: before it, and after it was taken; with a link that is cut
            also when half of it was taken

What strikes: `kill`, the daemon by SIGKILL; `cut`, the link, which both sides hear; `lose`, the
link, of which the helper hears nothing, so that it stays; `kill-helper`. The counts are in a file,
which outlives the process: four bytes for each kind, and four that say whether it has struck.
"""

from __future__ import annotations

import mmap
import os
import re
import signal
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from sealos_devbox._transport.base import ByteChannel
from sealos_devbox._transport.subprocess import SubprocessChannel
from tests.support.frame_buffer import FrameBuffer

KINDS = ("journal", "sent", "received")
HELPER_POINTS = (
    "staged", "accepted", "before", "leased", "linked", "changed", "verified", "logged",
    "finished", "complete", "reply",
)  # fmt: skip
"""Where the helper kills itself when it is told to, see its apply/fault.go."""

SIZE = 4 * (len(KINDS) + 1)

# What lies in the directory of journals, and the names that a journal has while it comes and goes.
_OURS = re.compile(r"(segment-\d+|spool-\d+-\d+|owner|meta|(new-|old-)?[0-9a-f]{32})")
_NAMESPACE = {"os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.truncate"}


@dataclass(frozen=True)
class Fault:
    """Strike at the `at`-th point of a kind; 0: only count. Or tell the helper when to die."""

    kind: str = ""
    at: int = 0
    strike: str = "kill"
    helper_point: str = ""


class Points:
    """What was passed so far."""

    def __init__(self, fault: Fault, counts: Path) -> None:
        self._fault = fault
        self._passed = dict.fromkeys(KINDS, 0)
        self._counts = mmap.mmap(os.open(counts, os.O_RDWR), SIZE)
        self.helper = 0
        """Its process id."""

    def strikes(self, kind: str) -> bool:
        """Whether this is the point; if so, what strikes is due."""
        self._passed[kind] += 1
        struck = kind == self._fault.kind and self._passed[kind] == self._fault.at
        numbers = [self._passed[name] for name in KINDS]
        if struck:
            self.note_struck(numbers)
        else:
            self._counts[: SIZE - 4] = struct.pack(f"{len(KINDS)}I", *numbers)
        return struck

    def note_struck(self, numbers: Sequence[int] | None = None) -> None:
        numbers = numbers or [self._passed[name] for name in KINDS]
        self._counts[:] = struct.pack(f"{len(KINDS) + 1}I", *numbers, 1)

    def strike(self) -> str:
        """Do it, if it is a death; returns what the link has to do."""
        if self._fault.strike == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()
        if self._fault.strike == "kill-helper":
            os.kill(self.helper, signal.SIGKILL)
        return self._fault.strike


def read_counts(path: Path) -> tuple[dict[str, int], bool]:
    """Return how many points of each kind were passed, and whether one struck."""
    *numbers, struck = struct.unpack(f"{len(KINDS) + 1}I", path.read_bytes())
    return dict(zip(KINDS, numbers, strict=True)), bool(struck)


# ---------------------------------------------------------------------------------- the journal


class JournalSystem:
    """The module `os` as the journal's modules see it: writes are points."""

    def __init__(self, points: Points) -> None:
        self._points = points

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _pass(self) -> None:
        if self._points.strikes("journal"):
            self._points.strike()

    def write(self, fd: int, data: bytes) -> int:
        return self._write(fd, data, None)

    def writev(self, fd: int, parts: Sequence[bytes]) -> int:
        return self._write(fd, b"".join(parts), None)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return self._write(fd, data, offset)

    def _write(self, fd: int, data: bytes, offset: int | None) -> int:
        self._pass()
        half = bytes(data)[: len(data) // 2]
        if self._points.strikes("journal"):
            os.write(fd, half) if offset is None else os.pwrite(fd, half, offset)
            self._points.strike()
        done = os.write(fd, data) if offset is None else os.pwrite(fd, data, offset)
        self._pass()
        return done

    def fsync(self, fd: int) -> None:
        self._pass()
        os.fsync(fd)

    def fdatasync(self, fd: int) -> None:
        self._pass()
        os.fdatasync(fd)


def _watch_journal(points: Points) -> None:
    """Count what happens to names, whoever calls: pathlib, shutil and os alike."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        creates = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT
        if not creates and event not in _NAMESPACE:
            return
        path = arguments[0]
        if isinstance(path, str | bytes | os.PathLike):
            name = os.path.basename(os.fsdecode(path))
            if _OURS.fullmatch(name) and points.strikes("journal"):
                points.strike()

    sys.addaudithook(hook)


# ------------------------------------------------------------------------------------ the link


class FaultyChannel:
    """Carries whole frames to a helper and back."""

    kept: list[ByteChannel] = []  # noqa: RUF012 - to the end of the process
    """Links that were lost: their helpers have not heard of it."""

    def __init__(self, inner: SubprocessChannel, points: Points) -> None:
        self._inner = inner
        self._points = points
        self._out = FrameBuffer(magic=False)
        self._in = FrameBuffer(magic=True)
        self._down = ""
        self._receiving = anyio.CancelScope()
        self._after = False
        points.helper = inner.pid

    @property
    def can_half_close(self) -> bool:
        return self._inner.can_half_close

    async def send(self, data: bytes) -> None:
        self._check()
        self._out.feed(data)
        while frame := self._out.first():
            self._pass("sent")
            self._out.drop(frame)
            if self._points.strikes("sent"):
                await self._inner.send(frame[: len(frame) // 2])
                self._strike()
                frame = frame[len(frame) // 2 :]
            await self._inner.send(frame)
            self._pass("sent")

    async def receive(self) -> bytes:
        if self._after:  # what was given out last was taken
            self._after = False
            self._pass("received")
        while True:
            self._check()
            if magic := self._in.take_magic():
                return magic
            if frame := self._in.first():
                self._pass("received")
                self._in.drop(frame)
                self._after = True
                if self._points.strikes("received"):
                    self._after = False
                    if self._strike() != "kill-helper":
                        return frame[: len(frame) // 2]
                return frame
            with anyio.CancelScope() as self._receiving:
                self._in.feed(await self._inner.receive())

    def _pass(self, kind: str) -> None:
        if self._points.strikes(kind):
            self._strike()
            self._check()

    def _strike(self) -> str:
        done = self._points.strike()
        if done in ("cut", "lose"):
            self._down = done
            self._receiving.cancel()  # who waits for the other side hears of it, too
        return done

    def _check(self) -> None:
        if self._down:
            raise anyio.BrokenResourceError

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def aclose(self) -> None:
        if self._down == "lose":
            self.kept.append(self._inner)
        else:
            await self._inner.aclose()

    def diagnostics(self) -> str:
        return self._inner.diagnostics()


class _Channels:
    """Stands for the class `SubprocessChannel` where links are opened."""

    def __init__(self, points: Points, fault: Fault) -> None:
        self._points = points
        self._fault = fault

    async def open(self, argv: Sequence[str | bytes | os.PathLike[str]]) -> ByteChannel:
        environment = dict(os.environ)
        if self._fault.helper_point and self._points.helper:
            self._points.note_struck()  # the first one has died
        elif self._fault.helper_point:
            point, at = self._fault.helper_point, self._fault.at
            environment["DEVBOX_HELPER_FAULT"] = f"exit:{point}:{at}"
        channel = await SubprocessChannel.open(argv, env=environment)
        return FaultyChannel(channel, self._points)


def install(fault: Fault, counts: Path) -> None:
    """Let this process, which is about to be a daemon, meet the fault."""
    from devboxfs.writeback import journal, journal_directory, spools
    from sealos_devbox._async import embedded

    points = Points(fault, counts)
    for module in (journal, journal_directory, spools):
        module.os = JournalSystem(points)
    embedded.SubprocessChannel = _Channels(points, fault)
    _watch_journal(points)
