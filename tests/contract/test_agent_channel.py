from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from sealos_devbox._transport.agent.channel import open_agent_channel
from sealos_devbox._transport.agent.client import RunRequest
from sealos_devbox._transport.base import ByteChannel, FileTransport
from sealos_devbox._transport.helper import open_helper_transport
from sealos_devbox.errors import BoxFileError, ConnectError
from sealos_devbox.secret import Secret
from tests.contract.channel_contract import ChannelContract
from tests.contract.transport_contract import TransportContract
from tests.fakes.agent import FakeAgent, agent_client
from tests.fakes.helper import helper_binary

ECHO = Path(__file__).parents[1] / "fakes" / "mailbox_echo.py"
pytestmark = pytest.mark.slow


@asynccontextmanager
async def echo(agent: FakeAgent, mailbox: Path) -> AsyncIterator[ByteChannel]:
    request = RunRequest([sys.executable, str(ECHO), str(mailbox)], "/")
    async with (
        agent_client(agent) as client,
        open_agent_channel(client, request, str(mailbox)) as channel,
    ):
        yield channel


class TestAgentChannel(ChannelContract):
    @pytest.fixture(autouse=True)
    def mailbox(self, tmp_path: Path) -> None:
        self.path = tmp_path / "mailbox"

    @asynccontextmanager
    async def open_echo(self) -> AsyncIterator[ByteChannel]:
        async with echo(FakeAgent(), self.path) as channel:
            yield channel
        with anyio.fail_after(10):
            while self.path.exists():
                await anyio.sleep(0.01)


class TestHelperThroughTheAgent(TransportContract):
    # The channel is tried on both event loops above.
    @pytest.fixture
    def anyio_backend(self) -> str:
        return "trio"

    @asynccontextmanager
    async def open_transport(self, root: Path) -> AsyncIterator[FileTransport]:
        mailbox = root.parent / "mailbox"
        argv = [str(helper_binary()), "serve", "--root", str(root), "--mailbox", str(mailbox)]
        async with (
            agent_client(FakeAgent()) as client,
            open_agent_channel(client, RunRequest(argv, "/"), str(mailbox)) as channel,
            open_helper_transport(channel, compress=False) as transport,
        ):
            yield transport
        assert not mailbox.exists(), "the helper removes it"


async def received(channel: ByteChannel, size: int) -> bytes:
    content = b""
    while len(content) < size:
        content += await channel.receive()
    return content


async def test_a_message_whose_answer_was_lost_arrives_once(tmp_path):
    agent = FakeAgent(lose_answers={1, 2, 4})
    async with echo(agent, tmp_path / "mailbox") as channel:
        for number in range(6):
            await channel.send(b"%d" % number)
        assert await received(channel, 6) == b"012345"
        with anyio.fail_after(20):
            while agent.writes.count("1") < 2 or agent.writes.count("2") < 2:
                await anyio.sleep(0.01)
        await channel.send(b"6")
        assert await received(channel, 1) == b"6"


async def test_messages_that_are_refused_end_the_channel(tmp_path):
    agent = FakeAgent()
    async with echo(agent, tmp_path / "mailbox") as channel:
        await channel.send(b"x")
        assert await channel.receive() == b"x"
        agent.refuse_writes = 413
        await channel.send(b"y")
        with pytest.raises(anyio.BrokenResourceError):
            await channel.receive()
        with pytest.raises(anyio.BrokenResourceError):
            await channel.send(b"z")
        assert "File too large" in channel.diagnostics()
        agent.refuse_writes = 0


async def test_a_stream_that_is_cut_ends_the_channel(tmp_path):
    agent = FakeAgent()
    async with echo(agent, tmp_path / "mailbox") as channel:
        await channel.send(b"x")
        assert await channel.receive() == b"x"
        agent.cut.set()
        with anyio.fail_after(10), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await channel.receive()


async def test_a_program_that_does_not_exist(tmp_path):
    request = RunRequest(["/no-such-helper"], "/")
    async with (
        agent_client(FakeAgent()) as client,
        open_agent_channel(client, request, str(tmp_path / "mailbox")) as channel,
    ):
        with pytest.raises(anyio.EndOfStream):
            await channel.receive()
        assert "No such file" in channel.diagnostics()


async def test_a_program_that_says_something_else(tmp_path):
    request = RunRequest(["sh", "-c", "echo 'no such luck!'; echo why >&2; exit 3"], "/")
    async with (
        agent_client(FakeAgent()) as client,
        open_agent_channel(client, request, str(tmp_path / "mailbox")) as channel,
    ):
        with pytest.raises(anyio.BrokenResourceError):
            await channel.receive()
        assert "no such luck" in channel.diagnostics()


async def test_a_wrong_token(tmp_path):
    secret = "wrongwrongwrongwrongwrongwrongwr"
    async with agent_client(FakeAgent(), token=secret) as client:
        with pytest.raises(ConnectError, match="does not accept the token") as caught:
            async with open_agent_channel(client, RunRequest(["true"], "/"), str(tmp_path)):
                pytest.fail("connected")
        assert secret not in repr(client)
        assert secret not in repr(caught.value)
        assert not caught.value.retryable


async def test_files_and_commands(tmp_path):
    async with agent_client(FakeAgent()) as client:
        target = tmp_path / "dir" / "file"
        content = os.urandom(3_000_000)
        assert await client.write(str(target), content) == len(content)
        async with client.read(str(target)) as (size, pieces):
            assert size == len(content)
            assert b"".join([piece async for piece in pieces]) == content
        for path, number in ((str(tmp_path), 21), (str(tmp_path / "absent"), 2)):
            with pytest.raises(BoxFileError) as caught:
                async with client.read(path):
                    pytest.fail("read")
            assert caught.value.errno == number
        done = await client.run(RunRequest(["sh", "-c", "pwd; exit 3"], str(tmp_path)))
        assert (done.exit_code, done.stdout) == (3, f"{tmp_path}\n")
        with pytest.raises(BoxFileError) as caught:
            await client.run(RunRequest(["no-such-program"], str(tmp_path)))
        assert caught.value.errno == 2


async def test_nobody_is_there():
    async with agent_client(FakeAgent()) as client:
        pass
    import httpx

    async with httpx.AsyncClient(trust_env=False) as http:
        with pytest.raises(ConnectError):
            await type(client)(http, client.base_url, Secret("token")).health()
