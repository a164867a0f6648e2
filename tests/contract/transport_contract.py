"""What every FileTransport keeps: reading, changing, watching and running in a real directory.

A test class inherits and says how to open a transport to a directory. What a transport cannot do it
does not claim: those tests are skipped by its capabilities.
"""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from sealos_devbox._transport.base import FileTransport
from sealos_devbox.batch import ABSENT, ANY, Batch, as_left_by, is_version
from sealos_devbox.errors import (
    BoxFileError,
    BoxFileNotFoundError,
    BoxIsADirectoryError,
    BoxNotADirectoryError,
    CapabilityError,
    TransportError,
)
from sealos_devbox.patterns import Prune
from sealos_devbox.types import Attributes, BytesContent, Event

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


def is_running(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        return False


class TransportContract:
    def open_transport(self, root: Path) -> AbstractAsyncContextManager[FileTransport]:
        raise NotImplementedError

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        root = tmp_path / "box"
        root.mkdir()
        return root

    @pytest.fixture
    async def transport(self, root: Path) -> AsyncIterator[FileTransport]:
        async with self.open_transport(root) as transport:
            yield transport

    def require(self, transport: FileTransport, capability: str) -> None:
        if capability not in transport.peer.capabilities:
            pytest.skip(f"the transport has no {capability}")

    def one_call(self, round_trips: int) -> None:
        """A call is one round trip, however much it asks for."""
        assert round_trips == 1

    def told(self, ns: int) -> int:
        """A time as the transport can tell and set it."""
        return ns

    call_bytes = 200
    """What a small call may send."""
    many_calls = 10
    """Round trips that 600 KB of names may take."""
    at_once = 1000
    """Calls that are tried at the same time."""
    contents = 500
    """Files that one batch is tried with."""

    def require_strong(self, transport: FileTransport) -> None:
        if "weak" in transport.peer.capabilities:
            pytest.skip("the transport is weak: it says so")

    async def test_the_peer_introduces_itself(self, transport, root):
        peer = transport.peer
        assert peer.root == os.fsencode(root)
        assert peer.uid == os.getuid()
        assert peer.root_attr.is_dir
        assert transport.free_space[0] > 0

    async def test_stat(self, transport, root):
        (root / "file").write_bytes(b"hello")
        os.utime(root / "file", ns=(STAMP, STAMP))
        _, attr = await transport.stat(b"file")
        expected = (root / "file").lstat()
        assert (attr.mode, attr.size, attr.ino) == (expected.st_mode, 5, expected.st_ino)
        assert attr.mtime_ns == self.told(STAMP)
        assert attr.ctime_ns == self.told(expected.st_ctime_ns)
        assert (attr.uid, attr.gid, attr.nlink) == (expected.st_uid, expected.st_gid, 1)
        assert attr.is_file

    async def test_the_root_has_the_empty_path(self, transport, root):
        _, attr = await transport.stat(b"")
        assert attr.ino == root.stat().st_ino

    @pytest.mark.parametrize(
        ("path", "number", "kind"),
        [
            (b"absent", errno.ENOENT, BoxFileNotFoundError),
            (b"file/below", errno.ENOTDIR, BoxNotADirectoryError),
            (b"../etc/passwd", errno.EINVAL, BoxFileError),
            (b"a//b", errno.EINVAL, BoxFileError),
            (b"/file", errno.EINVAL, BoxFileError),
            (b"n" * 256, errno.ENAMETOOLONG, BoxFileError),
            (b"/".join([b"d" * 250] * 20), errno.ENAMETOOLONG, BoxFileError),
        ],
    )
    async def test_errors_carry_errno_and_name(self, transport, root, path, number, kind):
        (root / "file").touch()
        with pytest.raises(kind) as caught:
            await transport.stat(path)
        assert caught.value.errno == number
        assert caught.value.filename == path

    @pytest.mark.parametrize(
        "name", [b"new\nline", b'it\'s "quoted"', b"-rf", b"\xff\xfe\x01", b" ", "日本".encode()]
    )
    async def test_names_are_bytes(self, transport, root, name):
        (root / os.fsdecode(name)).write_bytes(name)
        assert (await transport.read(name))[1] == name
        _, _, entries = await transport.list(b"")
        assert [entry for entry, _ in entries] == [name]

    async def test_symbolic_links_are_followed_only_when_asked(self, transport, root):
        (root / "file").write_bytes(b"hello")
        (root / "link").symlink_to("file")
        assert (await transport.stat(b"link"))[1].target == b"file"
        assert (await transport.stat(b"link", follow=True))[1].size == 5
        assert await transport.readlink(b"link") == b"file"
        with pytest.raises(BoxFileError) as caught:
            await transport.read(b"link")
        assert caught.value.errno == errno.ELOOP
        assert (await transport.read(b"link", follow=True))[1] == b"hello"
        (root / "out").symlink_to("/etc/passwd")
        with pytest.raises(BoxFileError) as caught:
            await transport.read(b"out", follow=True)
        assert caught.value.errno == errno.EXDEV

    async def test_stat_many_in_order(self, transport, root):
        for number in range(0, 300, 2):
            (root / f"f{number}").write_bytes(bytes(number))
        before = transport.round_trips
        answers = await transport.stat_many([b"f%d" % number for number in range(300)])
        self.one_call(transport.round_trips - before)
        for number, answer in enumerate(answers):
            if number % 2:
                assert answer == errno.ENOENT
            else:
                assert isinstance(answer, Attributes)
                assert answer.size == number

    async def test_stat_many_of_nothing_and_of_very_many(self, transport, root):
        assert await transport.stat_many([]) == []
        (root / "file").touch()
        paths = [b"x" * 200 + b"%d" % number for number in range(3000)] + [b"file"]
        before = transport.round_trips
        answers = await transport.stat_many(paths)
        assert transport.round_trips - before < self.many_calls
        assert answers[:-1] == [errno.ENOENT] * 3000
        assert isinstance(answers[-1], Attributes)

    async def test_list(self, transport, root):
        (root / "dir").mkdir()
        for number in range(1200):
            (root / "dir" / f"{number:05}").touch()
        before = transport.round_trips
        _, attr, entries = await transport.list(b"dir")
        self.one_call(transport.round_trips - before)
        assert attr.is_dir
        assert sorted(name for name, _ in entries) == [b"%05d" % number for number in range(1200)]
        assert all(entry.is_file for _, entry in entries)
        with pytest.raises(BoxNotADirectoryError):
            await transport.list(b"dir/00000")

    async def test_snapshot(self, transport, root):
        expected = {b"": set()}
        for directory in ("a", "a/b", "a/b/c", "d"):
            (root / directory).mkdir()
            expected[os.fsencode(directory)] = set()
            expected[os.fsencode(os.path.dirname(directory))].add(
                os.fsencode(os.path.basename(directory))
            )
            for number in range(200):
                name = f"file with a longish name {number}"
                (root / directory / name).touch()
                expected[os.fsencode(directory)].add(os.fsencode(name))
        found: dict[bytes, set[bytes]] = {}
        finished = []
        async with transport.snapshot(b"") as stream:
            while (records := await stream.receive()) is not None:
                for record in records:
                    assert record.path not in finished
                    names = [name for name, _ in record.entries]
                    found.setdefault(record.path, set()).update(names)
                    if record.last:
                        finished.append(record.path)
            assert await stream.receive() is None
        assert found == expected
        depths = [path.count(b"/") + bool(path) for path in finished]
        assert depths == sorted(depths), "breadth first"

    async def test_snapshot_of_some_levels(self, transport, root):
        (root / "a/b/c").mkdir(parents=True)
        async with transport.snapshot(b"", max_depth=2) as stream:
            seen = []
            while (records := await stream.receive()) is not None:
                seen += [record.path for record in records]
        assert seen == [b"", b"a"]

    async def test_snapshot_that_leaves_out(self, transport, root):
        for path in ("node_modules/a", "src/node_modules/b", "src/deep", "src/out", "out", "it's"):
            (root / path).mkdir(parents=True)
            (root / path / "f").touch()
        (root / "src" / "a.log").touch()
        modules = {b"node_modules", b"node_modules/a"}
        src = {b"src", b"src/deep"}
        for names, directories, base, expected in (
            (("node_modules", "*.log"), ("/out",), b"", {b"", *src, b"src/out", b"it's"}),
            ((), ("node_modules", "/out"), b"src", {b"", *modules, *src, b"out", b"it's"}),
            (("it's", "src"), (), b"", {b"", *modules, b"out"}),
        ):
            prune = Prune(names, directories, base)
            found = {}
            async with transport.snapshot(b"", prune=prune) as stream:
                while (records := await stream.receive()) is not None:
                    for record in records:
                        found.setdefault(record.path, set()).update(n for n, _ in record.entries)
            assert set(found) == expected
            # What is left out is named all the same.
            assert found[b""] == {b"node_modules", b"src", b"out", b"it's"}
            if b"src" in found:
                assert found[b"src"] == {b"node_modules", b"deep", b"out", b"a.log"}

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

    async def test_snapshot_of_what_is_not_there(self, transport):
        async with transport.snapshot(b"absent") as stream:
            with pytest.raises(BoxFileNotFoundError):
                await stream.receive()

    async def test_leaving_a_snapshot_early(self, transport, root):
        for number in range(1200):
            (root / f"{number:0240}").touch()
        async with transport.snapshot(b"") as stream:
            assert await stream.receive()
        assert (await transport.stat(b""))[1].is_dir

    async def test_read(self, transport, root):
        content = bytes(range(256)) * 5000
        (root / "file").write_bytes(content)
        attr, data = await transport.read(b"file")
        assert data == content
        assert attr.size == len(content)
        assert (await transport.read(b"file", offset=1000, length=50))[1] == content[1000:1050]
        assert (await transport.read(b"file", offset=len(content)))[1] == b""
        assert (await transport.read(b"file", version=attr.version))[1] == content
        (root / "file").write_bytes(b"other")
        with pytest.raises(BoxFileError) as caught:
            await transport.read(b"file", version=attr.version)
        assert caught.value.errno == errno.ESTALE

    async def test_read_what_is_no_file(self, transport, root):
        with pytest.raises(BoxIsADirectoryError):
            await transport.read(b"")
        os.mkfifo(root / "fifo")
        with pytest.raises(BoxFileError):
            await transport.read(b"fifo")

    async def test_read_many(self, transport, root):
        contents = {}
        for number in range(300):
            contents[b"f%d" % number] = os.urandom(number * 10)
            (root / f"f{number}").write_bytes(contents[b"f%d" % number])
        files = [(name, None) for name in contents]
        files[7] = (b"absent", None)
        before = transport.round_trips
        found = {}
        async with transport.read_many(files, max_each=2500) as stream:
            while (records := await stream.receive()) is not None:
                for record in records:
                    assert record.index not in found
                    found[record.index] = record
        self.one_call(transport.round_trips - before)
        assert sorted(found) == list(range(300))
        for index, (name, _) in enumerate(files):
            if index == 7:
                assert found[index].errno == errno.ENOENT
            elif len(contents[name]) > 2500:
                assert found[index].errno == errno.EFBIG
            else:
                assert found[index].errno == 0
                assert found[index].content == contents[name]

    async def test_read_many_of_nothing_and_of_very_many(self, transport, root):
        async with transport.read_many([]) as stream:
            assert await stream.receive() is None
        (root / "file").write_bytes(b"x")
        _, attr = await transport.stat(b"file")
        files = [(b"y" * 200, attr.version)] * 1500 + [(b"file", attr.version)]
        found = {}
        async with transport.read_many(files) as stream:
            while (records := await stream.receive()) is not None:
                found.update({record.index: record for record in records})
        assert sorted(found) == list(range(1501))
        assert found[1500].content == b"x"

    async def test_a_handle_pins_the_file(self, transport, root):
        self.require_strong(transport)
        content = os.urandom(3_000_000)
        (root / "file").write_bytes(content)
        handle, attr = await transport.open(b"file")
        assert attr.size == len(content)
        (root / "file").unlink()
        pieces: dict[int, bytes] = {}

        async def fetch(offset: int) -> None:
            _, pieces[offset] = await transport.pread(handle, offset, 400_000)

        async with anyio.create_task_group() as tasks:
            for offset in range(0, len(content), 400_000):
                tasks.start_soon(fetch, offset)
        assert b"".join(pieces[offset] for offset in sorted(pieces)) == content
        assert (await transport.pread(handle, len(content), 10))[1] == b""
        await transport.close(handle)
        with pytest.raises(BoxFileError) as caught:
            await transport.pread(handle, 0, 1)
        assert caught.value.errno == errno.EBADF

    async def test_stream(self, transport, root):
        content = os.urandom(3_000_000)
        (root / "file").write_bytes(content)
        handle, attr = await transport.open(b"file")

        async def fetch(offset: int, length: int) -> tuple[bytes, Attributes]:
            stream = transport.stream(handle, offset, length)
            if stream is None:
                pytest.skip("the transport reads in pieces, several at once")
            pieces: list[bytes | Attributes] = []
            async with stream:
                while (records := await stream.receive()) is not None:
                    assert records
                    pieces += records
                assert await stream.receive() is None
            *data, last = pieces
            assert all(isinstance(piece, bytes) for piece in data)
            assert isinstance(last, Attributes)
            return b"".join(data), last

        found, last = await fetch(700_001, 2_000_000)
        assert found == content[700_001:2_700_001]
        assert last.version == attr.version
        assert (await fetch(0, 3_000_000))[0] == content
        assert (await fetch(2_999_990, 1000))[0] == content[-10:]
        assert (await fetch(4_000_000, 1000))[0] == b""
        # Whoever leaves in the middle leaves nothing that is in the way.
        async with transport.stream(handle, 0, 3_000_000) as stream:
            await stream.receive()
        (root / "file").write_bytes(b"other")
        found, last = await fetch(0, 3_000_000)
        assert found == b"other"
        assert last.version != attr.version
        (root / "file").unlink()
        with pytest.raises(BoxFileError) as caught:
            await fetch(0, 10)
        assert caught.value.errno == errno.ENOENT
        await transport.close(handle)

    async def test_hash(self, transport, root):
        content = os.urandom(300_000)
        (root / "file").write_bytes(content)
        attr, digests = await transport.hash(b"file")
        assert digests == [hashlib.sha256(content).digest()]
        assert attr.size == len(content)
        _, digests = await transport.hash(b"file", block=100_000)
        blocks = [content[start : start + 100_000] for start in range(0, 300_000, 100_000)]
        assert digests == [hashlib.sha256(block).digest() for block in blocks]

    async def test_statvfs(self, transport, root):
        usage = await transport.statvfs()
        assert usage.blocks == os.statvfs(root).f_blocks
        assert usage.namemax == 255

    async def test_extended_attributes(self, transport, root):
        self.require(transport, "xattr")
        (root / "file").touch()
        try:
            os.setxattr(root / "file", b"user.colour", b"blue\0")
        except OSError as error:
            pytest.skip(f"the file system here has none: {error}")
        assert await transport.listxattr(b"file") == [b"user.colour"]
        assert await transport.getxattr(b"file", b"user.colour") == b"blue\0"
        with pytest.raises(BoxFileError) as caught:
            await transport.getxattr(b"file", b"user.shape")
        assert caught.value.errno == errno.ENODATA

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

    async def run(self, transport, argv, stdin=b"", **options):
        out = {1: b"", 2: b""}
        async with transport.exec(argv, **options) as command:
            if stdin:
                await command.send(stdin)
            await command.send_eof()
            with anyio.fail_after(20):
                while (piece := await command.receive()) is not None:
                    out[piece[0]] += piece[1]
            return (*command.status, out[1], out[2])

    async def test_exec(self, transport, root):
        self.require(transport, "exec")
        script = b'cat; echo "$COLOUR" >&2; pwd >&2; exit 3'
        code, number, out, err = await self.run(
            transport, [b"sh", b"-c", script], b"input", env={"COLOUR": "blue"}
        )
        assert (code, number, out) == (3, None, b"input")
        assert err == b"blue\n" + os.fsencode(root) + b"\n"

    async def test_exec_in_a_directory(self, transport, root):
        self.require(transport, "exec")
        (root / "dir").mkdir()
        assert (await self.run(transport, [b"pwd"], cwd=b"dir"))[2] == os.fsencode(
            root / "dir"
        ) + b"\n"

    async def test_exec_of_what_does_not_exist(self, transport):
        self.require(transport, "exec")
        with pytest.raises(BoxFileNotFoundError):
            await self.run(transport, [b"no-such-program"])
        with pytest.raises((BoxFileNotFoundError, CapabilityError)):  # no text, as agents want it
            await self.run(transport, [b"./\xffno-text"])
        assert (await self.run(transport, [b"true"]))[0] == 0  # the connection has not suffered

    async def test_exec_much_in_and_out(self, transport):
        self.require(transport, "exec")
        content = os.urandom(6_000_000)
        received = bytearray()
        async with transport.exec([b"cat"]) as command:

            async def feed() -> None:
                for start in range(0, len(content), 70_000):
                    await command.send(content[start : start + 70_000])
                await command.send_eof()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(feed)
                while (piece := await command.receive()) is not None:
                    received += piece[1]
        assert bytes(received) == content

    async def test_signals_and_status(self, transport):
        self.require(transport, "exec")
        async with transport.exec([b"sh", b"-c", b"echo up; exec sleep 1000"]) as command:
            with pytest.raises(RuntimeError):
                _ = command.status
            assert await command.receive() == (1, b"up\n")
            await command.signal(signal.SIGTERM)
            with anyio.fail_after(20):
                assert await command.receive() is None
            assert command.status == (None, signal.SIGTERM)

    async def test_sending_to_a_command_that_has_ended(self, transport):
        self.require(transport, "exec")
        async with transport.exec([b"true"]) as command:
            assert await command.receive() is None
            with pytest.raises(BoxFileError) as caught:
                await command.send(b"x")
            assert caught.value.errno == errno.EPIPE

    async def test_a_terminal(self, transport):
        self.require(transport, "pty")
        script = b"stty size; read line; stty size; echo $TERM"
        async with transport.exec([b"sh", b"-c", script], pty=(30, 90, "dumb")) as command:
            out = b""
            with anyio.fail_after(20):
                while b"30 90" not in out:
                    piece = await command.receive()
                    assert piece is not None
                    out += piece[1]
                await command.resize(40, 100)
                await command.send(b"\n")
                while (piece := await command.receive()) is not None:
                    out += piece[1]
        assert b"40 100" in out
        assert b"dumb" in out

    async def test_leaving_kills_the_command(self, transport, root):
        self.require(transport, "exec")
        script = b"echo $$; trap '' TERM; sleep 1000 & wait"
        async with transport.exec([b"sh", b"-c", script]) as command:
            piece = await command.receive()
            assert piece is not None
            pid = int(piece[1])
        with anyio.fail_after(20):
            while is_running(pid):
                await transport.stat(b"")

    async def test_many_calls_at_once(self, transport, root):
        for number in range(100):
            (root / f"f{number}").write_bytes(b"%d" % number)
        answers = []

        async def call(number: int) -> None:
            if number % 10 == 9:
                with pytest.raises(BoxFileNotFoundError):
                    await transport.stat(b"absent")
            else:
                _, content = await transport.read(b"f%d" % (number % 100))
                answers.append(int(content) == number % 100)

        async with anyio.create_task_group() as tasks:
            for number in range(self.at_once):
                tasks.start_soon(call, number)
        assert answers == [True] * (self.at_once * 9 // 10)

    async def test_round_trips_and_bytes_are_counted(self, transport, root):
        before = transport.round_trips, transport.bytes_sent, transport.bytes_received
        await transport.stat(b"")
        assert transport.round_trips == before[0] + 1
        assert 0 < transport.bytes_sent - before[1] < self.call_bytes
        assert 0 < transport.bytes_received - before[2] < 500

    async def test_closed_is_closed(self, root):
        async with self.open_transport(root) as transport:
            await transport.aclose()
            await transport.aclose()
            with pytest.raises(TransportError, match="closed"):
                await transport.stat(b"")
            with pytest.raises(TransportError, match="closed"):
                async with transport.snapshot(b"") as stream:
                    await stream.receive()
