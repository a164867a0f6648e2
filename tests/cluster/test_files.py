"""The file contract by both rungs that a cluster has; whole where there is time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sealos_devbox._transport.base import FileTransport
from sealos_devbox._transport.helper import open_helper_transport
from sealos_devbox._transport.kube.bootstrap import BootstrapOptions, open_helper_channel
from sealos_devbox._transport.kube.runner import ExecRunner
from sealos_devbox._transport.shell.transport import open_shell_transport
from tests.cluster.access import access_as, target
from tests.cluster.boxes import Box
from tests.cluster.conftest import box_of_a_contract
from tests.contract.file_contract import FileContract, WeakFileContract
from tests.contract.test_files_by_transport import ByTransport
from tests.support.long import LONG

WHAT = (
    "test_what_was_written_is_read",
    "test_ranges",
    "test_odd_names",
    "test_what_is_not_there",
    "test_moving",
    "test_changes_are_seen",
)
"""What is tried without DEVBOX_TEST_LONG: what the exec stream and the tools may change."""


@pytest.fixture(scope="module")
def contract_box(cluster) -> Iterator[Box]:
    with box_of_a_contract(cluster, "posix") as box:
        yield box


class InTheCluster(ByTransport):
    @pytest.fixture
    def anyio_backend(self) -> str:
        return "trio"

    @pytest.fixture(autouse=True)
    def _to(self, contract_box, request) -> None:
        if not LONG and request.node.originalname not in WHAT:
            pytest.skip("set DEVBOX_TEST_LONG=1 for all of the contract")
        self.box = contract_box

    @pytest.fixture
    def root(self, contract_box, tmp_path) -> Path:
        root = contract_box.workspace / tmp_path.name
        root.mkdir()
        return root


class TestHelper(InTheCluster, FileContract):
    @asynccontextmanager
    async def open_transport(self, root: Path) -> AsyncIterator[FileTransport]:
        options = BootstrapOptions(root=str(root), user="")
        async with (
            access_as(self.box) as access,
            open_helper_channel(access, target(self.box), options) as channel,
            open_helper_transport(channel, compress=True) as transport,
        ):
            yield transport


class TestPlainExec(InTheCluster, WeakFileContract):
    @asynccontextmanager
    async def open_transport(self, root: Path) -> AsyncIterator[FileTransport]:
        async with access_as(self.box) as access:
            runner = ExecRunner(access, target(self.box), workspace=str(root), user="")
            async with open_shell_transport(runner) as transport:
                yield transport
