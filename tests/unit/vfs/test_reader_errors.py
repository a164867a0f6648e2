"""Reading when the box does not answer as it should: a scripted transport stands for the box."""

import errno
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from devboxfs.core.chunks import RANGE
from devboxfs.core.prefetch import Candidate, PrefetchSource
from devboxfs.vfs.content_cache import ContentCache
from devboxfs.vfs.reader import Reader
from sealos_devbox import (
    Attributes,
    FileTransport,
    ManyRecord,
    ProtocolError,
    TransportError,
    Version,
    file_error,
)
from tests.support.reading import File, Line, NoTree

MIB = 1024 * 1024
LARGE = 20 * MIB


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


def version(number: int, size: int) -> Version:
    return Version(number, 1, 1, size)


def attributes(of: Version) -> Attributes:
    return Attributes(0o100644, 1, 0, 0, of.size, of.ino, of.mtime_ns, of.ctime_ns, 0)


def data(offset: int, length: int) -> bytes:
    return b"".join(b"%08d" % n for n in range(offset // 8, (offset + length) // 8 + 1))[
        offset % 8 :
    ][:length]


class Stream:
    """Records of a scripted read_many."""

    def __init__(self, box: "Box", files: list[tuple[bytes, Version | None]]) -> None:
        self.box = box
        self.files = files
        self.at = 0

    async def receive(self) -> list[ManyRecord] | None:
        await self.box.gate("record")
        if self.at == len(self.files):
            return None
        _, wanted = self.files[self.at]
        assert wanted is not None
        record = ManyRecord(self.at, 0, attributes(wanted), data(0, wanted.size))
        record = self.box.change(record)
        if self.box.rate:
            async with self.box.link:
                await trio.sleep(wanted.size / self.box.rate)
        self.at += 1
        return [record]

    async def __aenter__(self) -> "Stream":
        self.box.asked.append([path for path, _ in self.files])
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


@dataclass
class Box:
    """A FileTransport as far as reading needs one. `steps` are awaited at each exchange."""

    steps: list[Callable[[], object]] = field(default_factory=list)
    rate: float = 0.0
    """Bytes per second, 0 for no limit."""
    link: trio.Lock = field(default_factory=trio.Lock)
    hold: trio.Event | None = None
    asked: list[list[bytes]] = field(default_factory=list)
    ranges: list[tuple[str, int, int]] = field(default_factory=list)
    change: Callable[[ManyRecord], ManyRecord] = lambda record: record
    version: Version = field(default_factory=lambda: version(1, LARGE))

    async def gate(self, _: str) -> None:
        if self.steps:
            self.steps.pop(0)()
        if self.hold is not None:
            await self.hold.wait()
        await trio.lowlevel.checkpoint()

    def read_many(
        self, files: list[tuple[bytes, Version | None]], *, max_each: int = 0, follow: bool = False
    ) -> Stream:
        return Stream(self, files)

    async def read(
        self,
        path: bytes,
        *,
        version: Version | None = None,
        offset: int = 0,
        length: int = -1,
        follow: bool = False,
    ) -> tuple[Attributes, bytes]:
        self.ranges.append(("read", offset, length))
        await self.gate("read")
        return attributes(self.version), data(offset, length)

    async def open(
        self, path: bytes, *, version: Version | None = None, follow: bool = False
    ) -> tuple[int, Attributes]:
        await self.gate("open")
        return 7, attributes(self.version)

    async def pread(self, handle: int, offset: int, length: int) -> tuple[Attributes, bytes]:
        self.ranges.append(("pread", offset, length))
        await self.gate("pread")
        return attributes(self.version), data(offset, length)

    async def close(self, handle: int) -> None:
        await self.gate("close")


class Siblings:
    """A tree of one directory."""

    def __init__(self, files: list[File]) -> None:
        self.files = files

    def following(self, path: bytes) -> Iterator[Candidate]:
        for file in self.files:
            if file.path > path:
                yield Candidate(file.path, file.version)

    def inside(self, directory: bytes, *, recursive: bool) -> Iterator[Candidate]:
        return iter(())


def as_transport(box: Box | None) -> FileTransport | None:
    return box  # type: ignore[return-value]


FILES = [File(b"f%02d" % number, version(number + 1, 100)) for number in range(10)]
SMALL = FILES[0]
BIG = File(b"big", version(1, LARGE))


@asynccontextmanager
async def reading(
    box: Box | None, tree: PrefetchSource | None = None
) -> AsyncIterator[tuple[Reader, Line]]:
    line = Line(as_transport(box))
    cache = ContentCache(None, 16 * MIB)
    async with trio.open_nursery() as nursery:
        reader = Reader(line, cache, tree or NoTree(), timeout=lambda: 10.0)
        await nursery.start(reader.run)
        yield reader, line
        nursery.cancel_scope.cancel()


def broken() -> None:
    raise TransportError("cut")


def nothing() -> None:
    pass


@pytest.mark.parametrize("file", [SMALL, BIG])
async def test_without_a_link_it_is_eio_after_the_deadline(file: File) -> None:
    async with reading(None) as (reader, _):
        start = trio.current_time()
        with pytest.raises(OSError, match="Input/output") as caught:
            await reader.read(file, 0, 100)
        assert caught.value.errno == errno.EIO
        assert trio.current_time() - start == pytest.approx(10)


@pytest.mark.parametrize("file", [SMALL, BIG])
async def test_a_box_that_does_not_answer_is_etimedout(file: File) -> None:
    async with reading(Box(hold=trio.Event())) as (reader, _):
        with pytest.raises(TimeoutError):
            await reader.read(file, 0, 100)
        assert trio.current_time() > 0


async def test_pinning_without_an_answer_is_etimedout() -> None:
    async with reading(Box(hold=trio.Event())) as (reader, line):
        with pytest.raises(TimeoutError):
            await reader.pin(BIG)
        line.set(None)
        reader.release(BIG.version)
        with pytest.raises(OSError, match="Input/output"):
            await reader.pin(BIG)


@pytest.mark.parametrize("file", [SMALL, BIG])
async def test_a_link_that_comes_back_in_time(file: File) -> None:
    async with reading(None) as (reader, line), trio.open_nursery() as nursery:

        async def come_back() -> None:
            await trio.sleep(5)
            line.set(as_transport(Box()))

        nursery.start_soon(come_back)
        assert await reader.read(file, 0, 100) == data(0, 100)


@pytest.mark.parametrize("file", [SMALL, BIG])
async def test_a_late_joiner_of_a_timed_out_fetch_has_its_own_time(file: File) -> None:
    hold = trio.Event()
    box = Box(hold=hold)
    results: list[object] = []
    async with reading(box) as (reader, _), trio.open_nursery() as nursery:

        async def first() -> None:
            with pytest.raises(TimeoutError):
                await reader.read(file, 0, 100)
            box.hold = None
            results.append("first")

        async def second() -> None:
            await trio.sleep(7)
            results.append(await reader.read(file, 0, 100))

        nursery.start_soon(first)
        nursery.start_soon(second)
    assert results == ["first", data(0, 100)]


@pytest.mark.parametrize("file", [SMALL, BIG])
async def test_a_cancelled_reader_takes_nothing_from_others(file: File) -> None:
    box = Box(hold=trio.Event())
    results: list[bytes] = []
    async with reading(box) as (reader, _), trio.open_nursery() as nursery:

        async def one() -> None:
            results.append(await reader.read(file, 0, 100))

        with trio.move_on_after(1):
            await reader.read(file, 0, 100)
        nursery.start_soon(one)
        await trio.testing.wait_all_tasks_blocked()
        assert box.hold is not None
        box.hold.set()
    assert results == [data(0, 100)]
    assert len(box.asked) + sum(1 for kind, _, _ in box.ranges if kind == "read") == 1


@pytest.mark.parametrize("file", [SMALL, BIG])
async def test_a_broken_transport_is_replaced(file: File) -> None:
    bad, good = Box(steps=[broken, broken]), Box()
    async with reading(bad) as (reader, line), trio.open_nursery() as nursery:

        async def replace() -> None:
            await trio.sleep(1)
            line.set(as_transport(good))

        nursery.start_soon(replace)
        assert await reader.read(file, 0, 100) == data(0, 100)


async def test_after_a_break_only_what_is_waited_for_is_asked_again() -> None:
    bad, good = Box(steps=[nothing, nothing, broken]), Box()
    async with reading(bad, Siblings(FILES)) as (reader, line), trio.open_nursery() as nursery:
        assert await reader.read(FILES[0], 0, 100) == data(0, 100)
        results: list[bytes] = []

        async def late() -> None:
            results.append(await reader.read(FILES[5], 0, 100))

        nursery.start_soon(late)
        await trio.testing.wait_all_tasks_blocked()
        line.set(as_transport(good))
    assert bad.asked == [[file.path for file in FILES]]
    assert good.asked == [[FILES[5].path]]
    assert results == [data(0, 100)]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.EACCES, errno.EACCES),
        (errno.EIO, errno.EIO),
        (errno.ENOENT, errno.ESTALE),
        (errno.ESTALE, errno.ESTALE),
        (errno.EFBIG, errno.ESTALE),
        (errno.EINVAL, errno.ESTALE),
    ],
)
async def test_what_the_box_says_of_a_file(code: int, expected: int) -> None:
    def change(record: ManyRecord) -> ManyRecord:
        return ManyRecord(record.index, code)

    def fail() -> None:
        raise file_error(code, b"f")

    async with reading(Box(change=change)) as (reader, _):
        with pytest.raises(OSError, match=r"\[Errno") as caught:
            await reader.read(SMALL, 0, 100)
        assert caught.value.errno == expected
    async with reading(Box(steps=[fail] * 10)) as (reader, _):
        with pytest.raises(OSError, match=r"\[Errno") as caught:
            await reader.read(BIG, 0, 100)
        assert caught.value.errno == expected


