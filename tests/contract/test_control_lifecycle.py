"""Boxes of a control plane from here to there: made, started, paused, restarted, deleted."""

import itertools
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import pytest

from sealos_devbox import (
    AccessDeniedError,
    AlreadyExistsError,
    AsyncDevbox,
    BoxExistsError,
    BoxNotFoundError,
    BoxState,
    BoxStateError,
    CapabilityError,
    DeadlineExceededError,
    InvalidRequestError,
    MetricsUnreliableError,
    NotFoundError,
    PaymentRequiredError,
    Port,
    PortRequest,
    Resources,
    Secret,
    ServerError,
)
from tests.contract.control import client, control_plane, quick
from tests.fakes.control_documents import HTML_ERROR, KUBECONFIG, PEM, Reply, envelope
from tests.fakes.control_plane import ControlPlane

__all__ = ["quick"]

pytestmark = pytest.mark.usefixtures("quick")
GIB = 1024**3
MIB = 1024**2


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    with control_plane() as plane:
        yield plane


@pytest.fixture
async def devbox(plane: ControlPlane) -> AsyncIterator[AsyncDevbox]:
    async with client(plane) as devbox:
        yield devbox


# ----------------------------------------------------------------------------------------- create


async def test_create_sends_what_is_asked_for_in_the_units_of_the_service(
    plane: ControlPlane, devbox: AsyncDevbox
) -> None:
    box = await devbox.create(
        "mybox",
        language="python",
        runtime="python:3.11",
        cpu=0.5,
        memory="4Gi",
        ports=[8000, PortRequest(9000, "grpc", public=False)],
        env={"MODE": "dev"},
    )
    (body,) = plane.sent("POST", "/api/v1/devbox")
    assert body == {
        "name": "mybox",
        "runtime": "python",
        "resource": {"cpu": 0.5, "memory": 4},
        "ports": [
            {"number": 8000, "protocol": "HTTP", "exposesPublicDomain": True},
            {"number": 9000, "protocol": "GRPC", "exposesPublicDomain": False},
        ],
        "env": [{"name": "MODE", "value": "dev"}],
    }
    assert box.info is not None
    assert box.info.state is BoxState.RUNNING
    assert box.info.resources == Resources(0.5, 4 * GIB)
    assert box.info.ports[0].public_url == "https://p8000.usw.sealos.io"
    assert (box.info.ports[1].protocol, box.info.ports[1].public) == ("grpc", False)
    # The agent answered, and its address was not known when the box began to run.
    assert box.info.agent_url == f"{plane.address}/box/id-of-mybox/agent"
    assert box.info.created_at is not None
    assert box.info.created_at.isoformat() == "2026-01-11T23:00:00+00:00"


async def test_a_template_that_is_not_exact_is_said(
    devbox: AsyncDevbox, caplog: pytest.LogCaptureFixture
) -> None:
    box = await devbox.create("mybox", runtime="python:3.11")
    assert box.template is not None
    assert not box.template.exact
    assert "python:3.11 was asked for, and the region's python is 3.12" in box.template.note
    assert box.template.note in caplog.text
    caplog.clear()
    box = await devbox.create("other", runtime="Python@3.12")
    assert box.template is not None
    assert (box.template.exact, box.template.note) == (True, "")
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


async def test_a_create_that_failed_after_it_had_made_the_box(
    plane: ControlPlane, devbox: AsyncDevbox
) -> None:
    """The handler reads the box's Secret once; a slow controller makes it answer 500 or 404."""
    for number, reply in enumerate(
        [
            envelope(500, None, "Internal server error"),
            envelope(404, None, "SSH keys not found"),
            HTML_ERROR,
            Reply(200, {"code": 200, "data": {}}, cut=True),
        ]
    ):
        plane.fail("POST", "/api/v1/devbox", reply, after=True)
        box = await devbox.create(f"box{number}", runtime="python")
        assert box.info is not None
        assert box.info.state is BoxState.RUNNING
    assert len(plane.sent("POST", "/api/v1/devbox")) == 4
    assert len(box.notes) == 1


