"""What every FileTransport tells of changes."""

from __future__ import annotations

import os

import anyio

from sealos_devbox.batch import ABSENT, Batch
from sealos_devbox.patterns import Prune
from sealos_devbox.types import Event
from tests.contract.transport_suite import TransportSuite


class WatchingContract(TransportSuite):
    """Events of changes that others make."""

    async def test_watch_that_leaves_out(self, transport, root):
        self.require(transport, "watch")
        for path in ("target/deep", "src"):
            (root / path).mkdir(parents=True)
        async with transport.watch(walk=True, prune=Prune(("*.log",), ("target",))) as stream:
            await stream.receive()
            (root / "target" / "deep" / "f").touch()
            (root / "src" / "target").mkdir()
            (root / "src" / "target" / "f").touch()
            (root / "src" / "last").touch()
            seen = {}
            with anyio.fail_after(20):
                while b"src/last" not in seen:
                    seen.update({event.path: event for event in await stream.receive()})
            assert b"src/target" in seen
            assert not [path for path in seen if path.startswith((b"target/", b"src/target/"))]

    async def test_caught_up_is_newer_than_what_was_done(self, transport, root):
        self.require(transport, "watch")
        async with transport.watch() as stream:
            await stream.receive()
            await transport.list(b"")
            made = {b"f%d" % number for number in range(200)}
            for name in made:
                (root / os.fsdecode(name)).write_bytes(b"x")
            last = await transport.caught_up()
            if not last:
                assert "weak" in transport.peer.capabilities  # only a snapshot tells
                return
            heard: dict[int, bytes] = {}
            with anyio.fail_after(20):
                while max(heard, default=0) < last:
                    heard.update((e.number, e.path) for e in await stream.receive())
            assert made <= {path for number, path in heard.items() if number <= last}

    async def test_watch(self, transport, root):
        self.require(transport, "watch")
        self.require_strong(transport)
        async with transport.watch(walk=True) as stream:
            events = await stream.receive()
            (root / "dir").mkdir()
            (root / "dir" / "file").write_bytes(b"hello")
            seen: dict[bytes, Event] = {}
            with anyio.fail_after(20):
                while b"dir/file" not in seen or seen[b"dir/file"].attr.size != 5:
                    events = await stream.receive()
                    assert events is not None
                    seen.update({event.path: event for event in events})
                (root / "dir" / "file").rename(root / "dir" / "other")
                while b"dir/other" not in seen:
                    events = await stream.receive()
                    assert events is not None
                    seen.update({event.path: event for event in events})
            assert seen[b"dir"].attr is not None
            assert seen[b"dir"].attr.is_dir
            assert seen[b"dir/file"].attr is None
            assert seen[b"dir/other"].moved_from == b"dir/file"
        assert (await transport.stat(b"dir/other"))[1].size == 5

    async def test_own_changes_are_not_reported(self, transport, root):
        self.require(transport, "watch")
        self.require(transport, "apply")
        async with transport.watch(walk=True) as stream:
            await stream.receive()
            batch = Batch()
            batch.mkdir(1, b"ours", ABSENT, 0o755)
            await transport.apply(batch)
            (root / "theirs").mkdir()
            with anyio.fail_after(20):
                paths = []
                while b"theirs" not in paths:
                    paths += [event.path for event in await stream.receive() or ()]
        assert b"ours" not in paths
