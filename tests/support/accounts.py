"""Who performs an operation: root, or an ordinary user without any privilege.

A mount admits its owner only, so what a test does to an ordinary user's mount has to be done by
that user. When the suite runs as root, a test's body is therefore run in a thread whose
credentials are those of `nobody`: credentials belong to threads in Linux, and programs that the
thread starts inherit them. (glibc's wrappers would change all threads, hence the bare system
calls.)
"""

import ctypes
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

T = TypeVar("T")

NOBODY = 65534
LAUNCHER = os.geteuid()

_LIBC = ctypes.CDLL(None, use_errno=True)
# setgroups, setresgid, setresuid
_CALLS = {"x86_64": (116, 119, 117), "aarch64": (159, 149, 147)}
# One thread that keeps the credentials of the suite, started before any thread loses them.
_service = ThreadPoolExecutor(max_workers=1, thread_name_prefix="launcher")
_service.submit(int).result()


@dataclass(frozen=True)
class Account:
    """A user of this machine, and what starts a command as this user."""

    label: str
    uid: int
    gid: int

    @property
    def is_root(self) -> bool:
        return self.uid == 0

    def prefix(self) -> list[str]:
        """What precedes a command that the suite's own user starts for this account."""
        if self.uid == LAUNCHER:
            return []
        ids = [f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups"]
        return ["setpriv", *ids, *as_launcher(_reach, self.uid, self.gid), "--"]

    def perform(self, function: Callable[..., T], *arguments: object, **named: object) -> T:
        """Call `function` with the credentials of this account and return what it returns."""
        if os.geteuid() == self.uid:
            return function(*arguments, **named)
        result: list[T] = []
        failure: list[BaseException] = []

        def body() -> None:
            try:
                _become(self.uid, self.gid)
                result.append(function(*arguments, **named))
            # Skips and interrupts are no Exceptions, and pytest wants to see them, too.
            except BaseException as error:  # noqa: BLE001
                failure.append(error)

        thread = threading.Thread(target=body, name=f"as-{self.label}", daemon=True)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return result[0]

    def own(self, path: str | os.PathLike[str]) -> None:
        """Give `path` to this account."""
        if self.uid != LAUNCHER:
            os.chown(path, self.uid, self.gid)


ROOT = Account("root", 0, 0)
USER = Account("user", NOBODY, NOBODY) if LAUNCHER == 0 else Account("user", LAUNCHER, os.getgid())
ACCOUNTS = [ROOT, USER] if LAUNCHER == 0 else [USER]


def as_launcher(function: Callable[..., T], *arguments: object) -> T:
    """Call `function` with the credentials that the suite was started with, from any thread."""
    if os.geteuid() == LAUNCHER:
        return function(*arguments)
    return _service.submit(function, *arguments).result()


_FIND = """\
import sys
from importlib.util import find_spec
sys.exit(not all(map(find_spec, ["devboxfs", "sealos_devbox", "pyfuse3"])))
"""


@cache
def _reach(uid: int, gid: int) -> list[str]:
    """Capabilities without which the account cannot execute the Python in use.

    A checkout below root's private home directory is closed to `nobody`. The daemon then runs
    with the capability to read and search everything, and with no other; wherever the checkout
    is open to all, it runs with none.
    """
    ids = [f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
    probe = ["setpriv", *ids, "--", sys.executable, "-c", _FIND]
    if subprocess.run(probe, cwd="/", capture_output=True, timeout=60, check=False).returncode == 0:
        return []
    return ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]


def can_run_python() -> bool:
    """Whether the ordinary user can execute this Python without a capability."""
    return USER.uid == LAUNCHER or not as_launcher(_reach, USER.uid, USER.gid)


def _become(uid: int, gid: int) -> None:
    setgroups, setresgid, setresuid = _CALLS[platform.machine()]
    for call in [(setgroups, 0, None), (setresgid, gid, gid, gid), (setresuid, uid, uid, uid)]:
        if _LIBC.syscall(*call) != 0:
            raise OSError(ctypes.get_errno(), "cannot change the credentials of a thread")
