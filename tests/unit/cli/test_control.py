import contextlib
import dataclasses
import errno
import json
import os
import shutil
import socket
import stat
from pathlib import Path

import pytest
import trio
import trio.testing

from devboxfs.config import ExitCode, MountError
from devboxfs.control import ControlServer
from devboxfs.control_client import ControlClient, connect, connect_mount, sockets


@contextlib.asynccontextmanager
async def listening(config):
    server = ControlServer(config)
    server.bind()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.listen)
        try:
            yield server
        finally:
            nursery.cancel_scope.cancel()


async def ask(server, op, params=None, **options):
    def call():
        with connect(server.path) as client:
            return client.call(op, params, **options)

    return await trio.to_thread.run_sync(call)


async def test_hello(config):
    async with listening(config) as server:
        answer = await ask(server, "hello")
        assert answer["pid"] == os.getpid()
        assert answer["mountpoint"] == str(config.mountpoint)
        assert answer["serving"] is False
    assert not list(config.runtime_dirs[0].glob("*"))


async def test_a_mount_point_has_one_daemon(config):
    async with listening(config):
        with pytest.raises(MountError, match="Another devboxfs") as caught:
            ControlServer(config).bind()
        assert caught.value.exit_code == ExitCode.BUSY
    async with listening(config):
        pass


async def test_the_socket_is_private_and_found(config):
    async with listening(config) as server:
        assert stat.S_IMODE(server.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(server.path.parent.stat().st_mode) == 0o700
        assert sockets(config.runtime_dirs) == [server.path]
        found = await trio.to_thread.run_sync(connect_mount, config.mountpoint, config.runtime_dirs)
        with found as client:
            assert (client.pid, client.uid) == (os.getpid(), os.getuid())
        assert connect_mount(config.mountpoint / "other", config.runtime_dirs) is None


CLOCK = trio.testing.MockClock(autojump_threshold=0.01)


@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": CLOCK})], ids=["clock"])
async def test_progress_signs_of_life_and_the_result(config):
    async with listening(config) as server:
        go = trio.Event()

        async def sync(params, progress):
            progress({"operations": params["n"]})
            await go.wait()
            return {"done": True}

        server.register("sync", sync)
        stream = await trio.open_unix_socket(str(server.path))
        async with stream:
            await stream.send_all(b'{"op": "sync", "params": {"n": 3}}\n')
            lines = _Lines(stream)
            assert await lines.next() == {"progress": {"operations": 3}}
            assert await lines.next() == {"waiting": True}
            go.set()
            assert await lines.next() == {"result": {"done": True}}


class _Lines:
    def __init__(self, stream):
        self._stream, self._buffer = stream, b""

    async def next(self):
        while b"\n" not in self._buffer:
            data = await self._stream.receive_some()
            assert data
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)


def failing(error):
    async def handler(_params, _progress):
        raise error

    return handler


async def test_errors_keep_their_text_and_code(config):
    async with listening(config) as server:
        server.register("sync", failing(MountError("No link.", ExitCode.PENDING)))
        with pytest.raises(MountError, match=r"No link\.") as caught:
            await ask(server, "sync")
        assert caught.value.exit_code == ExitCode.PENDING
        server.register("unmount", failing(OSError(errno.EBUSY, "busy")))
        with pytest.raises(OSError, match="busy") as caught:
            await ask(server, "unmount")
        assert caught.value.errno == errno.EBUSY
        with pytest.raises(MountError, match="still starting"):
            await ask(server, "status")


async def test_a_bug_in_an_answer_ends_nothing(config, caplog):
    async with listening(config) as server:
        server.register("status", failing(ZeroDivisionError()))
        with pytest.raises(MountError, match="a bug of its own"):
            await ask(server, "status")
        assert [record.message for record in caplog.records] == ["control request status failed"]
        assert await ask(server, "hello")


@pytest.mark.parametrize(
    "request_line", [b"\n", b"{}\n", b"[]\n", b"nonsense\n", b"[" * 60_000 + b"\n", b"\xff\n"]
)
async def test_what_is_no_request(config, request_line):
    async with listening(config) as server, await trio.open_unix_socket(str(server.path)) as stream:
        await stream.send_all(request_line)
        assert "error" in await _Lines(stream).next()


