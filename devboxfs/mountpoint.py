"""Mounts as the kernel sees them: what is mounted where, whether it lives, how to be rid of it.

Whatever touches a mount may hang: a process that waits for an answer of a FUSE daemon cannot even
be killed, and a process of which one thread waits cannot end. So every such call is made in a
process of its own, which is left behind when it does not answer in time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from devboxfs.config import ExitCode, MountError

__all__ = [
    "FSTYPE",
    "Mount",
    "User",
    "abort",
    "find_mount",
    "mounts",
    "mounts_below",
    "parse_mountinfo",
    "probe",
    "repair",
    "resolve",
    "unmount",
    "users",
    "wait_gone",
]

FSTYPE: Final = "fuse.devboxfs"
FUSECTL: Final = Path("/sys/fs/fuse/connections")
Health = Literal["alive", "dead", "hung"]


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of /proc/self/mountinfo, see proc_pid_mountinfo(5)."""

    mount_id: int
    minor: int
    path: Path
    fstype: str
    source: str
    user_id: int | None
    """Who mounted it; only FUSE says so."""

    @property
    def ours(self) -> bool:
        """Whether devboxfs made it."""
        return self.fstype == FSTYPE

    @property
    def box(self) -> str:
        """The name of the mounted box."""
        return self.source.removeprefix("devbox:")


_ESCAPE = re.compile(rb"\\([0-7]{3})")


def _unescape(field: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field))


def parse_mountinfo(text: bytes) -> list[Mount]:
    """Read mountinfo, in the kernel's order: of two mounts at one place the later is on top."""
    found = []
    for line in text.split(b"\n"):
        before, separator, after = line.partition(b" - ")
        if not separator:
            continue
        mount_id, _parent, device, _root, path, *_ = before.split(b" ")
        fstype, source, options = after.split(b" ", 2)
        match = re.search(rb"(?:^|,)user_id=(\d+)", options)
        found.append(
            Mount(
                mount_id=int(mount_id),
                minor=int(device.partition(b":")[2]),
                path=Path(_unescape(path)),
                fstype=_unescape(fstype),
                source=_unescape(source),
                user_id=int(match[1]) if match else None,
            )
        )
    return found


def mounts() -> list[Mount]:
    """List what this process sees as mounted."""
    return parse_mountinfo(Path("/proc/self/mountinfo").read_bytes())


def find_mount(path: str | Path, *, timeout: float = 2.0) -> Mount | None:
    """Return the mount that holds `path`, without touching the mount.

    The path is taken as it is written first, since resolving links would ask a dead mount.
    """
    table = mounts()
    lexical = Path(os.path.abspath(path))
    found = _holder(table, lexical)
    if found is not None and found.ours:
        return found
    return _holder(table, resolve(lexical, timeout=timeout) or lexical)


def _holder(table: Sequence[Mount], path: Path) -> Mount | None:
    best = None
    for mount in table:
        inside = path.is_relative_to(mount.path)
        if inside and (best is None or len(mount.path.parts) >= len(best.path.parts)):
            best = mount
    return best


def mounts_below(path: Path) -> list[Mount]:
    """List the mounts strictly inside `path`."""
    return [mount for mount in mounts() if mount.path != path and mount.path.is_relative_to(path)]


# ------------------------------------------------------------------- calls that may never return


def _guarded(code: str, *arguments: str, timeout: float) -> tuple[int, bytes] | None:
    """Run Python code in a process of its own; its exit status and output, None: no answer.

    Not subprocess: that waits for what it killed, which a process that hangs in FUSE outlives.
    """
    return _spawn([sys.executable, "-I", "-S", "-c", code, *arguments], timeout)


def _spawn(argv: list[str], timeout: float) -> tuple[int, bytes] | None:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            pid = os.posix_spawnp(
                argv[0],
                argv,
                {**os.environ, "LC_ALL": "C"},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, null, 0),
                    (os.POSIX_SPAWN_DUP2, writer, 1),
                    (os.POSIX_SPAWN_DUP2, writer, 2),
                ],
            )
        finally:
            os.close(null)
            os.close(writer)
        if not _wait_exit(pid, timeout):
            os.kill(pid, signal.SIGKILL)
            if not _wait_exit(pid, 0.2):
                return None
            os.waitpid(pid, 0)
            return None
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status), os.read(reader, 65536)
    finally:
        os.close(reader)


def _wait_exit(pid: int, timeout: float) -> bool:
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(max(0.0, timeout) * 1000))
    finally:
        os.close(descriptor)


_PROBE = """
import errno, os, sys
try:
    os.getxattr(sys.argv[1], "security.devboxfs")
except OSError as error:
    if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
        sys.exit(error.errno)
    try:
        os.statvfs(sys.argv[1])
    except OSError as error:
        sys.exit(error.errno)
"""


def probe(path: Path, *, timeout: float = 5.0) -> Health:
    """Tell whether the daemon of the mount at `path` answers.

    Asks for an attribute that is never there: the daemon knows that without asking the box, so a
    box that is offline does not look like a daemon that hangs. Not stat: the kernel answers that
    from its cache for as long as it holds attributes.
    """
    outcome = _guarded(_PROBE, str(path), timeout=timeout)
    if outcome is None:
        return "hung"
    return "dead" if outcome[0] in {errno.ENOTCONN, errno.ECONNABORTED} else "alive"


_REALPATH = "import os, sys; sys.stdout.buffer.write(os.fsencode(os.path.realpath(sys.argv[1])))"


