"""The box's own tools by pods/exec, in boxes of which each lacks something."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sealos_devbox._transport.base import FileTransport
from sealos_devbox._transport.kube.runner import ExecRunner
from sealos_devbox._transport.shell.transport import open_shell_transport
from tests.cluster.access import access_as, target
from tests.cluster.boxes import Box
from tests.cluster.conftest import box_of_a_contract
from tests.contract.transport_contract import TransportContract
from tests.support.long import LONG

WHAT = (
    "test_the_peer_introduces_itself",
    "test_stat",
    "test_names_are_bytes",
    "test_symbolic_links_are_followed_only_when_asked",
    "test_list",
    "test_snapshot",
    "test_large_and_many_contents",
    "test_stream",
    "test_exec",
    "test_exec_of_what_does_not_exist",
    "test_exec_much_in_and_out",
    "test_signals_and_status",
    "test_leaving_kills_the_command",
)
"""Of the contract: what depends on the tools and on the server. All of it is tried without, and
here too where there is time (DEVBOX_TEST_LONG)."""


@pytest.fixture(scope="module", params=["posix", "posix-notar", "busybox"])
def contract_box(request, cluster) -> Iterator[Box]:
    with box_of_a_contract(cluster, request.param, sees_processes=True) as box:
        yield box


class TestPlainExec(TransportContract if LONG else object):
    contents = 60
    call_bytes = 2000
    many_calls = 30
    at_once = 50
    transport = TransportContract.transport
    require = TransportContract.require
    run = TransportContract.run

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "trio"

    @pytest.fixture(autouse=True)
    def _to(self, contract_box) -> None:
        self.box = contract_box

    @pytest.fixture
    def root(self, contract_box, tmp_path) -> Path:
        root = contract_box.workspace / tmp_path.name
        root.mkdir()
        return root

    def one_call(self, round_trips: int) -> None:
        assert round_trips <= 10

    def told(self, ns: int) -> int:
        return ns if "busybox" not in self.box.name else ns // 10**9 * 10**9

    @asynccontextmanager
    async def open_transport(self, root: Path) -> AsyncIterator[FileTransport]:
        async with access_as(self.box) as access:
            runner = ExecRunner(access, target(self.box), workspace=str(root), user="")
            async with open_shell_transport(runner) as transport:
                yield transport


for _name in () if LONG else WHAT:
    setattr(TestPlainExec, _name, getattr(TransportContract, _name))
