"""The stage on which a case is played: objects, actors, and what a call leaves behind.

A case is a small set of objects and one system call. It is played in a directory of its own, once
on the mount and once on a local file system; what is compared is what the call said and what it
did to every object: type, mode, owner, links, size, content, and which of its times moved. Nothing
is expected by hand: the local file system is what is right.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_LIBC = ctypes.CDLL(None, use_errno=True)
LONG_AGO = 1_000_000_000_123_456_789
"""The mtime and atime that every object starts with."""
NOW_SECONDS = 7 * 24 * 3600
"""A stamp this near to the present is `now`; others are compared to the nanosecond."""


@dataclass(frozen=True)
class Actor:
    """Whose credentials a call is made with."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()


ROOT = Actor("root", 0, 0)
OWNER = Actor("owner", 3001, 3001)
MEMBER = Actor("member", 3002, 3002, (3001,))
OTHER = Actor("other", 3003, 3003)
ACTORS = (ROOT, OWNER, MEMBER, OTHER)


@dataclass(frozen=True)
class Thing:
    """One object of a case, made in order."""

    kind: str
    """file, directory, symlink, fifo, socket, character, block, link (a hard link)."""
    path: str
    mode: int | None = None
    owner: Actor | None = None
    group: int | None = None
    data: bytes = b"content"
    target: str = ""
    """Of a symbolic link; for a hard link the first name."""
    xattrs: dict[str, bytes] = field(default_factory=dict)


Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """Objects, and one call."""

    name: str
    things: tuple[Thing, ...]
    call: Call
    actor: Actor | None = None
    """None: whoever runs the suite, so that it can be run without privilege, too."""
    umask: int = 0o022
    differs: str = ""
    """Why the mount cannot say what a local disk says (devboxfs/DESIGN.md, section 9)."""

    @property
    def privileged(self) -> bool:
        """Whether only root can set it up and play it."""
        return self.actor is not None or any(
            thing.kind in {"character", "block"} or thing.owner or thing.group is not None
            for thing in self.things
        )


# ------------------------------------------------------------------------------- setting a case up


def furnish(case: Case) -> None:
    """Make a case's objects in the working directory, and give them their times."""
    os.umask(0)
    for thing in case.things:
        _make(thing)
    for thing in case.things:
        if thing.owner is not None or thing.group is not None:
            uid = thing.owner.uid if thing.owner is not None else -1
            gid = thing.owner.gid if thing.owner is not None else -1
            os.chown(
                thing.path,
                uid,
                gid if thing.group is None else thing.group,
                follow_symlinks=False,
            )
    for thing in reversed(case.things):
        if thing.mode is not None and thing.kind != "symlink":
            os.chmod(thing.path, thing.mode)
    # Directories that were closed are entered by root only: the times come before their modes
    # would matter to anybody else, hence the walk by known names.
    for thing in reversed(case.things):
        os.utime(thing.path, ns=(LONG_AGO, LONG_AGO), follow_symlinks=False)
    os.utime(".", ns=(LONG_AGO, LONG_AGO))


def _make(thing: Thing) -> None:
    path = thing.path
    match thing.kind:
        case "file":
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            try:
                os.write(descriptor, thing.data)
            finally:
                os.close(descriptor)
        case "directory":
            os.mkdir(path, 0o755)
        case "symlink":
            os.symlink(thing.target, path)
        case "link":
            os.link(thing.target, path, follow_symlinks=False)
        case "fifo":
            os.mkfifo(path, 0o644)
        case "socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(path)
            os.chmod(path, 0o644)
        case "character":
            os.mknod(path, stat.S_IFCHR | 0o644, os.makedev(1, 3))
        case "block":
            os.mknod(path, stat.S_IFBLK | 0o644, os.makedev(7, 200))
        case other:
            raise ValueError(other)
    for name, value in thing.xattrs.items():
        os.setxattr(path, name, value, follow_symlinks=False)


# -------------------------------------------------------------------------------------- who plays


