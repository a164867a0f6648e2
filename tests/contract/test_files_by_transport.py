"""The file contract by every way into a box, each with the fake of what is at its far end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from sealos_devbox import AsyncFiles, FileTransport
from sealos_devbox._async.connection import Connection, TaskHost
from sealos_devbox._transport.agent.transport import AgentTarget, open_agent_transport
from sealos_devbox._transport.helper import open_helper_transport
from sealos_devbox._transport.kube.bootstrap import BootstrapOptions, open_helper_channel
from sealos_devbox._transport.kube.runner import ExecRunner
from sealos_devbox._transport.shell.transport import open_shell_transport
from sealos_devbox.secret import Secret
from tests.contract.file_contract import FileContract, WeakFileContract
from tests.contract.test_exec_channel import TARGET, access_to
from tests.contract.transport_suite import OpensTransports
from tests.fakes.agent import TOKEN, FakeAgent, serve
from tests.fakes.exec_server import exec_server
from tests.fakes.helper import helper_binary
from tests.fakes.shell_runner import LocalRunner
from tests.support.long import LONG

pytestmark = pytest.mark.slow

Opener = Callable[[Path], AbstractAsyncContextManager[FileTransport]]


@asynccontextmanager
async def files_by(open_transport: Callable[[], AbstractAsyncContextManager[FileTransport]]):
    """Yield the files of the SDK over a transport."""
    async with TaskHost() as host:

        def connect() -> Connection:
            return Connection(host, lambda _: open_transport())

        yield AsyncFiles(connect(), connect)


class ByTransport(OpensTransports):
    """Gives the fixture of the contract, from `open_transport`."""

    @pytest.fixture
    async def files(self, root: Path) -> AsyncIterator[AsyncFiles]:
        async with files_by(lambda: self.open_transport(root)) as files:
            yield files


class TestHelperOverExec(ByTransport, FileContract):
    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @asynccontextmanager
    async def open_transport(self, root: Path) -> AsyncIterator[FileTransport]:
        places = (str(root.parent / "places"),)
        options = BootstrapOptions(root=str(root), user="", helper=helper_binary(), places=places)
        (root.parent / "places").mkdir(exist_ok=True)
        async with (
            exec_server() as server,
            access_to(server) as access,
            open_helper_channel(access, TARGET, options) as channel,
            open_helper_transport(channel, compress=True) as transport,
        ):
            yield transport


class TestThroughTheAgent(ByTransport, FileContract):
    @pytest.fixture
    def anyio_backend(self) -> str:
        return "trio"

    @asynccontextmanager
    async def open_transport(self, root: Path) -> AsyncIterator[FileTransport]:
        with serve(FakeAgent().app()) as url:
            target = AgentTarget(url, Secret(TOKEN), str(root), helper_binary())
            async with open_agent_transport(target) as transport:
                assert "weak" not in transport.peer.capabilities
                yield transport


class TestPlainExec(ByTransport, WeakFileContract):
    @pytest.fixture
    def anyio_backend(self) -> str:
        return "trio"

    @asynccontextmanager
    async def open_transport(self, root: Path) -> AsyncIterator[FileTransport]:
        async with exec_server() as server, access_to(server) as access:
            runner = ExecRunner(access, TARGET, workspace=str(root), user="")
            async with open_shell_transport(runner) as transport:
                assert "tools:gnu" in transport.peer.capabilities
                yield transport


class TestBusybox(ByTransport, WeakFileContract):
    tick_ns = 1_000_000_000

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture(autouse=True)
    def _with(self, busybox: Path) -> None:
        self.tools = busybox

    @asynccontextmanager
    async def open_transport(self, root: Path) -> AsyncIterator[FileTransport]:
        async with open_shell_transport(LocalRunner(root, busybox=self.tools)) as transport:
            assert "tools:busybox" in transport.peer.capabilities
            yield transport


class TestToolsThroughTheAgent(ByTransport, WeakFileContract):
    """The tools are those of TestPlainExec: without DEVBOX_TEST_LONG, what the agent may change."""

    what = (
        "test_what_was_written_is_read",
        "test_ranges",
        "test_odd_names",
        "test_what_is_not_there",
        "test_moving",
        "test_changes_are_seen",
        "test_uploading_and_downloading_files",
    )

    @pytest.fixture(autouse=True)
    def _what(self, request: pytest.FixtureRequest) -> None:
        if not LONG and request.node.originalname not in self.what:
            pytest.skip("set DEVBOX_TEST_LONG=1 for all of the contract")

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @asynccontextmanager
    async def open_transport(self, root: Path) -> AsyncIterator[FileTransport]:
        with serve(FakeAgent().app()) as url:
            target = AgentTarget(url, Secret(TOKEN), str(root), use_helper=False)
            async with open_agent_transport(target) as transport:
                assert "weak" in transport.peer.capabilities
                yield transport
