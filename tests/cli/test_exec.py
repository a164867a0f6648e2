"""`devboxfs box exec`: streams, exit codes, signals and terminals go through."""

import os
import pty
import signal
import subprocess

import pytest

from tests.cli.conftest import User
from tests.cli.test_login import read_until


def test_streams_and_exit_codes(user: User, box: str) -> None:
    done = user.spawn(
        *("box", "exec", *user.service, "--env", "GREETING=hi", box, "--"),
        *("sh", "-c", 'cat; echo "$GREETING"; echo err >&2; exit 7'),
        stdin="in\n",
    )
    assert (done.stdout, done.stderr, done.returncode) == ("in\nhi\n", "err\n", 7)


@pytest.mark.parametrize(
    ("command", "code"), [(["sh", "-c", "kill -9 $$"], 137), (["no-such-program"], 127)]
)
def test_other_ends(user: User, box: str, command: list[str], code: int) -> None:
    assert user.spawn("box", "exec", *user.service, box, *command).returncode == code


def test_what_devboxfs_cannot_run(user: User) -> None:
    done = user.spawn("box", "exec", *user.service, "there-is-none", "ls")
    assert (done.returncode, done.stdout) == (125, "")


def test_large_input_and_output(user: User, box: str) -> None:
    text = "".join(f"{number}\n" for number in range(200_000))
    assert user.spawn("box", "exec", *user.service, box, "--", "cat", stdin=text).stdout == text


def test_an_interrupt_is_the_commands(user: User, box: str) -> None:
    script = 'trap "echo got; exit 9" INT; echo ready; while :; do sleep 0.05; done'
    child = subprocess.Popen(
        user.command("box", "exec", *user.service, box, "--", "sh", "-c", script),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env=user.environment,
        cwd="/",
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGINT)
        assert child.stdout.read() == "got\n"
        assert child.wait(30) == 9
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_a_terminal_in_the_box(user: User, box: str) -> None:
    terminal, theirs = pty.openpty()
    command = user.command(
        *("box", "exec", *user.service, box, "--", "sh", "-c", "stty size; read x; echo got $x")
    )
    environment = {**user.environment, "COLUMNS": "91", "LINES": "33"}
    child = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd="/"
    )
    os.close(theirs)
    try:
        read_until(terminal, b"33 91")
        os.write(terminal, b"hello\n")
        read_until(terminal, b"got hello")
        assert child.wait(30) == 0
    finally:
        child.kill()
        child.wait()
        os.close(terminal)
