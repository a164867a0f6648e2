"""Starting the helper in real containers: where it goes, how often, as whom, and how it ends."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from sealos_devbox._transport.helper import HelperTransport, open_helper_transport
from sealos_devbox._transport.kube.bootstrap import (
    BootstrapOptions,
    HelperChannel,
    open_helper_channel,
)
from sealos_devbox.errors import CapabilityError, DevboxError, TransportError
from tests.cluster.access import access_as, target
from tests.fakes.helper import helper_binary
from tests.node.images import PROJECT
from tests.support.faults import Fault

ROOT = BootstrapOptions(root=PROJECT)


@pytest.fixture(scope="module", autouse=True)
def _built():
    helper_binary()


@asynccontextmanager
async def helper(
    box, options=ROOT, server: str = ""
) -> AsyncIterator[tuple[HelperChannel, HelperTransport]]:
    async with (
        access_as(box, server=server) as access,
        open_helper_channel(access, target(box), options) as channel,
        open_helper_transport(channel, compress=False) as transport,
    ):
        yield channel, transport


def helpers(box) -> list[str]:
    return [line for line in box.processes() if "devbox-helper" in line or "sh -c" in line]


async def until_nothing_runs(box) -> None:
    with anyio.fail_after(60):
        while await anyio.to_thread.run_sync(helpers, box):
            await anyio.sleep(0.1)


@pytest.mark.parametrize("image", ["posix", "posix-user", "posix-notar", "busybox"])
async def test_it_is_uploaded_once_and_works_as_the_workspace_user(make_box, any_api, image):
    box = make_box(image)
    for is_there in (False, True):
        async with helper(box, server=any_api.url) as (channel, transport):
            assert (channel.uploaded == 0) == is_there
            assert transport.peer.uid == 1000
            assert transport.peer.root == PROJECT.encode()
            await transport.stat(b"")
    await until_nothing_runs(box)


async def test_a_file_that_was_damaged_is_replaced(make_box):
    box = make_box("posix")
    async with helper(box) as (channel, transport):
        assert channel.uploaded
        place = transport.peer.helper.decode()
    box.run("sh", "-c", f"rm {place}; echo nonsense >{place}; chmod 755 {place}")
    async with helper(box) as (channel, transport):
        assert channel.uploaded
        assert transport.peer.helper.decode() == place
    async with helper(box) as (channel, _):
        assert channel.uploaded == 0


async def test_two_clients_at_once(make_box):
    """Each has a helper that runs, there is one file, and the next client uploads nothing."""
    box = make_box("posix")
    uids = []

    async def start() -> None:
        async with helper(box) as (_, transport):
            uids.append(transport.peer.uid)

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(start)
    assert uids == [1000] * 3
    async with helper(box) as (channel, transport):
        assert channel.uploaded == 0
        directory = os.path.dirname(transport.peer.helper.decode())
    listed = box.run("ls", "-A", directory).stdout.split()
    assert len(listed) == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "/root/.cache/"),
        ({"read_only_root": True, "noexec_tmp": "/exec/tmp"}, "/tmp/"),
        ({"image": "posix-user"}, "/home/devbox/.cache/"),
        ({"image": "posix", "user": 1000, "env": {"XDG_CACHE_HOME": "/x"}}, "/tmp/"),
        ({"env": {"XDG_CACHE_HOME": "/var/cache"}}, "/var/cache/"),
    ],
)
async def test_where_it_goes(make_box, cluster, options, expected):
    if "noexec_tmp" in options:  # another one, on which programs may be run
        directory = cluster.directory / "volumes" / f"tmp-{os.urandom(4).hex()}"
        directory.mkdir(mode=0o777)
        options = {**options, "noexec_tmp": str(directory)}
    box = make_box(**options)
    async with helper(box) as (_, transport):
        assert transport.peer.helper.decode().startswith(expected)


async def test_a_noexec_place_is_passed_over(make_box, noexec):
    box = make_box("posix", noexec_tmp=noexec)
    options = BootstrapOptions(root=PROJECT, places=("/tmp", "/root"))
    async with helper(box, options) as (_, transport):
        assert transport.peer.helper.decode().startswith("/root/")
    with pytest.raises(CapabilityError, match=r"/tmp: nothing may be run there \(noexec\)"):
        async with helper(box, BootstrapOptions(root=PROJECT, places=("/tmp",))):
            pytest.fail("started")
    assert box.run("ls", "-A", "/tmp").stdout.split() == [b"devbox-helper-0"]
    assert box.run("ls", "-A", "/tmp/devbox-helper-0").stdout == b""


async def test_no_place_at_all(make_box):
    box = make_box("posix", read_only_root=True)
    options = BootstrapOptions(root=PROJECT, places=("${HOME}/.cache", "/dev/shm", "/tmp", "/no"))
    with pytest.raises(CapabilityError) as caught:
        async with helper(box, options):
            pytest.fail("started")
    assert str(caught.value) == (
        "The helper cannot run in the box: there is no place for the helper; /root/.cache: there "
        "is none; /dev/shm: nothing may be run there (noexec); /tmp: not writable; /no: there is "
        "none."
    )


async def test_what_others_made_is_not_executed(make_box):
    """Root in the box does not run what another user put where the helper would be."""
    box = make_box("posix")
    async with helper(box) as (_, transport):
        name = os.path.basename(transport.peer.helper.decode())
    trap = (
        f"mkdir /tmp/devbox-helper-0; cp /root/.cache/devbox-helper-0/{name} "
        "/tmp/devbox-helper-0; chown -R 1000 /tmp/devbox-helper-0"
    )
    box.run("sh", "-c", trap)
    with pytest.raises(CapabilityError, match="/tmp: not writable"):
        async with helper(box, BootstrapOptions(root=PROJECT, places=("/tmp",))):
            pytest.fail("started")


@pytest.fixture
def full_directory(cluster):
    """A file system of a megabyte, on which programs may be run."""
    directory = cluster.directory / "volumes" / f"full-{os.urandom(4).hex()}"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=1777", "none", directory]
    cluster.enclosure.run(*mount)
    return str(directory)


async def test_a_place_that_is_full(make_box, full_directory):
    """The upload fails there; the next place is taken, and nothing is left behind."""
    box = make_box("posix", noexec_tmp=full_directory)
    options = BootstrapOptions(root=PROJECT, places=("/tmp", "/root"))
    async with helper(box, options) as (_, transport):
        assert transport.peer.helper.decode().startswith("/root/")
    assert box.run("ls", "-A", "/tmp/devbox-helper-0").stdout == b""


async def test_a_box_without_a_shell(make_box):
    box = make_box("bare")
    with pytest.raises(CapabilityError, match="/bin/sh"):
        async with helper(box):
            pytest.fail("started")


async def test_a_workspace_that_is_not_there(box):
    with pytest.raises(CapabilityError, match="no directory /absent"):
        async with helper(box, BootstrapOptions(root="/absent")):
            pytest.fail("started")


async def test_a_user_who_is_not_there(make_box):
    """The workspace's owner, then."""
    box = make_box("posix")
    box.run("sh", "-c", "mkdir /work; chown 4321:4321 /work")
    async with helper(box, BootstrapOptions(root="/work", user="somebody")) as (_, transport):
        assert transport.peer.uid == 4321


