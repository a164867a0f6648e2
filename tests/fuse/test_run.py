"""`devboxfs run`: a command in the box from within its mount."""

import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest

from tests.support.accounts import as_launcher
from tests.support.commands import run
from tests.support.mounts import PLAIN, MountedBox

pytestmark = pytest.mark.slow
if PLAIN:
    pytest.skip("about mounts, which a plain directory has not", allow_module_level=True)


@pytest.fixture(scope="module")
def inside(shared: MountedBox) -> MountedBox:
    """A mount, and commands that begin in it."""
    return shared


def go(box: MountedBox, *arguments, cwd=None, check=True, **options):
    """Run `devboxfs run` from a directory of the mount, as the box's account."""
    where = os.fspath(box.mount if cwd is None else cwd)
    shell = ["sh", "-c", 'cd "$0" && exec "$@"', where, sys.executable, "-m", "devboxfs", "run"]
    words = [*box.account.prefix(), *shell, *map(os.fspath, arguments)]
    return as_launcher(
        lambda: run(*words, cwd="/", env=box.environment, check=check, timeout=60, **options)
    )


def test_sees_what_is_pending_and_shows_what_it_did(inside: MountedBox) -> None:
    for number in range(3):
        (inside.mount / "sub").mkdir(exist_ok=True)
        (inside.mount / "sub" / "in").write_text(f"{number}")
        script = f"cat in; mkdir d{number}; echo out > d{number}/made; rm -f d{number - 1}/made"
        said = go(inside, "--", "sh", "-c", script, cwd=inside.mount / "sub")
        assert said.stdout == f"{number}".encode()
        # At once, without waiting for anything.
        assert (inside.mount / "sub" / f"d{number}" / "made").read_text() == "out\n"
        if number:
            assert os.listdir(inside.mount / "sub" / f"d{number - 1}") == []


def test_many_changes_are_visible_when_it_returns(inside: MountedBox) -> None:
    assert not (inside.mount / "many").exists()  # the kernel keeps that
    go(inside, "sh", "-c", "mkdir many && cd many && i=0; while [ $i -lt 500 ]; do echo $i > $i; "
       "i=$((i+1)); done")  # fmt: skip
    assert len(os.listdir(inside.mount / "many")) == 500
    assert (inside.mount / "many" / "499").read_text() == "499\n"
    go(inside, "rm", "-r", "many")
    assert not (inside.mount / "many").exists()


def test_input_output_and_exit_code(inside: MountedBox) -> None:
    said = go(inside, "sh", "-c", "cat; echo err >&2; exit 7", stdin=b"given", check=False)
    assert (said.stdout, said.returncode) == (b"given", 7)
    assert said.stderr.endswith(b"err\n")
    assert go(inside, "sh", "-c", "kill -TERM $$", check=False).returncode == 128 + 15
    missing = go(inside, "no-such-program", check=False)
    # 126: a directory in PATH is closed to the ordinary user, so that nobody knows.
    assert missing.returncode == 127 or (missing.returncode == 126 and not inside.account.is_root)
    assert b"no-such-program" in missing.stderr


def test_output_that_nobody_takes_ends_it(inside: MountedBox) -> None:
    """As it would end a local command: without a word if its reader has gone away."""
    words = [sys.executable, "-m", "devboxfs", "run", "--", "yes"]
    shell = ["sh", "-c", 'cd "$0" && exec "$@"', os.fspath(inside.mount)]
    for closed, code, text in ((True, 128 + signal.SIGPIPE, b""), (False, 125, b"No space left")):
        reader, writer = os.pipe() if closed else (-1, os.open("/dev/full", os.O_WRONLY))
        child = as_launcher(
            lambda writer=writer: subprocess.Popen(
                [*inside.account.prefix(), *shell, *words],
                env=inside.environment,
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=subprocess.PIPE,
            )
        )
        os.close(writer)
        if closed:
            os.close(reader)
        try:
            _, heard = child.communicate(timeout=60)
        finally:
            as_launcher(child.kill)
        assert (child.returncode, text in heard, bool(heard)) == (code, True, bool(text)), heard


