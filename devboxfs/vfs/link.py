"""The connection to the box, which comes and goes.

One task (`run`) owns the connection. Everyone else asks for the transport that is up, with a
deadline of their own, and reports one that broke by asking for another.
"""

from __future__ import annotations

import logging
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
STEADY = 5.0
"""A connection that lasted shorter does not make the next attempts quick again: a helper that dies
at once would be started ten times a second."""
OFFLINE_AFTER = 5.0
"""Seconds without a connection until the state is called offline and deadlines shrink (guessed.

Longer than a Wi-Fi roam).
"""
SILENCE = 3.0
"""Seconds without a word from a box that was told something, until the state is called degraded.
Whether the connection is dead is for the heartbeat to say: a slow disk is no broken link."""
LOOK = 1.0


class LinkState(Enum):
    """How the box can be reached."""

    ONLINE = "online"
    DEGRADED = "degraded"
    """The box does not answer, or the connection broke a moment ago and is being opened again."""
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
        self.timeout = timeout
        self.offline_timeout = offline_timeout
        self.connections = 0
        self._transport: FileTransport | None = None
        self._since = trio.current_time()
        """When the transport came, or went."""
        self._silent_since: float | None = None
        self._changed = trio.Event()
        self._broken = trio.Event()
        self._last_error = ""
        self._past = (0, 0, 0)

    # -- for everyone ------------------------------------------------------------------------------

    @property
    def state(self) -> LinkState:
        """How the box can be reached now."""
        if self._transport is not None:
            return LinkState.ONLINE if self._silent_since is None else LinkState.DEGRADED
        gone = trio.current_time() - self._since
        return LinkState.DEGRADED if gone < OFFLINE_AFTER else LinkState.OFFLINE

    @property
    def since(self) -> float:
        """Since when it is so, in trio time; of a box that is not reached, its last word."""
        return self._since if self._silent_since is None else self._silent_since

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
            self._set(None)

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
                    connected = trio.current_time()
                    self._broken = trio.Event()
                    self._set(transport)
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
                        self._set(None)
                        if trio.current_time() - connected > STEADY:
                            delay = FIRST_DELAY
            except (DevboxError, OSError) as exc:
                self._last_error = str(exc)
                if self.connections == 0:
                    raise
                log.warning("the connection to box %s broke: %s", self.box.name, exc)
            await trio.sleep(delay)
            delay = min(delay * 2, LONGEST_DELAY)

    async def _serve(
        self, transport: FileTransport, session: Callable[[FileTransport], Awaitable[None]]
    ) -> None:
        """Run the session until it fails or somebody reports the transport as broken."""

        async def until_it_ends() -> None:
            await session(transport)
            nursery.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(until_it_ends)
                nursery.start_soon(self._listen, transport)
                await self._broken.wait()
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            # The session has nurseries of its own, so what it met is somewhere in here.
            expected, other = group.split((DevboxError, OSError))
            if other is not None and other.split(trio.Cancelled)[1] is None:
                raise other from None  # who ends this does not ask whether it broke by then
            if expected is None or other is not None:
                raise
            raise TransportError(_text(expected)) from expected
        raise TransportError("a request found the connection broken")

    async def _listen(self, transport: FileTransport) -> None:
        """Notice that a box that was told something does not say a word."""
        sent, received = transport.bytes_sent, transport.bytes_received
        heard = trio.current_time()
        while True:
            await trio.sleep(LOOK)
            if transport is not self._transport:
                return
            if transport.bytes_received != received:
                sent, received = transport.bytes_sent, transport.bytes_received
                heard = trio.current_time()
                self._silent_since = None
            elif transport.bytes_sent == sent:
                heard = max(heard, trio.current_time() - LOOK)
            elif trio.current_time() - heard >= SILENCE and self._silent_since is None:
                self._silent_since = heard
                log.warning("box %s does not answer", self.box.name)

    def _set(self, transport: FileTransport | None) -> None:
        if (transport is None) is not (self._transport is None):
            # Silence before the end counts: that is since when the box cannot be reached.
            silent = self._silent_since if transport is None else None
            self._since = trio.current_time() if silent is None else silent
        self._silent_since = None
        self._transport = transport
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


def _text(group: BaseExceptionGroup[BaseException]) -> str:
    """Return what the first exception in a group says."""
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return str(first)
