"""Fetches from the box that outlive whoever asked: their tasks, deadlines, repetition and errors.

A `Flight` is bytes on their way. Any number of readers wait for it; it belongs to a task of the
`Fetcher`, so a cancelled reader takes nothing away from the others.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn, TypeVar

import trio

from devboxfs.writeback.seams import Link
from sealos_devbox import (
    BoxFileError,
    DeadlineExceededError,
    FileTransport,
    ProtocolError,
    TransportError,
)

__all__ = ["CHANGED", "Fetcher", "Flight", "fail"]

T = TypeVar("T")

AHEAD_SECONDS = 2.0
"""How long the link may be kept busy with what nobody has asked for yet."""

LEAST_AHEAD = 64 * 1024
LEAST_SAMPLE = 64 * 1024
LONGEST_SAMPLE = 1.0

REQUESTS = 16
"""Requests for contents under way at once; more only wait in the channel instead of here."""

GUESSES = 12
"""Of these, for what nobody has asked for yet."""

CHANGED = frozenset(
    [
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ESTALE,
        errno.ELOOP,
        errno.EISDIR,
        errno.EFBIG,
        errno.EINVAL,
        errno.ENXIO,
    ]
)
"""What the box answers when the regular file that was there is not there, or is another one."""


def fail(code: int) -> NoReturn:
    """Raise the OSError for an errno."""
    raise OSError(code, os.strerror(code))


class Flight:
    """The bytes [start, end) of a content, on their way."""

    __slots__ = ("_data", "done", "end", "error", "expired", "start", "waiters")

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.done = trio.Event()
        self.error = 0
        self.expired = False
        """Whether it ended because its time was over: somebody who came later may try again."""
        self.waiters = 0
        self._data = b""

    def land(self, data: bytes) -> None:
        """Wake the waiters with the bytes."""
        self._data = data
        self.done.set()

    def crash(self, error: int, *, expired: bool = False) -> None:
        """Wake the waiters with an errno."""
        self.error = error
        self.expired = expired
        self.done.set()

    def take(self, start: int, end: int) -> bytes:
        """Return a part of what has landed; raises OSError when it has crashed."""
        if self.error:
            fail(self.error)
        if start == self.start and end == self.end:
            return self._data
        return self._data[start - self.start : end - self.start]


class _Rate:
    """Bytes per second while content was arriving: what passed before that is latency."""

    def __init__(self) -> None:
        self.rate = 0.0
        """0 before the first measurement."""
        self._active = 0
        self._bytes = 0
        self._since: float | None = None

    def begin(self) -> None:
        if self._active == 0:
            self._since = None
        self._active += 1

    def end(self) -> None:
        self._active -= 1
        self._measure(final=self._active == 0)

    def landed(self, size: int) -> None:
        if self._since is None:
            self._restart()  # its own time is not known
            return
        self._bytes += size
        self._measure(final=False)

    def _restart(self) -> None:
        self._bytes = 0
        self._since = trio.current_time()

    def _measure(self, *, final: bool) -> None:
        if self._since is None:
            return
        elapsed = trio.current_time() - self._since
        if not final and elapsed < LONGEST_SAMPLE:
            return
        if elapsed > 0 and (self._bytes >= LEAST_SAMPLE or elapsed >= LONGEST_SAMPLE):
            sample = self._bytes / elapsed
            self.rate = (self.rate + sample) / 2 if self.rate else sample
        self._restart()


class Fetcher:
    """Owns the tasks of fetches."""

    def __init__(self, link: Link, timeout: Callable[[], float]) -> None:
        self.link = link
        self.requests = 0
        self._timeout = timeout
        self._nursery: trio.Nursery | None = None
        self._requests = trio.Semaphore(REQUESTS)
        self._guesses = trio.Semaphore(GUESSES)
        self._rate = _Rate()
        self.fetched_bytes = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the tasks until cancelled."""
        if self._nursery is not None:
            raise RuntimeError("already running")
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    @property
    def running(self) -> bool:
        """Whether tasks can be started."""
        return self._nursery is not None

    def ahead(self) -> int:
        """Return how many bytes may be fetched ahead now."""
        if not self._rate.rate:
            return 1 << 30
        return max(LEAST_AHEAD, int(self._rate.rate * AHEAD_SECONDS))

    def landed(self, size: int) -> None:
        """Count content that came from the box."""
        self.fetched_bytes += size
        self._rate.landed(size)

    def deadline(self) -> float:
        """Return until when something that starts now may take."""
        return trio.current_time() + self._timeout()

    def start(self, flights: Sequence[Flight], work: Callable[[], Awaitable[None]]) -> None:
        """Start a task that lands the flights; those that it has not when it ends are crashed."""
        if self._nursery is None:
            raise RuntimeError("the reader is not running")
        self._nursery.start_soon(self._work, flights, work)

    async def _work(self, flights: Sequence[Flight], work: Callable[[], Awaitable[None]]) -> None:
        code = errno.EIO
        expired = False
        try:
            with trio.move_on_at(self.deadline()) as scope:
                try:
                    await work()
                except OSError as error:
                    code = error.errno or errno.EIO
            if scope.cancelled_caught:
                expired = True
                code = errno.ETIMEDOUT if self.link.online else errno.EIO
        finally:
            for flight in flights:
                if not flight.done.is_set():
                    flight.crash(code, expired=expired)

    async def wait(self, flight: Flight, deadline: float) -> bool:
        """Wait for a flight; False when it ended for lack of time and there is some left.

        Raises OSError (ETIMEDOUT, or EIO without a link) when the deadline passes.
        """
        flight.waiters += 1
        try:
            with trio.move_on_at(deadline) as scope:
                await flight.done.wait()
        finally:
            flight.waiters -= 1
        if scope.cancelled_caught:
            fail(errno.ETIMEDOUT if self.link.online else errno.EIO)
        return not (flight.expired and trio.current_time() < deadline)

    async def ask(
        self, request: Callable[[FileTransport], Awaitable[T]], *, guess: bool = False
    ) -> T:
        """Make a request that may be repeated, again on the next transport when one breaks.

        Raises OSError with the box's errno, ESTALE for all that means "no longer that file".
        """
        previous: FileTransport | None = None
        while True:
            transport = await self.link.wait_transport(previous)
            try:
                if not guess:
                    async with self._requests:
                        return await self._measured(request, transport)
                async with self._guesses, self._requests:
                    return await self._measured(request, transport)
            except TransportError:
                previous = transport
            except BoxFileError as error:
                code = error.errno or errno.EIO
                raise _oserror(errno.ESTALE if code in CHANGED else code) from error
            except DeadlineExceededError as error:
                raise _oserror(errno.ETIMEDOUT) from error
            except ProtocolError as error:
                raise _oserror(errno.EIO) from error

    async def _measured(
        self, request: Callable[[FileTransport], Awaitable[T]], transport: FileTransport
    ) -> T:
        self.requests += 1
        self._rate.begin()
        try:
            return await request(transport)
        finally:
            self._rate.end()


def _oserror(code: int) -> OSError:
    return OSError(code, os.strerror(code))
