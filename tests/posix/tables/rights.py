"""Who may do what: every call, actor and mode; sticky directories."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator

from tests.posix.stage import (
    ACTORS,
    AT_EACCESS,
    AT_FDCWD,
    LONG_AGO,
    MEMBER,
    OTHER,
    OWNER,
    ROOT,
    Actor,
    Case,
    Thing,
    renameat2,
    syscall,
)

MODES = range(8)


def _spread(bits: int, actor: Actor) -> int:
    """Return a mode that gives `bits` to the actor's class and everything to the others."""
    shift = {OWNER: 6, MEMBER: 3, OTHER: 0, ROOT: 0}[actor]
    return 0o777 & ~(7 << shift) | bits << shift


def _open(path: str, flags: int) -> None:
    os.close(os.open(path, flags, 0o644))


IN_A_DIRECTORY: dict[str, Callable[[], object]] = {
    "look up": lambda: os.stat("d/file").st_size,
    "look up what is missing": lambda: os.stat("d/missing"),
    "list": lambda: sorted(os.listdir("d")),
    "chdir": lambda: os.chdir("d"),
    "open": lambda: _open("d/file", os.O_RDONLY),
    "create": lambda: _open("d/new", os.O_CREAT | os.O_WRONLY),
    "open or create": lambda: _open("d/file", os.O_CREAT | os.O_WRONLY),
    "mkdir": lambda: os.mkdir("d/new", 0o755),
    "mkdir of what is there": lambda: os.mkdir("d/file", 0o755),
    "mkfifo": lambda: os.mkfifo("d/new", 0o644),
    "symlink": lambda: os.symlink("x", "d/new"),
    "link into": lambda: os.link("mine", "d/new"),
    "link out of": lambda: os.link("d/file", "new"),
    "unlink": lambda: os.unlink("d/file"),
    "unlink what is missing": lambda: os.unlink("d/missing"),
    "rmdir": lambda: os.rmdir("d/empty"),
    "rename within": lambda: os.rename("d/file", "d/new"),
    "rename out of": lambda: os.rename("d/file", "new"),
    "rename into": lambda: os.rename("mine", "d/new"),
    "rename over": lambda: os.rename("mine", "d/file"),
    "rename a directory out of": lambda: os.rename("d/empty", "new"),
    "exchange": lambda: renameat2("mine", "d/file", 2),
    "chmod below": lambda: os.chmod("d/file", 0o600),
    "readlink below": lambda: os.readlink("d/link"),
}

OF_A_FILE: dict[str, Callable[[], object]] = {
    "read": lambda: _open("file", os.O_RDONLY),
    "write": lambda: _open("file", os.O_WRONLY),
    "both": lambda: _open("file", os.O_RDWR),
    "truncating open": lambda: _open("file", os.O_WRONLY | os.O_TRUNC),
    "truncating open to read": lambda: _open("file", os.O_RDONLY | os.O_TRUNC),
    "truncate": lambda: os.truncate("file", 1),
    "noatime": lambda: _open("file", os.O_RDONLY | os.O_NOATIME),
    "execute": lambda: syscall("faccessat", AT_FDCWD, b"file", os.X_OK, AT_EACCESS),
    "access": lambda: [os.access("file", way) for way in range(8)],
    "chmod": lambda: os.chmod("file", 0o640),
    "utimensat now": lambda: os.utime("file"),
    "utimensat": lambda: os.utime("file", ns=(LONG_AGO + 1, LONG_AGO + 2)),
    "utimensat omit": lambda: _utimensat("file", (0, OMIT), (0, OMIT)),
    "utimensat atime now": lambda: _utimensat("file", (0, NOW), (0, OMIT)),
    "utimensat mtime now": lambda: _utimensat("file", (0, OMIT), (0, NOW)),
    "setxattr": lambda: os.setxattr("file", "user.a", b"b"),
    "getxattr": lambda: os.getxattr("file", "user.there"),
    "removexattr": lambda: os.removexattr("file", "user.there"),
    "link": lambda: os.link("file", "new"),
}

NOW = (1 << 30) - 1
OMIT = (1 << 30) - 2


def _utimensat(path: str, atime: tuple[int, int], mtime: tuple[int, int], flags: int = 0) -> int:
    import ctypes

    class Timespec(ctypes.Structure):
        _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]

    times = (Timespec * 2)(Timespec(*atime), Timespec(*mtime))
    return syscall("utimensat", AT_FDCWD, os.fsencode(path), times, flags)


def directories() -> Iterator[Case]:
    """Every mode of a directory, for every class of actor."""
    for actor in ACTORS:
        for bits in MODES:
            scene = (
                Thing("directory", "d", _spread(bits, actor), OWNER),
                Thing("file", "d/file", 0o666, OWNER),
                Thing("directory", "d/empty", 0o777, OWNER),
                Thing("symlink", "d/link", None, OWNER, target="file"),
                Thing("file", "mine", 0o666, actor),
            )
            for name, call in IN_A_DIRECTORY.items():
                yield Case(f"{name}: {actor.name} {bits}", scene, call, actor)