async def test_a_create_that_failed_and_made_nothing_is_repeated(
    plane: ControlPlane, devbox: AsyncDevbox
) -> None:
    plane.fail("POST", "/api/v1/devbox", HTML_ERROR, times=2)
    box = await devbox.create("mybox", runtime="python")
    assert box.notes == ()
    calls = [
        (method, path)
        for method, path, _ in plane.requests
        if method == "POST" or path == "/api/v1/devbox/mybox"
    ]
    posts = [index for index, call in enumerate(calls) if call[0] == "POST"]
    assert len(posts) == 3
    for first, second in itertools.pairwise(posts):
        assert ("GET", "/api/v1/devbox/mybox") in calls[first:second]  # it looked before


async def test_a_create_that_goes_on_failing_is_given_up(
    plane: ControlPlane, devbox: AsyncDevbox
) -> None:
    plane.fail("POST", "/api/v1/devbox", HTML_ERROR, times=10)
    with pytest.raises(ServerError) as caught:
        await devbox.create("mybox", runtime="python")
    assert (caught.value.status, caught.value.hop, caught.value.retryable) == (502, "gateway", True)
    assert len(plane.sent("POST", "/api/v1/devbox")) == 3


async def test_a_name_that_is_taken(plane: ControlPlane, devbox: AsyncDevbox) -> None:
    plane.add("mybox")
    with pytest.raises(BoxExistsError, match="mybox"):
        await devbox.create("mybox", runtime="python")
    assert plane.sent("POST") == []
    # Somebody else makes it between the look and the request.
    plane.fail("POST", "/api/v1/devbox", envelope(409, None, "Devbox already exists"))
    with pytest.raises(BoxExistsError) as caught:
        await devbox.create("other", runtime="python")
    assert (caught.value.code, caught.value.status) == ("box-exists", 409)
    plane.fail("POST", "/api/v1/devbox", envelope(409, None, "Devbox already exists"))
    with pytest.raises(BoxNotFoundError):
        await devbox.get("other")


async def test_ports_that_failed_are_said_and_the_box_is_there(
    plane: ControlPlane, devbox: AsyncDevbox
) -> None:
    plane.bad_ports = {9000}
    box = await devbox.create("mybox", runtime="python", ports=[8000, 9000])
    assert box.notes == ("Port 9000 was not opened: conflict",)
    assert [port.number for port in await box.ports()] == [8000]


