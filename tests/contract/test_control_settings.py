"""What boxes have besides their state: settings, releases, metrics, templates."""

from datetime import UTC, datetime

import pytest

from sealos_devbox import (
    AlreadyExistsError,
    AsyncDevbox,
    BoxState,
    DeadlineExceededError,
    MetricsUnreliableError,
    NotFoundError,
    Port,
    Resources,
    Secret,
    ServerError,
)
from tests.contract.control import client, control_plane
from tests.fakes.control_documents import HTML_ERROR, PEM
from tests.fakes.control_plane import ControlPlane

pytestmark = pytest.mark.usefixtures("quick")
GIB = 1024**3
MIB = 1024**2


# --------------------------------------------------------------------------------------- settings


async def test_units_of_the_list_and_of_the_detail(
    plane: ControlPlane, devbox: AsyncDevbox
) -> None:
    plane.add("mybox", cpu=0.5, memory=0.5)
    (listed,) = await devbox.list()
    box = await devbox.get("mybox")
    assert listed.info is not None
    assert box.info is not None
    assert listed.info.resources == box.info.resources == Resources(0.5, 512 * MIB)
    assert listed.uid == box.uid


async def test_create_from_a_template_by_its_own_name(
    plane: ControlPlane, devbox: AsyncDevbox
) -> None:
    box = await devbox.create("mybox", template="python")
    (body,) = plane.sent("POST", "/api/v1/devbox")
    assert (body["runtime"], body["isRuntimeName"]) == ("python", True)
    assert box.template is not None
    assert box.template.exact
    with pytest.raises(ValueError, match="give either"):
        await devbox.create("other", template="python", runtime="python")


async def test_a_box_whose_template_is_gone(plane: ControlPlane, devbox: AsyncDevbox) -> None:
    plane.add("mybox", template_gone=True)
    box = await devbox.get("mybox")
    assert box.info is not None
    assert (box.info.state, box.info.resources.cpu) == (BoxState.RUNNING, 1)
    assert await devbox.list() == []  # as the service says


async def test_update(plane: ControlPlane, devbox: AsyncDevbox) -> None:
    plane.add("mybox")
    box = await devbox.get("mybox")
    info = await box.update(cpu=4)
    assert info.resources == Resources(4, 2 * GIB)
    assert plane.sent("PATCH", "/api/v1/.*") == [{"resource": {"cpu": 4, "memory": 2}}]
    info = await box.update(memory="3Gi")
    assert info.resources == Resources(4, 3 * GIB)
    assert plane.sent("PATCH", "/api/v2alpha/.*") == [{"quota": {"memory": 3}}]
    with pytest.raises(ValueError, match="between"):
        await box.update(cpu=1000)


async def test_ports_are_kept_by_their_names(plane: ControlPlane, devbox: AsyncDevbox) -> None:
    box = await devbox.create("mybox", runtime="python", ports=[8000])
    port = await box.open_port(9000, protocol="ws")
    assert isinstance(port, Port)
    assert (port.number, port.protocol) == (9000, "ws")
    (body,) = plane.sent("PUT")
    assert [one.get("portName") for one in body["ports"]] == ["port-8000", None]
    await box.close_port(8000)
    assert [port.number for port in await box.ports()] == [9000]
    with pytest.raises(ValueError, match="open are: 9000"):
        await box.close_port(8000)
    info = await box.update(ports=[9000, 7000])
    assert [port.number for port in info.ports] == [9000, 7000]
    assert plane.sent("PUT")[-1]["ports"][0]["portName"] == "port-9000"


async def test_a_change_of_ports_whose_answer_was_lost(
    plane: ControlPlane, devbox: AsyncDevbox
) -> None:
    plane.add("mybox")
    box = await devbox.get("mybox")
    plane.fail("PUT", ".*", HTML_ERROR, after=True)
    assert (await box.open_port(8000)).number == 8000
    assert len(plane.sent("PUT")) == 1
    plane.fail("PUT", ".*", HTML_ERROR)
    with pytest.raises(ServerError):
        await box.open_port(9000)


