"""The file contract against real helpers of the embedded engine, and what only it can show."""

import errno
import os
import signal
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from sealos_devbox import (
    AsyncBox,
    AsyncDevbox,
    AsyncFiles,
    BoxFileError,
    BoxPermissionError,
    ConnectError,
    DeadlineExceededError,
    DevboxConfig,
    FileTransport,
    TransportError,
)
from tests.contract.file_contract import FileContract


@pytest.fixture
def config(tmp_path: Path) -> DevboxConfig:
    return DevboxConfig(embedded=True, data_dir=tmp_path / "data")


@pytest.fixture
async def box(config: DevboxConfig) -> AsyncIterator[AsyncBox]:
    async with AsyncDevbox(config) as devbox:
        yield await devbox.create("my-box")


@pytest.fixture
def files(box: AsyncBox) -> AsyncFiles:
    return box.fs


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return tmp_path / "data" / "boxes" / "my-box" / "workspace"


class TestEmbedded(FileContract):
    """The contract, without delay."""


async def shared_transport(box: AsyncBox) -> FileTransport:
    """The transport that the box's calls use, for counting."""
    return (await box._connection.link()).transport


# ---------------------------------------------------------------------------------- round trips


class TestRoundTrips:
    """Counted, not timed: what a call costs on a link with latency."""

    async def test_one_file(self, box: AsyncBox, workspace: Path, tmp_path: Path) -> None:
        files, transport = box.fs, await shared_transport(box)
        (workspace / "large").write_bytes(os.urandom(3_000_000))
        (workspace / "dir").mkdir()
        info = await files.write_file("if-match", "x")

        costs = {}
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "write new": lambda: files.write_file("a/new", "x"),
            "write existing": lambda: files.write_file("a/new", "y"),
            "write new, large": lambda: files.write_file("big", bytes(100_000)),
            "write create_only": lambda: files.write_file("only", bytes(9), create_only=True),
            "write if_match": lambda: files.write_file("if-match", "y", if_match=info.version),
            "read": lambda: files.read_file("a/new"),
            "read 1 MiB of large": lambda: files.read_file("large", length=1 << 20),
            "read large": lambda: files.read_file("large"),
            "list": lambda: files.list_dir("a"),
            "info": lambda: files.get_file_info("a/new"),
            "exists": lambda: files.exists("nothing"),
            "make_dir": lambda: files.make_dir("b/c/d"),
            "make_dir existing": lambda: files.make_dir("b/c/d"),
            "remove_dir": lambda: files.remove_dir("b", recursive=True),
            "move": lambda: files.move_path("a/new", "a/moved"),
            "copy": lambda: files.copy_path("a/moved", "a/copy"),
            "delete": lambda: files.delete("a/copy"),
        }
        for name, call in calls.items():
            before = transport.round_trips
            await call()
            costs[name] = transport.round_trips - before
        assert costs == {
            "write new": 1,
            "write existing": 2,
            "write new, large": 2,
            "write create_only": 1,
            "write if_match": 2,
            "read": 1,
            "read 1 MiB of large": 1,
            # open, six pieces that are under way at once, close: three in a row after the first
            "read large": 9,
            "list": 1,
            "info": 1,
            "exists": 1,
            "make_dir": 1,
            "make_dir existing": 1,
            "remove_dir": 1,
            "move": 1,
            "copy": 1,
            "delete": 1,
        }

    @pytest.mark.slow
    async def test_a_thousand_files(self, box: AsyncBox, tmp_path: Path) -> None:
        transport = await shared_transport(box)
        source = tmp_path / "source"
        source.mkdir()
        for number in range(1_000):
            (source / str(number)).write_bytes(b"%d" % number * 100)
        for _ in range(2):  # new files, then existing ones
            before = transport.round_trips
            await box.fs.upload_files(
                (source / str(number), f"dir-{number % 10}/{number}") for number in range(1_000)
            )
            assert transport.round_trips - before <= 3
        before = transport.round_trips
        paths = [f"dir-{number % 10}/{number}" for number in range(1_000)]
        await box.fs.download_files(paths, tmp_path / "target")
        assert transport.round_trips - before == 1
        assert (tmp_path / "target" / "dir-7" / "997").read_bytes() == b"997" * 100

    @pytest.mark.slow
    async def test_a_delayed_link_costs_what_the_round_trips_do(self, config: DevboxConfig) -> None:
        delayed = DevboxConfig(embedded=True, data_dir=config.data_dir, link_delay_ms=100)
        async with AsyncDevbox(delayed) as devbox:
            box = await devbox.create("far")
            await box.fs.exists("x")  # connects
            began = anyio.current_time()
            await box.fs.write_file("new", "x")
            took = anyio.current_time() - began
        assert 0.1 <= took < 0.19


