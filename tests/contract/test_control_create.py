"""How a control plane is asked for a box, and what comes of it."""

import itertools

import pytest

from sealos_devbox import (
    AccessDeniedError,
    AsyncDevbox,
    BoxExistsError,
    BoxNotFoundError,
    BoxState,
    CapabilityError,
    DeadlineExceededError,
    InvalidRequestError,
    PaymentRequiredError,
    PortRequest,
    Resources,
    ServerError,
)
from tests.contract.control import client
from tests.fakes.control_documents import HTML_ERROR, KUBECONFIG, Reply, envelope
from tests.fakes.control_plane import ControlPlane

pytestmark = pytest.mark.usefixtures("quick")
GIB = 1024**3


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
