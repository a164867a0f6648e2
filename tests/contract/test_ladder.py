"""Which way to a box is taken, tried on an engine that is served: every rung is there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import asynccontextmanager

import anyio
import pytest

from sealos_devbox import (
    AccessDeniedError,
    AsyncDevbox,
    BoxStateError,
    CapabilityError,
    ConnectError,
    DevboxConfig,
)
from sealos_devbox._transport import ladder
from sealos_devbox._transport.ladder import BoxTarget, open_box_transport
from sealos_devbox.secret import Secret
from sealos_devbox.server.run import Served, serving
from sealos_devbox.server.settings import EngineSettings
from sealos_devbox.types import Rung
from tests.fakes.agent import TOKEN, FakeAgent, agent_client
from tests.fakes.helper import helper_binary

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        # Boxes are processes of this machine: the helper is put into what they call their home.
        patch.setenv("HOME", str(home))
        patch.delenv("XDG_CACHE_HOME", raising=False)
        with serving(EngineSettings(home / "data")) as served:
            yield served


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


def config(served: Served, transport: str) -> DevboxConfig:
    return DevboxConfig(
        api_url=served.url,
        kubeconfig=served.kubeconfig,
        transport=transport,
        helper=helper_binary(),
    )


@asynccontextmanager
async def a_box(served: Served, transport: str = "auto"):
    async with (
        AsyncDevbox(config(served, transport)) as devbox,
        await devbox.create(runtime="python") as box,
    ):
        yield box


@pytest.mark.parametrize(
    ("transport", "name", "weak"),
    [("auto", "helper", False), ("agent", "agent", False), ("exec", "exec", True)],
)
async def test_each_rung_reaches_the_files(served, transport, name, weak):
    async with a_box(served, transport) as box:
        assert box.rung is None
        await box.fs.write_file("file", b"content" * 1000)
        assert await box.fs.read_file("file") == b"content" * 1000
        assert (await box.run(["cat", "file"])).stdout == "content" * 1000
        assert box.rung is not None
        assert box.rung.name == name
        assert bool(box.rung.weaker) is weak
        assert box.rung.passed_over == ()


async def test_what_a_box_says_is_no_reason_for_another_rung(served):
    async with a_box(served) as box:
        await box.pause()
        with pytest.raises(BoxStateError, match=r"is paused|is stopped"):
            await box.fs.read_file("file")


class Rungs:
    """In place of the rungs: what each does when it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.outcomes: dict[str, Exception | set[str]] = {}
        self.tried: list[str] = []
        self.open = 0
        monkeypatch.setattr(ladder, "open_rung", self._opened)

    @asynccontextmanager
    async def _opened(self, target, name, on_end):
        await anyio.lowlevel.checkpoint()
        self.tried.append(name)
        outcome = self.outcomes.get(name, ConnectError("nobody there"))
        if isinstance(outcome, Exception):
            raise outcome
        self.open += 1
        try:
            yield FakeTransport(outcome)
        finally:
            self.open -= 1


class FakeTransport:
    def __init__(self, capabilities: set[str]) -> None:
        self.peer = self
        self.capabilities = frozenset(capabilities)


@pytest.fixture
def rungs(monkeypatch: pytest.MonkeyPatch) -> Rungs:
    return Rungs(monkeypatch)


async def token() -> Secret:
    return Secret("t")


def target(**settings: object) -> BoxTarget:
    found: list[Rung] = []
    made = BoxTarget(
        "my-box",
        "uid",
        "there",
        kubeconfig=Secret("kubeconfig"),
        agent_url="https://agent",
        agent_token=token,
        on_rung=found.append,
        **settings,  # type: ignore[arg-type]
    )
    return made


async def climb(target: BoxTarget) -> Rung:
    async with open_box_transport(target):
        pass
    [rung] = target.on_rung.__self__  # type: ignore[union-attr]
    return rung


async def test_the_first_that_opens_is_taken_and_the_others_reasons_are_kept(rungs):
    rungs.outcomes = {
        "helper": CapabilityError("noexec everywhere"),
        "agent": {"weak", "tools:busybox"},
    }
    rung = await climb(target())
    assert rungs.tried == ["helper", "agent"]
    assert (rung.name, rung.passed_over) == ("agent", (("helper", "noexec everywhere"),))
    assert "times are whole seconds" in rung.weaker
    assert rungs.open == 0


