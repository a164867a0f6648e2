"""What a client of `pods/exec` relies on, asked of a real API server, kubelet and containerd."""

import contextlib

import pytest

from tests.cluster.boxes import Box
from tests.cluster.cluster import ApiServer, Cluster
from tests.node.exec_stream import STATUS, STDERR, STDIN, STDOUT, V4, V5, Refused


def test_v5_is_chosen_when_both_are_offered(box: Box) -> None:
    with box.exec("true") as stream:
        assert stream.subprotocol == V5


def test_the_gate_off_chooses_v4(box: Box, v4_api: ApiServer) -> None:
    with box.exec("true", api=v4_api) as stream:
        assert stream.subprotocol == V4


def test_v4_alone_is_accepted_by_a_v5_server(box: Box, cluster: Cluster) -> None:
    with box.exec("true", subprotocols=(V4,)) as stream:
        assert stream.subprotocol == V4


def test_v5_alone_is_refused_where_the_runtime_ends_the_stream(box: Box, v4_api: ApiServer) -> None:
    with pytest.raises(Refused) as refused:
        box.exec("true", api=v4_api, subprotocols=(V5,))
    assert refused.value.code == 403


def test_the_first_message_is_empty(box: Box, any_api: ApiServer) -> None:
    with box.exec("cat", api=any_api) as stream:
        channel, data = stream.receive()
        assert data == b""
        assert channel in (STDIN, STDOUT)
        stream.send(b"then")
        assert stream.read(4) == b"then"


def test_output_errors_and_status_have_a_channel_each(box: Box, any_api: ApiServer) -> None:
    with box.exec("sh", "-c", "echo out; echo err >&2; exit 7", api=any_api) as stream:
        result = stream.rest()
    assert (result.stdout, result.stderr, result.exit_code) == (b"out\n", b"err\n", 7)
    assert result.status["reason"] == "NonZeroExitCode"
    assert result.messages[-1][0] == STATUS
    assert result.close_code == 1000


def test_success_is_a_status_too(box: Box, any_api: ApiServer) -> None:
    with box.exec("true", api=any_api) as stream:
        assert stream.rest().status == {"metadata": {}, "status": "Success"}


def test_a_program_that_is_not_there_has_no_exit_code(box: Box, any_api: ApiServer) -> None:
    with box.exec("/no/such/program", api=any_api) as stream:
        result = stream.rest()
    assert result.status["status"] == "Failure"
    assert result.status["reason"] == "InternalError"
    assert result.exit_code is None


def test_half_close_ends_the_input_of_v5(box: Box) -> None:
    with box.exec("sh", "-c", "cat; echo end") as stream:
        stream.send(b"some\0bytes\xff")
        stream.close_stdin()
        result = stream.rest()
    assert result.stdout == b"some\0bytes\xffend\n"
    assert result.exit_code == 0


def test_v4_has_no_half_close(box: Box, v4_api: ApiServer) -> None:
    with box.exec("cat", api=v4_api) as stream:
        stream.close_stdin()
        stream.send(b"")
        stream.send(b"still here")
        while not (data := stream.receive()[1]):
            pass
        assert data == b"still here"


def test_an_empty_message_is_no_end_of_input(box: Box, any_api: ApiServer) -> None:
    with box.exec("cat", api=any_api) as stream:
        stream.send(b"")
        stream.send(b"more")
        assert stream.read(4) == b"more"


def test_all_bytes_pass_both_ways(box: Box, any_api: ApiServer) -> None:
    everything = bytes(range(256)) * 512
    with box.exec("head", "-c", str(8 * len(everything)), api=any_api) as stream:
        for _ in range(8):
            stream.send(everything)
        result = stream.rest()
    assert result.stdout == everything * 8


def test_messages_from_the_server_are_bounded(box: Box, any_api: ApiServer) -> None:
    with box.exec("head", "-c", "3000000", "/dev/zero", api=any_api) as stream:
        result = stream.rest()
    assert len(result.stdout) == 3_000_000
    assert max(map(len, result.messages)) <= 32_768 + 1


def test_a_fragment_is_taken_for_a_message(box: Box, v4_api: ApiServer) -> None:
    """Why each message has to be one frame; a v5 server reassembles no more than v4's."""
    with box.exec("head", "-c", "8", api=v4_api) as stream:
        stream.send_fragments(b"\0AAAA", b"\0BBBB")
        assert stream.rest().stdout == b"AAAABBBB"


def test_a_terminal_merges_the_outputs(box: Box, any_api: ApiServer) -> None:
    with box.exec("sh", "-c", "echo out; echo err >&2", api=any_api, tty=True) as stream:
        result = stream.rest()
    assert result.stdout == b"out\r\nerr\r\n"
    assert not any(message[0] == STDERR for message in result.messages)


def test_pings_are_answered(box: Box, any_api: ApiServer) -> None:
    with box.exec("cat", api=any_api) as stream:
        assert stream.ping()


def test_pings_are_not_answered_while_the_command_does_not_read(
    box: Box, v4_api: ApiServer
) -> None:
    """Whatever serves in a box has to read its input all the time."""
    with box.exec("sleep", "1000", api=v4_api) as stream:
        for _ in range(200):
            if not stream.ping(timeout=3):
                break
            with contextlib.suppress(TimeoutError):
                for _ in range(16):
                    stream.send(bytes(32_768))
        else:
            pytest.fail("100 MiB were taken from the wire that nobody read")


def test_without_an_upgrade_it_is_a_bad_request(box: Box, cluster: Cluster) -> None:
    answer = cluster.http.get(f"{box.pods}/{box.name}/exec", params={"command": "true"})
    assert answer.status_code == 400
    assert "Upgrade request required" in answer.json()["message"]


def test_a_container_that_is_not_there(box: Box, any_api: ApiServer) -> None:
    with pytest.raises(Refused) as refused:
        box.exec("true", api=any_api, container="other")
    assert refused.value.code == 400
    assert "container other is not valid" in refused.value.status["message"]
