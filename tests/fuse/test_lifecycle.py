"""Mounting, status and the socket, with real processes; the box is lifecycle_standin."""

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from devboxfs.config import ExitCode
from tests.support.accounts import as_launcher
from tests.support.mounts import PLAIN
from tests.support.waiting import wait_until

if PLAIN:
    pytest.skip("about mounts, which a plain directory has not", allow_module_level=True)


# ------------------------------------------------------------------------------------- mounting


def test_mount_returns_when_the_mount_serves(standin):
    done = standin.devboxfs("mount", "my-box", standin.mount)
    assert (standin.mount / "hello").read_bytes() == b"hello\n"
    assert done.stdout.decode().splitlines() == [
        "It is the stand-in; its files are nowhere.",
        f"my-box is mounted on {standin.mount}.",
    ]
    assert done.stderr == b""


def test_the_mount_says_what_it_is(standin):
    standin.start()
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    (line,) = [line for line in lines if f" {standin.mount} " in line]
    assert " - fuse.devboxfs devbox:my-box " in line
    assert "nosuid,nodev" in line


def test_the_daemon_has_left_the_command(standin):
    standin.start()
    pid = standin.pid
    about = Path(f"/proc/{pid}")
    fields = (about / "stat").read_text().rpartition(")")[2].split()
    session, terminal = int(fields[3]), int(fields[4])
    log = as_launcher(os.readlink, about / "fd/2")
    assert as_launcher(os.readlink, about / "cwd") == "/"
    assert session == pid
    assert terminal == 0
    assert as_launcher(os.readlink, about / "fd/0") == os.devnull
    assert as_launcher(os.readlink, about / "fd/1") == log
    assert Path(log).parent == standin.state / "log"
    assert stat.S_IMODE(os.stat(log).st_mode) == 0o600
    assert "my-box is mounted on" in Path(log).read_text()


def test_the_control_socket_is_private(standin):
    standin.start()
    (path,) = (standin.home / "run" / "devboxfs").glob("*.sock")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    standin.umount()
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize(
    ("standin_mode", "code", "said"),
    [
        ("refused", ExitCode.NO_BOX, "There is no box my-box: create it first."),
        ("bug", ExitCode.DIED, "met a bug of its own (ZeroDivisionError)"),
        ("killed", ExitCode.DIED, "The daemon ended before"),
    ],
)
def test_a_start_that_fails_says_one_sentence(standin, standin_mode, code, said):
    assert said in standin.mount_fails(standin=standin_mode, code=code)
    assert not standin.is_mounted()


def test_a_start_that_fails_in_the_foreground_says_why(standin):
    done = standin.devboxfs(
        "mount", "-f", "my-box", standin.mount, check=False, env={"STANDIN": "refused"}
    )
    assert done.returncode == ExitCode.NO_BOX
    assert "devboxfs: There is no box my-box: create it first." in done.stderr.decode()


