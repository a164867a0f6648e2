"""What every FileTransport keeps when it reads."""

from __future__ import annotations

import errno
import hashlib
import os

import anyio
import pytest

from sealos_devbox.errors import (
    BoxFileError,
    BoxFileNotFoundError,
    BoxIsADirectoryError,
    BoxNotADirectoryError,
)
from sealos_devbox.patterns import Prune
from sealos_devbox.types import Attributes
from tests.contract.transport_suite import TransportSuite

STAMP = 1_700_000_000_123_456_789


class ReadingContract(TransportSuite):
    """Attributes, listings, snapshots, contents."""

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
