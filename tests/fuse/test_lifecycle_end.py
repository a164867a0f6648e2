"""Unmounting and dying, with real processes and mounts; the box is lifecycle_standin."""

import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from devboxfs.config import ExitCode
from tests.fuse.lifecycle_box import PROGRAM, sentence, wait_end
from tests.support.accounts import as_launcher
from tests.support.mounts import PLAIN
from tests.support.waiting import wait_until

if PLAIN:
    pytest.skip("about mounts, which a plain directory has not", allow_module_level=True)


# ----------------------------------------------------------------------------------- unmounting


def test_umount_returns_when_the_daemon_has_ended(standin):
    standin.start()
    pid = standin.pid
    done = standin.devboxfs("umount", standin.mount)
    assert done.stdout.decode() == (
        f"{standin.mount} is unmounted; everything is in the box my-box.\n"
    )
    assert not standin.is_mounted()
    wait_end(pid, timeout=0)


def test_what_is_not_a_mount_is_left_alone(standin):
    for command in ("umount", "sync", "status"):
        done = standin.devboxfs(command, standin.mount, check=False)
        assert done.returncode == ExitCode.NOT_MOUNTED
        assert sentence(done) == f"{standin.mount} is not in a devboxfs mount."


def test_a_mount_in_use_stays_and_the_user_is_named(standin):
    standin.start()
    with standin.user_of(standin.mount) as pid:
        done = standin.devboxfs("umount", standin.mount, check=False)
        assert done.returncode == ExitCode.BUSY
        said = sentence(done)
        assert f"(pid {pid}, its working directory)" in said
        assert standin.alive()
    standin.umount()


def test_an_open_file_keeps_the_mount(standin):
    standin.start()
    code = f"file = open({str(standin.mount / 'hello')!r}); print(1, flush=True); input()"
    with standin.process(sys.executable, "-c", code) as child:
        assert child.stdout.readline() == b"1\n"
        done = standin.devboxfs("umount", standin.mount, check=False)
        assert f"(pid {child.pid}, open file)" in sentence(done)


def test_force_detaches_a_mount_in_use(standin):
    standin.start()
    pid = standin.pid
    with standin.user_of(standin.mount):
        standin.devboxfs("umount", "--force", standin.mount)
        assert not standin.is_mounted()
        wait_end(pid, timeout=0)


def test_force_frees_who_waits_in_the_mount(standin):
    standin.start()
    code = f"import os; print(1, flush=True); os.stat({str(standin.mount / 'stuck')!r})"
    with standin.process(sys.executable, "-c", code) as child:
        assert child.stdout.readline() == b"1\n"
        wait_until(lambda: Path(f"/proc/{child.pid}/wchan").read_text() == "request_wait_answer")
        standin.devboxfs("umount", "--force", standin.mount)
        wait_end(child.pid)


def test_force_ends_a_daemon_that_is_stopped(standin):
    standin.start()
    pid = standin.pid
    as_launcher(os.kill, pid, signal.SIGSTOP)
    standin.devboxfs("umount", "--force", "--timeout", "0.2", standin.mount)
    assert not standin.is_mounted()
    wait_end(pid, timeout=0)


def test_a_timeout_of_umount_leaves_the_mount(standin):
    standin.start(env={"STANDIN": "stubborn"})
    done = standin.devboxfs("umount", "--force", "--timeout", "0.1", standin.mount)
    assert b"by force (The daemon (pid" in done.stdout
    assert not standin.is_mounted()


def test_a_terminal_shows_what_is_left(standin):
    standin.start()
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as screen, open(theirs, "wb") as terminal:
        done = as_launcher(
            lambda: subprocess.run(
                standin.argv("sync", standin.mount),
                env=standin.environment,
                stdout=subprocess.PIPE,
                stderr=terminal,
                check=True,
            )
        )
        shown = b""
        # A terminal hands on each writing of the command for itself, by and by.
        while not shown.endswith(b"\r\x1b[K") or b"left" not in shown:
            assert select.select([screen], [], [], 60)[0], shown
            shown += screen.read(4096)
    assert b"syncing: 2 operations, 10 B left" in shown
    assert done.stdout.decode() == f"Everything in {standin.mount} is in the box my-box.\n"


def test_umount_says_what_stays_in_the_journal(standin):
    standin.start(env={"STANDIN": "unreachable"})
    done = standin.devboxfs("sync", standin.mount, check=False)
    assert (done.returncode, sentence(done)) == (ExitCode.PENDING, "The box is unreachable.")
    done = standin.devboxfs("umount", standin.mount, check=False)
    assert done.returncode == ExitCode.PENDING
    assert "3 operations (21 B) could not be brought to the box (offline)" in sentence(done)
    assert not standin.is_mounted()


