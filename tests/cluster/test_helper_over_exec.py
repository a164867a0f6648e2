"""The whole transport over exec, against a real cluster: pod, exec stream, helper."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from sealos_devbox._transport.base import FileTransport
from sealos_devbox._transport.helper import open_helper_transport
from sealos_devbox._transport.kube.bootstrap import BootstrapOptions, open_helper_channel
from sealos_devbox._transport.kube.cluster import ClusterTarget, open_cluster_transport
from sealos_devbox.errors import AccessDeniedError, BoxNotFoundError, BoxStateError
from tests.cluster.access import access_as, target
from tests.cluster.boxes import Box
from tests.cluster.conftest import box_of_a_contract
from tests.contract.transport_contract import TransportContract
from tests.fakes.helper import helper_binary


@pytest.fixture(scope="module", autouse=True)
def _built():
    helper_binary()


@pytest.fixture(scope="module")
def contract_box(cluster) -> Iterator[Box]:
    with box_of_a_contract(cluster, "posix-python", sees_processes=True) as box:
        yield box


class TestHelperOverExec(TransportContract):
    # One event loop for each version: the channel's own suite has all four pairs.
    @pytest.fixture
    def anyio_backend(self, any_api, cluster) -> str:
        return "asyncio" if any_api is cluster.api else "trio"

    @pytest.fixture(autouse=True)
    def _to_both(self, contract_box, any_api):
        self.box, self.server = contract_box, any_api.url

    @pytest.fixture
    def root(self, contract_box, tmp_path) -> Path:
        root = contract_box.workspace / tmp_path.name
        root.mkdir()
        return root

    @asynccontextmanager
    async def open_transport(self, root: Path) -> AsyncIterator[FileTransport]:
        options = BootstrapOptions(root=str(root), user="")
        async with (
            access_as(self.box, server=self.server) as access,
            open_helper_channel(access, target(self.box), options) as channel,
            open_helper_transport(channel, compress=False) as transport,
        ):
            yield transport


async def test_a_box_by_its_name(make_devbox):
    box = make_devbox("posix")
    ended = anyio.Event()
    async with access_as(box) as access:
        async with open_cluster_transport(
            ClusterTarget(access, box.name), on_end=ended.set
        ) as transport:
            (box.workspace / "file").write_bytes(b"hello")
            assert (await transport.read(b"file"))[1] == b"hello"
            assert transport.peer.uid == 1000
        with anyio.fail_after(10):
            await ended.wait()


async def test_a_box_of_the_older_lineage(make_old_devbox):
    """Its pod has another name at each start."""
    box = make_old_devbox("posix")
    async with (
        access_as(box) as access,
        open_cluster_transport(ClusterTarget(access, box.name)) as transport,
    ):
        assert transport.peer.root == b"/home/devbox/project"


async def test_a_box_that_does_not_exist(box, controller):
    async with access_as(box) as access:
        with pytest.raises(BoxNotFoundError, match="no-such-box"):
            async with open_cluster_transport(ClusterTarget(access, "no-such-box")):
                pytest.fail("found")


async def test_a_box_that_is_paused(make_devbox, controller):
    box = make_devbox("posix")
    await anyio.to_thread.run_sync(controller.set_state, box.namespace, box.name, "Paused")
    await anyio.to_thread.run_sync(controller.wait_for_phase, box.namespace, box.name, "Paused")
    async with access_as(box) as access:
        with pytest.raises(BoxStateError, match="is paused"):
            async with open_cluster_transport(ClusterTarget(access, box.name)):
                pytest.fail("found")


async def test_who_may_not_look(box):
    async with access_as(box, "stranger") as access:
        with pytest.raises(AccessDeniedError, match="verb 'list' on pods"):
            async with open_cluster_transport(ClusterTarget(access, box.name)):
                pytest.fail("allowed")


async def test_the_next_pod_of_a_box(make_devbox):
    box = make_devbox("posix")
    async with access_as(box) as access:
        for _ in range(2):
            async with open_cluster_transport(ClusterTarget(access, box.name)) as transport:
                (box.workspace / "file").write_bytes(b"still here")
                assert (await transport.read(b"file"))[1] == b"still here"
            await anyio.to_thread.run_sync(box.delete_pod)
            await anyio.to_thread.run_sync(box.wait)
