"""The transport against a helper that says what a test tells it to, however unlikely."""

from __future__ import annotations

import errno
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from sealos_devbox._protocol import frames
from sealos_devbox._transport.helper import HelperTransport, open_helper_transport
from sealos_devbox.batch import ABSENT, Batch
from sealos_devbox.errors import BoxFileError, CapabilityError, ProtocolError, TransportError
from sealos_devbox.patterns import Prune
from tests.fakes.memory_channel import MemoryChannel, channel_pair
from tests.fakes.peer import ATTR, Peer, data, error, pack, reply


@asynccontextmanager
async def scripted(**welcome: object) -> AsyncIterator[tuple[HelperTransport, Peer, MemoryChannel]]:
    ours, theirs = channel_pair()
    peer = Peer(theirs)
    await peer.greet(**welcome)
    async with open_helper_transport(ours, compress=False) as transport:
        await peer.expect(frames.HELLO)
        yield transport, peer, ours


def two_directories(**options: object) -> Batch:
    batch = Batch(**options)  # type: ignore[arg-type]
    batch.mkdir(1, b"a", ABSENT, 0o755)
    batch.mkdir(2, b"b", ABSENT, 0o755)
    return batch


async def answer_apply(peer: Peer, *answer: bytes, take: bool = True) -> None:
    id, _ = await peer.request()
    while take and (await peer.next()).kind != frames.END:
        pass
    await peer.say(*(part.replace(b"\0\0\0\1", id.to_bytes(4, "big")) for part in answer))


OUTCOMES = data(1, pack([[1, 0, ATTR, 0]])) + data(1, pack([[2, 0, ATTR, 0]]))


async def test_outcomes_count_although_a_sync_failed():
    async with scripted() as (transport, peer, _), anyio.create_task_group() as tasks:
        tasks.start_soon(answer_apply, peer, OUTCOMES, error(1, errno.EIO))
        result = await transport.apply(two_directories(sync=True))
    assert [outcome.seq for outcome in result.outcomes] == [1, 2]
    assert result.sync_errno == errno.EIO


@pytest.mark.parametrize("sync", [None, True])
async def test_trouble_while_staging_is_of_the_whole_batch(sync):
    async with scripted() as (transport, peer, _), anyio.create_task_group() as tasks:
        tasks.start_soon(answer_apply, peer, error(1, errno.ENOSPC, "staging"))
        with pytest.raises(BoxFileError, match="No space left") as caught:
            await transport.apply(two_directories(sync=sync))
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.__notes__ == ["the helper says: staging"]


async def test_outcomes_of_other_operations_are_nonsense():
    wrong = data(1, pack([[1, 0, ATTR, 0], [3, 0, ATTR, 0]])) + reply(1, [0, 0, 1, 1])
    async with scripted() as (transport, peer, _), anyio.create_task_group() as tasks:
        tasks.start_soon(answer_apply, peer, wrong)
        with pytest.raises(ProtocolError, match="other operations"):
            await transport.apply(two_directories())


async def test_a_malformed_answer_is_the_callers_alone():
    async with scripted() as (transport, peer, _), anyio.create_task_group() as tasks:
        tasks.start_soon(peer.answer, lambda id, request: reply(id, request[1] or ATTR))
        with pytest.raises(ProtocolError, match="malformed"):
            await transport.stat(b"nonsense")
        assert (await transport.stat(b""))[1].ino == 12
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("entries", [[], [[0, 0, ATTR], [2, 0, ATTR]], [[0, 0, None]]])
async def test_stat_many_answered_nonsense(entries):
    def answer(id: int, request: list[object]) -> bytes:
        return data(id, pack([0, entries])) + reply(id)

    async with scripted() as (transport, peer, _), anyio.create_task_group() as tasks:
        tasks.start_soon(peer.answer, answer)
        with pytest.raises(ProtocolError, match="stat_many"):
            await transport.stat_many([b"a", b"b"])
        tasks.cancel_scope.cancel()


async def test_a_broken_protocol_ends_the_connection_for_all():
    raised = []

    async def ask(transport: HelperTransport) -> None:
        with pytest.raises(ProtocolError, match="unknown request 99"):
            await transport.stat(b"")
        raised.append(True)

    async with scripted() as (transport, peer, _):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, transport)
            tasks.start_soon(ask, transport)
            for _ in range(2):
                await peer.request()
            await peer.say(reply(99))
        assert len(raised) == 2
        await ask(transport)


