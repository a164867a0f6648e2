"""The messages of the exec stream, and the words of the bootstrap, however they are cut."""

from __future__ import annotations

import json

import pytest

from sealos_devbox._protocol import bootstrap
from sealos_devbox._protocol.exec_stream import (
    MESSAGE_SIZE,
    V4,
    V5,
    Channel,
    ExecStatus,
    ExecStream,
    parse_status,
)
from sealos_devbox.errors import ProtocolError

SUCCESS = b'{"metadata":{},"status":"Success"}'
EXIT_7 = json.dumps(
    {
        "metadata": {},
        "status": "Failure",
        "message": "command terminated with non-zero exit code",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": "7"}]},
    }
).encode()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (SUCCESS, ExecStatus(0)),
        (
            EXIT_7,
            ExecStatus(7, "command terminated with non-zero exit code", "NonZeroExitCode"),
        ),
        (
            b'{"status":"Failure","message":"no such file","reason":"InternalError","code":500}',
            ExecStatus(None, "no such file", "InternalError"),
        ),
        (b"command terminated", ExecStatus(None, "command terminated")),
        (b"[]", ExecStatus(None, "[]")),
        (b"\xff", ExecStatus(None, "\\xff")),
        (
            b'{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[1,{}]}}',
            ExecStatus(None, "the server gave no reason", "NonZeroExitCode"),
        ),
    ],
)
def test_statuses(data, expected):
    assert parse_status(data) == expected


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_messages_in_fragments(size):
    """A proxy may cut a message; the first byte of a fragment is no channel."""
    stream = ExecStream(V4)
    output = []
    for message in (b"\x01", b"\x01\x02\x03out", b"\x02err", b"\x09other", b"\x03" + EXIT_7):
        for start in range(0, len(message), size):
            piece = message[start : start + size]
            got = stream.receive(piece, start=start == 0, end=start + size >= len(message))
            if got:
                output.append(got)
    for channel, said in ((Channel.STDOUT, b"\x02\x03out"), (Channel.STDERR, b"err")):
        assert b"".join(data for kind, data in output if kind is channel) == said
    assert stream.status is not None
    assert stream.status.exit_code == 7


def test_long_input_is_cut_into_messages():
    data = bytes(range(256)) * 2000
    messages = list(ExecStream(V5).stdin(data))
    assert max(map(len, messages)) == MESSAGE_SIZE
    assert {message[0] for message in messages} == {0}
    assert b"".join(message[1:] for message in messages) == data
    assert list(ExecStream(V5).stdin(b"")) == []


def test_the_end_of_the_input():
    assert ExecStream(V5).close_stdin() == b"\xff\x00"
    with pytest.raises(RuntimeError, match="no end of stdin"):
        ExecStream(V4).close_stdin()


@pytest.mark.parametrize("chosen", [None, "", "channel.k8s.io", "base64.channel.k8s.io"])
def test_a_version_that_was_not_offered(chosen):
    with pytest.raises(ProtocolError):
        ExecStream(chosen)


def test_frames_that_make_no_sense():
    with pytest.raises(ProtocolError):
        ExecStream(V5).receive(b"x", start=False, end=True)
    with pytest.raises(ProtocolError):
        ExecStream(V5).receive(b"", start=True, end=False)
    assert ExecStream(V5).receive(b"", start=True, end=True) is None
    endless = ExecStream(V5)
    assert endless.receive(b"\x03" + bytes(200_000), start=True, end=True) is None
    with pytest.raises(ProtocolError, match="no end"):
        endless.receive(b"\x03" + bytes(200_000), start=True, end=True)


@pytest.mark.parametrize("banner", [b"", b"Welcome\r\n", b"@devbox-boot\0\0DBX\n"])
@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (bootstrap.HELPER_MAGIC, bootstrap.Started(bootstrap.HELPER_MAGIC)),
        (b"@devbox-bootstrap refused no head\n", bootstrap.Refused("no head")),
        (b"@devbox-bootstrap failed /dev/shm\n", bootstrap.Failed("/dev/shm")),
        (
            b"@devbox-bootstrap need arm64 gzip /a b\n",
            bootstrap.Needed("arm64", True, "/a b"),
        ),
        (
            b"@devbox-bootstrap need amd64 plain /tmp\n",
            bootstrap.Needed("amd64", False, "/tmp"),
        ),
    ],
)
def test_answers_are_complete_at_their_last_byte(banner, said, expected):
    whole = banner + said
    for size in range(len(whole)):
        assert bootstrap.parse_answer(whole[:size]) is None
    assert bootstrap.parse_answer(whole) == expected


@pytest.mark.parametrize(
    "said",
    [
        b"x" * 70_000,
        b"@devbox-bootstrap " + b"x" * 5000,
        b"@devbox-bootstrap need mips gzip /tmp\n",
        b"@devbox-bootstrap hello\n",
    ],
)
def test_something_else_answers(said):
    with pytest.raises(ProtocolError):
        bootstrap.parse_answer(said)


def test_the_script_is_one_line_whatever_is_in_it():
    line = bootstrap.script(
        {"amd64": "a" * 64},
        root="/USER/it's \\n ROOT\nPLACES",
        user="NONCE",
        nonce="n0nce",
        skipped=["/tmp"],
    )
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    text = line[:-1].replace(b"\\n", b"\n").replace(b"\\\n", b"\\n").replace(b"\\\\", b"\\")
    assert b"u=NONCE\n" in text
    assert b".new-n0nce\n" in text