# -------------------------------------------------------------------------- what the box contains


async def test_an_existing_file_is_replaced_in_one_step(files: AsyncFiles, workspace: Path) -> None:
    (workspace / "file").write_text("old")
    with (workspace / "file").open() as held:
        await files.write_file("file", "new")
        assert held.read() == "old"
    assert (workspace / "file").read_text() == "new"
    assert os.listdir(workspace) == ["file"]


async def test_symbolic_links_are_written_through(files: AsyncFiles, workspace: Path) -> None:
    (workspace / "dir").mkdir()
    (workspace / "dir" / "file").write_text("old")
    (workspace / "link").symlink_to("dir/file")
    (workspace / "absolute").symlink_to(workspace / "dir" / "file")
    (workspace / "to_dir").symlink_to("dir")
    (workspace / "dangling").symlink_to("dir/made")
    for number, (path, real) in enumerate(
        [
            ("link", "dir/file"),
            ("absolute", "dir/file"),
            ("to_dir/file", "dir/file"),
            ("to_dir/new", "dir/new"),
            ("to_dir/deep/er", "dir/deep/er"),
            ("dangling", "dir/made"),
        ]
    ):
        for size in (3, 100_000):
            data = bytes([number]) * size
            written = await files.write_file(path, data)
            assert written.path == real
            assert (workspace / real).read_bytes() == data
            assert await files.read_file(path) == data
    assert (workspace / "link").is_symlink()
    assert (workspace / "to_dir").is_symlink()
    await files.upload_files([(b"up", "link"), (b"up2", "to_dir/up2"), (b"up3", "to_dir/x/up3")])
    assert (workspace / "dir" / "file").read_bytes() == b"up"
    assert (workspace / "dir" / "x" / "up3").read_bytes() == b"up3"
    assert (workspace / "link").is_symlink()


async def test_names_through_links(files: AsyncFiles, workspace: Path) -> None:
    (workspace / "dir").mkdir()
    (workspace / "dir" / "file").write_text("x")
    (workspace / "to_dir").symlink_to("dir")
    (workspace / "link").symlink_to("dir/file")
    await files.copy_path("to_dir/file", "to_dir/copy")
    await files.move_path("to_dir/copy", "to_dir/moved")
    await files.make_dir("to_dir/a/b")
    await files.make_dir("to_dir")
    assert sorted(os.listdir(workspace / "dir")) == ["a", "file", "moved"]
    info = await files.get_file_info("to_dir/moved", follow_symlinks=False)
    assert info.path == "dir/moved"
    await files.delete("to_dir/moved")
    await files.remove_dir("to_dir/a", recursive=True)
    assert os.listdir(workspace / "dir") == ["file"]
    assert [i.name for i in await files.list_dir("to_dir")] == ["file"]
    itself = await files.get_file_info("link", follow_symlinks=False)
    assert (itself.type, itself.target, itself.is_symlink) == ("symlink", "dir/file", True)
    assert (await files.get_file_info("link")).type == "file"
    await files.delete("link")
    assert (workspace / "dir" / "file").exists()
    await files.delete("to_dir")
    assert (workspace / "dir").is_dir()