def files() -> Iterator[Case]:
    """Every mode of a file, for every class of actor."""
    for actor in ACTORS:
        for bits in MODES:
            scene = (
                Thing("file", "file", _spread(bits, actor), OWNER, xattrs={"user.there": b"x"}),
            )
            for name, call in OF_A_FILE.items():
                yield Case(f"{name}: {actor.name} {bits}", scene, call, actor)


def sticky() -> Iterator[Case]:
    """Only the owners of a sticky directory and of its entry may remove or rename that."""
    actors = (ROOT, OWNER, MEMBER, OTHER)
    calls: dict[str, Callable[[], object]] = {
        "unlink": lambda: os.unlink("d/it"),
        "rmdir": lambda: os.rmdir("d/it"),
        "rename within": lambda: os.rename("d/it", "d/new"),
        "rename out of": lambda: os.rename("d/it", "new"),
        "rename over": lambda: os.rename("mine", "d/it"),
        "rename within over": lambda: os.rename("d/mine", "d/it"),
        "exchange": lambda: renameat2("d/mine", "d/it", 2),
        "create": lambda: _open("d/new", os.O_CREAT | os.O_WRONLY),
        "open or create": lambda: _open("d/it", os.O_CREAT | os.O_RDONLY | os.O_NONBLOCK),
        "open to write or create": lambda: _open("d/it", os.O_CREAT | os.O_RDWR | os.O_NONBLOCK),
        "link out of": lambda: os.link("d/it", "new", follow_symlinks=False),
    }
    for kind in ("file", "directory", "symlink", "fifo"):
        for of_directory in (ROOT, OWNER, OTHER):
            for of_entry in (ROOT, OWNER, OTHER):
                for actor in actors:
                    mine = "directory" if kind == "directory" else "file"
                    scene = (
                        Thing("directory", "d", 0o1777, of_directory),
                        Thing(kind, "d/it", 0o777, of_entry, target="x"),
                        Thing(mine, "d/mine", 0o777, actor),
                        Thing(mine, "mine", 0o777, actor),
                    )
                    for name, call in calls.items():
                        # The machine may guard FIFOs and files in sticky directories
                        # (fs.protected_*), on the mount as elsewhere.
                        yield Case(
                            f"{name}: {kind} of {of_entry.name} in one of {of_directory.name},"
                            f" by {actor.name}",
                            scene,
                            call,
                            actor,
                        )


def moved_directories() -> Iterator[Case]:
    """Moving a directory changes its `..`: that takes the right to write into it."""
    for actor in (OWNER, MEMBER, OTHER):
        for bits in MODES:
            scene = (
                Thing("directory", "one", 0o777, OWNER),
                Thing("directory", "one/sub", _spread(bits, actor), OWNER),
                Thing("directory", "two", 0o777, OWNER),
                Thing("directory", "two/sub", 0o777, actor),
            )
            for name, source, target, flags in (
                ("within", "one/sub", "one/new", 0),
                ("across", "one/sub", "two/new", 0),
                ("over", "one/sub", "two/sub", 0),
                ("under", "two/sub", "one/sub", 0),
                ("exchange", "one/sub", "two/sub", 2),
            ):
                yield Case(
                    f"{name}: {actor.name} {bits}",
                    scene,
                    lambda source=source, target=target, flags=flags: renameat2(
                        source, target, flags
                    ),
                    actor,
                )


def access_types() -> Iterator[Case]:
    """access(2) by every actor on every type of object."""
    for kind in ("file", "directory", "fifo", "socket", "character"):
        for actor in ACTORS:
            for mode in (0o000, 0o111, 0o222, 0o444, 0o640, 0o750, 0o777, 0o100, 0o010, 0o001):
                yield Case(
                    f"{kind} {mode:03o} by {actor.name}",
                    (Thing(kind, "it", mode, OWNER),),
                    lambda: [os.access("it", way) for way in range(8)],
                    actor,
                )


def written_modes() -> Iterator[Case]:
    """Whether one may open what one just created without rights on it."""
    for actor in ACTORS:
        for mode in (0o000, 0o200, 0o400, 0o444):
            yield Case(
                f"create with {mode:03o} by {actor.name}",
                (Thing("directory", "d", 0o777),),
                lambda mode=mode: _written(mode),
                actor,
            )


def _written(mode: int) -> list[object]:
    descriptor = os.open("d/new", os.O_CREAT | os.O_EXCL | os.O_RDWR, mode)
    try:
        seen: list[object] = [os.write(descriptor, b"data"), os.pread(descriptor, 10, 0).decode()]
        os.fchmod(descriptor, 0)
        seen += [os.write(descriptor, b"more"), stat.filemode(os.fstat(descriptor).st_mode)]
    finally:
        os.close(descriptor)
    try:
        os.close(os.open("d/new", os.O_RDWR))
    except OSError as error:
        seen.append(error.errno)
    return seen
