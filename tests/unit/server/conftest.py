"""An engine in process: no socket, times short enough for tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from sealos_devbox.server.app import create_app
from sealos_devbox.server.engine import Engine
from sealos_devbox.server.settings import EngineSettings

TOKEN = "sesame-of-the-tests"


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def settings(tmp_path: Path) -> EngineSettings:
    return EngineSettings(tmp_path / "data", token=TOKEN, start_seconds=1, commit_seconds=10)


@pytest.fixture
def engine(settings: EngineSettings, clock: Clock) -> Engine:
    return Engine(settings, clock=clock)


@pytest.fixture
def app(engine: Engine) -> Starlette:
    return create_app(engine.settings, engine=engine)


@pytest.fixture
async def client(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://devbox.test",
        headers={"Authorization": TOKEN},
    ) as client:
        yield client
