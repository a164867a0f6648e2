"""Boxes of a control plane from here to there: started, paused, restarted, deleted."""

import pytest

from sealos_devbox import (
    AsyncDevbox,
    BoxNotFoundError,
    BoxState,
    BoxStateError,
    DeadlineExceededError,
)
from tests.fakes.control_documents import HTML_ERROR, Reply, envelope
from tests.fakes.control_plane import ControlPlane

pytestmark = pytest.mark.usefixtures("quick")


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
