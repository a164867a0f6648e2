"""The real helper, built if it is out of date, over a real process."""

from __future__ import annotations

import functools
import platform
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sealos_devbox._transport.helper import HelperTransport, open_helper_transport
from sealos_devbox._transport.subprocess import SubprocessChannel

_ROOT = Path(__file__).parents[2]


@functools.cache
def helper_binary() -> Path:
    subprocess.run([sys.executable, _ROOT / "tools" / "build_helper.py"], check=True)
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    return _ROOT / "sdk" / "sealos_devbox" / "_helper" / f"devbox-helper-linux-{machine}"


async def start_helper(root: Path, *options: str) -> SubprocessChannel:
    return await SubprocessChannel.open([helper_binary(), "serve", "--root", root, *options])


@asynccontextmanager
async def helper_transport(root: Path, *, compress: bool = False) -> AsyncIterator[HelperTransport]:
    channel = await start_helper(root)
    async with open_helper_transport(channel, compress=compress) as transport:
        yield transport
