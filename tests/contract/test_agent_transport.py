"""The agent's rung: the helper is put into the box once, and where it may not run, it is done
without."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from sealos_devbox._protocol import agent_bootstrap
from sealos_devbox._transport.agent.transport import AgentTarget, open_agent_transport
from sealos_devbox._transport.base import FileTransport
from sealos_devbox.batch import ABSENT, Batch
from sealos_devbox.secret import Secret
from sealos_devbox.types import BytesContent
from tests.fakes.agent import TOKEN, FakeAgent, serve
from tests.fakes.helper import helper_binary

pytestmark = pytest.mark.slow


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the helper may be put, in place of the box's usual directories."""
    place = tmp_path / "places"
    place.mkdir()
    monkeypatch.setattr(agent_bootstrap.look, "__kwdefaults__", {"places": (str(place),)})
    return place


@asynccontextmanager
async def connected(
    agent: FakeAgent, root: Path, **options: object
) -> AsyncIterator[FileTransport]:
    with serve(agent.app()) as url:
        target = AgentTarget(url, Secret(TOKEN), str(root), helper_binary(), **options)
        async with open_agent_transport(target) as transport:
            yield transport


async def test_the_helper_is_uploaded_once(tmp_path, places):
    agent = FakeAgent()
    ended = []
    with serve(agent.app()) as url:
        target = AgentTarget(url, Secret(TOKEN), str(tmp_path), helper_binary())
        for uploads in (True, False):
            agent.writes.clear()
            async with open_agent_transport(target, on_end=lambda: ended.append(1)) as transport:
                assert "watch" in transport.peer.capabilities
                assert "weak" not in transport.peer.capabilities
                batch = Batch()
                batch.put(1, b"file", ABSENT, batch.add_content(BytesContent(b"x"), 0o600, 1))
                await transport.apply(batch)
                assert (tmp_path / "file").read_bytes() == b"x"
            (tmp_path / "file").unlink()
            sent = [name for name in agent.writes if name.startswith(".new-")]
            assert bool(sent) is uploads
    assert ended
    [directory] = places.iterdir()
    [helper] = directory.iterdir()
    assert helper.name == hashlib.sha256(helper.read_bytes()).hexdigest()


async def test_a_box_that_runs_nothing_of_ours(tmp_path, places):
    """No place where an executable may be: the box's own tools, and a transport that says so."""
    places.rmdir()
    places.touch()
    agent = FakeAgent()
    async with connected(agent, tmp_path) as transport:
        assert "weak" in transport.peer.capabilities
        (tmp_path / "file").write_bytes(b"hello")
        assert (await transport.read(b"file"))[1] == b"hello"


async def test_nothing_is_put_into_the_box_unless_asked(tmp_path, places):
    agent = FakeAgent()
    async with connected(agent, tmp_path, use_helper=False) as transport:
        assert "weak" in transport.peer.capabilities
    assert not os.listdir(places)


async def test_the_workspace_is_the_agents(tmp_path, places):
    agent = FakeAgent(workspace=tmp_path)
    with serve(agent.app()) as url:
        target = AgentTarget(url, Secret(TOKEN), None, helper_binary())
        async with open_agent_transport(target) as transport:
            assert transport.peer.root == os.fsencode(tmp_path)


async def test_two_clients_at_once(tmp_path, places):
    agent = FakeAgent()
    with serve(agent.app()) as url:
        target = AgentTarget(url, Secret(TOKEN), str(tmp_path), helper_binary())

        async def use() -> None:
            async with open_agent_transport(target) as transport:
                await transport.stat(b"")

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(use)
    [directory] = places.iterdir()
    assert len(list(directory.iterdir())) == 1, "nothing else is left"