@pytest.mark.parametrize(
    ("when", "code", "said"),
    [
        ("dies", 0, " had ended; the mount is removed, and no journal of my-box waits."),
        ("dies unmounted", ExitCode.PENDING, "ended without saying whether all is in the box"),
    ],
)
def test_the_daemon_dies_while_it_unmounts(standin, when, code, said):
    standin.start(env={"STANDIN": when})
    done = standin.devboxfs("umount", standin.mount, check=False)
    assert done.returncode == code
    assert said in (done.stdout + done.stderr).decode()
    assert not standin.is_mounted()


# ----------------------------------------------------------------------------- signals and death


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_unmounts(standin, number):
    standin.start()
    pid = standin.pid
    standin.signal(number)
    wait_end(pid)
    assert not standin.is_mounted()


def test_a_hangup_is_ignored_in_the_background(standin):
    standin.start()
    standin.signal(signal.SIGHUP)
    assert standin.alive()
    assert standin.status()["state"] == "online"


def test_a_second_signal_leaves_a_dead_mount(standin):
    standin.start(env={"STANDIN": "stubborn"})
    pid = standin.pid
    (log,) = (standin.state / "log").iterdir()
    standin.signal(signal.SIGTERM)
    wait_until(lambda: "SIGTERM: unmounting" in log.read_text())
    as_launcher(os.kill, pid, signal.SIGTERM)
    wait_end(pid)
    assert standin.is_mounted()
    assert standin.status()["state"] == "dead"
    assert not list((standin.home / "run" / "devboxfs").iterdir())


def test_a_signal_does_not_take_a_mount_from_its_users(standin):
    standin.start()
    (log,) = (standin.state / "log").iterdir()
    with standin.user_of(standin.mount):
        standin.signal(signal.SIGTERM)
        wait_until(lambda: "A second signal ends the daemon" in log.read_text())
        assert standin.alive()


def test_the_foreground_ends_with_its_mount(standin):
    with standin.process(
        sys.executable, PROGRAM, "mount", "--foreground", "my-box", standin.mount
    ) as child:
        for line in child.stderr:
            if b"is mounted on" in line:
                break
        assert standin.pid == child.pid
        as_launcher(child.send_signal, signal.SIGINT)
        assert child.wait(10) == 0
        assert not standin.is_mounted()


def test_a_dead_mount_is_repaired_by_mount(standin):
    standin.start()
    standin.kill()
    assert standin.status()["state"] == "dead"
    assert b"dead (its daemon has ended;" in standin.devboxfs("status").stdout
    done = standin.devboxfs("mount", "other", standin.mount)
    first, *_ = done.stdout.decode().splitlines()
    assert first == f"A dead mount of the box my-box was taken off {standin.mount}."
    assert (standin.mount / "hello").exists()


def test_a_dead_mount_that_is_in_use_is_repaired_too(standin):
    standin.start()
    with standin.user_of(standin.mount):
        as_launcher(os.kill, standin.pid, signal.SIGKILL)
        wait_until(lambda: standin.status()["state"] == "dead")
        standin.start()
        assert (standin.mount / "hello").exists()


def test_a_dead_mount_is_removed_by_umount(standin):
    standin.start()
    standin.kill()
    done = standin.devboxfs("umount", standin.mount)
    assert "The daemon of" in done.stdout.decode()
    assert not standin.is_mounted()


def test_umount_of_a_dead_mount_says_that_the_journal_waits(standin):
    standin.start()
    journal = standin.state / "mounts" / "uid" / ("1" * 32)
    journal.mkdir(parents=True)
    (journal / "owner").write_text("")
    (journal / "meta").write_text('{"box_name": "my-box"}')
    (journal / "segment-1").write_bytes(b"x" * 4096)
    standin.kill()
    done = standin.devboxfs("umount", standin.mount, check=False)
    assert done.returncode == ExitCode.PENDING
    assert "which the next mount of my-box replays" in sentence(done)
    assert not standin.is_mounted()
    assert b"Waiting: changes to my-box" in standin.devboxfs("status").stdout


def test_a_mount_that_does_not_answer_is_called_hung(standin):
    standin.start()
    pid = standin.pid
    as_launcher(os.kill, pid, signal.SIGSTOP)
    try:
        status = standin.status()
        assert (status["state"], status["pid"]) == ("hung", pid)
        said = standin.mount_fails(code=ExitCode.BUSY)
        assert "its daemon does not answer: try devboxfs umount --force" in said
    finally:
        as_launcher(os.kill, pid, signal.SIGCONT)
    assert standin.status()["state"] == "online"
