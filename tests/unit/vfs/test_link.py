"""How the box can be reached, told by the clock (which jumps here)."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.testing

from devboxfs.vfs.link import BoxLink, LinkState
from sealos_devbox import TransportError


class Transport:
    def __init__(self) -> None:
        self.round_trips = self.bytes_sent = self.bytes_received = 0


class Box:
    name, uid, location = "my-box", "uid", "here"

    def __init__(self) -> None:
        self.transport = Transport()
        self.hangs = False
        self.times: list[float] = []

    @asynccontextmanager
    async def open_transport(self) -> AsyncIterator[Transport]:
        self.times.append(trio.current_time())
        if self.hangs:
            await trio.sleep(math.inf)
        self.transport = Transport()
        yield self.transport


async def idle(_transport: object) -> None:
    await trio.sleep_forever()


def run(test) -> None:
    async def main() -> None:
        box = Box()
        link = BoxLink(box, timeout=30)
        async with trio.open_nursery() as nursery:
            await test(box, link, nursery)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_an_attempt_that_hangs_does_not_keep_it_degraded() -> None:
    async def test(box, link, nursery) -> None:
        await nursery.start(link.run, idle)
        assert link.state is LinkState.ONLINE
        assert link.deadline() == trio.current_time() + 30
        await trio.sleep(100)
        box.hangs = True
        lost = trio.current_time()
        link.report_broken(box.transport)
        await trio.sleep(4)
        assert link.state is LinkState.DEGRADED
        await trio.sleep(2)
        assert link.state is LinkState.OFFLINE
        assert link.since == lost
        assert link.deadline() == trio.current_time() + 1

    run(test)


def test_silence_is_degraded_and_a_word_ends_it() -> None:
    async def test(box, link, nursery) -> None:
        await nursery.start(link.run, idle)
        await trio.sleep(60)
        assert link.state is LinkState.ONLINE, "nobody said anything"
        box.transport.bytes_sent += 100
        told = trio.current_time()
        await trio.sleep(10)
        assert link.state is LinkState.DEGRADED
        assert link.online
        assert abs(link.since - told) <= 2
        box.transport.bytes_received += 1
        await trio.sleep(2)
        assert link.state is LinkState.ONLINE

    run(test)


def test_what_a_session_met_deep_inside_leads_to_another_attempt() -> None:
    async def failing(_transport: object) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise TransportError("the helper ended the connection")

    async def test(box, link, nursery) -> None:
        await nursery.start(link.run, failing)
        await trio.sleep(60)
        # It fails at once each time, so the attempts grow rare.
        assert 5 < len(box.times) < 15
        assert link.statistics().last_error == "the helper ended the connection"
        gaps = [
            round(later - earlier, 3)
            for earlier, later in zip(box.times, box.times[1:], strict=False)
        ]
        assert gaps == sorted(gaps)
        assert gaps[-1] == 10

    run(test)


def test_a_connection_that_breaks_while_the_mount_ends() -> None:
    """Both at once: the end is what counts."""
    broken = trio.Event()

    async def failing(_transport: object) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            with trio.CancelScope(shield=True):
                await broken.wait()
            raise TransportError("the helper ended the connection")

    async def test(box, link, nursery) -> None:
        with trio.CancelScope() as mount:
            async with trio.open_nursery() as tasks:
                await tasks.start(link.run, failing)
                mount.cancel()
                broken.set()
        assert mount.cancelled_caught
        assert len(box.times) == 1

    run(test)
