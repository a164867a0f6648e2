"""What the tests of the control plane's client share."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from sealos_devbox import AsyncDevbox, DevboxConfig, Timeouts
from tests.fakes.control_documents import KUBECONFIG
from tests.fakes.control_plane import ControlPlane
from tests.fakes.control_serving import serving

TIMEOUTS = Timeouts(connect=5, request=5, idle=5, total=20)


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
