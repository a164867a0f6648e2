"""What several of the contract's implementations need."""

import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sealos_devbox import AsyncDevbox
from sealos_devbox._async import creation, lifecycle, releases
from sealos_devbox._async.control import boundary, http
from sealos_devbox._planning.retry import RetryPolicy
from tests.contract.control import client, control_plane
from tests.fakes.control_plane import ControlPlane


@pytest.fixture(scope="session")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with busybox's applets: the tools of a small box."""
    program = shutil.which("busybox")
    assert program, "tools/setup.sh installs busybox"
    tools = tmp_path_factory.mktemp("tools")
    subprocess.run([program, "--install", "-s", tools], check=True)
    return tools


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    """A fake control plane."""
    with control_plane() as plane:
        yield plane


@pytest.fixture
async def devbox(plane: ControlPlane) -> AsyncIterator[AsyncDevbox]:
    """A client of it."""
    async with client(plane) as devbox:
        yield devbox


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait hundredths of the usual times: what is counted here is looks and attempts."""
    monkeypatch.setattr(http, "POLICY", RetryPolicy(first_wait=0.005))
    monkeypatch.setattr(boundary, "_FIRST_WAIT", 0.005)
    monkeypatch.setattr(lifecycle, "_FIRST_POLL", 0.002)
    monkeypatch.setattr(lifecycle, "_LONGEST_POLL", 0.01)
    monkeypatch.setattr(lifecycle, "_LAG", 0.1)
    monkeypatch.setattr(lifecycle, "_ERROR_GRACE", 0.1)
    monkeypatch.setattr(creation, "_POLL", 0.005)
    monkeypatch.setattr(releases, "_POLL", 0.005)
