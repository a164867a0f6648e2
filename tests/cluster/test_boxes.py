"""Boxes as the Devbox controller makes them, and what becomes of them."""

import time

import pytest

from tests.cluster.cluster import NAMESPACE
from tests.cluster.conftest import MakeBox
from tests.cluster.controller import DevboxController
from tests.node.enclosure import EnclosureError
from tests.support.waiting import wait_until


def test_a_devbox_becomes_a_pod_with_its_layout(
    make_devbox: MakeBox, controller: DevboxController
) -> None:
    box = make_devbox(env=[{"name": "MODE", "value": "dev"}])
    pod = box.pod()
    assert pod["metadata"]["name"] == box.name
    assert pod["metadata"]["labels"] == {
        "app.kubernetes.io/name": box.name,
        "app.kubernetes.io/managed-by": "sealos",
        "app.kubernetes.io/part-of": "devbox",
    }
    assert [container["name"] for container in pod["spec"]["containers"]] == [box.name]
    assert pod["spec"]["runtimeClassName"] == "devbox-runtime"
    script = "pwd; echo $MODE ${#DEVBOX_JWT_SECRET}; uname -n; id -u; ls -ldn . | cut -d' ' -f3"
    result = box.run("/bin/bash", "-c", script)
    expected = f"/home/devbox/project\ndev 32\n{box.name}\n0\n1000\n"
    assert (result.stdout.decode(), result.exit_code) == (expected, 0)
    keys = box.run("sh", "-c", "cat /usr/start/.ssh/id.pub; cat /etc/profile.d/env-profile.sh")
    assert keys.stdout.startswith(b"ssh-ed25519 ")
    assert b'export MODE="dev"\n' in keys.stdout
    status = controller.wait_for_phase(NAMESPACE, box.name, "Running")["status"]
    assert status["state"] == "Running"
    assert status["network"]["uniqueID"].startswith("outdoor-before-")


def test_a_deleted_pod_comes_back_with_the_workspace(make_devbox: MakeBox) -> None:
    box = make_devbox()
    box.run("sh", "-c", "echo kept > file; echo lost > /root/file")
    first = box.pod()["metadata"]["uid"]
    box.delete_pod()
    assert box.wait()["metadata"]["uid"] != first
    assert box.run("sh", "-c", "cat file /root/file").stdout == b"kept\n"
    assert (box.workspace / "file").read_text() == "kept\n"


@pytest.mark.parametrize("state", ["Paused", "Stopped", "Shutdown"])
def test_a_box_goes_and_comes_back(
    make_devbox: MakeBox, controller: DevboxController, state: str
) -> None:
    box = make_devbox()
    box.run("sh", "-c", "echo kept > file")
    before = controller.wait_for_phase(NAMESPACE, box.name, "Running")["status"]["contentID"]
    controller.set_state(NAMESPACE, box.name, state)
    status = controller.wait_for_phase(NAMESPACE, box.name, state)["status"]
    assert (status["contentID"] != before) == (state != "Paused")
    with pytest.raises(EnclosureError):
        box.pod()
    controller.set_state(NAMESPACE, box.name, "Running")
    box.wait()
    assert box.run("cat", "file").stdout == b"kept\n"


def test_the_state_stays_while_it_is_being_committed(
    make_devbox: MakeBox, controller: DevboxController
) -> None:
    box = make_devbox()
    controller.hold_commits.set()
    try:
        controller.set_state(NAMESPACE, box.name, "Stopped")
        controller.wait_for_phase(NAMESPACE, box.name, "Stopping")

        def is_committing() -> bool:
            status = controller.cluster.get(controller.path(NAMESPACE, box.name))["status"]
            record = status["commitRecords"].get(status["contentID"], {})
            return bool(record.get("commitStatus") == "Committing")

        wait_until(is_committing)
        with pytest.raises(EnclosureError, match=r"422 .*commit is in progress"):
            controller.set_state(NAMESPACE, box.name, "Running")
    finally:
        controller.hold_commits.clear()
    controller.wait_for_phase(NAMESPACE, box.name, "Stopped")


def test_two_boxes_at_once_share_nothing(make_devbox: MakeBox) -> None:
    one, two = make_devbox(), make_devbox("busybox")
    one.run("sh", "-c", "echo one > file")
    assert two.run("cat", "file").exit_code == 1
    assert one.run("cat", "file").stdout == b"one\n"


def test_an_exec_ends_with_its_pod(make_devbox: MakeBox) -> None:
    box = make_devbox()
    with box.exec("cat") as stream:
        stream.send(b"here")
        assert stream.read(4) == b"here"
        box.delete_pod()
        result = stream.rest(timeout=60)
    assert result.exit_code in (None, 137)


def test_an_exec_ends_with_its_container(make_box: MakeBox) -> None:
    box = make_box()
    with box.exec("cat") as stream:
        stream.send(b"here")
        assert stream.read(4) == b"here"
        box.kill_container()
        result = stream.rest(timeout=60)
    assert result.exit_code in (None, 137)

    def is_failed() -> bool:
        pod = box.cluster.get(f"{box.pods}/{box.name}")
        return bool(pod["status"]["phase"] == "Failed")

    wait_until(is_failed, timeout=60)


def test_what_reads_its_input_ends_with_the_connection(make_box: MakeBox) -> None:
    box = make_box()
    with box.exec("cat") as stream:
        stream.send(b"here")
        assert stream.read(4) == b"here"
        assert "cat" in box.processes()
    wait_until(lambda: "cat" not in box.processes(), timeout=30)


def test_what_does_not_read_its_input_stays(make_box: MakeBox) -> None:
    """Why whatever serves in a box has to watch its input."""
    box = make_box()
    with box.exec("sleep", "12345"):
        wait_until(lambda: "sleep 12345" in box.processes(), timeout=30)
    time.sleep(2)
    assert "sleep 12345" in box.processes()


def test_the_old_lineage(make_old_devbox: MakeBox, old_controller: DevboxController) -> None:
    box = make_old_devbox(env=[{"name": "MODE", "value": "old"}])
    served = old_controller.cluster.get("/apis/devbox.sealos.io")
    assert [version["version"] for version in served["versions"]] == ["v1alpha1"]
    first = box.pod()["metadata"]["name"]
    assert first.startswith(f"{box.name}-")
    assert box.run("sh", "-c", "echo $MODE $DEVBOX_JWT_SECRET").stdout == b"old\n"
    box.run("sh", "-c", "echo kept > file")
    old_controller.set_state(NAMESPACE, box.name, "Stopped")
    old_controller.wait_for_phase(NAMESPACE, box.name, "Stopped")
    old_controller.set_state(NAMESPACE, box.name, "Running")
    assert box.wait()["metadata"]["name"] != first
    assert box.run("cat", "file").stdout == b"kept\n"
