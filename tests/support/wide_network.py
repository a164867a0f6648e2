"""Two machines with a bad network between them, for real: TCP has to cope with it.

    with WideNetwork(delay=0.1, loss=0.02) as network:     # each way; of the packets
        run(*network.inside("client"), "ping", network.SERVER)
        network.black_hole = True                          # every packet is lost, nothing is said

Each machine is a network namespace with one TUN device; what the kernel sends there is read by a
thread here, kept for `delay` and passed to the other side, or lost. (`tc netem` would do the same,
but few kernels of build machines have it.) Only root can have that; the kernel removes all of it
with the two processes that hold the namespaces.
"""

import contextlib
import ctypes
import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import subprocess
import threading
import time
from types import TracebackType
from typing import Self

from tests.support.commands import run
from tests.support.waiting import wait_until

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 1, 0x1000
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
_TICK = 0.05


class WideNetwork:
    """The network; a context manager. `delay` (seconds each way), `loss` (0 to 1) and `black_hole`
    may be changed at any time."""

    CLIENT, SERVER = "10.77.0.1", "10.77.0.2"

    def __init__(self, *, delay: float = 0.0, loss: float = 0.0, seed: int = 1) -> None:
        self.delay, self.loss, self.black_hole = delay, loss, False
        self.packets = self.lost = 0
        self._random = random.Random(seed)
        self._holders: dict[str, subprocess.Popen[bytes]] = {}
        self._devices: list[int] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._pass_on, name="wide-network", daemon=True)

    def __enter__(self) -> Self:
        try:
            for side, address in (("client", self.CLIENT), ("server", self.SERVER)):
                self._hold(side)
                self._devices.append(self._device(side))
                inside = self.inside(side)
                run(*inside, "ip", "address", "add", f"{address}/24", "dev", "wide0")
                for device in ("lo", "wide0"):
                    run(*inside, "ip", "link", "set", device, "up")
        except BaseException:
            self._close()
            raise
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join(10)
        self._close()

    def _close(self) -> None:
        for holder in self._holders.values():
            holder.kill()
            holder.wait()
        for device in self._devices:
            os.close(device)

    def inside(self, side: str) -> list[str]:
        """What precedes a command that is to run on the `client` or the `server`."""
        return ["nsenter", f"--net={self.namespace(side)}", "--"]

    def namespace(self, side: str) -> str:
        """The path of a side's namespace."""
        return f"/proc/{self._holders[side].pid}/ns/net"

    def _hold(self, side: str) -> None:
        argv = ["setpriv", "--pdeathsig", "KILL", "--", "unshare", "--net", "sleep", "infinity"]
        self._holders[side] = subprocess.Popen(argv)
        ours = os.readlink("/proc/self/ns/net")
        wait_until(
            lambda: os.readlink(self.namespace(side)) != ours, timeout=10, what="a namespace"
        )

    def _device(self, side: str) -> int:
        """Make the TUN device of one side: a device belongs where its maker is at that moment."""
        made: list[int] = []

        def make() -> None:
            with contextlib.closing(_File(self.namespace(side))) as namespace:
                if _LIBC.setns(namespace.fd, _CLONE_NEWNET):
                    return
            fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", b"wide0", _IFF_TUN | _IFF_NO_PI))
            made.append(fd)

        thread = threading.Thread(target=make)  # which is in that namespace for good
        thread.start()
        thread.join()
        assert made, "no TUN device"
        return made[0]

    def _pass_on(self) -> None:
        one, other = self._devices
        to = {one: other, other: one}
        waiting: list[tuple[float, int, int, bytes]] = []
        numbers = itertools.count()
        while not self._ended.is_set():
            now = time.monotonic()
            while waiting and waiting[0][0] <= now:
                _due, _number, device, packet = heapq.heappop(waiting)
                with contextlib.suppress(OSError):
                    os.write(device, packet)
            wait = min(_TICK, waiting[0][0] - now) if waiting else _TICK
            ready, _, _ = select.select(self._devices, [], [], max(0.0, wait))
            for device in ready:
                packet = self._packet(device)
                if packet:
                    due = time.monotonic() + self.delay
                    heapq.heappush(waiting, (due, next(numbers), to[device], packet))

    def _packet(self, device: int) -> bytes:
        try:
            packet = os.read(device, 65_536)
        except BlockingIOError:
            return b""
        self.packets += 1
        if self.black_hole or self._random.random() < self.loss:
            self.lost += 1
            return b""
        return packet


class _File:
    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self.fd)


def possible() -> bool:
    """Whether namespaces and TUN devices can be made here."""
    if os.geteuid() != 0 or not os.path.exists("/dev/net/tun"):
        return False
    try:
        done = subprocess.run(
            ["unshare", "--net", "--pid", "--fork", "ip", "tuntap", "add", "t0", "mode", "tun"],
            capture_output=True, check=False, timeout=20,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
