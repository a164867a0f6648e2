"""Restarts of the cluster's parts, and faults on the path to it."""

import pytest

from tests.cluster.boxes import Box
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import ApiPath, MakeBox
from tests.node.exec_stream import ExecStream
from tests.support.faults import Fault
from tests.support.waiting import wait_until


def echo(stream: ExecStream, data: bytes) -> None:
    stream.send(data)
    assert stream.read(len(data)) == data


def test_a_restart_of_the_api_server_ends_streams_and_no_box(
    make_box: MakeBox, cluster: Cluster
) -> None:
    box = make_box()
    with box.exec("cat") as stream:
        echo(stream, b"before")
        cluster.api.restart()
        assert stream.rest().close_code is None
    with box.exec("cat") as stream:
        echo(stream, b"after")


def test_a_restart_of_containerd_ends_streams_and_no_box(
    make_box: MakeBox, cluster: Cluster
) -> None:
    box = make_box()
    with box.exec("cat") as stream:
        echo(stream, b"before")
        cluster.restart_containerd()
        # The API server hears no status from the runtime and may call that a success.
        assert stream.rest().exit_code in (None, 0)

    def works() -> bool:
        # For a moment streams are accepted and end at once, with a status that says nothing.
        result = box.run("echo", "after")
        assert (result.exit_code == 0) == (result.stdout == b"after\n")
        return result.exit_code == 0

    wait_until(works, timeout=30, interval=0.2)


def test_a_restart_of_the_kubelet_leaves_boxes_alone(make_box: MakeBox, cluster: Cluster) -> None:
    box = make_box()
    cluster.restart_kubelet()
    with box.exec("cat") as stream:
        echo(stream, b"after")


@pytest.mark.parametrize("kind", ["cut", "reset"])
def test_a_path_that_ends(box: Box, path_to_api: ApiPath, kind: str) -> None:
    with box.exec("cat", server=path_to_api.url) as stream:
        echo(stream, b"x" * 100_000)
        path_to_api.inflict(kind)  # type: ignore[arg-type]
        assert stream.rest().close_code is None
    assert path_to_api.open_connections == []


def test_a_path_that_ends_after_so_many_bytes(box: Box, path_to_api: ApiPath) -> None:
    path_to_api.plan(Fault("cut", "down", after=200_000))
    with box.exec("cat", "/dev/zero", server=path_to_api.url) as stream:
        result = stream.rest()
    assert path_to_api.connections[0].down == 200_000
    assert 150_000 < len(result.stdout) < 200_000


def test_a_path_that_falls_silent_and_heals(box: Box, path_to_api: ApiPath) -> None:
    with box.exec("cat", server=path_to_api.url) as stream:
        echo(stream, b"before")
        path_to_api.inflict("black-hole")
        stream.send(b"held back")
        with pytest.raises(TimeoutError):
            stream.receive(timeout=1)
        path_to_api.heal()
        assert stream.read(9) == b"held back"


def test_a_path_that_is_not_there(box: Box, path_to_api: ApiPath) -> None:
    path_to_api.refuse()
    with pytest.raises(ConnectionRefusedError):
        box.exec("true", server=path_to_api.url)
    path_to_api.accept()
    with box.exec("true", server=path_to_api.url) as stream:
        assert stream.rest().exit_code == 0


@pytest.mark.parametrize(
    ("options", "refused"),
    [({"read_only_root": True}, "/root/file"), ({"user": 1000}, "/root/file")],
    ids=["read_only_root", "user_1000"],
)
def test_boxes_in_which_some_places_are_closed(
    make_box: MakeBox, options: dict[str, object], refused: str
) -> None:
    box = make_box("busybox", **options)
    assert box.run("sh", "-c", f"echo x > {refused}").exit_code != 0
    assert box.run("sh", "-c", "echo x > file && cat file").stdout == b"x\n"


def test_a_box_whose_tmp_executes_nothing(make_box: MakeBox, noexec: str) -> None:
    box = make_box("posix", noexec_tmp=noexec)
    copy = "cp /usr/bin/true {0}/it && {0}/it"
    assert b"Permission denied" in box.run("sh", "-c", copy.format("/tmp")).stderr
    assert b"Permission denied" in box.run("sh", "-c", copy.format("/dev/shm")).stderr
    assert box.run("sh", "-c", copy.format("/root")).exit_code == 0