async def test_a_cut_channel_and_what_the_far_end_said():
    async with scripted() as (transport, peer, channel):
        channel.said = "panic: out of cheese"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(peer.request)
            tasks.start_soon(_expect_broken, transport)
            await anyio.wait_all_tasks_blocked()
            channel.cut()
        with pytest.raises(TransportError, match="out of cheese"):
            await transport.stat(b"")


async def _expect_broken(transport: HelperTransport) -> None:
    with pytest.raises(TransportError, match="broke; it said: panic") as caught:
        await transport.stat(b"")
    assert caught.value.__cause__ is not None


async def test_what_the_helper_cannot_do_is_said():
    async with scripted(capabilities=["exec"]) as (transport, _, _):
        with pytest.raises(CapabilityError, match="no apply"):
            await transport.apply(Batch())
        with pytest.raises(CapabilityError, match="no watch"):
            transport.watch()
        with pytest.raises(CapabilityError, match="no pty"):
            transport.exec([b"sh"], pty=(24, 80, "dumb"))
        with pytest.raises(ValueError, match="empty"):
            transport.exec([])
        assert transport.round_trips == 0


@pytest.mark.parametrize("known", [True, False])
async def test_an_older_helper_is_not_asked_to_leave_out(known):
    prune = Prune(("node_modules",), ("build",), b"src")
    asked = []

    def answer(id: int, request: list[object]) -> bytes:
        asked.append(request)
        if request[0] == "watch":
            return frames.encode(frames.EVENTS, id, pack([]))
        return data(id, pack([[0, b"", True, [[b"node_modules", ATTR]]]])) + reply(id)

    capabilities = ["watch", "prune"] if known else ["watch"]
    async with (
        scripted(capabilities=capabilities) as (transport, peer, _),
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(peer.answer, answer)
        async with transport.snapshot(b"", prune=prune) as stream:
            [record] = await stream.receive() or ()
        # What the client leaves out by itself is not the transport's business.
        assert record.entries is not None
        assert record.entries[0][0] == b"node_modules"
        async with transport.watch(prune=prune) as events:
            assert await events.receive() == []
        tasks.cancel_scope.cancel()
    argument = [prune.wire()] if known else []
    assert asked == [["snapshot", b"", 0, *argument], ["watch", b"", False, *argument]]


async def test_a_request_too_large_for_a_frame():
    async with scripted() as (transport, _, _):
        with pytest.raises(BoxFileError) as caught:
            async with transport.exec([b"x" * 200_000]):
                pass
        assert caught.value.errno == errno.E2BIG


async def test_streams_are_used_in_their_block():
    async with scripted() as (transport, _, _):
        with pytest.raises(RuntimeError, match="async with"):
            await transport.snapshot(b"").receive()
        with pytest.raises(RuntimeError, match="async with"):
            await transport.exec([b"sh"]).receive()


async def test_records_before_an_error_are_given_first():
    record = [0, b"dir", True, [[b"name", ATTR]]]

    def answer(id: int, request: list[object]) -> bytes:
        return data(id, pack([record])) + error(id, errno.EIO)

    async with scripted() as (transport, peer, _), anyio.create_task_group() as tasks:
        tasks.start_soon(peer.answer, answer)
        async with transport.snapshot(b"") as stream:
            [found] = await stream.receive() or ()
            assert found.entries is not None
            assert found.entries[0][0] == b"name"
            with pytest.raises(BoxFileError):
                await stream.receive()
        tasks.cancel_scope.cancel()


async def test_nothing_is_left_for_the_collector():
    """No cycle through an exception, no coroutine that nobody awaited."""
    gc.collect()
    async with scripted() as (transport, peer, _), anyio.create_task_group() as tasks:
        tasks.start_soon(peer.answer, lambda id, _: error(id, errno.ENOENT))
        for _ in range(3):
            with pytest.raises(BoxFileError):
                await transport.stat(b"x")
        tasks.cancel_scope.cancel()
    gc.collect()
