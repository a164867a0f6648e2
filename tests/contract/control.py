"""What the tests of the control plane's client share."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from sealos_devbox import AsyncDevbox, DevboxConfig, Timeouts
from sealos_devbox._async import creation, lifecycle, releases
from sealos_devbox._async.control import boundary, http
from sealos_devbox._planning.retry import RetryPolicy
from tests.fakes.control_documents import KUBECONFIG
from tests.fakes.control_plane import ControlPlane
from tests.fakes.control_serving import serving

TIMEOUTS = Timeouts(connect=5, request=5, idle=5, total=20)


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


@contextmanager
def control_plane(lineage: str = "M", **options: Any) -> Iterator[ControlPlane]:
    plane = ControlPlane(lineage, **options)
    with serving(plane):
        yield plane


@asynccontextmanager
async def client(plane: ControlPlane, **options: Any) -> AsyncIterator[AsyncDevbox]:
    settings = {
        "api_url": plane.address,
        "api_key": KUBECONFIG,
        "timeouts": TIMEOUTS,
        "requests_per_second": 1000,
    }
    async with AsyncDevbox(DevboxConfig(**{**settings, **options})) as devbox:
        yield devbox
