"""Boxes of the embedded engine, mounted for real.

A `MountedBox` has a home of its own (data, state, cache and runtime directories, the mount
point), so that tests know nothing of each other and of the machine. Closing it leaves no mount,
process or directory behind, whatever the test did.

With DEVBOX_TEST_PLAIN=1 every mount is a plain directory that is its own box: what fails then
is wrong in the test, not in the mount.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from devboxfs import overview, unmounting
from devboxfs.config import MountError, Places
from tests.support.accounts import Account, as_launcher
from tests.support.commands import clean_environment, run, shown
from tests.support.waiting import wait_until

PLAIN = os.environ.get("DEVBOX_TEST_PLAIN") == "1"
TMPFS = Path("/dev/shm")
_COMMAND = [sys.executable, "-m", "devboxfs"]
_GIT = (
    "[user]\nname = Test\nemail = test@example.com\n[init]\ndefaultBranch = main\n[gc]\nauto = 0\n"
)


class MountedBox:
    """One box, its mount point, and the commands that a user has for them."""

    def __init__(self, account: Account, *, name: str = "my-box", plain: bool = PLAIN) -> None:
        self.account = account
        self.name = name
        self.plain = plain
        # Short: the path of a unix socket below it must stay under 108 bytes.
        where = TMPFS if plain and TMPFS.is_dir() else None
        self.home = Path(tempfile.mkdtemp(prefix="devboxfs-test-", dir=where))
        self.mount = self.home / "mnt"
        self.data = self.home / "data"
        self.box = self.mount if plain else self.data / "boxes" / name / "workspace"
        self.state = self.home / "state"
        self.cache = self.home / "cache"
        self.scratch = self.home / "scratch"
        self.environment = {
            **clean_environment(self.home),
            "DEVBOX_DATA_DIR": str(self.data),
            "DEVBOX_STATE_DIR": str(self.state),
            "DEVBOX_CACHE_DIR": str(self.cache),
            "DEVBOX_EMBEDDED": "1",
        }
        account.own(self.home)
        account.perform(self._prepare)

    def _prepare(self) -> None:
        for directory in (self.mount, self.scratch, self.home / "run", self.home / "tmp"):
            directory.mkdir(mode=0o700)
        (self.home / "gitconfig").write_text(_GIT)

    # ------------------------------------------------------------------------- what a user does

    def devboxfs(
        self,
        *arguments: str | os.PathLike[str],
        check: bool = True,
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run the command line as the box's account; the daemon that it starts inherits `env`."""
        argv = [*self.account.prefix(), *_COMMAND, *map(os.fspath, arguments)]
        environment = {**self.environment, **(env or {})}
        return as_launcher(
            lambda: run(*argv, cwd="/", env=environment, check=check, timeout=timeout)
        )

    def start(self, *, delay_ms: float = 0, env: Mapping[str, str] | None = None) -> "MountedBox":
        """Mount; `delay_ms` is added to the round trip of the byte channel."""
        if not self.plain:
            delay = {"DEVBOX_LINK_DELAY_MS": str(delay_ms)} if delay_ms else {}
            self.devboxfs("mount", self.name, self.mount, env={**delay, **(env or {})})
        return self

    # What follows is asked in this process, as the commands of these names ask: starting Python for
    # each would be a third of the suite's time. tests/fuse/test_lifecycle*.py have the commands.

    def umount(self, *, timeout: float = 60) -> None:
        """Unmount the way users do: everything is in the box when it returns."""
        if not self.plain:
            self._ask(unmounting.umount, timeout, timeout=timeout)

    def remount(self, *, delay_ms: float = 0) -> None:
        if self.is_mounted():
            self.umount()
        self.start(delay_ms=delay_ms)

    def sync(self, *, timeout: float = 60) -> None:
        """Return when everything is on the box's disk."""
        if not self.plain:
            self._ask(unmounting.sync, timeout)

    def status(self) -> dict[str, Any]:
        """What `devboxfs status --json` says of this mount."""
        if self.plain:
            return {"pid": 0, "link": {"round_trips": 0, "bytes_sent": 0, "bytes_received": 0}}
        found = self.account.perform(overview.collect, self._places, only=self.mount)
        (entry,) = json.loads(json.dumps(found.to_json()))["mounts"]
        return entry

    def _ask(self, command: Callable[..., str], limit: float, **options: object) -> None:
        """Raise AssertionError with what the command would say when it failed, or is too slow.

        A daemon that says nothing for ten seconds has failed.
        """
        deadline = time.monotonic() + limit

        def progress(said: object) -> None:
            assert time.monotonic() < deadline, f"not done within {limit} s: {said}"

        def ask() -> None:
            mount = overview.require_mount(self.mount)
            command(mount, self._places, on_progress=progress, **options)

        try:
            self.account.perform(ask)
        except MountError as error:
            raise AssertionError(error.text) from error

    @property
    def _places(self) -> Places:
        told = {key: Path(value) for key, value in self.environment.items()}
        state = told["DEVBOX_STATE_DIR"]
        return Places(
            data=told["DEVBOX_DATA_DIR"],
            state=state,
            cache=told["DEVBOX_CACHE_DIR"],
            runtime=(told["XDG_RUNTIME_DIR"] / "devboxfs", state / "run"),
        )

    def round_trips(self) -> int:
        return int(self.status()["link"]["round_trips"])

    # --------------------------------------------------------------------------- what befalls it

    @property
    def pid(self) -> int:
        return int(self.status()["pid"])

    def kill(self, pid: int | None = None) -> None:
        """Kill the daemon with SIGKILL and wait until it and what it had started are gone."""
        if self.plain:
            return
        as_launcher(_kill_and_wait, self.pid if pid is None else pid)
        self.wait_quiet()

    def kill_all(self, *, helpers: bool = True) -> None:
        """Kill with SIGKILL, at one stroke, everything that was started for this mount."""
        if not self.plain:
            spared = [] if helpers else self.helpers()
            as_launcher(_kill_each, [pid for pid in self.processes() if pid not in spared])
            self.wait_quiet()

    def helpers(self) -> list[int]:
        """The processes that serve the box's files."""
        return [pid for pid in self.processes() if "helper" in _describe(pid)]

    def wait_quiet(self, timeout: float = 30) -> None:
        """Wait until nothing of this mount runs: the helper finishes the batch that it has."""
        wait_until(lambda: not self.processes(), timeout=timeout, what="no process of the mount")

    def alive(self) -> bool:
        """Whether the daemon answers a request that the kernel answers from no cache."""
        os.statvfs(self.mount)
        return True

    def is_mounted(self) -> bool:
        return not self.plain and os.fsencode(self.mount) in _mounts_below(self.home)

    def processes(self) -> list[int]:
        """The processes that were started for this mount, by the environment they inherited."""
        if self.plain:
            return []
        return as_launcher(_processes_with, f"DEVBOX_STATE_DIR={self.state}".encode())

    def log_tail(self) -> str:
        """The last lines of what the daemon has logged."""
        parts = []
        for log in sorted(self.state.glob("log/*.log*")):
            with contextlib.suppress(OSError):
                parts.append(f"{log.relative_to(self.home)}:\n{shown(log.read_bytes(), 6000)}")
        return "\n".join(parts) or "(no log)"

    # --------------------------------------------------------------------------------- clean-up

    def close(self) -> list[str]:
        """Unmount by all means, end what still runs, and remove the home.

        Returns what did not end by itself: the reasons for which a test that was fine so far
        should fail.
        """
        complaints = []
        if self.is_mounted():
            try:
                self.umount()
            except AssertionError as failure:
                complaints.append(str(failure))
        complaints += as_launcher(self._sweep)
        return complaints

    def _sweep(self) -> list[str]:
        complaints = []
        for mount in _mounts_below(self.home):
            # -f aborts the connection, which frees processes that wait for the daemon.
            for argv in (["umount", "-f"], ["umount", "-l"], ["fusermount3", "-u", "-z"]):
                if mount in _mounts_below(self.home):
                    subprocess.run([*argv, mount], capture_output=True, check=False, timeout=20)
        try:
            self.wait_quiet(timeout=5 if not complaints else 0)
        except AssertionError:
            complaints.append(f"Processes stay: {[_describe(pid) for pid in self.processes()]}")
            _kill_each(self.processes())
        remove_tree(self.home)
        if self.home.exists():
            complaints.append(f"{self.home} cannot be removed")
        return complaints


