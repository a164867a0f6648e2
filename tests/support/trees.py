"""Directory trees: made from a seed, and compared."""

import hashlib
import os
import random
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import wait_until

_WORDS = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "mu",
]


def text(random_: random.Random, size: int) -> bytes:
    """About `size` bytes of lines that compress the way source code does."""
    line = [" ".join(random_.choices(_WORDS, k=8)) for _ in range(max(1, size // 400))]
    count = max(1, size // 45)
    body = "\n".join(f"{random_.choice(line)} {number}" for number in range(count))
    return body.encode()[:size]


def fill(
    top: Path, *, seed: int, files: int, directories: int = 20, size: int = 4096
) -> list[Path]:
    """Write `files` files of up to 2 * `size` bytes below `top`; the same seed gives the same
    tree."""
    random_ = random.Random(seed)
    places = [top]
    for number in range(directories):
        parent = random_.choice(places[-8:])
        places.append(parent / f"{random_.choice(_WORDS)}-{number}")
        places[-1].mkdir(parents=True)
    made = []
    for number in range(files):
        path = random_.choice(places) / f"{random_.choice(_WORDS)}{number}.txt"
        path.write_bytes(text(random_, random_.randint(1, 2 * size)))
        made.append(path)
    return made


def fill_with_oddities(top: Path) -> None:
    """Everything that an archive carries besides plain files, with times to the nanosecond."""
    (top / "empty-directory").mkdir()
    (top / "empty").touch()
    (top / "private").write_bytes(b"read only\n")
    (top / "program").write_bytes(b"#!/bin/sh\necho it runs\n")
    (top / "deep" / "er").mkdir(parents=True)
    (top / "deep" / "er" / "file").write_bytes(b"x" * 70_000)
    (top / "sticky").mkdir()
    (top / "relative").symlink_to("deep/er/file")
    (top / "absolute").symlink_to("/usr/bin/env")
    (top / "dangling").symlink_to("nowhere/at/all")
    (top / "up").symlink_to("../" * 3 + "etc")
    os.link(top / "program", top / "deep" / "same-program")
    os.link(top / "program", top / "same-program")
    for number, name in enumerate(["empty", "private", "program", "deep/er/file", "dangling"]):
        when = 1_500_000_000_000_000_000 + number * 1_000_000_000 + 123_456_789 + number
        os.utime(top / name, ns=(when, when), follow_symlinks=False)
    for name, mode in [("private", 0o400), ("program", 0o755), ("sticky", 0o1777), ("deep", 0o750)]:
        (top / name).chmod(mode)
    for name in ("deep/er", "deep", "empty-directory", "sticky"):
        os.utime(top / name, ns=(1_400_000_000_987_654_321,) * 2)


@dataclass(frozen=True)
class Entry:
    """What two trees have to agree on about one name."""

    kind: str
    mode: int
    size: int
    mtime_ns: int
    links: int
    content: str
    """Digest of a file, target of a symbolic link."""
    twin: bytes
    """First name of the same inode."""


def manifest(top: Path, *, times: str = "dl-") -> dict[bytes, Entry]:
    """Describe everything below `top`, by path relative to it.

    `times` names the kinds of objects (as `ls -l` writes them) whose times count.
    """
    first: dict[int, bytes] = {}
    found = {}
    for path, info in _walk(os.fsencode(top)):
        kind = stat.filemode(info.st_mode)[0]
        name = os.path.relpath(path, os.fsencode(top))
        twin = b""
        if kind != "d" and info.st_nlink > 1:
            twin = first.setdefault(info.st_ino, name)
        found[name] = Entry(
            kind=kind,
            mode=stat.S_IMODE(info.st_mode),
            size=0 if kind == "d" else info.st_size,
            mtime_ns=info.st_mtime_ns if kind in times else 0,
            links=info.st_nlink,
            content=_content(path, kind),
            twin=twin,
        )
    return found


def _walk(top: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    for name in sorted(os.listdir(top)):
        path = os.path.join(top, name)
        info = os.lstat(path)
        yield path, info
        if stat.S_ISDIR(info.st_mode):
            yield from _walk(path)


def _content(path: bytes, kind: str) -> str:
    if kind == "l":
        return os.fsdecode(os.readlink(path))
    if kind != "-":
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(one: Path, other: Path, times: str = "dl-") -> list[str]:
    """What distinguishes two trees, at most 20 lines of it; empty when they are equal."""
    left, right = manifest(one, times=times), manifest(other, times=times)
    lines = []
    for name in sorted(left.keys() | right.keys()):
        if left.get(name) != right.get(name):
            lines.append(f"{os.fsdecode(name)!r}: {left.get(name)} / {right.get(name)}")
    return lines[:20]


def wait_until_equal(one: Path, other: Path, *, timeout: float = 10, times: str = "dl-") -> float:
    """Wait until two trees are equal; returns the seconds that it took."""
    last: list[str] = []

    def equal() -> bool:
        last[:] = differences(one, other, times)
        return not last

    try:
        _, seconds = wait_until(equal, timeout=timeout, interval=0.05)
    except AssertionError:
        lines = "\n".join(last)
        raise AssertionError(f"After {timeout} s {one} and {other} differ:\n{lines}") from None
    return seconds
