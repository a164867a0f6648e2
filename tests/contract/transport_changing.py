"""What every FileTransport keeps when it changes something."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from sealos_devbox.batch import ABSENT, ANY, Batch, as_left_by, is_version
from sealos_devbox.types import BytesContent
from tests.contract.transport_suite import TransportSuite

STAMP = 1_700_000_000_123_456_789


@dataclass(frozen=True)
class FileContent:
    """Content that is read when it is sent."""

    path: Path

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def chunks(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            while chunk := file.read(100_000):
                yield chunk


@dataclass(frozen=True)
class BrokenContent:
    size: int = 1 << 20

    def chunks(self) -> Iterator[bytes]:
        yield bytes(100)
        raise OSError(errno.EIO, "local disk")


class ChangingContract(TransportSuite):
    """Batches of changes, their order and their journals."""

    async def test_apply_every_kind_of_change(self, transport, root):
        self.require(transport, "apply")
        (root / "doomed").touch()
        (root / "old").write_bytes(b"moved")
        batch = Batch()
        one = batch.add_content(BytesContent(b"hello\n"), 0o640, STAMP)
        batch.mkdir(1, b"a/b", ABSENT, 0o755, parents=True)
        batch.put(2, b"a/b/file", ABSENT, one)
        batch.symlink(3, b"a/link", ABSENT, b"b/file", STAMP)
        batch.link(4, b"a/hard", ABSENT, b"a/b/file", as_left_by(2))
        batch.rename(5, b"a/new", ABSENT, b"old", ANY)
        batch.unlink(6, b"doomed", ANY)
        batch.setattr(7, b"a/b/file", ANY, mode=0o600)
        batch.mknod(8, b"a/fifo", ABSENT, stat.S_IFIFO | 0o600, 0)
        batch.copy(9, b"copy", ABSENT, b"a", ANY, recursive=True)
        batch.rmtree(10, b"copy", ANY)
        batch.mkdir(11, b"empty", ABSENT, 0o700)
        batch.rmdir(12, b"empty", ANY)
        before = transport.round_trips
        result = await transport.apply(batch)
        self.one_call(transport.round_trips - before)
        assert [(outcome.seq, outcome.errno) for outcome in result.outcomes] == [
            (seq, 0) for seq in range(1, 13)
        ]
        assert (root / "a/b/file").read_bytes() == b"hello\n"
        status = (root / "a/b/file").stat()
        assert stat.S_IMODE(status.st_mode) == 0o600
        assert status.st_mtime_ns == self.told(STAMP)
        assert status.st_nlink == 2
        assert os.readlink(root / "a/link") == "b/file"
        assert (root / "a/new").read_bytes() == b"moved"
        assert sorted(os.listdir(root)) == ["a"]
        assert result.outcomes[1].attr is not None
        assert result.outcomes[1].attr.size == 6
        assert transport.free_space[:2] == (result.free_bytes, result.free_inodes)

    async def test_a_failed_operation_has_its_errno(self, transport, root):
        self.require(transport, "apply")
        (root / "there").write_bytes(b"theirs")
        batch = Batch()
        content = batch.add_content(BytesContent(b"ours"), 0o644, STAMP)
        batch.put(1, b"there", ABSENT, content)
        batch.unlink(2, b"absent", ANY)
        batch.mkdir(3, b"fine", ABSENT, 0o755)
        result = await transport.apply(batch)
        assert [outcome.errno for outcome in result.outcomes] == [errno.EEXIST, errno.ENOENT, 0]
        assert result.outcomes[0].conflict
        assert (root / "there").read_bytes() == b"theirs"

    async def test_ranges_in_place(self, transport, root):
        self.require(transport, "apply")
        (root / "file").write_bytes(b"0123456789")
        _, attr = await transport.stat(b"file")
        batch = Batch()
        one = batch.add_content(BytesContent(b"AB"), 0, 0)
        other = batch.add_content(BytesContent(b"CD"), 0, 0)
        batch.write(1, b"file", is_version(attr.version), [(2, one), (12, other)], 20, STAMP)
        [outcome] = (await transport.apply(batch)).outcomes
        assert outcome.errno == 0
        assert (root / "file").read_bytes() == b"01AB456789\0\0CD" + bytes(6)
        assert (root / "file").stat().st_mtime_ns == self.told(STAMP)
        assert (root / "file").stat().st_ino == attr.ino

    async def test_large_and_many_contents(self, transport, root, tmp_path):
        self.require(transport, "apply")
        source = tmp_path / "source"
        source.write_bytes(os.urandom(3_000_000) + bytes(3_000_000))
        batch = Batch()
        contents = [BytesContent(os.urandom(number)) for number in range(self.contents)]
        for seq, content in enumerate([*contents, FileContent(source)], 1):
            batch.put(seq, b"f%d" % seq, ABSENT, batch.add_content(content, 0o644, STAMP + seq))
        result = await transport.apply(batch)
        assert not any(outcome.errno for outcome in result.outcomes)
        for seq, content in enumerate(contents, 1):
            assert (root / f"f{seq}").read_bytes() == content.data
            assert (root / f"f{seq}").stat().st_mtime_ns == self.told(STAMP + seq)
        assert (root / f"f{self.contents + 1}").read_bytes() == source.read_bytes()

    async def test_batches_in_flight_are_applied_in_order(self, transport, root):
        self.require(transport, "apply")
        (root / "counter").mkdir()
        journal = os.urandom(16)
        await transport.attach(journal, 1)

        async def step(number: int, started: anyio.Event) -> None:
            batch = Batch(journal=journal, generation=1, number=number + 1)
            content = BytesContent(b"%d" % number * (1 + 10_000 * (number % 3)))
            put = batch.add_content(content, 0o644, STAMP)
            seq = 2 * number + 1
            batch.put(seq, b"last", ANY, put)
            path = b"counter/%d" % number
            if number:
                batch.rename(seq + 1, path, ABSENT, b"counter/%d" % (number - 1), ANY)
            else:
                batch.mkdir(seq + 1, path, ABSENT, 0o755)
            started.set()
            result = await transport.apply(batch)
            assert [outcome.errno for outcome in result.outcomes] == [0, 0]

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                started = anyio.Event()
                tasks.start_soon(step, number, started)
                await started.wait()
        assert os.listdir(root / "counter") == ["19"]
        assert (root / "last").read_bytes() == b"19" * 10_001

    async def test_a_content_that_cannot_be_read_changes_nothing(self, transport, root):
        self.require(transport, "apply")
        batch = Batch()
        batch.mkdir(1, b"dir", ABSENT, 0o755)
        batch.put(2, b"file", ABSENT, batch.add_content(BrokenContent(), 0o644, STAMP))
        with pytest.raises(OSError, match="local disk"):
            await transport.apply(batch)
        good = Batch()
        good.mkdir(1, b"after", ABSENT, 0o755)
        assert [outcome.errno for outcome in (await transport.apply(good)).outcomes] == [0]
        assert os.listdir(root) == ["after"]

    async def test_a_cancelled_upload_changes_nothing(self, transport, root):
        self.require(transport, "apply")

        class Endless:
            size = 1 << 40

            def chunks(self) -> Iterator[bytes]:
                piece = os.urandom(1 << 16)
                while True:
                    yield piece

        batch = Batch()
        batch.put(1, b"file", ABSENT, batch.add_content(Endless(), 0o644, STAMP))
        sent = transport.bytes_sent
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(transport.apply, batch)
            while transport.bytes_sent < sent + (4 << 20):
                await transport.stat(b"")
            tasks.cancel_scope.cancel()
        good = Batch()
        good.mkdir(1, b"after", ABSENT, 0o755)
        await transport.apply(good)
        assert os.listdir(root) == ["after"]

    async def test_what_is_to_be_durable(self, transport, root):
        self.require(transport, "apply")
        batch = Batch(sync=[b"dir/file", b"dir"])
        batch.mkdir(1, b"dir", ABSENT, 0o755)
        content = batch.add_content(BytesContent(b"x"), 0o644, STAMP)
        batch.put(2, b"dir/file", ABSENT, content)
        result = await transport.apply(batch)
        assert result.sync_errno == 0
        everything = Batch(sync=True)
        everything.unlink(1, b"dir/file", ANY)
        assert (await transport.apply(everything)).sync_errno == 0
        await transport.sync()

    async def test_a_journal_answers_a_batch_once(self, transport, root):
        self.require(transport, "apply")
        self.require_strong(transport)
        journal = os.urandom(16)
        last, _, boot_id = await transport.attach(journal, 1)
        assert last == 0
        assert boot_id == transport.peer.boot_id
        batch = Batch(journal=journal, incarnation=os.urandom(16), generation=1, number=1)
        batch.mkdir(1, b"dir", ABSENT, 0o755)
        first = await transport.apply(batch)
        again = await transport.apply(batch)
        assert [outcome.errno for outcome in again.outcomes] == [0]
        assert again.outcomes[0].flags & 2, "replayed from the log"
        assert not first.outcomes[0].flags
        _, attr = await transport.stat(b"dir", after=1)
        assert attr.is_dir
        assert (await transport.attach(journal, 2))[0] == 1
        await transport.detach(journal)

    async def test_a_lock_is_answered_after_what_is_older(self, transport, root):
        self.require(transport, "locks")
        journal = os.urandom(16)
        await transport.attach(journal, 1)
        async with transport.watch() as events:
            assert await events.receive() == []
            (root / "ref").write_bytes(b"theirs")
            batch = Batch(journal=journal, incarnation=os.urandom(16), generation=1, number=1)
            batch.lock(1, b"ref.lock", 0o640)
            result = await transport.apply(batch)
            assert result.outcomes[0].errno == 0
            assert (root / "ref.lock").stat().st_mode & 0o777 == 0o640
            last = 0
            while last < result.seen:
                heard = await events.receive()
                last = heard[-1].number
            assert any(event.path == b"ref" and event.attr.size == 6 for event in heard)
        again = Batch(journal=journal, incarnation=os.urandom(16), generation=1, number=2)
        again.lock(1, b"ref.lock", 0o640)
        refused = await transport.apply(again)
        assert refused.outcomes[0].errno == errno.EEXIST
        assert await transport.locks(journal, [b"ref.lock", b"other"]) == [True, False]
        (root / "ref.lock").unlink()
        assert await transport.locks(journal, [b"ref.lock"]) == [False]
        await transport.detach(journal)

    async def test_after_waits_for_a_batch_in_flight(self, transport, root):
        self.require(transport, "apply")
        self.require_strong(transport)
        journal = os.urandom(16)
        await transport.attach(journal, 1)
        batch = Batch(journal=journal, incarnation=os.urandom(16), generation=1, number=1)
        content = batch.add_content(BytesContent(bytes(2_000_000)), 0o644, STAMP)
        batch.put(1, b"file", ABSENT, content)
        sizes = []

        async def look() -> None:
            sizes.append((await transport.stat(b"file", after=1))[1].size)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(look)
            tasks.start_soon(transport.apply, batch)
        assert sizes == [2_000_000]
        await transport.detach(journal)