CLIENT = """
    import anyio
    from sealos_devbox._transport.kube.access import KubernetesAccess
    from sealos_devbox._transport.kube.bootstrap import BootstrapOptions, open_helper_channel
    from sealos_devbox._transport.kube.exec_channel import ExecTarget
    from sealos_devbox._transport.kube.kubeconfig import KubeconfigSource
    from sealos_devbox._transport.helper import open_helper_transport

    async def main():
        async with await KubernetesAccess.load(KubeconfigSource(paths=({config!r},))) as access:
            where = ExecTarget({namespace!r}, {pod!r}, {container!r})
            options = BootstrapOptions(root={root!r})
            async with (
                open_helper_channel(access, where, options) as channel,
                open_helper_transport(channel, compress=False) as transport,
                transport.exec([b"sleep", b"1000"]),
            ):
                print("up", flush=True)
                await anyio.sleep(1000)

    anyio.run(main)
"""


async def test_nothing_runs_in_the_box_after_kill_9(make_box, any_api):
    box = make_box("posix")
    script = CLIENT.format(
        config=str(box.cluster.kubeconfig("owner", server=any_api.url)),
        namespace=box.namespace,
        pod=box.pod()["metadata"]["name"],
        container=box.name,
        root=PROJECT,
    )
    sdk = Path(__file__).parents[2] / "sdk"
    client = await anyio.open_process(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": str(sdk)},
        stderr=None,
    )
    try:
        assert client.stdout is not None
        # The end of the line may come by itself.
        assert (await client.stdout.receive()).startswith(b"up")
        running = await anyio.to_thread.run_sync(box.processes)
        assert any("sleep 1000" in line for line in running)
        assert helpers(box)
    finally:
        client.send_signal(signal.SIGKILL)
        await client.aclose()
    await until_nothing_runs(box)
    assert not any("sleep 1000" in line for line in box.processes())


@pytest.mark.parametrize("how", ["cut", "reset"])
async def test_nothing_runs_in_the_box_after_the_connection_broke(make_box, path_to_api, how):
    box = make_box("posix")
    async with helper(box, server=path_to_api.url) as (_, transport):
        assert helpers(box)
        await anyio.to_thread.run_sync(path_to_api.inflict, how)
        with anyio.fail_after(60), pytest.raises(TransportError):
            await transport.stat(b"")
        await until_nothing_runs(box)


@pytest.mark.parametrize("after", [3000, 20_000, 200_000, 800_000])
async def test_an_upload_that_is_cut_leaves_nothing(make_box, path_to_api, after):
    box = make_box("posix")
    async with access_as(box, server=path_to_api.url) as access:
        where = target(box)
        path_to_api.plan(Fault("reset", "up", after=after))
        with pytest.raises(DevboxError):
            async with open_helper_channel(access, where, ROOT):
                pytest.fail("started")
    await until_nothing_runs(box)
    directory = "/root/.cache/devbox-helper-0"
    assert box.run("sh", "-c", f"ls -A {directory} 2>/dev/null").stdout == b""
    async with helper(box) as (channel, _):
        assert channel.uploaded
