"""Each wait of the transport cancelled: the caller goes at once, everybody else stays."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from sealos_devbox._protocol import frames
from sealos_devbox._transport.helper import HelperTransport, open_helper_transport
from sealos_devbox.batch import ABSENT, ANY, Batch
from sealos_devbox.types import BytesContent
from tests.cancellation.test_channels import cancel_after
from tests.fakes.helper import helper_transport
from tests.fakes.memory_channel import channel_pair
from tests.fakes.peer import ATTR, Peer, error, reply, unpack

Call = Callable[[HelperTransport], Awaitable[object]]


async def drain(stream) -> None:
    async with stream as opened:
        while await opened.receive() is not None:
            pass


async def run(transport: HelperTransport) -> None:
    async with transport.exec([b"cat"]) as command:
        await command.send(b"hello")
        while await command.receive() is not None:
            pass


async def open_and_close(transport: HelperTransport) -> None:
    handle, _ = await transport.open(b"file")
    try:
        await transport.pread(handle, 0, 300_000)
    finally:
        with anyio.CancelScope(shield=True):
            await transport.close(handle)


def batch() -> Batch:
    changes = Batch()
    content = changes.add_content(BytesContent(bytes(400_000)), 0o644, 1)
    changes.put(1, b"written", ANY, content)
    return changes


CALLS: dict[str, Call] = {
    "stat": lambda transport: transport.stat(b"file"),
    "stat_many": lambda transport: transport.stat_many([b"file"] * 5000),
    "list": lambda transport: transport.list(b""),
    "snapshot": lambda transport: drain(transport.snapshot(b"")),
    "read": lambda transport: transport.read(b"file"),
    "read_many": lambda transport: drain(transport.read_many([(b"file", None)] * 2000)),
    "open": open_and_close,
    "readlink": lambda transport: transport.readlink(b"link"),
    "statvfs": lambda transport: transport.statvfs(),
    "hash": lambda transport: transport.hash(b"file"),
    "apply": lambda transport: transport.apply(batch()),
    "sync": lambda transport: transport.sync(),
    "watch": lambda transport: drain(transport.watch()),
    "exec": run,
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(os.urandom(300_000))
    (tmp_path / "link").symlink_to("file")
    return tmp_path


@pytest.mark.parametrize("name", CALLS)
async def test_any_call_cancelled_at_any_step(root, name):
    """With a real helper: afterwards the connection works, and nothing of the call is left over."""
    call = CALLS[name]
    async with helper_transport(root) as transport:
        before = descriptors(transport.peer.pid)
        for steps in (*range(10), 13, 17, 25, 40, 70, 120, 250):
            await cancel_after(steps, lambda: call(transport))
            assert (await transport.stat(b"file"))[1].size == 300_000
        with anyio.fail_after(20):
            while transport._session._exchanges or descriptors(transport.peer.pid) > before:
                await transport.stat(b"")
        window = transport._session.window
        assert (window.outstanding, window.streams) == (0, 0)


def descriptors(pid: int) -> int:
    # Those that stand for files of the box; the runtime opens others when it first needs them.
    links = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            links.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        except FileNotFoundError:
            continue
    return sum(link.endswith("/file") for link in links)


@pytest.mark.parametrize("name", [name for name in CALLS if name != "apply"])
async def test_the_helper_is_told(name):
    """With a helper that never answers: CANCEL, and the next call gets its answer."""
    ours, theirs = channel_pair()
    peer = Peer(theirs)
    await peer.greet()
    async with open_helper_transport(ours, compress=False) as transport:
        await peer.expect(frames.HELLO)
        asked = set()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: CALLS[name](transport))
            asked.add((await peer.request())[0])
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        cancelled: set[int] = set()
        while cancelled != asked:
            frame = await peer.next()
            if frame.kind == frames.REQUEST:
                asked.add(frame.id)
            elif frame.kind == frames.CANCEL:
                cancelled.add(frame.id)
        await peer.say(*(error(id, 125) for id in asked))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(transport.stat, b"")
            id, _ = await peer.request()
            await peer.say(reply(id, ATTR))
        assert not transport._session._exchanges


async def test_a_handle_that_comes_too_late_is_given_back():
    ours, theirs = channel_pair()
    peer = Peer(theirs)
    await peer.greet()
    async with open_helper_transport(ours, compress=False) as transport:
        await peer.expect(frames.HELLO)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(transport.open, b"file")
            id, _ = await peer.request()
            tasks.cancel_scope.cancel()
        await peer.expect(frames.CANCEL)
        await peer.say(reply(id, [42, ATTR]))
        id, request = await peer.request()
        assert request == ["close", 42]
        await peer.say(reply(id))


async def test_a_cancelled_close_closes():
    ours, theirs = channel_pair()
    peer = Peer(theirs)
    await peer.greet()
    async with open_helper_transport(ours, compress=False) as transport:
        await peer.expect(frames.HELLO)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await transport.close(42)
        _, request = await peer.request()
        assert request == ["close", 42]


async def test_a_cancelled_upload_makes_way_for_the_next():
    """The first batch waits for the helper's window; cancelled, it is CANCEL and no END."""
    ours, theirs = channel_pair()
    peer = Peer(theirs)
    await peer.greet(window=100_000)
    journal = bytes(16)
    async with open_helper_transport(ours, compress=False) as transport:
        await peer.expect(frames.HELLO)
        async with anyio.create_task_group() as others:
            async with anyio.create_task_group() as tasks:
                stuck = batch()
                stuck.journal = journal
                tasks.start_soon(transport.apply, stuck)
                first, _ = await peer.request()
                received = 0
                while received < 100_000:
                    received += (await peer.expect(frames.DATA)).wire_size
                small = Batch(journal=journal)
                small.mkdir(2, b"dir", ABSENT, 0o755)
                others.start_soon(transport.apply, small)
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
            assert (await peer.expect(frames.CANCEL)).id == first
            second, request = await peer.request()
            assert request[0] == "apply"
            frame = await peer.expect(frames.DATA)
            assert frame.id == second
            await peer.expect(frames.END)
            outcomes = frames.encode(frames.DATA, second, pack_outcomes(2))
            await peer.say(error(first, 125), outcomes, reply(second, [0, 0, 1, 1]))


def pack_outcomes(seq: int) -> bytes:
    from tests.fakes.peer import pack

    return pack([[seq, 0, ATTR, 0]])


async def test_a_cancelled_caller_does_not_disturb_the_others(root):
    answers = []

    async def ask(transport: HelperTransport) -> None:
        for _ in range(50):
            answers.append((await transport.read(b"file"))[1])

    async with helper_transport(root) as transport, anyio.create_task_group() as tasks:
        tasks.start_soon(ask, transport)
        for steps in range(60):
            await cancel_after(steps, lambda: transport.read(b"file"))
    content = (root / "file").read_bytes()
    assert answers == [content] * 50


async def test_an_orderly_end_is_no_surprise_for_unpack():
    """The scripted peer reads what the client writes: a guard for the tests above."""
    ours, theirs = channel_pair()
    peer = Peer(theirs)
    await peer.greet()
    async with open_helper_transport(ours, compress=False):
        hello = await peer.expect(frames.HELLO)
        assert unpack(hello.payload)["protocol"] == 1
