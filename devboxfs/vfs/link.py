"""The connection to the box, which comes and goes.

One task (`run`) owns the connection. Everyone else asks for the transport that is up, with a
deadline of their own, and reports one that broke by asking for another.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum

import trio

from devboxfs.vfs.seams import Box
from sealos_devbox import DevboxError, FileTransport, TransportError

__all__ = ["BoxLink", "LinkState", "LinkStatistics"]

log = logging.getLogger(__name__)

FIRST_DELAY = 0.1
LONGEST_DELAY = 10.0
OFFLINE_AFTER = 5.0
"""Seconds without a connection until the state is called offline and deadlines shrink (guessed.

Longer than a Wi-Fi roam).
"""


class LinkState(Enum):
    """How the box can be reached."""

    ONLINE = "online"
    DEGRADED = "degraded"
    """The connection broke a moment ago and is being opened again."""
    OFFLINE = "offline"


@dataclass(frozen=True, slots=True)
class LinkStatistics:
    """Figures over the life of the mount."""

    state: str
    since: float
    """Monotonic time of the last change of state."""
    connections: int
    round_trips: int
    bytes_sent: int
    bytes_received: int
    last_error: str


class BoxLink:
    """Keeps one transport to the box open."""

    def __init__(self, box: Box, *, timeout: float, offline_timeout: float = 1.0) -> None:
        self.box = box
        self.state = LinkState.DEGRADED
        self.since = trio.current_time()
        self.timeout = timeout
        self.offline_timeout = offline_timeout
        self.connections = 0
        self._transport: FileTransport | None = None
        self._changed = trio.Event()
        self._broken = trio.Event()
        self._last_error = ""
        self._past = (0, 0, 0)

    # -- for everyone ------------------------------------------------------------------------------

    @property
    def online(self) -> bool:
        """Whether a transport is up."""
        return self._transport is not None

    @property
    def transport(self) -> FileTransport | None:
        """The transport that is up, if any."""
        return self._transport

    async def wait_transport(self, previous: FileTransport | None = None) -> FileTransport:
        """Return the transport that is up.

        Another one than `previous`, which is thereby reported as broken.
        """
        while True:
            if self._transport is not None:
                if self._transport is not previous:
                    return self._transport
                self.report_broken(previous)
            await self._changed.wait()

    def deadline(self) -> float:
        """Return the trio time at which a call that starts now has to be over."""
        return trio.current_time() + (
            self.offline_timeout if self.state is LinkState.OFFLINE else self.timeout
        )

    def report_broken(self, transport: FileTransport | None) -> None:
        """A call on this transport failed with TransportError."""
        if transport is not None and transport is self._transport:
            self._broken.set()
            self._set(None, LinkState.DEGRADED)

    def statistics(self) -> LinkStatistics:
        """Return a frozen snapshot."""
        now = self._counters()
        return LinkStatistics(
            self.state.value, self.since, self.connections, now[0], now[1], now[2], self._last_error
        )

    # -- the owner ---------------------------------------------------------------------------------

    async def run(
        self,
        session: Callable[[FileTransport], Awaitable[None]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Keep connected for ever.

        `session` runs beside each connection (watch, snapshot) and is cancelled with it.

        Before the first connection stands, an error ends this; afterwards errors lead to another
        attempt.
        """
        delay = FIRST_DELAY
        while True:
            try:
                async with self.box.open_transport() as transport:
                    self.connections += 1
                    delay = FIRST_DELAY
                    self._broken = trio.Event()
                    self._set(transport, LinkState.ONLINE)
                    if self.connections == 1:
                        task_status.started()
                    else:
                        log.info("connected again to box %s", self.box.name)
                    try:
                        await self._serve(transport, session)
                    finally:
                        # No await: whatever ended the session, nobody may be given this transport
                        # again.
                        self._past = self._counters()
                        self._set(None, LinkState.DEGRADED)
            except (DevboxError, OSError) as exc:
                self._last_error = str(exc)
                if self.connections == 0:
                    raise
                log.warning("the connection to box %s broke: %s", self.box.name, exc)
            if (
                self.state is LinkState.DEGRADED
                and trio.current_time() - self.since > OFFLINE_AFTER
            ):
                self._set(None, LinkState.OFFLINE)
            with trio.move_on_after(delay):
                await trio.sleep(math.inf)
            delay = min(delay * 2, LONGEST_DELAY)

    async def _serve(
        self, transport: FileTransport, session: Callable[[FileTransport], Awaitable[None]]
    ) -> None:
        """Run the session until it fails or somebody reports the transport as broken."""
        failure: list[BaseException] = []

        async def guarded() -> None:
            try:
                await session(transport)
            except (DevboxError, OSError) as exc:
                failure.append(exc)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(guarded)
            await self._broken.wait()
            nursery.cancel_scope.cancel()
        if failure:
            raise failure[0]
        raise TransportError("a request found the connection broken")

    def _set(self, transport: FileTransport | None, state: LinkState) -> None:
        if self.state is LinkState.OFFLINE and state is LinkState.DEGRADED:
            state = LinkState.OFFLINE
        self._transport = transport
        if state is not self.state:
            self.state, self.since = state, trio.current_time()
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    def _counters(self) -> tuple[int, int, int]:
        transport, past = self._transport, self._past
        if transport is None:
            return past
        return (
            past[0] + transport.round_trips,
            past[1] + transport.bytes_sent,
            past[2] + transport.bytes_received,
        )
