"""A directory with a mount and a process namespace, which vanish together with what ran in them.

Daemons and containers need many mounts and processes. Cleaning up after each of them is what
leaves things behind, so all live in namespaces of their own, whose first process (`init.py`) ends
with the process that made the enclosure: the kernel then kills and unmounts everything, also after
a crash of the tests. What remains are files and control groups, which the next enclosure's maker
removes (`sweep`). The network is the machine's.
"""

import contextlib
import fcntl
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

# Sockets below it may have names of 107 bytes at most, so it is not below pytest's directories.
TOP = Path("/tmp")
PREFIX = "devbox-enclosure-"


class Enclosure:
    """One such directory; `start` makes it, `attach` finds one that another process made."""

    def __init__(self, directory: Path, process: subprocess.Popen[bytes] | None = None) -> None:
        self.directory = directory
        self.logs = directory / "logs"
        self._process = process

    @classmethod
    def start(cls, label: str, *, stay: bool = False) -> Self:
        """Make an enclosure; with `stay` it outlives this process and is ended by `close`."""
        sweep()
        directory = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{label}-", dir=TOP))
        directory.chmod(0o755)
        (directory / "logs").mkdir()
        # Locked from before the first process until after the last: so `sweep` knows the dead.
        lock = os.open(directory / "lock.new", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        (directory / "lock.new").rename(directory / "lock")
        arguments = ["--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        with (directory / "logs" / "init.log").open("wb") as log:
            process = subprocess.Popen(
                [
                    *("unshare", *arguments, "--propagation", "private", "--"),
                    *(sys.executable, "-I", str(Path(__file__).with_name("init.py"))),
                    *(str(directory), "--stay" if stay else "--hold"),
                ],
                stdin=subprocess.DEVNULL if stay else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=[lock],
                start_new_session=True,
            )
        os.close(lock)
        enclosure = cls(directory, process)
        assert process.stdout
        ready, _, _ = select.select([process.stdout], [], [], 30)
        if not ready or process.stdout.readline() != b"ready\n":
            said = enclosure.log("init")
            enclosure.close()
            raise EnclosureError(f"No mount and process namespaces for tests here: {said}")
        # `unshare` waits for its child, which is process 1 inside.
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        (directory / "init.pid").write_text(f"{process.pid} {children.split()[0]}")
        return enclosure

    @classmethod
    def attach(cls, directory: Path) -> Self:
        enclosure = cls(directory)
        if not is_alive(directory):
            raise EnclosureError(f"Nothing runs in {directory}.")
        return enclosure

    @property
    def init_pid(self) -> int:
        """What process 1 of the enclosure is called outside."""
        return int((self.directory / "init.pid").read_text().split()[1])

    def spawn(self, name: str, argv: Sequence[object], env: Mapping[str, str] = {}) -> None:
        """Start a daemon, whose output goes to `logs/NAME.log`."""
        self._ask(do="start", name=name, argv=[str(word) for word in argv], env=dict(env))

    def stop(self, name: str, signal_number: int = signal.SIGTERM, patience: float = 10) -> None:
        """End a daemon; one that does not run is no error."""
        self._ask(do="stop", name=name, signal=int(signal_number), patience=patience)

    def running(self) -> list[str]:
        return list(self._ask(do="running")["running"])

    def run(
        self, *argv: object, input: bytes | None = None, timeout: float = 60, check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command inside and return what it wrote."""
        nsenter = ["nsenter", "--target", str(self.init_pid), "--mount", "--pid", "--"]
        done = subprocess.run(
            [*nsenter, *map(str, argv)],
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            words = " ".join(map(str, argv))
            raise EnclosureError(f"{words}: {done.stderr.decode(errors='replace')}")
        return done

    def log(self, name: str, lines: int = 30) -> str:
        """The end of what a daemon wrote."""
        try:
            text = (self.logs / f"{name}.log").read_text(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def close(self) -> None:
        """Kill what still runs and remove the directory."""
        with contextlib.suppress(OSError, ValueError):
            outer, inner = (self.directory / "init.pid").read_text().split()
            if is_alive(self.directory):
                os.kill(int(inner), signal.SIGKILL)
                os.kill(int(outer), signal.SIGKILL)
        if self._process:
            self._process.kill()
            self._process.wait(30)
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe:
                    pipe.close()
        deadline = time.monotonic() + 30
        while is_alive(self.directory) and time.monotonic() < deadline:
            time.sleep(0.01)
        _remove(self.directory)

    def _ask(self, **request: object) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(120)
            client.connect(str(self.directory / "init.sock"))
            client.sendall(json.dumps(request).encode() + b"\n")
            with client.makefile("rb") as lines:
                answer: dict[str, Any] = json.loads(lines.readline())
        if "error" in answer:
            raise EnclosureError(answer["error"])
        return answer


class EnclosureError(Exception):
    """Something in an enclosure did not work; the message says what."""


def enclosures() -> list[Path]:
    """The directories of all enclosures, dead or alive."""
    return sorted(path for path in TOP.glob(f"{PREFIX}*") if path.is_dir())


def is_alive(directory: Path) -> bool:
    with _lock(directory) as taken:
        return not taken


def sweep() -> list[Path]:
    """Remove what processes that were killed left behind."""
    dead = []
    for directory in enclosures():
        with contextlib.suppress(FileNotFoundError), _lock(directory) as taken:
            if taken:
                _remove(directory)
                dead.append(directory)
    return dead


@contextlib.contextmanager
def _lock(directory: Path) -> Iterator[bool]:
    """Whether nobody holds the directory's lock; one without a lock is being made, if it is new."""
    try:
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield time.time() - directory.stat().st_mtime > 3600
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        taken = True
    except BlockingIOError:
        taken = False
    try:
        yield taken
    finally:
        os.close(lock)


def _remove(directory: Path) -> None:
    tasks = directory / "state" / "io.containerd.runtime.v2.task"
    _remove_control_groups({path.name for path in tasks.glob("*/*")})
    # The lock goes last: a removal that is interrupted is repeated.
    for path in directory.iterdir():
        if path.name != "lock":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    shutil.rmtree(directory)


def _remove_control_groups(containers: set[str]) -> None:
    """Control groups are no part of a namespace's end: remove those of the containers."""
    if not containers:
        return
    for top, _, _ in os.walk("/sys/fs/cgroup", topdown=False):
        if not containers.isdisjoint(top.split("/")):
            for _ in range(100):
                try:
                    os.rmdir(top)
                except FileNotFoundError:
                    pass
                except OSError:  # its last process is still on its way out
                    time.sleep(0.02)
                    continue
                break


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody uses, below those that the kernel gives to clients."""
    ports: list[int] = []
    choice = random.Random()
    while len(ports) < count:
        port = choice.randrange(20_000, 30_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                if port not in ports:
                    ports.append(port)
    return ports
