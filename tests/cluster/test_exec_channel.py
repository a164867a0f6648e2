"""The exec stream as a byte channel, against a real API server, kubelet and containerd."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
import pytest

from sealos_devbox._transport.base import ByteChannel
from sealos_devbox._transport.kube.command import run_command, run_script
from sealos_devbox._transport.kube.exec_channel import ExecTarget, open_exec_channel
from sealos_devbox.errors import (
    AccessDeniedError,
    AuthenticationError,
    ConnectError,
    DeadlineExceededError,
    DevboxError,
    NotFoundError,
)
from tests.cluster.access import access_as, target
from tests.contract.channel_contract import ChannelContract
from tests.node.images import PROJECT


class TestExec(ChannelContract):
    @pytest.fixture(autouse=True)
    def _to_both(self, box, any_api):
        self.box, self.server = box, any_api.url

    @asynccontextmanager
    async def open_echo(self) -> AsyncIterator[ByteChannel]:
        async with (
            access_as(self.box, server=self.server) as access,
            open_exec_channel(access, target(self.box), ["cat"]) as channel,
        ):
            yield channel


async def test_the_version_is_the_best_that_the_server_has(box, cluster, v4_api):
    for api, version in ((cluster.api, "v5.channel.k8s.io"), (v4_api, "v4.channel.k8s.io")):
        async with (
            access_as(box, server=api.url) as access,
            open_exec_channel(access, target(box), ["cat"]) as channel,
        ):
            assert channel.subprotocol == version
            assert channel.can_half_close == (api is cluster.api)


@pytest.mark.parametrize("code", [0, 3, 137])
async def test_exit_codes(box, any_api, code):
    async with (
        access_as(box, server=any_api.url) as access,
        open_exec_channel(
            access, target(box), ["sh", "-c", f"echo hello; echo trouble >&2; exit {code}"]
        ) as channel,
    ):
        assert await rest(channel) == b"hello\n"
        assert channel.status is not None
        assert channel.status.exit_code == code
        assert channel.diagnostics() == f"trouble\n(exit status {code})"


async def test_a_program_that_does_not_exist(box, any_api):
    async with (
        access_as(box, server=any_api.url) as access,
        open_exec_channel(access, target(box), ["no-such-program"]) as channel,
    ):
        assert await rest(channel) == b""
        assert channel.status is not None
        assert channel.status.exit_code is None
        assert "no-such-program" in channel.diagnostics()


@pytest.mark.slow
async def test_megabytes_arrive_whole_in_both_directions(box, any_api):
    """16 MB there and back, with pings all the time, and a reader that takes its time."""
    piece = hashlib.sha256(b"seed").digest() * 4096
    count = 128

    async def send() -> None:
        for _ in range(count):
            await channel.send(piece)

    digest, size = hashlib.sha256(), 0
    async with (
        access_as(box, server=any_api.url) as access,
        open_exec_channel(access, target(box), ["cat"], ping_interval=0.01) as channel,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(send)
        while size < count * len(piece):
            data = await channel.receive()
            digest.update(data)
            size += len(data)
            await anyio.sleep(0.0005)
    assert size == count * len(piece)
    assert digest.digest() == hashlib.sha256(piece * count).digest()


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ("developer", "verbs 'get' and 'create' on pods/exec"),
        ("exec-create", "verb 'get' on pods/exec"),
        ("stranger", "verbs 'get' and 'create' on pods/exec"),
    ],
)
async def test_a_missing_right_is_named(box, user, words):
    async with access_as(box, user) as access:
        with pytest.raises(AccessDeniedError, match=words) as caught:
            async with open_exec_channel(access, target(box), ["cat"]):
                pytest.fail("allowed")
    assert caught.value.status == 403
    assert "verbs: [get, create]" in caught.value.hint
    assert f'User "{user}" cannot' in str(caught.value)


async def test_the_right_for_websockets_is_enough(box):
    async with (
        access_as(box, "exec-get") as access,
        open_exec_channel(access, target(box), ["true"]) as channel,
    ):
        assert await rest(channel) == b""


async def test_refusals_say_what_the_server_said(box):
    async with access_as(box) as access:
        for where, kind, words in (
            (ExecTarget(box.namespace, "no-such-pod", "x"), NotFoundError, "no-such-pod"),
            (ExecTarget(box.namespace, box.name, "no-such"), DevboxError, "no-such"),
        ):
            with pytest.raises(kind, match=words):
                async with open_exec_channel(access, where, ["cat"]):
                    pytest.fail("found")
    async with access_as(box, by="none") as access:
        with pytest.raises((AuthenticationError, AccessDeniedError)):
            async with open_exec_channel(access, target(box), ["cat"]):
                pytest.fail("allowed")


@pytest.mark.parametrize("how", ["cut", "reset"])
async def test_a_connection_that_is_cut(box, path_to_api, how):
    async with (
        access_as(box, server=path_to_api.url) as access,
        open_exec_channel(access, target(box), ["cat"]) as channel,
    ):
        await channel.send(b"x")
        assert await channel.receive() == b"x"
        await anyio.to_thread.run_sync(path_to_api.inflict, how)
        with anyio.fail_after(20), pytest.raises(anyio.BrokenResourceError):
            await channel.receive()


async def test_nobody_listens(box):
    async with access_as(box, server="https://127.0.0.1:1") as access:
        with pytest.raises(ConnectError, match="cannot be reached") as caught:
            async with open_exec_channel(access, target(box), ["cat"]):
                pytest.fail("connected")
    assert caught.value.retryable


async def test_deleting_the_pod_ends_the_stream(make_box):
    box = make_box("posix")
    async with (
        access_as(box) as access,
        open_exec_channel(access, target(box), ["cat"]) as channel,
    ):
        await channel.send(b"x")
        assert await channel.receive() == b"x"
        await anyio.to_thread.run_sync(box.delete_pod)
        with anyio.fail_after(30), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await channel.receive()


async def rest(channel) -> bytes:
    received = b""
    try:
        while True:
            received += await channel.receive()
    except anyio.EndOfStream:
        return received


@pytest.mark.parametrize("image", ["posix", "busybox"])
async def test_commands_as_the_workspace_user(make_box, any_api, image):
    box = make_box(image)
    data = bytes(range(256)) * 4096
    async with access_as(box, server=any_api.url) as access:
        where = target(box)
        output = await run_script(
            access, where, "id -u; pwd; sha256sum; exit 7", data=data, user="devbox"
        )
        said = output.stdout.decode().split()
        assert said[:3] == ["1000", PROJECT, hashlib.sha256(data).hexdigest()]
        assert output.exit_code == 7
        assert (await run_command(access, where, ["no-such"])).exit_code == 127
        with pytest.raises(DeadlineExceededError):
            await run_command(access, where, ["sleep", "1000"], timeout=2)
    with anyio.fail_after(30):
        while any("sleep 1000" in line for line in await anyio.to_thread.run_sync(box.processes)):
            await anyio.sleep(0.1)