def test_a_directory_whose_name_is_no_text(inside: MountedBox) -> None:
    where = os.fsencode(inside.mount) + b"/b\xffd"
    os.mkdir(where)
    assert go(inside, "pwd", cwd=os.fsdecode(where)).stdout == where + b"\n"
    missing = go(inside, "no-\udcff", cwd=os.fsdecode(where), check=False)
    assert b"no-" in missing.stderr
    assert missing.returncode in {126, 127}


def test_paths_are_mapped(inside: MountedBox) -> None:
    box, mount = os.fsencode(inside.box), os.fsencode(inside.mount)
    (inside.mount / "source").mkdir()
    where = inside.mount / "source"
    said = go(inside, "sh", "-c", 'pwd; echo "$PWD/x.c:3: error" >&2', cwd=where)
    assert said.stdout == mount + b"/source\n"
    assert mount + b"/source/x.c:3: error\n" in said.stderr
    said = go(inside, "--raw", "sh", "-c", "pwd", cwd=where)
    assert os.path.samefile(said.stdout.strip(), box + b"/source")
    said = go(inside, "--env", "NAME=value", "sh", "-c", r'printf "%s\0$PWD" $NAME', cwd=where)
    assert said.stdout.startswith(b"value\0")
    assert mount not in said.stdout


def test_where_it_cannot_run(make_box, tmp_path) -> None:
    box = make_box()
    box.devboxfs("mount", box.name, box.mount, "--local", "target")
    (box.mount / "target").mkdir()
    (box.mount / "target" / "deep").mkdir()
    said = go(box, "true", cwd=box.mount / "target" / "deep", check=False)
    assert said.returncode == 125
    assert b"--local" in said.stderr
    said = go(box, "true", cwd="/", check=False)
    assert said.returncode == 125
    assert b"not in a devboxfs mount" in said.stderr
    (box.mount / "sub").mkdir()
    box.umount()
    box.devboxfs("mount", box.name, box.mount, "--subpath", "sub")
    (box.mount / "file").write_text("x")
    assert go(box, "cat", "file").stdout == b"x"
    assert go(box, "pwd").stdout == os.fsencode(box.mount) + b"\n"


def test_signals_reach_the_command(inside: MountedBox) -> None:
    shell = ["sh", "-c", 'cd "$0" && exec "$@"', os.fspath(inside.mount)]
    script = "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.1; done"
    command = [sys.executable, "-m", "devboxfs", "run", "--", "sh", "-c", script]
    child = as_launcher(
        lambda: subprocess.Popen(
            [*inside.account.prefix(), *shell, *command],
            env=inside.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
    )
    try:
        assert child.stdout.readline() == b"ready\n"
        as_launcher(child.send_signal, signal.SIGINT)
        assert child.stdout.read() == b"caught\n"
        assert child.wait(30) == 3
    finally:
        as_launcher(child.kill)
        child.wait(30)
        child.stdout.close()


def test_a_terminal(inside: MountedBox) -> None:
    main, theirs = pty.openpty()
    shell = ["sh", "-c", 'cd "$0" && exec "$@"', os.fspath(inside.mount)]
    command = [sys.executable, "-m", "devboxfs", "run", "--", "sh", "-c"]
    script = "test -t 0 && test -t 1 && stty size && read line && echo got $line"
    child = as_launcher(
        lambda: subprocess.Popen(
            [*inside.account.prefix(), *shell, *command, script],
            env={**inside.environment, "LINES": "33", "COLUMNS": "99"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
    )
    os.close(theirs)
    shown = b""
    try:
        until = time.monotonic() + 60
        sent = False
        while b"got hello" not in shown and time.monotonic() < until:
            readable, _, _ = select.select([main], [], [], 1)
            if readable:
                try:
                    shown += os.read(main, 4096)
                except OSError:
                    break
            if b"33 99" in shown and not sent:
                os.write(main, b"hello\r")
                sent = True
        assert b"got hello" in shown, shown
        assert child.wait(30) == 0
    finally:
        as_launcher(child.kill)
        child.wait(30)
        os.close(main)