def _mounts_below(top: Path) -> list[bytes]:
    """Mount points below a directory, the innermost ones first."""
    prefix = os.fsencode(top) + b"/"
    lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    points = [line.split()[4] for line in lines]
    return [point for point in reversed(points) if point.startswith(prefix)]


def _processes_with(setting: bytes) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if setting in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def _describe(pid: int) -> str:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
        return f"{pid}: {words.decode(errors='replace').strip()}"
    return f"{pid} (gone)"


def _kill_and_wait(pid: int) -> None:
    descriptor = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        ended, _, _ = select.select([descriptor], [], [], 10)
        assert ended, f"process {pid} outlives SIGKILL"
    finally:
        os.close(descriptor)


def _kill_each(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def remove_tree(top: Path) -> None:
    """Remove a directory, and what is in directories that a test closed, as far as we may."""
    for directory, below, _ in os.walk(os.fsencode(top)):
        for path in (directory, *(os.path.join(directory, name) for name in below)):
            with contextlib.suppress(OSError):
                info = os.lstat(path)
                if stat.S_ISDIR(info.st_mode) and info.st_mode & 0o700 != 0o700:
                    os.chmod(path, 0o700)
    ends = time.monotonic() + 5
    shutil.rmtree(top, ignore_errors=True)
    # A process of a box that is about to end may write into a directory that was emptied already.
    while top.exists() and time.monotonic() < ends:
        time.sleep(0.1)
        shutil.rmtree(top, ignore_errors=True)
