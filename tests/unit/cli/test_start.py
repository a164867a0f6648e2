"""Starting a daemon that never mounts; the tests in tests/fuse mount."""

import json
import os
import select
import socket
import subprocess
import sys

import pytest

from devboxfs import daemon
from devboxfs.config import ExitCode, MountError

PROGRAM = """
import os, signal, sys
import trio
from devboxfs.config import MountError
from devboxfs.daemon import background_main

async def serve(config, ready, control):
    control.say("a", passing=True)
    control.say("b")
    if MODE == "silent":
        with open({started!r}, "w") as file:
            file.write(str(os.getpid()))
        await trio.sleep_forever()
    if MODE == "fails":
        raise MountError("One sentence.", 42)
    if MODE == "group":
        async with trio.open_nursery():
            raise ZeroDivisionError
    ready()
    await control.wait_stop()

MODE = {mode!r}
background_main(int(sys.argv[1]), serve)
"""


@pytest.fixture
def start(config, tmp_path):
    said = []

    def run(mode: str, **options) -> int:
        program = PROGRAM.format(mode=mode, started=str(tmp_path / "started"))
        command = [sys.executable, "-c", program]
        return daemon.start_in_background(
            config, lambda text, passing: said.append((text, passing)), command=command, **options
        )

    run.said = said
    return run


def wait_end(pid: int) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], 10)[0], "it has not ended"
    finally:
        os.close(descriptor)


def test_what_the_daemon_says_is_heard(start, config):
    with pytest.raises(MountError, match=r"^One sentence\.$") as caught:
        start("fails", grace=60.0)
    assert caught.value.exit_code == 42
    assert start.said == [("a", True), ("b", False)]
    assert "One sentence." in config.default_log_file.read_text()


def test_a_bug_inside_a_nursery_is_one_sentence(start, config):
    with pytest.raises(MountError, match="met a bug of its own") as caught:
        start("group", grace=60.0)
    assert caught.value.exit_code == ExitCode.DIED
    assert "ZeroDivisionError" in config.default_log_file.read_text()


def test_a_program_that_is_none(config):
    with pytest.raises(MountError, match="ended before") as caught:
        daemon.start_in_background(config, print, command=["false"])
    assert caught.value.exit_code == ExitCode.DIED


@pytest.mark.slow
def test_a_daemon_that_says_nothing_is_given_up(start, config, tmp_path):
    ticks = []
    with pytest.raises(MountError, match="said nothing for") as caught:
        start("silent", grace=3.5, tick=ticks.append)
    assert caught.value.exit_code == ExitCode.NO_ANSWER
    assert ticks
    pid = int((tmp_path / "started").read_text())
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, 0)  # it is nobody's child any more
    wait_end(pid)


def test_a_daemon_whose_command_gave_up_does_not_begin(config, tmp_path):
    program = PROGRAM.format(mode="silent", started=str(tmp_path / "started"))
    ours, theirs = socket.socketpair()
    with ours, ours.makefile("rb") as lines:
        with theirs:
            number = theirs.fileno()
            command = [sys.executable, "-c", program, str(number)]
            starter = subprocess.Popen(command, pass_fds=[number])
        ours.sendall(config.to_json().encode() + b"\n")
        pid = json.loads(lines.readline())["pid"]
        ours.shutdown(socket.SHUT_WR)
        assert starter.wait() == 0
        assert lines.readline() == b""
    wait_end(pid)
    assert not (tmp_path / "started").exists()


def test_a_log_that_cannot_be_written(config):
    config.state_dir.write_text("")
    with pytest.raises(MountError, match="cannot be written"):
        daemon.start_in_background(config, print)
