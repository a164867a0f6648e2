"""containerd's own streaming server, where the exec stream ends when nothing translates it."""

import contextlib

import grpc
import pytest

from tests.node.conftest import Container, Start
from tests.node.containerd import Containerd
from tests.node.exec_stream import V4, V5, Ended, ExecStream, Refused
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def box(start: Start) -> Container:
    return start("posix")


def test_it_chooses_v4_of_both(box: Container) -> None:
    with box.exec("true") as stream:
        assert stream.subprotocol == V4
        assert stream.receive() == (1, b"")
        result = stream.rest()
    assert result.status == {"metadata": {}, "status": "Success"}


def test_it_refuses_v5_alone(box: Container) -> None:
    with pytest.raises(Refused) as refused:
        box.exec("true", subprotocols=(V5,))
    assert refused.value.code == 403


def test_an_address_serves_once(box: Container) -> None:
    url = box.url("true")
    with ExecStream.open(url) as stream:
        assert stream.rest().exit_code == 0
    with pytest.raises(Refused) as refused:
        ExecStream.open(url)
    assert refused.value.code == 404


def test_exit_codes_and_both_outputs(box: Container) -> None:
    result = box.run("sh", "-c", "echo out; echo err >&2; exit 9")
    assert (result.stdout, result.stderr, result.exit_code) == (b"out\n", b"err\n", 9)


def test_there_is_no_half_close(box: Container) -> None:
    with box.exec("cat") as stream:
        stream.close_stdin()
        stream.send(b"")
        stream.send(b"still here")
        while not (data := stream.receive()[1]):
            pass
        assert data == b"still here"


def test_messages_of_31_mib_pass_and_of_33_do_not(box: Container) -> None:
    size = 31 << 20
    with box.exec("sh", "-c", f"head -c {size} | wc -c") as stream:
        stream.send(bytes(size))
        assert stream.rest().stdout.strip() == str(size).encode()
    with box.exec("sh", "-c", "cat > /dev/null") as stream:
        with contextlib.suppress(Ended, TimeoutError):
            stream.send(bytes(33 << 20))
        assert stream.rest().exit_code is None


def test_one_argument_may_have_128_kib(box: Container) -> None:
    assert box.run("sh", "-c", "echo ${#0}", "x" * 131_000).stdout == b"131000\n"
    result = box.run("sh", "-c", "echo ${#0}", "x" * 140_000)
    assert "argument list too long" in result.status["message"].lower() + str(result.stderr)


def test_the_command_has_the_directory_of_the_container(box: Container) -> None:
    assert box.run("pwd").stdout == b"/home/devbox/project\n"


def test_exec_sync_is_the_same_command(box: Container) -> None:
    assert box.runtime.exec_sync(box.id, "sh", "-c", "echo out; exit 3") == (b"out\n", b"", 3)


def test_containers_survive_a_restart_of_containerd(start: Start, containerd: Containerd) -> None:
    box = start("busybox")
    box.run("sh", "-c", "echo kept > /root/file")
    containerd.restart()

    def content() -> bytes:
        try:
            return box.run("cat", "/root/file").stdout
        except grpc.RpcError:  # the channel is on its way back
            return b""

    assert wait_until(content, timeout=30)[0] == b"kept\n"