async def test_env_and_ssh(plane: ControlPlane, devbox: AsyncDevbox) -> None:
    box = await devbox.create("mybox", runtime="python", env={"MODE": "dev"})
    (variable,) = await box.env()
    assert (variable.name, variable.value) == ("MODE", "dev")
    ssh = await box.ssh()
    assert ssh.port == 2233  # the detail says 0 for a box behind the gate
    assert ssh.private_key == Secret(PEM)
    assert ssh.command == "ssh -p 2233 devbox@usw.sealos.io"
    assert "PRIVATE" not in repr(box.info)
    await box.autostart("nohup ./serve &")
    assert plane.sent("POST", ".*/autostart") == [{"execCommand": "nohup ./serve &"}]
    assert [pod.state for pod in await box.pods()] == ["running"]


# --------------------------------------------------------------------------------------- releases


async def test_releases(plane: ControlPlane, devbox: AsyncDevbox) -> None:
    plane.add("mybox")
    box = await devbox.get("mybox")
    release = await box.releases.create("v1", "first")
    assert (release.state, release.description) == ("pending", "first")
    assert plane.boxes["mybox"].phase == "Running"
    with pytest.raises(AlreadyExistsError):
        await box.releases.create("v1")
    with pytest.raises(DeadlineExceededError, match="v1"):
        await box.releases.wait("v1", timeout=0.05)
    with pytest.raises(ServerError, match="not ready"):
        await box.releases.deploy("v1")
    release = await box.releases.create("v2", stop_box=True)
    assert release.state == "success"
    assert plane.boxes["mybox"].phase == "Running"
    deployment = await box.releases.deploy("v2")
    assert (deployment.name, deployment.domains) == ("app", ("app.usw.sealos.io",))
    assert [one.name for one in await box.releases.deployments()] == ["mybox-v1-abc"]
    assert [one.tag for one in await box.releases.list()] == ["v2", "v1"]
    assert (await box.releases.list())[0].description == ""
    await box.releases.delete("v1")
    with pytest.raises(NotFoundError):
        await box.releases.delete("v1")
    # The answer to the request was lost.
    plane.fail("POST", ".*/release", HTML_ERROR, after=True)
    assert (await box.releases.create("v3")).tag == "v3"
    plane.fail("DELETE", ".*/release/v3", HTML_ERROR, after=True)
    await box.releases.delete("v3")


# ---------------------------------------------------------------------------------------- metrics


@pytest.mark.parametrize("has_v2", [True, False])
async def test_metrics_are_percent_whichever_route_there_is(has_v2: bool) -> None:
    with control_plane(has_v2=has_v2) as plane:
        plane.add("mybox")
        async with client(plane) as devbox:
            box = await devbox.get("mybox")
            start, end = (datetime.fromtimestamp(at, UTC) for at in (1768201000, 1768201400))
            found = await box.metrics(start, end, 60)
            assert [sample.cpu_percent for sample in found.samples] == [12.5, 50.0]
            assert [sample.memory_percent for sample in found.samples] == [40.0, 41.0]
            assert found.samples[0].time == datetime.fromtimestamp(1768201200, UTC)
            assert await box.metrics_latest() is None
            for wrong in ((end, start), (start.replace(tzinfo=None), end)):
                with pytest.raises(ValueError, match=r"time zone|earlier"):
                    await box.metrics(*wrong)


async def test_metrics_that_would_be_those_of_other_boxes(
    plane: ControlPlane, devbox: AsyncDevbox
) -> None:
    plane.add("my-box")
    plane.add("mybox2")
    plane.add("other")
    box = await devbox.get("my-box")
    with pytest.raises(MetricsUnreliableError, match="mybox2") as caught:
        await box.metrics()
    assert "allow_shared" in caught.value.hint
    assert not plane.sent("GET", ".*/monitor")
    assert (await box.metrics(allow_shared=True)).shared_with == ("mybox2",)
    assert (await (await devbox.get("other")).metrics()).shared_with == ()


# -------------------------------------------------------------------------------------- templates


async def test_templates_and_runtimes(plane: ControlPlane, devbox: AsyncDevbox) -> None:
    templates = await devbox.templates()
    assert templates[0].runtime == "python"
    assert templates[0].ports == (8080,)
    runtimes = await devbox.runtimes()
    assert [runtime.name for runtime in runtimes] == [one.runtime for one in templates]
    assert (runtimes[0].kind, runtimes[1].kind) == ("language", None)
    plane.fail("GET", "/api/templateRepository/.*", HTML_ERROR, times=4)
    assert (await devbox.runtimes())[0].kind is None
