"""The example of the documentation, against the embedded engine: its control plane in process."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sealos_devbox import (
    AsyncDevbox,
    BoxExistsError,
    BoxNotFoundError,
    BoxState,
    CapabilityError,
    Devbox,
    DevboxConfig,
)

SDK = Path(__file__).parents[2] / "sdk"


@pytest.fixture
async def devbox(tmp_path: Path) -> AsyncIterator[AsyncDevbox]:
    async with AsyncDevbox(DevboxConfig(embedded=True, data_dir=tmp_path / "data")) as devbox:
        yield devbox


@pytest.mark.slow
def test_the_example_runs_as_it_stands(tmp_path: Path) -> None:
    program = """
from sealos_devbox import Devbox, DevboxConfig
devbox = Devbox(DevboxConfig())
sandbox = devbox.create(language="python", runtime="python:3.11")
sandbox.fs.write_file("/workspace/main.py", 'print("hello")')
print(sandbox.run(["cat", "main.py"], check=True).stdout)
"""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": str(SDK),
            "DEVBOX_EMBEDDED": "1",
            "DEVBOX_DATA_DIR": str(tmp_path / "data"),
        },
    )
    assert (run.stdout, run.returncode) == ('print("hello")\n', 0), run.stderr
    # It says so when it is not exact, and nothing else.
    assert len(run.stderr.splitlines()) == 1
    assert "python:3.11 was asked for" in run.stderr


@pytest.mark.slow
async def test_the_life_of_a_box(devbox: AsyncDevbox) -> None:
    async with await devbox.create("mybox", language="go", ports=[8000]) as box:
        await box.fs.write_file("/workspace/file", "x")
        assert (await box.refresh()).state is BoxState.RUNNING
        assert (await box.health()).ok
        await box.restart()
        assert await box.fs.read_file("file") == b"x"
        assert [port.number for port in await box.ports()] == [8000]
        await box.update(cpu=2)
        release = await box.releases.create("v1", "first", stop_box=True)
        assert (release.state, release.description) == ("success", "first")
        (listed,) = await devbox.list()
        assert listed.uid == box.uid
    with pytest.raises(BoxNotFoundError):
        await devbox.get("mybox")


@pytest.mark.slow
async def test_a_plain_box_has_a_life_too(devbox: AsyncDevbox) -> None:
    box = await devbox.create("plain")
    await box.fs.write_file("file", "x")
    assert box.info is None
    assert (await box.refresh()).state is BoxState.RUNNING
    assert (await box.refresh()).uid == box.uid
    await box.pause()
    assert box.info is not None
    assert box.info.state is BoxState.STOPPED
    assert await box.fs.read_file("file") == b"x"
    with pytest.raises(BoxExistsError):
        await devbox.create("plain", language="python")
    await devbox.delete("plain")
    assert await devbox.list() == []


@pytest.mark.slow
def test_its_life_survives_the_client(tmp_path: Path) -> None:
    config = DevboxConfig(embedded=True, data_dir=tmp_path / "data")
    with Devbox(config) as devbox:
        box = devbox.create("mybox", runtime="python", env={"MODE": "dev"})
        box.pause()
    with Devbox(config) as devbox:
        box = devbox.get("mybox")
        assert box.refresh().state is BoxState.STOPPED
        assert [variable.value for variable in box.env()] == ["dev"]


def test_files_need_no_http(tmp_path: Path) -> None:
    program = """
import sys
from sealos_devbox import Devbox, DevboxConfig
with Devbox(DevboxConfig(embedded=True, data_dir=sys.argv[1])) as devbox:
    box = devbox.get_or_create("mybox")
    box.fs.write_file("file", "x")
    with box:
        pass
print({"httpx", "yaml", "starlette", "kubernetes"} & set(sys.modules))
"""
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "data")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "PYTHONPATH": str(SDK)},
    )
    assert run.stdout == "set()\n"


def test_a_way_that_an_embedded_box_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(CapabilityError, match="agent"):
        Devbox(DevboxConfig(embedded=True, data_dir=tmp_path, transport="agent"))