@contextmanager
def acting(actor: Actor | None) -> Iterator[None]:
    """Take the credentials of an actor; the saved user id leads back."""
    if actor is None or actor.uid == os.getuid():
        yield
        return
    os.setgroups(actor.groups)
    os.setresgid(actor.gid, actor.gid, 0)
    os.setresuid(actor.uid, actor.uid, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups([])


def said(call: Call) -> object:
    """What a call returns, or the name of its error."""
    try:
        result = call()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    if isinstance(result, bytes):
        return repr(result) if len(result) < 200 else f"{len(result)} bytes"
    return result if isinstance(result, int | str | bool | list | None) else str(result)


# --------------------------------------------------------------------------------- what it leaves


def look(paths: list[str]) -> dict[str, os.stat_result]:
    """Stat what is there of some paths."""
    found = {}
    for path in paths:
        try:
            found[path] = os.lstat(path)
        except OSError:
            continue
    return found


def _walk(top: str) -> Iterator[str]:
    for name in sorted(os.listdir(top)):
        path = os.path.join(top, name) if top != "." else name
        yield path
        if stat.S_ISDIR(os.lstat(path).st_mode):
            yield from _walk(path)


def effects(
    before: dict[str, os.stat_result], now_ns: int, *, accessed: bool = True
) -> dict[str, list[object]]:
    """Describe every object below the working directory, and which of its times moved.

    Times are read first: looking at contents would move them. `accessed` includes the times of
    access.
    """
    was = {info.st_ino: (path, info) for path, info in reversed(before.items())}
    seen = look(list(before))
    for path in _walk("."):
        if path not in seen:
            seen[path] = os.lstat(path)
    found: dict[str, list[object]] = {}
    for path, info in sorted(seen.items()):
        origin, old = was.get(info.st_ino, ("new", None))
        directory = stat.S_ISDIR(info.st_mode)
        found[path] = [
            stat.filemode(info.st_mode),
            info.st_nlink,
            info.st_uid,
            info.st_gid,
            0 if directory else info.st_size,
            info.st_rdev,
            origin,
            _moved(old, info, now_ns, accessed),
            _content(path, info),
        ]
    return found


def _moved(old: os.stat_result | None, new: os.stat_result, now_ns: int, accessed: bool) -> str:
    if old is None:
        stamps = (new.st_atime_ns, new.st_mtime_ns, new.st_ctime_ns)[not accessed :]
        return " ".join(_told(stamp, now_ns) for stamp in stamps)
    parts = []
    if new.st_atime_ns != old.st_atime_ns:
        parts.append(f"atime {_told(new.st_atime_ns, now_ns)}")
    if new.st_mtime_ns != old.st_mtime_ns:
        parts.append(f"mtime {_told(new.st_mtime_ns, now_ns)}")
    if new.st_ctime_ns != old.st_ctime_ns:
        parts.append("ctime" if new.st_ctime_ns > old.st_ctime_ns else "ctime backwards")
    return ", ".join(parts)


def _told(stamp: int, now_ns: int) -> str:
    return "now" if abs(stamp - now_ns) < NOW_SECONDS * 10**9 else str(stamp)


def _content(path: str, info: os.stat_result) -> str:
    if stat.S_ISLNK(info.st_mode):
        return os.readlink(path)
    if not stat.S_ISREG(info.st_mode):
        return ""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        data = os.read(descriptor, 256)
    finally:
        os.close(descriptor)
    return repr(data) if len(data) < 100 else f"{data[:20]!r}... {len(data)}"


# ---------------------------------------------------------------------- calls that Python lacks


def syscall(function: str, *arguments: object) -> int:
    """Call libc's `function`; raises OSError for -1."""
    call = getattr(_LIBC, function)
    result = call(*arguments)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result)


AT_FDCWD = -100
AT_EACCESS = 0x200
BAD_ADDRESS = ctypes.c_void_p(1)


def renameat2(source: str, target: str, flags: int) -> int:
    """See renameat2(2)."""
    return syscall("renameat2", AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), flags)
