"""Mounting, unmounting and dying, with real processes and mounts; the box is lifecycle_standin."""

import contextlib
import json
import os
import pty
import select
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from devboxfs.config import ExitCode
from tests.support.accounts import Account, as_launcher
from tests.support.commands import run
from tests.support.mounts import PLAIN, MountedBox
from tests.support.waiting import wait_until

PROGRAM = Path(__file__).with_name("lifecycle_standin.py")

if PLAIN:
    pytest.skip("about mounts, which a plain directory has not", allow_module_level=True)


class StandIn(MountedBox):
    """The command line around the stand-in."""

    def argv(self, *arguments) -> list[str]:
        words = [os.fspath(word) for word in arguments]
        return [*self.account.prefix(), sys.executable, os.fspath(PROGRAM), *words]

    def devboxfs(self, *arguments, check=True, timeout=60, env=None):
        environment = {**self.environment, **(env or {})}
        return as_launcher(
            lambda: run(
                *self.argv(*arguments), cwd="/", env=environment, check=check, timeout=timeout
            )
        )

    def mount_fails(self, *arguments, standin: str = "", code: int) -> str:
        """Run `mount` and return the one sentence that it says."""
        done = self.devboxfs(
            "mount", *(arguments or ("my-box", self.mount)), check=False, env={"STANDIN": standin}
        )
        assert (done.returncode, done.stdout) == (code, b"")
        return sentence(done)

    @contextlib.contextmanager
    def process(self, *arguments, **options) -> Iterator[subprocess.Popen]:
        """Run a program as the account for a while."""
        with as_launcher(
            lambda: subprocess.Popen(
                [*self.account.prefix(), *map(os.fspath, arguments)],
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                **options,
            )
        ) as child:
            try:
                yield child
            finally:
                as_launcher(child.kill)

    @contextlib.contextmanager
    def user_of(self, directory: Path) -> Iterator[int]:
        """A process that works in `directory`; its pid."""
        code = f"import os; os.chdir({str(directory)!r}); print(1, flush=True); input()"
        with self.process(sys.executable, "-c", code) as child:
            assert child.stdout.readline() == b"1\n"
            yield child.pid

    def signal(self, *numbers: int) -> None:
        pid = self.pid
        for number in numbers:
            as_launcher(os.kill, pid, number)


def sentence(done: subprocess.CompletedProcess) -> str:
    said = done.stderr.decode()
    assert said.startswith("devboxfs: ")
    assert said.endswith(".\n")
    assert said.count("\n") == 1
    return said.removeprefix("devboxfs: ").rstrip("\n")


def wait_end(pid: int, timeout: float = 10) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], timeout)[0], f"{pid} has not ended"
    finally:
        os.close(descriptor)


@pytest.fixture
def standin(account: Account) -> Iterator[StandIn]:
    made = StandIn(account)
    yield made
    complaints = made.close()
    assert not complaints


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
