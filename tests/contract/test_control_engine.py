"""One suite for the client against the engine that is served on a socket, in both lineages."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypercorn.asyncio import serve
from hypercorn.config import Config

from sealos_devbox import (
    AsyncDevbox,
    AuthenticationError,
    BoxExistsError,
    BoxNotFoundError,
    BoxState,
    CapabilityError,
    DevboxConfig,
    ServerError,
)
from sealos_devbox.server.app import create_app
from sealos_devbox.server.settings import EngineSettings
from tests.contract.control import TIMEOUTS

pytestmark = pytest.mark.slow
TOKEN = "the-token-of-the-engine"


@contextlib.contextmanager
def engine(data_dir: Path, lineage: str) -> Iterator[str]:
    """Serve an engine from a thread; yields its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    settings = EngineSettings(data_dir, token=TOKEN, lineage=lineage)  # type: ignore[arg-type]
    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.accesslog = config.errorlog = None
    config.graceful_timeout = 0.1
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    server = serve(create_app(settings), config, shutdown_trigger=stop.wait)  # type: ignore[arg-type]
    thread = threading.Thread(target=loop.run_until_complete, args=(server,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()
        with contextlib.suppress(OSError):
            listener.close()


@pytest.fixture(params=["M", "R"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with engine(tmp_path / "data", request.param) as address:
        yield address


@pytest.fixture
async def devbox(address: str) -> AsyncIterator[AsyncDevbox]:
    config = DevboxConfig(api_url=address, api_key=TOKEN, timeouts=TIMEOUTS)
    async with AsyncDevbox(config) as devbox:
        yield devbox


@contextlib.contextmanager
def web_interface() -> Iterator[None]:
    """What the older lineage says by routes of its web interface, which an engine need not have."""
    try:
        yield
    except CapabilityError as error:
        assert error.status == 404  # noqa: PT017 - nothing else is a reason


async def test_the_life_of_a_box(devbox: AsyncDevbox) -> None:
    box = await devbox.create("mybox", runtime="python:3.11", ports=[8000])
    info = await box.refresh()
    assert (info.state, info.resources.cpu, info.resources.memory) == (
        BoxState.RUNNING,
        1,
        2 * 1024**3,
    )
    assert info.uid
    assert info.ssh is not None
    with pytest.raises(BoxExistsError):
        await devbox.create("mybox", runtime="python")
    await box.pause()
    assert (await box.refresh()).state is BoxState.STOPPED
    await box.restart()
    assert (await box.refresh()).state is BoxState.RUNNING
    assert [port.number for port in await box.ports()] == [8000]
    port = await box.open_port(9000)
    assert port.number == 9000
    await box.close_port(8000)
    assert [port.number for port in await box.ports()] == [9000]
    assert (await box.update(cpu=2, memory="4Gi")).resources.cpu == 2
    assert [one.name for one in await devbox.list()] == ["mybox"]
    with web_interface():
        assert len(await box.pods()) == 1
    await box.shutdown()
    await box.delete()
    with pytest.raises(BoxNotFoundError):
        await box.refresh()


async def test_releases(devbox: AsyncDevbox) -> None:
    box = await devbox.create("mybox", runtime="python")
    assert (await box.releases.create("v1", "first")).state == "pending"
    release = await box.releases.create("v2", stop_box=True)
    assert release.state == "success"
    assert [one.tag for one in await box.releases.list()] == ["v2", "v1"]
    await box.releases.delete("v1")
    assert [one.tag for one in await box.releases.list()] == ["v2"]


async def test_metrics(devbox: AsyncDevbox) -> None:
    box = await devbox.create("mybox", runtime="python")
    with web_interface():
        found = await box.metrics(step=6.667)
        assert all(0 <= sample.cpu_percent <= 100 for sample in found.samples)
        assert all(0 <= sample.memory_percent <= 100 for sample in found.samples)


async def test_templates(devbox: AsyncDevbox) -> None:
    assert "python" in [template.runtime for template in await devbox.templates()]
    assert "python" in [runtime.name for runtime in await devbox.runtimes()]
    with pytest.raises(ValueError, match="did you mean 'python'"):
        await devbox.create("mybox", runtime="pyhton")


async def test_a_bad_credential(address: str) -> None:
    async with AsyncDevbox(DevboxConfig(api_url=address, api_key="not-the-token")) as devbox:
        with pytest.raises((AuthenticationError, ServerError)) as caught:
            await devbox.list()
    assert "credential" in f"{caught.value} {caught.value.hint}"


async def test_boxes_survive_the_engine(tmp_path: Path) -> None:
    for attempt in range(2):
        with engine(tmp_path / "data", "M") as address:
            async with AsyncDevbox(DevboxConfig(api_url=address, api_key=TOKEN)) as devbox:
                if attempt == 0:
                    await (await devbox.create("mybox", runtime="go")).pause()
                box = await devbox.get("mybox")
                assert (await box.refresh()).state is BoxState.STOPPED