async def test_links_that_lead_out_are_not_followed(
    files: AsyncFiles, workspace: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (workspace / "out").symlink_to(outside)
    (workspace / "secret").symlink_to(outside / "secret")
    for call in (
        files.read_file("out/secret"),
        files.read_file("secret"),
        files.write_file("secret", "x"),
        files.write_file("out/new", "x"),
        files.list_dir("out"),
        files.delete("out/secret"),
        files.make_dir("out/dir"),
        files.remove_dir("out", recursive=True),
        files.upload_files([(b"x", "out/new")]),
        files.download_files(["out/secret"], tmp_path / "target"),
    ):
        with pytest.raises(BoxFileError) as caught:
            await call
        assert caught.value.errno in (errno.EXDEV, errno.ENOTDIR, errno.ELOOP)
    assert os.listdir(outside) == ["secret"]
    assert (outside / "secret").read_text() == "secret"


async def test_a_file_with_several_names_stays_one(files: AsyncFiles, workspace: Path) -> None:
    (workspace / "a").write_text("old")
    (workspace / "b").hardlink_to(workspace / "a")
    for number, data in enumerate([b"new", b"", bytes(100_000)]):
        info = await files.write_file("a", data, mode=0o600 + number * 0o10)
        assert (workspace / "b").read_bytes() == data
        assert info.link_count == 2
        assert info.mode == 0o600 + number * 0o10
    await files.upload_files([(b"uploaded", "b")])
    assert (workspace / "a").read_bytes() == b"uploaded"


async def test_special_files_are_not_touched(files: AsyncFiles, workspace: Path) -> None:
    os.mkfifo(workspace / "fifo")
    info = await files.get_file_info("fifo")
    assert info.type == "fifo"
    for data in ("x", bytes(100_000)):
        with pytest.raises(BoxFileError) as caught:
            await files.write_file("fifo", data)
        assert caught.value.errno == errno.EINVAL
    with pytest.raises(BoxFileError):
        await files.read_file("fifo")
    assert stat.S_ISFIFO((workspace / "fifo").stat().st_mode)


async def test_the_owner_is_kept(files: AsyncFiles, workspace: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can have files of others")
    (workspace / "theirs").write_text("old")
    os.chown(workspace / "theirs", 1234, 2345)
    (workspace / "theirs").chmod(0o640)
    await files.write_file("theirs", "new")
    found = (workspace / "theirs").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (1234, 2345, 0o640)
    assert (workspace / "theirs").read_text() == "new"


async def test_a_write_protected_file_is_not_replaced(files: AsyncFiles, workspace: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everything")
    (workspace / "protected").write_text("old")
    (workspace / "protected").chmod(0o444)
    with pytest.raises(BoxPermissionError):
        await files.write_file("protected", "new")
    assert (workspace / "protected").read_text() == "old"


@pytest.mark.slow
async def test_a_file_that_grows_is_read_and_downloaded(
    files: AsyncFiles, workspace: Path, tmp_path: Path
) -> None:
    (workspace / "log").write_bytes(b"x" * 3_000_000)
    async with anyio.create_task_group() as tasks:

        async def grow() -> None:
            with (workspace / "log").open("ab", buffering=0) as log:
                while True:
                    log.write(b"x")
                    await anyio.lowlevel.checkpoint()

        tasks.start_soon(grow)
        content = await files.read_file("log")
        assert len(content) >= 3_000_000
        assert set(content) == {ord("x")}
        await files.download_files(["log"], tmp_path)
        assert (tmp_path / "log").stat().st_size >= 3_000_000
        tasks.cancel_scope.cancel()


async def test_a_local_file_that_is_not_as_long_as_it_says(
    files: AsyncFiles, tmp_path: Path, workspace: Path
) -> None:
    (tmp_path / "good").write_bytes(b"good")
    # Says that it has 4096 bytes, and has fewer.
    results = await files.upload_files(
        [(tmp_path / "good", "good"), ("/sys/kernel/uevent_seqnum", "short"), (b"1", "also-good")],
        check=False,
    )
    assert (workspace / "good").read_bytes() == b"good"
    assert (workspace / "also-good").read_bytes() == b"1"
    assert results[0].size == 4
    if results[1].error is None:
        assert (workspace / "short").stat().st_size == results[1].size


async def test_changes_made_in_the_box_are_seen(files: AsyncFiles, workspace: Path) -> None:
    with anyio.fail_after(20):
        async with files.watch() as watch:
            (workspace / "made").write_text("x")
            event = await watch.receive()
            assert event is not None
            assert (event.kind, event.path) == ("created", "made")


# ----------------------------------------------------------------------------------- connections


def helper_of(transport: FileTransport) -> int:
    return transport.peer.pid


async def test_a_link_that_dies_unused_is_replaced(box: AsyncBox) -> None:
    await box.fs.write_file("file", "x")
    connection = box._connection
    served = connection._current
    assert served is not None
    os.kill(helper_of(served.connected.transport), signal.SIGKILL)
    with anyio.fail_after(20):
        await served.stopped.wait()
    assert await box.fs.read_file("file") == b"x"


async def test_a_call_under_way_fails_and_the_next_one_connects_again(box: AsyncBox) -> None:
    transport = await shared_transport(box)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:

            async def hang() -> None:
                with pytest.raises(TransportError):
                    await box.run("sleep 1000")

            tasks.start_soon(hang)
            await anyio.wait_all_tasks_blocked()
            os.kill(helper_of(transport), signal.SIGKILL)
    assert await box.fs.list_dir() == []
    assert helper_of(await shared_transport(box)) != helper_of(transport)


@pytest.mark.slow
async def test_a_deadline_leaves_the_connection_usable(config: DevboxConfig) -> None:
    delayed = DevboxConfig(embedded=True, data_dir=config.data_dir, link_delay_ms=300)
    async with AsyncDevbox(delayed) as devbox:
        box = await devbox.create("far")
        await box.fs.exists("x")
        with pytest.raises(DeadlineExceededError, match=r"0\.1 s"):
            await box.fs.list_dir(timeout=0.1)
        assert await box.fs.list_dir() == []


async def test_calls_in_parallel_share_one_connection(box: AsyncBox) -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(box.fs.write_file, f"file-{number}", "x")
    assert len(await box.fs.list_dir()) == 20
    assert (await shared_transport(box)).round_trips == 21


@pytest.mark.slow
async def test_the_block_of_a_client_raises_what_it_raised(config: DevboxConfig) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - leaving the block is what is tested
        async with AsyncDevbox(config) as devbox:
            box = await devbox.create("my-box")
            await box.fs.list_dir()
            raise ZeroDivisionError
    with anyio.move_on_after(0.2) as scope:
        async with AsyncDevbox(config) as devbox:
            await (await devbox.get("my-box")).fs.list_dir()
            await anyio.sleep_forever()
    assert scope.cancelled_caught


async def test_helpers_end_with_their_client(config: DevboxConfig) -> None:
    async with AsyncDevbox(config) as devbox:
        box = await devbox.create("my-box")
        first = helper_of(await shared_transport(box))
        async with box.fs.watch(), box.open_transport() as transport:
            others = {helper_of(transport)}
            assert len(others | {first}) == 2
        async with box:
            pass
    for pid in others | {first}:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_a_helper_that_does_not_serve(config: DevboxConfig) -> None:
    for helper, said in [("/nonexistent/helper", "/nonexistent/helper"), ("/bin/false", "status")]:
        broken = DevboxConfig(embedded=True, data_dir=config.data_dir, helper=helper)
        async with AsyncDevbox(broken) as devbox:
            box = await devbox.get_or_create("my-box")
            for call in (box.fs.list_dir(), box.run("true"), box.fs.watch().__aenter__()):
                with pytest.raises(ConnectError, match=said):
                    await call


async def test_a_client_has_to_be_open(config: DevboxConfig) -> None:
    devbox = AsyncDevbox(config)
    box = await devbox.create("my-box")
    with pytest.raises(RuntimeError, match="async with"):
        await box.fs.list_dir()
    async with devbox:
        assert await box.fs.list_dir() == []


async def test_boxes_by_name(config: DevboxConfig) -> None:
    async with AsyncDevbox(config) as devbox:
        assert await devbox.list() == []
        box = await devbox.get_or_create("my-box")
        assert (await devbox.get("my-box")).uid == box.uid
        assert [other.name for other in await devbox.list()] == ["my-box"]
        assert "embedded engine" in box.location
        assert str(config.data_dir) in box.location
        assert "my-box" in repr(box)
        assert str(config.data_dir) in devbox.service
        await devbox.delete("my-box")
        assert await devbox.list() == []