async def test_a_content_of_another_length_is_stale() -> None:
    def change(record: ManyRecord) -> ManyRecord:
        return ManyRecord(record.index, 0, record.attr, record.content[:-1])

    async with reading(Box(change=change)) as (reader, _):
        with pytest.raises(OSError, match="tale"):
            await reader.read(SMALL, 0, 100)


async def test_a_file_that_the_box_leaves_out_is_an_error_and_not_a_wait() -> None:
    def change(record: ManyRecord) -> ManyRecord:
        return ManyRecord(record.index + 5, 0, record.attr, record.content)

    async with reading(Box(change=change)) as (reader, _):
        with pytest.raises(OSError, match="Input/output"):
            await reader.read(SMALL, 0, 100)
        assert trio.current_time() < 5


async def test_nonsense_is_eio() -> None:
    def nonsense() -> None:
        raise ProtocolError("nonsense")

    async with reading(Box(steps=[nonsense])) as (reader, _):
        with pytest.raises(OSError, match="Input/output"):
            await reader.read(SMALL, 0, 100)
        assert await reader.read(SMALL, 0, 100) == data(0, 100)


async def test_a_box_without_handles_left_is_read_by_path() -> None:
    class Crowded(Box):
        async def open(self, *_: object, **__: object) -> tuple[int, Attributes]:
            raise file_error(errno.EMFILE, b"big")

    box = Crowded()
    async with reading(box) as (reader, _):
        for offset in range(0, 3 * MIB, RANGE):
            assert await reader.read(BIG, offset, 10) == data(offset, 10)
        with pytest.raises(OSError, match="Too many open files"):
            await reader.pin(BIG)
    assert {kind for kind, _, _ in box.ranges} == {"read"}