def resolve(path: Path, *, timeout: float = 5.0) -> Path | None:
    """Resolve links in `path`; None when a file system on the way does not answer."""
    outcome = _guarded(_REALPATH, str(path), timeout=timeout)
    return Path(os.fsdecode(outcome[1])) if outcome and outcome[0] == 0 else None


# -------------------------------------------------------------------------------------- undoing

# umount2(2) with UMOUNT_NOFOLLOW, and MNT_DETACH when lazy.
_UMOUNT = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
flags = 8 | (2 if sys.argv[2] == "lazy" else 0)
sys.exit(ctypes.get_errno() if libc.umount2(os.fsencode(sys.argv[1]), flags) else 0)
"""


def unmount(path: Path, *, lazy: bool = False, timeout: float = 10.0) -> None:
    """Unmount what is on top at `path`; blocks, so call it in a thread from an event loop.

    `lazy` takes it out of the tree at once, whoever uses it.

    Raises:
        OSError: EBUSY when it is in use, ETIMEDOUT when the daemon does not let go of it in time,
            else what the kernel or fusermount3 said.
    """
    if os.geteuid() == 0:
        outcome = _guarded(_UMOUNT, str(path), "lazy" if lazy else "", timeout=timeout)
        code = errno.ETIMEDOUT if outcome is None else outcome[0]
        if code:
            raise OSError(code, os.strerror(code), str(path))
        return
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", str(path)]
    outcome = _spawn(command, timeout)
    if outcome is None:
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), str(path))
    status, said = outcome
    if status:
        # fusermount3 ends with 1 whatever happened: its words are all there is.
        text = said.decode(errors="replace").strip()
        busy = os.strerror(errno.EBUSY) in text
        raise OSError(errno.EBUSY if busy else errno.EPERM, text or "fusermount3 failed", str(path))


_MOUNT_FUSECTL = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
path = sys.argv[1].encode()
sys.exit(ctypes.get_errno() if libc.mount(b"fusectl", path, b"fusectl", 0, None) else 0)
"""


@contextlib.contextmanager
def _fusectl() -> Iterator[bool]:
    """Have fusectl mounted for a moment, where root may; tells whether it is there."""
    if any(mount.fstype == "fusectl" for mount in mounts()):
        yield True
        return
    mounted = os.geteuid() == 0 and _guarded(_MOUNT_FUSECTL, str(FUSECTL), timeout=5.0) == (0, b"")
    try:
        yield mounted
    finally:
        if mounted:
            with contextlib.suppress(OSError):
                unmount(FUSECTL, lazy=True)


def abort(mount: Mount) -> bool:
    """Cut the kernel's connection to the daemon, so that every process that waits gets an error.

    Returns False where fusectl is not mounted or not writable: only the mount's owner and root may.
    """
    with _fusectl() as there:
        if not there:
            return False
        try:
            (FUSECTL / str(mount.minor) / "abort").write_text("1")
        except OSError:
            return False
        return True


def repair(mount: Mount) -> None:
    """Remove the mount of a daemon that is dead.

    Raises:
        MountError: it cannot be detached.
    """
    abort(mount)
    try:
        unmount(mount.path, lazy=True)
    except OSError as error:
        raise MountError(
            f"The dead mount at {mount.path} cannot be detached ({error.strerror}); "
            f"run: sudo umount -l {mount.path}",
            ExitCode.BUSY,
        ) from error


def wait_gone(mount: Mount, *, timeout: float) -> bool:
    """Wait until the mount is in the table no longer; the kernel announces changes to pollers.

    Its number alone does not tell: the next mount of anything anywhere gets it.
    """
    import time

    until = time.monotonic() + timeout
    with open("/proc/self/mountinfo", "rb", buffering=0) as table:
        poll = select.poll()
        poll.register(table, select.POLLERR | select.POLLPRI)
        while True:
            if all(
                (other.mount_id, other.path) != (mount.mount_id, mount.path) for other in mounts()
            ):
                return True
            left = until - time.monotonic()
            if left <= 0:
                return False
            poll.poll(min(left, 1.0) * 1000)


# ------------------------------------------------------------------------------ who is using it


@dataclass(frozen=True, slots=True)
class User:
    """A process that keeps a mount busy."""

    pid: int
    command: str
    how: str

    def __str__(self) -> str:
        return f"{self.command} (pid {self.pid}, {self.how})"


def users(path: Path) -> list[User]:
    """List the processes that use the mount, as far as this user may see.

    Only links in /proc are read, which asks nothing of the mount.
    """
    found = []
    for entry in sorted((entry for entry in os.listdir("/proc") if entry.isdigit()), key=int):
        how = _use(Path("/proc", entry), path)
        if how and int(entry) != os.getpid():
            try:
                command = Path("/proc", entry, "comm").read_text(errors="replace").strip()
            except OSError:
                continue
            found.append(User(int(entry), command, how))
    return found


def _use(process: Path, path: Path) -> str:
    for link, how in (("cwd", "its working directory"), ("root", "its root"), ("exe", "runs it")):
        if _leads_into(process / link, path):
            return how
    with contextlib.suppress(OSError):
        for number in os.listdir(process / "fd"):
            if _leads_into(process / "fd" / number, path):
                return "open file"
    with contextlib.suppress(OSError):
        if b" " + os.fsencode(path) + b"/" in (process / "maps").read_bytes():
            return "mapped file"
    return ""


def _leads_into(link: Path, path: Path) -> bool:
    try:
        return Path(os.readlink(link)).is_relative_to(path)
    except OSError:
        return False
