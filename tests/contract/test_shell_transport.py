from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from sealos_devbox._transport.agent.runner import AgentRunner
from sealos_devbox._transport.base import FileTransport
from sealos_devbox._transport.kube.runner import ExecRunner
from sealos_devbox._transport.shell.transport import open_shell_transport
from tests.contract.test_exec_channel import TARGET, V4, access_to
from tests.contract.transport_commands import is_running
from tests.contract.transport_contract import TransportContract
from tests.fakes.agent import FakeAgent, agent_client
from tests.fakes.exec_server import exec_server
from tests.fakes.shell_runner import LocalRunner

pytestmark = pytest.mark.slow


class ShellContract(TransportContract):
    call_bytes = 1000
    many_calls = 30

    def one_call(self, round_trips: int) -> None:
        # A script has a size; there are 300 files.
        assert round_trips <= 10


class TestGnu(ShellContract):
    # Every operation is a process or more: one event loop each is enough.
    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @asynccontextmanager
    async def open_transport(self, root: Path) -> AsyncIterator[FileTransport]:
        async with open_shell_transport(LocalRunner(root)) as transport:
            assert "tools:gnu" in transport.peer.capabilities
            yield transport


class TestBusybox(ShellContract):
    @pytest.fixture
    def anyio_backend(self) -> str:
        return "trio"

    def told(self, ns: int) -> int:
        return ns // 1_000_000_000 * 1_000_000_000

    @pytest.fixture(autouse=True)
    def _with(self, busybox: Path) -> None:
        self.tools = busybox

    @asynccontextmanager
    async def open_transport(self, root: Path) -> AsyncIterator[FileTransport]:
        async with open_shell_transport(LocalRunner(root, busybox=self.tools)) as transport:
            assert "tools:busybox" in transport.peer.capabilities
            yield transport


class TestThroughTheAgent(ShellContract):
    call_bytes = 2000

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @asynccontextmanager
    async def open_transport(self, root: Path) -> AsyncIterator[FileTransport]:
        async with (
            agent_client(FakeAgent()) as client,
            open_shell_transport(AgentRunner(client, str(root))) as transport,
        ):
            yield transport

    async def test_exec(self, transport, root):
        code, number, out, err = await self.run(
            transport,
            [b"sh", b"-c", b'cat; printf "%s" "$COLOUR"; echo no >&2; exit 3'],
            env={"COLOUR": "blue 'green'"},
        )
        assert (code, number, out, err) == (3, None, b"blue 'green'", b"no\n")

    async def test_exec_much_in_and_out(self, transport):
        script = b"head -c 3000000 /dev/zero; printf '\\377\\r\\n'"
        assert (await self.run(transport, [b"sh", b"-c", script]))[2] == bytes(
            3_000_000
        ) + b"\xff\r\n"

    async def test_signals_and_status(self, transport):
        async with transport.exec([b"sh", b"-c", b"kill -TERM $$"]) as command:
            with anyio.fail_after(20):
                while await command.receive() is not None:
                    pass  # the shell may have a word for it
            assert command.status == (None, signal.SIGTERM)

    async def test_leaving_kills_the_command(self, transport, root):
        script = b"echo $$ > pid; trap '' TERM; sleep 1000 & wait"
        async with transport.exec([b"sh", b"-c", script]) as command:
            with anyio.move_on_after(1):
                await command.receive()
            pid = int((root / "pid").read_bytes())
        with anyio.fail_after(20):
            while is_running(pid):
                await transport.stat(b"")


class TestByExec(ShellContract):
    """Every call is a stream of its own, with a shell at its end."""

    call_bytes = 2000
    at_once = 50
    contents = 60
    versions: tuple[str, ...] = ("v5.channel.k8s.io", *V4)

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "trio"

    @asynccontextmanager
    async def open_transport(self, root: Path) -> AsyncIterator[FileTransport]:
        async with exec_server() as server, access_to(server) as access:
            server.versions = self.versions
            runner = ExecRunner(access, TARGET, workspace=str(root), user="")
            async with open_shell_transport(runner) as transport:
                yield transport


class TestByExecWithoutHalfClose:
    """What version 4 makes different: an input has no end of its own."""

    versions = V4
    anyio_backend = TestByExec.anyio_backend
    open_transport = TestByExec.open_transport
    root = TestByExec.root
    transport = TestByExec.transport
    require = TestByExec.require
    run = TestByExec.run
    told = TestByExec.told
    contents = TestByExec.contents
    test_stat = TestByExec.test_stat
    test_large_and_many_contents = TestByExec.test_large_and_many_contents
    test_exec = TestByExec.test_exec
    test_exec_much_in_and_out = TestByExec.test_exec_much_in_and_out
    test_signals_and_status = TestByExec.test_signals_and_status
    test_leaving_kills_the_command = TestByExec.test_leaving_kills_the_command