async def test_a_handle_that_reads_another_content_is_stale() -> None:
    box = Box()
    async with reading(box) as (reader, _):
        await reader.pin(BIG)
        box.version = Version(1, 5, 1, LARGE)
        assert await reader.read(BIG, 0, 10) == data(0, 10)
        box.version = Version(1, 5, 2, LARGE)
        with pytest.raises(OSError, match="tale"):
            await reader.read(BIG, 10 * MIB, 10)


async def test_reading_what_is_in_memory_has_no_checkpoint() -> None:
    async with reading(Box()) as (reader, line):
        await reader.read(SMALL, 0, 100)
        line.set(None)
        with trio.testing.assert_no_checkpoints():
            assert await reader.read(SMALL, 10, 20) == data(10, 20)
            assert await reader.read(SMALL, 100, 20) == b""


async def test_without_a_link_nothing_is_guessed() -> None:
    async with reading(None, Siblings(FILES)) as (reader, _):
        with pytest.raises(OSError, match="Input/output"):
            await reader.read(FILES[0], 0, 100)
        assert reader.statistics().prefetched_files == 0


async def test_ending_the_reader_wakes_those_who_wait() -> None:
    line = Line(as_transport(Box(hold=trio.Event())))
    reader = Reader(line, ContentCache(None, 16 * MIB), NoTree(), timeout=lambda: 10.0)
    async with trio.open_nursery() as nursery:
        owner = trio.CancelScope()

        async def own(task_status: trio.TaskStatus[None]) -> None:
            with owner:
                await reader.run(task_status=task_status)

        await nursery.start(own)

        async def wait() -> None:
            with pytest.raises(OSError, match="Input/output"):
                await reader.read(SMALL, 0, 100)

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        owner.cancel()
    assert trio.current_time() < 5
    with pytest.raises(RuntimeError):
        await reader.read(SMALL, 0, 100)


async def test_a_slow_link_is_not_kept_busy_with_guesses() -> None:
    files = [File(b"f%04d" % number, version(number + 1, 10_000)) for number in range(1000)]
    box = Box(rate=50_000)
    async with reading(box, Siblings(files)) as (reader, _):
        for file in files[:100]:
            assert await reader.read(file, 0, 10_000) == data(0, 10_000)
    sizes = [len(asked) * 10_000 for asked in box.asked]
    # The first is a guess of its own; then two seconds' worth.
    assert max(sizes[1:]) <= 120_000
    assert len(sizes) >= 8