async def test_values_are_checked_before_anything_is_made(
    plane: ControlPlane, devbox: AsyncDevbox
) -> None:
    for wrong, said in (
        ({"runtime": "pyhton"}, "did you mean 'python'"),
        ({"language": "cobol"}, "it has: cpp, debian-ssh"),
        ({}, "name a runtime or a language"),
        ({"runtime": "python", "cpu": 64}, "between 0.1 cores and 32 cores"),
        ({"runtime": "python", "memory": 2}, "did you mean '2Gi'"),
        ({"runtime": "cpp", "cpu": 3, "autostart": True}, "2 cores and 4 cores are the nearest"),
        ({"runtime": "python", "ports": [0]}, "is no port"),
        ({"runtime": "python", "ports": [80, 80]}, "twice"),
        ({"runtime": "python", "env": {"A B": "x"}}, "name of a variable"),
    ):
        with pytest.raises(ValueError, match=said):
            await devbox.create("mybox", **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'my-box' would do"):
        await devbox.create("My Box", runtime="python")
    assert plane.sent("POST") == []


async def test_a_size_that_v1_has_no_choice_for(plane: ControlPlane, devbox: AsyncDevbox) -> None:
    box = await devbox.create("mybox", runtime="python", cpu=3, memory="3Gi")
    (body,) = plane.sent("POST", "/api/v2alpha/devbox")
    assert body["quota"] == {"cpu": 3, "memory": 3}
    assert box.info is not None
    assert box.info.resources == Resources(3, 3 * GIB)


async def test_storage_needs_the_cluster(plane: ControlPlane) -> None:
    async with client(plane, api_key=plane.token) as devbox:
        with pytest.raises(CapabilityError, match="object in the cluster"):
            await devbox.create("mybox", runtime="python", storage="20Gi")
        assert plane.sent("POST") == []
        plane.add("other")
        box = await devbox.get("other")
        with pytest.raises(CapabilityError, match="no kubeconfig"):
            await box.update(cpu=4, storage="20Gi")
        assert plane.sent("PATCH") == []


@pytest.mark.slow
@pytest.mark.parametrize("served", ["v1alpha2", "v1alpha1"])
async def test_storage_and_environment_on_the_object_in_the_cluster(
    plane: ControlPlane, served: str
) -> None:
    plane.served = served
    key = KUBECONFIG.replace("https://127.0.0.1:6443", plane.address)
    async with client(plane, api_key=key) as devbox:
        box = await devbox.create("mybox", runtime="python", storage="20Gi", wait=False)
        assert plane.boxes["mybox"].storage == "20Gi"
        info = await box.update(storage="30Gi", env={"MODE": "prod"})
        assert plane.boxes["mybox"].storage == "30Gi"
        assert [variable.value for variable in info.env] == ["prod"]
        plane.may_patch = False
        with pytest.raises(AccessDeniedError, match="object in the cluster") as caught:
            await box.update(cpu=4, storage="40Gi")
        assert caught.value.hop == "cluster"
        assert plane.sent("PATCH", "/api/.*") == []
        with pytest.raises(AccessDeniedError):
            await devbox.create("other", runtime="python", storage="20Gi")
        assert "other" not in plane.boxes


@pytest.mark.slow
async def test_a_box_that_is_not_ready_in_time(plane: ControlPlane, devbox: AsyncDevbox) -> None:
    plane.steps = 10**6
    box = await devbox.create("other", runtime="python", wait=False)
    assert box.info is not None
    assert box.info.state is BoxState.PENDING
    with pytest.raises(DeadlineExceededError, match="pending"):
        await devbox.create("mybox", runtime="python", timeout=1)


@pytest.mark.parametrize(
    ("reply", "kind", "code"),
    [
        (envelope(402, None, "outstanding payment"), PaymentRequiredError, "payment-required"),
        (envelope(400, [{"path": ["name"], "message": "no"}], "bad"), InvalidRequestError, None),
    ],
)
async def test_refusals_are_not_repeated(
    plane: ControlPlane, devbox: AsyncDevbox, reply: Reply, kind: type, code: str | None
) -> None:
    plane.fail("POST", "/api/v1/devbox", reply, times=3)
    with pytest.raises(kind) as caught:
        await devbox.create("mybox", runtime="python")
    assert len(plane.sent("POST")) == 1
    assert caught.value.status == reply.status
    assert caught.value.code == (code or "invalid-request")
    assert not caught.value.retryable


async def test_get_or_create(plane: ControlPlane, devbox: AsyncDevbox) -> None:
    async with await devbox.get_or_create("mybox", language="go") as box:
        assert box.template is not None
    again = await devbox.get_or_create("mybox", language="go")
    assert again.uid == box.uid
    assert len(plane.sent("POST", "/api/v1/devbox")) == 1


async def test_the_block_of_a_box_that_was_made_deletes_it(
    plane: ControlPlane, devbox: AsyncDevbox
) -> None:
    with pytest.raises(KeyError):
        async with await devbox.create("mybox", runtime="python"):
            raise KeyError
    assert "mybox" not in plane.boxes
    plane.add("mine")
    async with await devbox.get("mine"):
        pass
    assert "mine" in plane.boxes


# ---------------------------------------------------------------------------------- state changes


async def test_pause_start_shutdown(plane: ControlPlane, devbox: AsyncDevbox) -> None:
    plane.add("mybox")
    box = await devbox.get("mybox")
    await box.pause()
    assert box.info is not None
    assert box.info.state is BoxState.STOPPED
    assert plane.sent("POST", ".*/pause") == [{}]  # without a body it is a 500
    await box.pause()
    await box.start()
    await box.shutdown()
    assert plane.boxes["mybox"].phase == "Shutdown"
    with pytest.raises(BoxStateError, match="shut down"):
        await box.pause()
    await box.start()
    await box.pause(wait=False)
    assert plane.boxes["mybox"].phase == "Stopping"


async def test_start_waits_for_a_commit_that_refuses_it(
    plane: ControlPlane, devbox: AsyncDevbox
) -> None:
    plane.add("mybox", phase="Stopping", desired="Stopped", steps=0)
    box = await devbox.get("mybox")  # which is the look after which it is stopped
    plane.boxes["mybox"].phase = "Stopping"
    plane.boxes["mybox"].steps = 2
    refusal = envelope(422, {"message": "spec.state: Forbidden"}, "HTTP request failed")
    plane.boxes["mybox"].phase = "Stopped"
    plane.fail("POST", ".*/start", refusal, times=3)
    await box.start()
    assert len(plane.sent("POST", ".*/start")) == 4
    plane.fail("POST", ".*/start", refusal, times=10**4)
    with pytest.raises(DeadlineExceededError) as caught:
        await box.start(timeout=0.2)
    assert "refresh()" in caught.value.hint


async def test_restart_waits_until_the_box_is_stopped(
    plane: ControlPlane, devbox: AsyncDevbox
) -> None:
    """The service's own restart does not, fails, and leaves the box stopped."""
    plane.steps = 5
    plane.add("mybox")
    box = await devbox.get("mybox")
    await box.restart()
    assert plane.boxes["mybox"].phase == "Running"
    assert plane.sent("POST", ".*/restart") == []
    changes = [path for method, path, _ in plane.requests if method == "POST"]
    assert changes == ["/api/v1/devbox/mybox/pause", "/api/v1/devbox/mybox/start"]


async def test_an_error_that_lasts_is_no_state_to_wait_in(
    plane: ControlPlane, devbox: AsyncDevbox
) -> None:
    plane.add("mybox", phase="Error", desired="Error")
    box = await devbox.get("mybox")
    with pytest.raises(BoxStateError, match="error") as caught:
        await box.wait_until_ready(timeout=10)
    assert not caught.value.retryable
    plane.add("other", phase="Stopped", desired="Stopped")
    with pytest.raises(BoxStateError, match="stopped"):
        await (await devbox.get("other")).wait_until_ready(timeout=10)


async def test_waiting_passes_over_errors_that_pass(
    plane: ControlPlane, devbox: AsyncDevbox
) -> None:
    plane.add("mybox")
    box = await devbox.get("mybox")
    plane.fail("GET", "/api/v1/devbox/mybox", HTML_ERROR, times=9)
    await box.wait_until_ready(timeout=10)


async def test_health(plane: ControlPlane, devbox: AsyncDevbox) -> None:
    fake = plane.add("mybox")
    box = await devbox.get("mybox")
    assert (await box.health()).ok
    plane.fail("GET", "/box/.*", Reply(502, b"httpgate: nothing listens", "text/plain"))
    health = await box.health()
    assert (health.ok, health.agent) == (False, "unreachable")
    assert "nothing listens" in health.detail
    plane.fail("GET", "/box/.*", Reply(200, {"healthStatus": "starting"}))
    assert (await box.health()).agent == "failing"
    fake.phase = fake.desired = "Stopped"
    assert (await box.health()).state is BoxState.STOPPED
    for headers, (_, path, _) in zip(plane.headers, plane.requests, strict=True):
        assert ("authorization" in headers) == (not path.startswith("/box/"))


# ----------------------------------------------------------------------------------------- delete


async def test_delete(plane: ControlPlane, devbox: AsyncDevbox) -> None:
    plane.add("mybox")
    box = await devbox.get("mybox")
    await box.delete()
    with pytest.raises(BoxNotFoundError) as caught:
        await box.delete()
    assert caught.value.code == "box-not-found"
    # The answer was lost, and the second attempt finds nothing: it was this call that did it.
    plane.add("mybox")
    plane.fail("DELETE", ".*", HTML_ERROR, after=True)
    await devbox.delete("mybox")


async def test_a_name_that_is_nearly_right(plane: ControlPlane, devbox: AsyncDevbox) -> None:
    plane.add("my-box")
    with pytest.raises(BoxNotFoundError) as caught:
        await devbox.get("mybox")
    assert caught.value.hint == "Did you mean 'my-box'?"
    assert caught.value.status == 404


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
