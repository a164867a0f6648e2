"""What people use today, on the same work tree behind the same delay: sshfs and rclone, tuned."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import httpx

from tests.bench.grounds import furnish, prepare
from tests.support.commands import clean_environment, run
from tests.support.faults import FaultProxy
from tests.support.waiting import wait_until

SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server")
SSHD = "/usr/sbin/sshd"


class Peer(ABC):
    """A mount of `there` on `top` by another program."""

    name: str
    box = None

    def __init__(self, home: Path, rtt_ms: float, bulk: int) -> None:
        self.home = home
        self.rtt_ms = rtt_ms
        self.there = home / "there"
        self.top = home / "top"
        self.there.mkdir()
        self.top.mkdir()
        furnish(self.there, clean_environment(home), bulk)

    @staticmethod
    @abstractmethod
    def is_installed() -> bool:
        """Whether everything that it takes is on this machine."""

    @abstractmethod
    def cold(self) -> float:
        """Mount anew with empty caches; returns the seconds until the first listing."""

    @abstractmethod
    def arrive(self) -> None:
        """Return when everything that was written is where it belongs."""

    def counts(self) -> None:
        return None

    def close(self) -> None:
        if os.path.ismount(self.top):
            run("fusermount3", "-u", "-z", self.top)


class Sshfs(Peer):
    """sshfs with long caches and several connections, over sftp-server behind the delay."""

    name = "sshfs"
    options = (
        "cache=yes,dcache_timeout=300,dcache_stat_timeout=300,dcache_link_timeout=300,"
        "dcache_dir_timeout=300,attr_timeout=300,entry_timeout=300,negative_timeout=300,"
        "kernel_cache,max_conns=4"
    )

    @staticmethod
    def is_installed() -> bool:
        return bool(shutil.which("sshfs")) and any(map(os.path.exists, SFTP_SERVERS))

    def cold(self) -> float:
        self.close()
        server = next(filter(os.path.exists, SFTP_SERVERS))
        # sshfs starts what would be ssh; here it is the server itself, behind the delay.
        ssh = f"{sys.executable} -m tests.bench.delayed {self.rtt_ms:g} {server}"
        start = time.perf_counter()
        argv = ["sshfs", "-o", f"{self.options},ssh_command={ssh}", f"box:{self.there}", self.top]
        run(*argv, cwd=Path(__file__).parents[2], timeout=20)
        os.listdir(self.top)
        return time.perf_counter() - start

    def arrive(self) -> None:
        """Every call of sshfs has waited for its answer."""


class Rclone(Peer):
    """rclone mount with its full cache, over SFTP of an sshd behind the delay."""

    name = "rclone"
    options = (
        "--vfs-cache-mode=full", "--vfs-write-back=100ms", "--vfs-fast-fingerprint",
        "--dir-cache-time=1h", "--attr-timeout=1h", "--poll-interval=0", "--transfers=16",
        "--sftp-concurrency=64", "--vfs-read-ahead=16M", "--links",
    )  # fmt: skip

    def __init__(self, home: Path, rtt_ms: float, bulk: int) -> None:
        super().__init__(home, rtt_ms, bulk)
        self._stack = contextlib.ExitStack()
        self._program: subprocess.Popen[bytes] | None = None
        self._ssh = 0

    @staticmethod
    def is_installed() -> bool:
        return bool(shutil.which("rclone")) and os.path.exists(SSHD) and os.geteuid() == 0

    def _delayed_sshd(self) -> int:
        """Start an sshd of our own and a slow path to it; returns the port of the path."""
        for name in ("host", "user"):
            key = self.home / name
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
        os.makedirs("/run/sshd", exist_ok=True)
        port = free_port()
        settings = {
            "Port": port, "ListenAddress": "127.0.0.1", "HostKey": self.home / "host",
            "AuthorizedKeysFile": self.home / "user.pub", "StrictModes": "no", "UsePAM": "no",
            "PidFile": "none", "PermitRootLogin": "prohibit-password",
            "Subsystem": "sftp internal-sftp", "MaxStartups": "100",
        }  # fmt: skip
        configuration = self.home / "sshd_config"
        configuration.write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
        self._start(SSHD, "-D", "-f", str(configuration))
        wait_until(lambda: answers(port), timeout=10)
        path = self._stack.enter_context(FaultProxy(("127.0.0.1", port)))
        path.delay = self.rtt_ms / 2000
        return path.port

    def _start(self, *argv: str) -> subprocess.Popen[bytes]:
        log = self._stack.enter_context((self.home / "log").open("ab"))
        program = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._stack.callback(program.wait, 20)
        self._stack.callback(program.terminate)
        return program

    def cold(self) -> float:
        self._unmount()
        self._ssh = self._ssh or self._delayed_sshd()
        shutil.rmtree(self.home / "cache", ignore_errors=True)
        self._control = f"127.0.0.1:{free_port()}"
        start = time.perf_counter()
        self._program = self._start(
            "rclone", "mount", f":sftp:{self.there}", str(self.top), *self.options,
            "--config=", f"--cache-dir={self.home / 'cache'}",
            "--rc", f"--rc-addr={self._control}", "--rc-no-auth",
            "--sftp-host=127.0.0.1", f"--sftp-port={self._ssh}",
            f"--sftp-user={getpass.getuser()}", f"--sftp-key-file={self.home / 'user'}",
        )  # fmt: skip
        wait_until(lambda: os.path.ismount(self.top), timeout=30)
        os.listdir(self.top)
        return time.perf_counter() - start

    def arrive(self) -> None:
        wait_until(self._has_arrived, timeout=600)

    def _has_arrived(self) -> bool:
        told = httpx.post(f"http://{self._control}/vfs/stats", timeout=30).json()["diskCache"]
        return not told["uploadsInProgress"] and not told["uploadsQueued"]

    def _unmount(self) -> None:
        super().close()
        if self._program:
            self._program.terminate()
            self._program.wait(timeout=60)

    def close(self) -> None:
        self._unmount()
        self._stack.close()


PEERS: tuple[type[Peer], ...] = (Sshfs, Rclone)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def mounted_by(peer: type[Peer], rtt_ms: float, bulk: int) -> Iterator[Peer]:
    home = Path(tempfile.mkdtemp(prefix="devboxfs-bench-"))
    ground = None
    try:
        prepare(home)
        ground = peer(home, rtt_ms, bulk)
        yield ground
    finally:
        if ground:
            ground.close()
        shutil.rmtree(home, ignore_errors=True)
