"""Plugins, as another distribution installs them: a package with entry points on the path."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealos_devbox import AsyncDevbox, ConfigurationError, DevboxConfig, write_profile
from tests.contract.control import TIMEOUTS, control_plane
from tests.fakes.control_documents import KUBECONFIG, TOKEN
from tests.fakes.control_plane import ControlPlane

pytestmark = pytest.mark.usefixtures("quick", "installed")

PLUGIN = '''
from contextlib import asynccontextmanager
from pathlib import Path

from sealos_devbox._transport.helper import open_helper_transport
from sealos_devbox._transport.helper_bundle import find_helper
from sealos_devbox._transport.subprocess import SubprocessChannel

opened = []


def credential(profile):
    return Path(profile["x-key-file"]).read_text()


def failing(profile):
    raise ValueError("the secret is hunter2-hunter2")


def silent(profile):
    return ""


@asynccontextmanager
async def tunnel(target, on_end):
    """A helper on a directory, for a box of any service."""
    opened.append(target)
    root = Path(__file__).parent / "workspace"
    root.mkdir(exist_ok=True)
    channel = await SubprocessChannel.open([find_helper(), "serve", "--root", str(root)])
    async with open_helper_transport(channel, compress=False) as transport:
        yield transport
    on_end()
'''

ENTRY_POINTS = """
[sealos_devbox.credentials]
key-file = example_plugin:credential
failing = example_plugin:failing
silent = example_plugin:silent
missing = example_plugin:nothing

[sealos_devbox.transports]
tunnel = example_plugin:tunnel
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    site = tmp_path / "site"
    information = site / "example_plugin-1.0.dist-info"
    information.mkdir(parents=True)
    (site / "example_plugin.py").write_text(PLUGIN)
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: example-plugin\nVersion: 1\n"
    )
    (information / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(site))
    yield site
    sys.modules.pop("example_plugin", None)


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    with control_plane() as plane:
        plane.add("mybox")
        yield plane


async def test_a_source_of_credentials_is_asked_again_when_one_is_refused(
    plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, profiles = tmp_path / "key", tmp_path / "config.toml"
    values = {"endpoint": plane.address, "credential_source": "key-file", "x-key-file": str(key)}
    write_profile(profiles, "work", values, default=True)
    monkeypatch.setenv("DEVBOX_CONFIG", str(profiles))
    for name in ("DEVBOX_EMBEDDED", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    key.write_text(TOKEN)
    async with AsyncDevbox() as devbox:
        assert devbox.reason == "the default profile, work"
        assert [box.name for box in await devbox.list()] == ["mybox"]
        plane.token = "rotated-token"
        key.write_text("rotated-token")
        assert [box.name for box in await devbox.list()] == ["mybox"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("failing", "failed with ValueError"),
        ("silent", "gave no credential"),
        ("missing", "cannot be loaded"),
        ("vualt", "offered: failing, key-file, missing, silent"),
    ],
)
async def test_a_source_that_is_of_no_use(plane: ControlPlane, source: str, said: str) -> None:
    config = DevboxConfig(api_url=plane.address, credential_source=source)
    async with AsyncDevbox(config) as devbox:
        with pytest.raises(ConfigurationError, match=said) as caught:
            await devbox.list()
    assert "hunter2" not in f"{caught.value} {caught.value.__cause__}"


async def test_a_way_to_a_box(plane: ControlPlane) -> None:
    config = DevboxConfig(
        api_url=plane.address, api_key=KUBECONFIG, transport="tunnel", timeouts=TIMEOUTS
    )
    async with AsyncDevbox(config) as devbox:
        box = await devbox.get("mybox")
        await box.fs.write_file("/workspace/file", "x")
        assert (await box.run(["cat", "file"])).stdout == "x"
    (target,) = sys.modules["example_plugin"].opened
    assert (target.name, target.namespace, target.user) == ("mybox", "ns-mine", "devbox")
    assert target.workspace == "/home/devbox/project"
    assert target.agent_url == f"{plane.address}/box/id-of-mybox/agent"


async def test_a_way_to_an_embedded_box(tmp_path: Path) -> None:
    config = DevboxConfig(embedded=True, data_dir=tmp_path / "data", transport="tunnel")
    async with AsyncDevbox(config) as devbox:
        box = await devbox.create("mybox")
        await box.fs.write_file("file", "x")
    (target,) = sys.modules["example_plugin"].opened
    assert target.workspace == str(tmp_path / "data/boxes/mybox/workspace")


async def test_a_way_that_nobody_offers(tmp_path: Path) -> None:
    config = DevboxConfig(embedded=True, data_dir=tmp_path / "data", transport="tunel")
    async with AsyncDevbox(config) as devbox:
        box = await devbox.create("mybox")
        with pytest.raises(ConfigurationError, match="offered: tunnel"):
            await box.fs.list_dir()
