"""Modes, owners, times: what may be set by whom, and what is cleared, kept or inherited."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator

from tests.posix.stage import (
    ACTORS,
    LONG_AGO,
    MEMBER,
    OTHER,
    OWNER,
    ROOT,
    Actor,
    Case,
    Thing,
    syscall,
)
from tests.posix.tables.rights import NOW, OMIT, _utimensat

BITS = (0o0644, 0o4755, 0o2755, 0o2644, 0o6777, 0o1777, 0o7777, 0o0000, 0o6644, 0o2070)
TYPES = ("file", "directory", "fifo", "socket", "character")


def chmod() -> Iterator[Case]:
    """Set-ID bits are lost to those who are not in the group."""
    for kind in TYPES:
        for actor in ACTORS:
            for group in (OWNER.gid, OTHER.gid, 0):
                for mode in BITS:
                    yield Case(
                        f"{kind} of group {group} to {mode:04o} by {actor.name}",
                        (Thing(kind, "it", 0o644, OWNER, group),),
                        lambda mode=mode: os.chmod("it", mode),
                        actor,
                    )


def chown() -> Iterator[Case]:
    """Who may give away what; set-ID bits are cleared."""
    ids = (-1, OWNER.uid, MEMBER.uid, OTHER.uid)
    for kind in ("file", "directory", "symlink"):
        for mode in (0o0644, 0o6755, 0o2644, 0o6777, 0o7755):
            if kind == "symlink" and mode != 0o0644:
                continue
            for actor in (*ACTORS, Actor("owner with groups", OWNER.uid, OWNER.gid, (MEMBER.gid,))):
                for uid in ids:
                    for gid in (-1, OWNER.gid, MEMBER.gid):
                        yield Case(
                            f"{kind} {mode:04o} to {uid}:{gid} by {actor.name}",
                            (Thing(kind, "it", mode, OWNER, target="x"),),
                            lambda uid=uid, gid=gid: os.lchown("it", uid, gid),
                            actor,
                            differs=AS_BEFORE_A_WRITE
                            if (uid, gid, mode, actor) == (-1, -1, 0o2644, OTHER)
                            else "",
                        )


AS_BEFORE_A_WRITE = "the kernel asks for the same as before a write: it is granted"
CLEARING: dict[str, Callable[[], object]] = {
    "write": lambda: _write(os.O_WRONLY, b"x"),
    "write nothing": lambda: _write(os.O_WRONLY, b""),
    "append": lambda: _write(os.O_WRONLY | os.O_APPEND, b"x"),
    "large write": lambda: _write(os.O_WRONLY, bytes(300_000)),
    "truncating open": lambda: _write(os.O_WRONLY | os.O_TRUNC, b""),
    "truncate down": lambda: os.truncate("it", 1),
    "truncate up": lambda: os.truncate("it", 100),
    "truncate to the same": lambda: os.truncate("it", 7),
    "ftruncate": lambda: _ftruncate(2),
    "chown to the same": lambda: os.chown("it", os.geteuid(), -1),
    "chown nothing": lambda: os.chown("it", -1, -1),
    "link": lambda: os.link("it", "other"),
    "rename": lambda: os.rename("it", "other"),
    "touch": lambda: os.utime("it"),
    "setxattr": lambda: os.setxattr("it", "user.a", b"b"),
    "allocate": lambda: _allocate(100),
}


def _write(flags: int, data: bytes) -> int:
    descriptor = os.open("it", flags)
    try:
        return os.write(descriptor, data)
    finally:
        os.close(descriptor)


def _ftruncate(size: int) -> None:
    descriptor = os.open("it", os.O_RDWR)
    try:
        os.ftruncate(descriptor, size)
    finally:
        os.close(descriptor)


def _allocate(size: int) -> int:
    descriptor = os.open("it", os.O_RDWR)
    try:
        os.posix_fallocate(descriptor, 0, size)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def set_id_bits() -> Iterator[Case]:
    """What a change of content by whom clears."""
    for actor in ACTORS:
        for mode in (0o4777, 0o2777, 0o6777, 0o2767, 0o6666, 0o7777, 0o0777):
            for name, call in CLEARING.items():
                yield Case(
                    f"{name} of {mode:04o} by {actor.name}",
                    (Thing("file", "it", mode, OWNER),),
                    call,
                    actor,
                    differs=AS_BEFORE_A_WRITE
                    if (name, mode, actor) == ("chown nothing", 0o2767, OTHER)
                    else "",
                )


def times() -> Iterator[Case]:
    """utimensat: values, omitted ones, now; files, directories, links."""
    stamps = {
        "zero": (0, 0),
        "one": (0, 1),
        "the last nanosecond": (5, 999_999_999),
        "too many nanoseconds": (5, 1_000_000_000),
        "negative nanoseconds": (5, -1),
        "before the epoch": (-1, 5),
        "after 2038": (1 << 31, 7),
        "after 2106": ((1 << 32) + 5, 7),
        "now": (0, NOW),
        "omit": (0, OMIT),
        "now with seconds": (123, NOW),
        "omit with seconds": (123, OMIT),
    }
    for kind in ("file", "directory", "symlink", "fifo", "socket"):
        for a_name, atime in stamps.items():
            for m_name, mtime in stamps.items():
                if kind != "file" and a_name not in (m_name, "omit") and m_name != "omit":
                    continue
                yield Case(
                    f"{kind}: atime {a_name}, mtime {m_name}",
                    (Thing(kind, "it", target="nowhere"),),
                    lambda atime=atime, mtime=mtime: _utimensat("it", atime, mtime, 0x100),
                )
    for flags in (0, 0x100, 1, 0x1000):
        for path in ("", "it", "link"):
            yield Case(
                f"flags {flags:#x} on {path!r}",
                (Thing("file", "it"), Thing("symlink", "link", target="it")),
                lambda flags=flags, path=path: _utimensat(path, (1, 1), (2, 2), flags),
            )


def births() -> Iterator[Case]:
    """Mode, owner, group and times of what is made, by umask, parent and actor."""
    makers: dict[str, Callable[[int], object]] = {
        "open": lambda mode: os.close(os.open("d/new", os.O_CREAT | os.O_WRONLY, mode)),
        "open anew": lambda mode: os.close(
            os.open("d/new", os.O_CREAT | os.O_EXCL | os.O_RDWR, mode)
        ),
        "mkdir": lambda mode: os.mkdir("d/new", mode),
        "mkfifo": lambda mode: os.mkfifo("d/new", mode),
        "mknod": lambda mode: os.mknod("d/new", stat.S_IFREG | mode),
        "mknod socket": lambda mode: os.mknod("d/new", stat.S_IFSOCK | mode),
        "mknod device": lambda mode: os.mknod("d/new", stat.S_IFCHR | mode, os.makedev(1, 3)),
        "symlink": lambda mode: os.symlink("x", "d/new"),
        "link": lambda mode: os.link("file", "d/new"),
    }
    for maker, make in makers.items():
        for actor in ACTORS:
            for parent in (0o777, 0o2777, 0o3777):
                for umask, mode in ((0, 0o666), (0o022, 0o777), (0o077, 0o7777), (0o777, 0o777),
                                    (0, 0o2755), (0, 0o6777), (0o022, 0o1777)):  # fmt: skip
                    yield Case(
                        f"{maker} {mode:04o}, umask {umask:03o}, in {parent:04o} by {actor.name}",
                        (
                            Thing("directory", "d", parent, OWNER, MEMBER.gid),
                            Thing("file", "file", 0o666, actor),
                        ),
                        lambda make=make, mode=mode: make(mode),
                        actor,
                        umask,
                    )
    for kind in (0, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFREG, stat.S_IFBLK, 0o150000):
        yield Case(
            f"mknod of type {kind:o}",
            (),
            lambda kind=kind: os.mknod("new", kind | 0o644, os.makedev(7, 200)),
            ROOT,
        )


def regrouped() -> Iterator[Case]:
    """What is written again keeps its owner, group, mode, attributes and other names."""
    rewrites: dict[str, Callable[[], object]] = {
        "rewrite": lambda: _write(os.O_WRONLY | os.O_TRUNC, b"again"),
        "overwrite": lambda: _write(os.O_WRONLY, b"again"),
        "append": lambda: _write(os.O_WRONLY | os.O_APPEND, b"again"),
        "truncate": lambda: os.truncate("it", 0),
        "chgrp and rewrite": lambda: [
            os.chown("it", -1, MEMBER.gid),
            _write(os.O_WRONLY | os.O_TRUNC, b"again"),
        ],
        "chmod and rewrite": lambda: [
            os.chmod("it", 0o640),
            _write(os.O_WRONLY | os.O_TRUNC, b"again"),
        ],
        "rewrite and chown": lambda: [
            _write(os.O_WRONLY | os.O_TRUNC, b"again"),
            os.chown("it", OTHER.uid, OTHER.gid),
        ],
        "rewrite and set times": lambda: [
            _write(os.O_WRONLY | os.O_TRUNC, b"again"),
            os.utime("it", ns=(LONG_AGO + 1, LONG_AGO + 2)),
        ],
        "set times and rewrite": lambda: [
            os.utime("it", ns=(LONG_AGO + 1, LONG_AGO + 2)),
            _write(os.O_WRONLY | os.O_TRUNC, b"again"),
        ],
    }
    for name, call in rewrites.items():
        for owner in (ROOT, OWNER):
            for group in (0, OWNER.gid, OTHER.gid):
                for links in (1, 2):
                    things = [Thing("file", "it", 0o646, owner, group, xattrs={"user.a": b"b"})]
                    things += [Thing("link", "other", target="it")] * (links - 1)
                    yield Case(
                        f"{name}: {links} names, of {owner.name} and group {group}",
                        tuple(things),
                        call,
                        ROOT,
                    )


def fchmod_and_fchown() -> Iterator[Case]:
    """By descriptor: of a file that is open to read, to write, by path only, and unlinked."""
    for flags, name in ((os.O_RDONLY, "read"), (os.O_WRONLY, "write"), (os.O_PATH, "path")):
        for gone in (False, True):
            for kind in ("file", "directory"):
                if kind == "directory" and flags == os.O_WRONLY:
                    continue
                for call_name, call in {
                    "fchmod": lambda descriptor: os.fchmod(descriptor, 0o4711),
                    "fchown": lambda descriptor: os.fchown(descriptor, -1, os.getegid()),
                    "futimens": lambda descriptor: os.utime(descriptor, ns=(5, LONG_AGO + 7)),
                    "ftruncate": lambda descriptor: os.ftruncate(descriptor, 3),
                    "fstat": os.fstat,
                    "fsync": os.fsync,
                    "setxattr": lambda descriptor: os.setxattr(descriptor, "user.a", b"b"),
                }.items():
                    yield Case(
                        f"{call_name} of a {kind} open to {name}, {'gone' if gone else 'there'}",
                        (Thing(kind, "it"),),
                        lambda call=call, flags=flags, gone=gone: _by_descriptor(call, flags, gone),
                    )


def _by_descriptor(call: Callable[[int], object], flags: int, gone: bool) -> list[object]:
    descriptor = os.open("it", flags)
    try:
        if gone:
            if os.path.isdir("it"):
                os.rmdir("it")
            else:
                os.unlink("it")
        try:
            call(descriptor)
            answer = 0
        except OSError as error:
            answer = error.errno or -1
        info = os.fstat(descriptor)
        size = 0 if stat.S_ISDIR(info.st_mode) else info.st_size
        return [answer, stat.filemode(info.st_mode), info.st_nlink, size, info.st_mtime_ns < 2**60]
    finally:
        os.close(descriptor)


def missing_permissions() -> Iterator[Case]:
    """chmod, chown and times of what one may not search for."""
    for actor in (OWNER, MEMBER, OTHER):
        for name, call in {
            "chmod": lambda: os.chmod("d/it", 0o600),
            "chown": lambda: os.chown("d/it", -1, -1),
            "utimensat": lambda: os.utime("d/it"),
            "truncate": lambda: os.truncate("d/it", 1),
            "getxattr": lambda: os.getxattr("d/it", "user.a"),
        }.items():
            for mode in (0o666, 0o777, 0o700, 0o600):
                yield Case(
                    f"{name} below {mode:03o} by {actor.name}",
                    (Thing("directory", "d", mode, OWNER), Thing("file", "d/it", 0o666, actor)),
                    call,
                    actor,
                )


__all__ = ["births", "chmod", "chown", "set_id_bits", "syscall", "times"]