async def test_a_rung_that_cannot_be_tried_says_why(rungs):
    rungs.outcomes = {"exec": {"weak"}}
    rung = await climb(
        BoxTarget("b", "u", "l", kubeconfig=Secret("k"), on_rung=(found := []).append)
    )
    assert found == [rung]
    assert dict(rung.passed_over) == {
        "helper": "nobody there",
        "agent": "the service names no agent of the box",
    }


async def test_it_returns_to_the_rung_that_it_was_on(rungs):
    rungs.outcomes = {"helper": {"watch"}, "agent": {"watch"}}
    assert (await climb(target(previous=Rung("agent", "")))).name == "agent"
    assert rungs.tried == ["agent"]


async def test_a_way_does_not_become_weaker_unasked(rungs):
    rungs.outcomes = {"exec": {"weak"}}
    with pytest.raises(ConnectError, match="exec: it would be weaker than the way before"):
        await climb(target(previous=Rung("helper", "")))
    assert rungs.open == 0
    forced = target(previous=Rung("helper", ""), transport="exec")
    assert (await climb(forced)).name == "exec"


async def test_what_cannot_succeed_is_not_waited_for(rungs):
    nobody = ConnectError("no API server")
    nobody.unreachable = True
    rungs.outcomes = {"helper": nobody, "agent": CapabilityError("no shell"), "exec": {"weak"}}
    with pytest.raises(ConnectError, match="exec: the API server cannot be reached"):
        await climb(target())
    assert rungs.tried == ["helper", "agent"]
    rungs.outcomes["helper"] = ConnectError("it broke off")
    assert (await climb(target())).name == "exec"
    rungs.tried.clear()
    with pytest.raises(ConnectError, match="weaker than the way before"):
        await climb(target(previous=Rung("agent", "")))
    assert rungs.tried == ["agent", "helper"]


@pytest.mark.parametrize("name", ["helper", "agent", "exec"])
async def test_a_forced_rung_is_the_only_one(rungs, name):
    rungs.outcomes = {"helper": {"watch"}, "agent": {"watch"}, "exec": {"weak"}}
    assert (await climb(target(transport=name))).name == name
    assert rungs.tried == [name]
    rungs.outcomes = {name: AccessDeniedError("no verb create")}
    with pytest.raises(AccessDeniedError, match=r"^no verb create$"):
        await climb(target(transport=name))


async def test_what_all_rungs_met_is_said(rungs):
    rungs.outcomes = {
        "helper": AccessDeniedError("no verb create", hint="Ask the owner."),
        "agent": CapabilityError("no shell"),
        "exec": AccessDeniedError("no verb create"),
    }
    with pytest.raises(
        AccessDeniedError, match="helper: no verb create; agent: no shell; exec: no verb create"
    ) as caught:
        await climb(target())
    assert caught.value.hint.startswith("Ask the owner.")
    rungs.outcomes["agent"] = ConnectError("no route")
    with pytest.raises(ConnectError) as caught:
        await climb(target())
    assert caught.value.retryable


async def test_the_caller_is_not_told_that_its_own_error_is_the_ways(rungs):
    rungs.outcomes = {"helper": {"watch"}, "agent": {"watch"}}
    with pytest.raises(ConnectError, match="mine"):
        async with open_box_transport(target()):
            raise ConnectError("mine")
    assert rungs.tried == ["helper"]
    assert rungs.open == 0


async def test_a_token_is_renewed_when_the_agent_refuses_it(tmp_path):
    renewed = []

    async def renew() -> Secret:
        await anyio.lowlevel.checkpoint()
        renewed.append(1)
        return Secret(TOKEN)

    async with agent_client(FakeAgent(), "an-old-token") as client:
        client._renew = renew
        assert await client.write(str(tmp_path / "file"), b"content") == 7
        assert (tmp_path / "file").read_bytes() == b"content"
        await client.write(str(tmp_path / "file"), b"more")
        assert renewed == [1]
        client._token = Secret("worn-out")
        client._renew = None
        with pytest.raises(ConnectError, match="does not accept the token"):
            await client.write(str(tmp_path / "file"), b"content")