def test_of_several_that_mount_at_once_one_wins(standin):
    commands = [
        as_launcher(
            lambda: subprocess.Popen(
                standin.argv("mount", "my-box", standin.mount),
                env=standin.environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        )
        for _ in range(3)
    ]
    ends = [(command.communicate(timeout=30)[1], command.returncode) for command in commands]
    assert sorted(code for _, code in ends) == [0, ExitCode.BUSY, ExitCode.BUSY]
    for said, code in ends:
        assert (code == 0) == (said == b"")
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    assert len([line for line in lines if f" {standin.mount} " in line]) == 1


def test_an_interrupted_start_leaves_nothing(standin):
    environment = {**standin.environment, "STANDIN": "silent"}
    with as_launcher(
        lambda: subprocess.Popen(
            standin.argv("mount", "my-box", standin.mount),
            env=environment,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    ) as command:
        wait_until(lambda: list((standin.home / "run" / "devboxfs").glob("*.sock")))
        as_launcher(command.send_signal, signal.SIGINT)
        assert command.wait(10) == ExitCode.INTERRUPTED
        assert command.stderr.read().strip() == b"devboxfs: Interrupted."
    standin.wait_quiet()


def test_unsuitable_directories(standin):
    def place(name: str) -> Path:
        return standin.home / name

    (place("file")).write_text("")
    full = place("full")
    full.mkdir()
    (full / "x").write_text("")
    for path, said in [
        (place("missing"), "does not exist: make it first (mkdir"),
        (place("missing") / "deeper", f"{place('missing')} does not exist"),
        (place("file"), "is not a directory."),
        (full, "is not empty, and a mount would hide what is in it"),
        (standin.home, "is not empty"),
    ]:
        assert said in standin.mount_fails("my-box", path, code=ExitCode.MOUNT_POINT)
    for path in (standin.state / "mnt", standin.cache / "mnt", standin.data / "boxes" / "mnt"):
        path.mkdir(parents=True)
        assert " is inside " in standin.mount_fails("my-box", path, code=ExitCode.MOUNT_POINT)


@pytest.mark.each_account
def test_another_users_directory(standin):
    other = as_launcher(lambda: subprocess.check_output(["mktemp", "-d"])).decode().strip()
    try:
        if standin.account.is_root:
            pytest.skip("root may mount everywhere")
        said = standin.mount_fails("my-box", other, code=ExitCode.MOUNT_POINT)
        assert said == f"{other} does not belong to you: choose a directory of your own."
    finally:
        as_launcher(os.rmdir, other)


def test_mkdir_makes_the_mount_point(standin):
    made = standin.mount = standin.home / "new"
    standin.devboxfs("mount", "--mkdir", "my-box", made)
    assert standin.is_mounted()


@pytest.mark.parametrize("name", ["a b", "new\nline", "back\\slash", "ümläut", "#comment"])
def test_mount_points_of_any_name(standin, name):
    path = standin.home / name
    standin.devboxfs("mount", "--mkdir", "my-box", path)
    said = json.loads(standin.devboxfs("status", path / "hello", "--json").stdout)
    assert [entry["mountpoint"] for entry in said["mounts"]] == [str(path)]
    standin.devboxfs("umount", path)
    assert list(path.iterdir()) == []


def test_a_mount_point_behind_a_link(standin):
    link = standin.home / "link"
    link.symlink_to(standin.mount)
    standin.devboxfs("mount", "my-box", link)
    assert standin.is_mounted()
    said = standin.mount_fails("other", link, code=ExitCode.BUSY)
    assert said.startswith(f"The box my-box is mounted on {standin.mount} already")
    standin.devboxfs("umount", link)
    assert not standin.is_mounted()


@pytest.mark.each_account
def test_something_else_is_mounted_there(standin):
    if not standin.account.is_root:
        pytest.skip("only root can mount a tmpfs")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", standin.mount], check=True)
    try:
        said = standin.mount_fails(code=ExitCode.BUSY)
        assert said.startswith("Something else (tmpfs) is mounted on")
        done = standin.devboxfs("umount", "--force", standin.mount, check=False)
        assert done.returncode == ExitCode.NOT_MOUNTED
        assert standin.is_mounted()
    finally:
        subprocess.run(["umount", standin.mount], check=True)


def test_a_runtime_directory_that_is_too_long_for_an_address(standin):
    long = standin.home / ("d" * 100)
    long.mkdir(mode=0o700)
    standin.environment["XDG_RUNTIME_DIR"] = str(long)
    standin.start()
    assert list((long / "devboxfs").glob("*.sock"))
    standin.umount()


# ------------------------------------------------------------------------ status and the socket


def test_status_with_nothing_mounted(standin):
    # Other mounts of this user may be there.
    assert str(standin.home) not in standin.devboxfs("status").stdout.decode()


def test_status_removes_the_sockets_of_dead_daemons(standin):
    standin.start()
    standin.kill()
    (path,) = (standin.home / "run" / "devboxfs").glob("*.sock")
    standin.devboxfs("status")
    assert not path.exists()


def test_a_client_that_disappears_disturbs_nobody(standin):
    standin.start()
    (path,) = (standin.home / "run" / "devboxfs").glob("*.sock")
    for request in (b"", b"garbage\n", b'{"op": "sync"}\n', b"[" * 100_000):
        with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
            client.connect(str(path))
            client.sendall(request)
    assert standin.status()["state"] == "online"


def test_a_bug_in_a_handler_is_an_error_of_one_call(standin):
    standin.start()
    with pytest.raises(OSError, match="Input/output error"):
        (standin.mount / "bug").write_text("")
    (log,) = (standin.state / "log").iterdir()
    assert "request 1: create(1) failed" in log.read_text()
    assert standin.alive()
