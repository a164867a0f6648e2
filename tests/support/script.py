"""A short history that has one of everything, the same each time, for faults at chosen points.

Pure, as history.py is. The pauses let what came before them leave for the box, so that there are
many frames; where none is, operations meet in a batch.
"""

import io
import tarfile
from pathlib import Path

from tests.support.history import Operation, members

PAUSE = 0.03
SEED = 77
UNPACKED = "unpacked"


def script(*, online: bool = True) -> list[Operation]:
    """Every operation; each file is closed before the next is opened.

    Not online: without those that wait for the box.
    """
    git = _git() if online else []
    operations = [
        *_new_files(), *_in_place(), *_names(), *_short_lives(), *git, *_archive(), *_last(),
    ]  # fmt: skip
    return [one for one in operations if online or one[0] not in ("fsync", "fsyncdir", "wait")]


def _file(
    path: str, seed: int, size: int, *finish: Operation, mode: int = 0o644
) -> list[Operation]:
    begin: list[Operation] = [("create", path, mode), ("write", path, 0, seed, size)]
    return [*begin, *finish, ("close", path)]


def _new_files() -> list[Operation]:
    return [
        ("mkdir", "dir", 0o755),
        *_file("dir/a", 1, 1000, ("chmod", "dir/a", 0o600), ("utime", "dir/a", 10**18 + 123)),
        *_file("b", 2, 3000, ("fsync", "b"), ("write", "b", 3000, 3, 500)),
        ("wait", "", PAUSE),
        # As editors save.
        *_file("b.tmp", 4, 2500, ("fsync", "b.tmp")),
        ("rename", "b.tmp", "b"),
        ("mkdir", "dir/sub", 0o700),
        ("symlink", "dir/sub/to-a", "../a"),
        ("link", "dir/a", "dir/sub/hard"),
        # More than a record of the journal takes.
        *_file("big", 5, 300_000),
        ("wait", "", PAUSE),
    ]


def _in_place() -> list[Operation]:
    return [
        ("open-append", "dir/a"),
        ("append", "dir/a", 6, 500),
        ("append", "dir/a", 7, 300),
        ("wait", "", PAUSE),
        ("append", "dir/a", 8, 200),
        ("fsync", "dir/a"),
        ("append", "dir/a", 9, 100),
        ("close", "dir/a"),
        ("setxattr", "dir/a", "user.note", "one"),
        ("setxattr", "b", "user.note", "two"),
        ("setxattr", "b", "user.more", "three"),
        ("removexattr", "b", "user.note"),
        ("open", "b"),
        ("truncate", "b", 100),
        ("truncate", "b", 5000),
        ("write", "b", 4000, 10, 600),
        ("close", "b"),
        ("wait", "", PAUSE),
        ("open", "big"),
        ("write", "big", 150_000, 11, 70),
        ("truncate", "big", 290_000),
        ("utime", "big", 10**18 + 456),
        ("close", "big"),
    ]


def _names() -> list[Operation]:
    return [
        # Twice, it would undo itself.
        ("rename", "dir/a", "between"),
        ("rename", "b", "dir/a"),
        ("rename", "between", "b"),
        ("wait", "", PAUSE),
        ("rename", "b", "between"),
        ("rename", "dir/a", "b"),
        ("rename", "between", "dir/a"),
        ("rename", "dir", "moved"),
        ("chmod", "moved", 0o750),
        ("fsyncdir", "moved"),
        ("link", "moved/a", "one-more"),
        ("unlink", "moved/a"),
    ]


def _short_lives() -> list[Operation]:
    return [
        *_file("gone", 12, 800),
        ("unlink", "gone"),
        ("create", "unnamed", 0o644),
        ("write", "unnamed", 0, 13, 900),
        ("wait", "", PAUSE),
        ("unlink", "unnamed"),
        ("scribble", "unnamed", 100, 14, 2000),
        ("close", "unnamed"),
        ("mkdir", "empty", 0o755),
        ("wait", "", PAUSE),
        ("rmdir", "empty"),
        ("mkdir", "empty", 0o711),
        *_file("gone", 15, 20),
    ]


def _git() -> list[Operation]:
    git, branch = "repository/.git", "repository/.git/refs/heads/main"
    made: list[Operation] = [("mkdir", "repository", 0o755), ("mkdir", git, 0o755)]
    made += [("mkdir", f"{git}/{name}", 0o755) for name in ("objects", "refs", "refs/heads")]
    made += _file(f"{git}/HEAD", 16, 20)
    for seed in (17, 18):
        made += [*_file(f"{branch}.lock", seed, 41), ("rename", f"{branch}.lock", branch)]
    made += [
        *_file(f"{git}/index.lock", 19, 600),
        ("rename", f"{git}/index.lock", f"{git}/index"),
        *_file(f"{git}/packed-refs.lock", 20, 10),
        ("unlink", f"{git}/packed-refs.lock"),
    ]
    return made


def _archive() -> list[Operation]:
    return [("mkdir", UNPACKED, 0o755), ("unpack", UNPACKED, SEED), ("wait", "", PAUSE)]


def _last() -> list[Operation]:
    return [
        ("rename", "one-more", "moved/a"),
        ("rename", "gone", "big"),
        *_file("last", 21, 100, mode=0o600),
    ]


def write_archive(path: Path) -> None:
    """Write what `unpack` unpacks."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for member in members(SEED):
            info = tarfile.TarInfo(member.name)
            info.type = {"d": tarfile.DIRTYPE, "-": tarfile.REGTYPE, "l": tarfile.SYMTYPE}.get(
                member.kind, tarfile.LNKTYPE
            )
            info.mode, info.mtime = member.mode, member.mtime
            if member.kind in "lh":
                info.linkname = member.content.decode()
            info.size = len(member.content) if member.kind == "-" else 0
            archive.addfile(info, io.BytesIO(member.content) if info.size else None)
