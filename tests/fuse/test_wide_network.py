"""A box at the other end of a real network: TCP, 200 ms of round trip, 2 % loss, black holes."""

import contextlib
import errno
import os
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealos_devbox._transport.helper_bundle import find_helper
from tests.fuse.conftest import MakeBox
from tests.support.accounts import Account, as_launcher
from tests.support.commands import run
from tests.support.mounts import PLAIN, MountedBox
from tests.support.trees import differences, fill
from tests.support.waiting import wait_until
from tests.support.wide_network import WideNetwork, possible

pytestmark = [
    pytest.mark.each_account,
    pytest.mark.fuse,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(PLAIN, reason="a directory has no link"),
]

LONG = os.environ.get("DEVBOX_TEST_LONG") == "1"
TIMEOUT = 2
PATIENCE = 25
"""Seconds within which anything that is to end after TIMEOUT has, however busy the machine is."""
BLACK_HOLE = 60 if LONG else 12
RELAY = Path(__file__).parents[1] / "support" / "relay.py"
PORT = "7000"


class FarBox:
    """A box whose helpers run on the network's other machine, in a container of its own."""

    def __init__(self, box: MountedBox, network: WideNetwork) -> None:
        self.box = box
        self.network = network
        self._container: subprocess.Popen[bytes] | None = None
        self.program = box.scratch / "helper.sh"
        inside = " ".join(network.inside("client"))
        there = f"{network.SERVER} {PORT} {find_helper()}"
        self.program.write_text(
            f'#!/bin/sh\nexec {inside} {sys.executable} -I {RELAY} connect {there} "$@"\n'
        )
        self.program.chmod(self.program.stat().st_mode | stat.S_IXUSR)

    def mount(self) -> MountedBox:
        self.box.devboxfs(
            "mount", "--timeout", str(TIMEOUT), self.box.name, self.box.mount,
            env={"DEVBOX_HELPER": str(self.program)}, timeout=120,
        )  # fmt: skip
        return self.box

    def boot(self) -> None:
        """Start the container: the box has another first process, so another epoch."""
        container = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        server = [sys.executable, "-I", RELAY, "serve", self.network.SERVER, PORT]
        argv = ["setpriv", "--pdeathsig", "KILL", "--", *self.network.inside("server")]
        self._container = subprocess.Popen(
            [*argv, *container, *map(str, server)],
            stdout=subprocess.PIPE,
        )
        assert self._container.stdout is not None
        assert self._container.stdout.readline() == b"ready\n"

    def shut_down(self) -> None:
        """End everything in the container, at one stroke."""
        if self._container is not None:
            self._container.kill()
            self._container.wait()
            wait_until(lambda: not self.processes(), timeout=20, what="the container's end")
            assert self._container.stdout is not None
            self._container.stdout.close()
            self._container = None

    def processes(self) -> list[int]:
        """What runs there, but for the process that holds the namespace."""
        there = os.readlink(self.network.namespace("server"))
        return [pid for pid in _in_namespace(there) if b"sleep" not in _command(pid)]

    def helpers(self) -> list[int]:
        return [pid for pid in self.processes() if b"relay.py" not in _command(pid)]

    def signal(self, number: int) -> None:
        for pid in self.helpers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def wait_state(self, *states: str) -> None:
        wait_until(
            lambda: self.box.status()["state"] in states, timeout=150, what=f"state {states}"
        )


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _in_namespace(link: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if os.readlink(entry / "ns/net") == link and _command(int(entry.name)):
                    found.append(int(entry.name))
    return found


@pytest.fixture
def far(account: Account, make_box: MakeBox) -> Iterator[FarBox]:
    if not account.is_root or not possible():
        pytest.skip("only root can make namespaces and TUN devices, and not everywhere")
    box = make_box()
    with WideNetwork(delay=0.1, loss=0.02) as network:
        one = FarBox(box, network)
        one.boot()
        try:
            yield one
        finally:
            network.black_hole, network.delay, network.loss = False, 0.0, 0.0
            try:
                if box.is_mounted():
                    box.umount(timeout=120)
            finally:
                one.shut_down()


def test_git_and_tar_over_a_lossy_network(account: Account, far: FarBox) -> None:
    box = far.mount()
    git = ["git", "-C", box.scratch / "origin"]
    fill(box.scratch / "origin", seed=5, files=120, directories=12)
    run("git", "init", "-q", box.scratch / "origin", env=box.environment)
    run(*git, "add", "-A", env=box.environment)
    run(*git, "commit", "-q", "-m", "all", env=box.environment)
    clone = box.mount / "clone"
    run("git", "clone", "-q", box.scratch / "origin", clone, env=box.environment, timeout=150)
    said = run("git", "-C", clone, "status", "--porcelain", env=box.environment, timeout=60)
    assert said.stdout == b""
    with tarfile.open(box.scratch / "archive.tar", "w") as archive:
        archive.add(box.scratch / "origin", "tree")
    run("tar", "xf", box.scratch / "archive.tar", cwd=box.mount, timeout=150)
    box.sync(timeout=120)
    assert differences(box.scratch / "origin", box.box / "tree", times="files") == []
    assert differences(box.mount / "clone", box.box / "clone", times="") == []
    run("git", "-C", box.box / "clone", "fsck", "--strict", env=box.environment)
    assert far.network.lost > 0


def failing(path: Path) -> int:
    begun = time.monotonic()
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is the answer
        path.read_bytes()
    assert time.monotonic() - begun < PATIENCE
    return caught.value.errno or 0


def prepared(far: FarBox) -> MountedBox:
    """A mount with a file that was read, and one that was not."""
    box = far.mount()
    (box.box / "read").write_bytes(b"known")
    (box.box / "unread").write_bytes(os.urandom(300_000))
    for name in ("read", "unread"):
        wait_until(lambda name=name: (box.mount / name).exists(), timeout=30, what=name)
    assert (box.mount / "read").read_bytes() == b"known"
    return box


def test_a_black_hole(account: Account, far: FarBox) -> None:
    """No packet arrives and nobody says so."""
    box = prepared(far)
    far.network.black_hole = True
    begun = time.monotonic()
    assert failing(box.mount / "unread") in (errno.EIO, errno.ETIMEDOUT)
    written = 0
    while time.monotonic() - begun < BLACK_HOLE:
        (box.mount / f"new-{written}").write_bytes(b"%d" % written * 5000)
        written += 1
        assert (box.mount / "read").read_bytes() == b"known"
        assert not (box.mount / "missing").exists()
        assert (box.mount / "unread").stat().st_size == 300_000
        time.sleep(0.2)
    with (box.mount / "synced").open("wb", buffering=0) as file:
        file.write(b"1")
        at = time.monotonic()
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is compared
            os.fsync(file.fileno())
        assert caught.value.errno == errno.EIO
        assert time.monotonic() - at < PATIENCE
    far.wait_state("degraded", "offline")
    assert box.status()["pending_operations"] > written
    far.network.black_hole = False
    far.wait_state("online")
    box.sync(timeout=120)
    for number in range(written):
        assert (box.box / f"new-{number}").read_bytes() == b"%d" % number * 5000
    assert (box.box / "synced").read_bytes() == b"1"
    assert (box.mount / "unread").read_bytes() == (box.box / "unread").read_bytes()
    assert not list(box.box.glob("*conflict*"))


def test_everything_goes_wrong_in_turn(account: Account, far: FarBox) -> None:
    """Cut, killed, restarted, paused and lost, while somebody writes: nothing is lost."""
    box = prepared(far)
    stop = threading.Event()
    written: list[str] = []
    failures: list[OSError] = []

    def write() -> None:
        while not stop.is_set():
            name = f"f{len(written):05}"
            try:
                (box.mount / name).write_bytes(name.encode() * 2000)
                (box.mount / name).rename(box.mount / f"{name}-done")
            except OSError as error:
                failures.append(error)
                return
            written.append(name)
            stop.wait(0.02)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for trouble in (cut, kill_helper, restart_box, pause, lose_packets):
            before = len(written)
            trouble(far)
            wait_until(
                lambda before=before: len(written) > before + 3 or bool(failures),
                timeout=60, what=f"writes after {trouble.__name__}",
            )  # fmt: skip
    finally:
        stop.set()
        writer.join(60)
    assert not failures
    far.wait_state("online")
    box.sync(timeout=120)
    there = {path.name for path in box.box.iterdir()} - {"read", "unread"}
    assert there == {f"{name}-done" for name in written}
    for name in written:
        assert (box.box / f"{name}-done").read_bytes() == name.encode() * 2000
    assert differences(box.mount, box.box, times="") == []


def cut(far: FarBox) -> None:
    """The connection breaks here."""
    for pid in far.box.helpers():
        with contextlib.suppress(ProcessLookupError):
            as_launcher(os.kill, pid, signal.SIGKILL)


def kill_helper(far: FarBox) -> None:
    far.signal(signal.SIGKILL)


def restart_box(far: FarBox) -> None:
    far.shut_down()
    time.sleep(1)
    far.boot()


def pause(far: FarBox) -> None:
    far.signal(signal.SIGSTOP)
    time.sleep(3)
    far.signal(signal.SIGCONT)


def lose_packets(far: FarBox) -> None:
    far.network.loss = 0.3
    time.sleep(3)
    far.network.loss = 0.02