async def test_a_line_without_end_is_cut(config):
    async with listening(config) as server, await trio.open_unix_socket(str(server.path)) as stream:
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(b"x" * 1_000_000)
            assert await stream.receive_some() == b""
        assert await ask(server, "hello")


async def test_an_operation_outlives_its_client(config):
    async with listening(config) as server:
        started, go, done = trio.Event(), trio.Event(), trio.Event()

        async def sync(_params, progress):
            started.set()
            await go.wait()
            progress({"operations": 0})
            done.set()
            return {}

        server.register("sync", sync)
        async with await trio.open_unix_socket(str(server.path)) as stream:
            await stream.send_all(b'{"op": "sync"}\n')
            await started.wait()
        go.set()
        with trio.fail_after(5):
            await done.wait()
            await server.drain()


async def test_drain_sends_what_is_under_way(config):
    server = ControlServer(config)
    server.bind()
    go = trio.Event()

    async def unmount(_params, _progress):
        await go.wait()
        return {"operations": 0}

    server.register("unmount", unmount)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.listen)
        async with await trio.open_unix_socket(str(server.path)) as stream:
            await stream.send_all(b'{"op": "unmount"}\n')
            await trio.testing.wait_all_tasks_blocked(0.01)
            go.set()
            await server.drain()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                assert await _Lines(stream).next() == {"result": {"operations": 0}}


def test_a_daemon_that_says_nothing_is_given_up(config, tmp_path):
    path = tmp_path / "silent.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with connect(path) as client, pytest.raises(MountError, match="does not answer") as caught:
            client.call("hello", silence=0.05)
        assert caught.value.exit_code == ExitCode.NO_ANSWER


def test_a_daemon_that_goes(tmp_path):
    ours, theirs = socket.socketpair()
    theirs.close()
    with ControlClient(ours) as client, pytest.raises(ConnectionError):
        client.call("hello")


def test_sockets_of_the_dead_are_removed(tmp_path):
    path = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    assert connect(path) is None
    assert not path.exists()


async def test_a_path_too_long_for_an_address(config, tmp_path):
    long = tmp_path / ("x" * 150)
    long.mkdir()
    async with listening(dataclasses.replace(config, runtime_dirs=(long / "run",))) as server:
        assert len(str(server.path)) > 150
        assert (await ask(server, "hello"))["pid"] == os.getpid()
    assert not list((long / "run").iterdir())


async def test_a_place_that_is_not_ours_is_passed_over(config, tmp_path):
    link = tmp_path / "link"
    (tmp_path / "elsewhere").mkdir()
    link.symlink_to(tmp_path / "elsewhere")
    places = (link, Path("/proc/devboxfs"), tmp_path / "deep" / "run")
    async with listening(dataclasses.replace(config, runtime_dirs=places)) as server:
        assert server.path.parent == tmp_path / "deep" / "run"


def test_no_place_at_all(config):
    server_config = dataclasses.replace(config, runtime_dirs=(Path("/proc/devboxfs/run"),))

    async def main():
        ControlServer(server_config).bind()

    with pytest.raises(MountError, match="No directory for the control socket"):
        trio.run(main)


def test_connecting_to_nothing(tmp_path):
    assert connect(tmp_path / "missing.sock") is None


@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": CLOCK})], ids=["clock"])
async def test_a_logout_takes_the_socket_away_and_it_comes_back(config, tmp_path):
    first = tmp_path / "session" / "devboxfs"
    first.parent.mkdir()
    places = (first, tmp_path / "state" / "run")
    config = dataclasses.replace(config, runtime_dirs=places)
    async with listening(config) as server:
        assert sockets(places) == [server.path] == list(first.glob("*.sock"))
        async with await trio.open_unix_socket(str(server.path)) as stream:
            lines = _Lines(stream)
            await stream.send_all(b'{"op": "hello"}\n')
            assert "result" in await lines.next()
            shutil.rmtree(first.parent)
            with trio.fail_after(60):
                while not sockets(places):
                    await trio.sleep(1)
            assert sockets(places) == [server.path] == list(places[1].glob("*.sock"))
            # Who was connected still is.
            await stream.send_all(b'{"op": "hello"}\n')
            assert "result" in await lines.next()
            with pytest.raises(MountError, match="Another devboxfs"):
                ControlServer(config).bind()
        async with await trio.open_unix_socket(str(server.path)) as stream:
            await stream.send_all(b'{"op": "hello"}\n')
            assert "result" in await _Lines(stream).next()
