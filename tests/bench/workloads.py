"""What is measured: each workload yields one or more rows of the table.

A workload runs once and returns a measurement per row. Times are taken around the work alone;
the requests of a cold run are counted from the mount on, because the snapshot that the mount
begins with is part of the price.
"""

import ctypes
import os
import select
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.grounds import Ground
from tests.support.commands import clean_environment, run

IN_CLOSE_WRITE = 0x8
WAIT = 30.0
"""Seconds after which a change in the box counts as lost."""


@dataclass(frozen=True)
class Row:
    """One line of the table, with what the design aims at for a round trip of 20 ms."""

    key: str
    title: str
    target: float | None
    budget: str = ""


@dataclass(frozen=True)
class Measurement:
    """One run of one row."""

    seconds: float
    requests: int | None = None
    waited: int | None = None


@dataclass(frozen=True)
class Fixture:
    """Local things that the workloads need besides the ground."""

    home: Path
    archive: Path
    bulk: int


Result = dict[str, Measurement]
Workload = Callable[[Ground, Fixture], Result]

ROWS = [
    Row("mount", "mount to first ls", 0.7, "5"),
    Row("status-first", "git status, first after mount", 0.35, "5"),
    Row("status-warm", "git status, warm", 0.06, "0"),
    Row("grep", "grep -r, 2,000 files, cold", 1.0, "8 waited"),
    Row("copy-out", "cp -r 500 files out, cold", 0.45, "5 waited"),
    Row("tar", "tar xf 1,000 files: at the shell", 1.2, "6"),
    Row("tar-in-box", "... all in the box", 1.5),
    Row("rm", "rm -rf 1,000 files", 0.3),
    Row("save", "editor save (fsync + rename), p50", 0.025, "1 waited"),
    Row("stat-existing", "1,000 stats, existing, cold", 0.12, "0"),
    Row("stat-missing", "1,000 stats, missing, cold", 0.12, "0"),
    Row("event", "change in the box to local event, p95", 0.06),
    Row("seen", "... to its attributes here, p95", 0.06),
    Row("read-bulk", "read the large file, cold", None),
    Row("read-bulk-again", "... again", None),
    Row("write-bulk", "write as much + fsync", None),
]


class Watch:
    """Time and requests of the body of a `with`."""

    def __init__(self, ground: Ground, before: tuple[int, int] | None) -> None:
        self.ground = ground
        self.before = before
        self.seconds = 0.0

    def measurement(self) -> Measurement:
        now = self.ground.counts()
        if now is None:
            return Measurement(self.seconds)
        before = self.before or (0, 0)
        return Measurement(self.seconds, now[0] - before[0], now[1] - before[1])


@contextmanager
def timed(ground: Ground, *, since_mount: bool = False):
    """Measure the body; asking for the counts takes time, which is not part of it."""
    watch = Watch(ground, None if since_mount else ground.counts())
    start = time.perf_counter()
    yield watch
    watch.seconds = time.perf_counter() - start


def _git_status(ground: Ground, fixture: Fixture) -> None:
    argv = ["git", "status", "--porcelain"]
    environment = clean_environment(fixture.home)
    done = run(*argv, cwd=ground.top / "repository", env=environment, timeout=300)
    assert done.stdout == b""


def status_first(ground: Ground, fixture: Fixture) -> Result:
    mounted = ground.cold()
    with timed(ground, since_mount=True) as watch:
        _git_status(ground, fixture)
    return {"mount": Measurement(mounted), "status-first": watch.measurement()}


def status_warm(ground: Ground, fixture: Fixture) -> Result:
    for _ in range(2):
        _git_status(ground, fixture)
    ground.arrive()
    with timed(ground) as watch:
        _git_status(ground, fixture)
    return {"status-warm": watch.measurement()}


def grep(ground: Ground, fixture: Fixture) -> Result:
    ground.cold()
    argv = ["grep", "-r", "-c", "alpha beta", "--include=*.py", ground.top / "repository"]
    with timed(ground, since_mount=True) as watch:
        done = run(*argv, check=False, timeout=300)
    assert done.stdout.count(b"\n") == 2000
    return {"grep": watch.measurement()}


def copy_out(ground: Ground, fixture: Fixture) -> Result:
    ground.cold()
    target = fixture.home / "copy"
    with timed(ground, since_mount=True) as watch:
        run("cp", "-r", ground.top / "tree", target, timeout=300)
    assert sum(len(files) for _, _, files in os.walk(target)) == 500
    shutil.rmtree(target)
    return {"copy-out": watch.measurement()}


def tar_and_rm(ground: Ground, fixture: Fixture) -> Result:
    target = ground.top / "extracted"
    target.mkdir()
    ground.arrive()
    before = ground.counts()
    start = time.perf_counter()
    run("tar", "xf", fixture.archive, "-C", target, timeout=600)
    at_the_shell = time.perf_counter() - start
    ground.arrive()
    in_the_box = time.perf_counter() - start
    watch = Watch(ground, before)
    assert sum(len(files) for _, _, files in os.walk(target)) == 1000
    counted = watch.measurement()
    with timed(ground) as removal:
        run("rm", "-rf", target, timeout=600)
    ground.arrive()
    return {
        "tar": Measurement(at_the_shell, counted.requests, counted.waited),
        "tar-in-box": Measurement(in_the_box, counted.requests, counted.waited),
        "rm": removal.measurement(),
    }


def save(ground: Ground, fixture: Fixture) -> Result:
    path, temporary = ground.top / "edited", ground.top / "edited.tmp"
    times = []
    before = ground.counts()
    for number in range(50):
        start = time.perf_counter()
        with temporary.open("wb") as file:
            file.write(b"line %d of a text that is being edited\n" % number * 100)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        times.append(time.perf_counter() - start)
    ground.arrive()
    counted = Watch(ground, before).measurement()
    requests = None if counted.requests is None else round(counted.requests / len(times))
    return {"save": Measurement(statistics.median(times), requests, counted.waited)}


def stats(ground: Ground, fixture: Fixture) -> Result:
    # The names are known beforehand: it is looking them up that is measured.
    repository = ground.top / "repository"
    listed = run("git", "ls-files", cwd=repository, env=clean_environment(fixture.home), timeout=60)
    names = [repository / name for name in listed.stdout.decode().splitlines()[:1000]]
    assert len(names) == 1000
    found = {}
    for key, suffix in (("stat-existing", ""), ("stat-missing", ".missing")):
        paths = [os.fspath(name) + suffix for name in names]
        ground.cold()
        with timed(ground, since_mount=True) as watch:
            there = sum(map(os.path.lexists, paths))
        assert there == (0 if suffix else 1000)
        found[key] = watch.measurement()
    return found


def changes(ground: Ground, fixture: Fixture) -> Result:
    """The target is half a round trip and 50 ms."""
    if ground.box is None:
        raise RuntimeError("changes in the box are not told of")
    here, there = ground.top / "watched", ground.box / "watched"
    here.mkdir(exist_ok=True)
    ground.arrive()
    events, seen = [], []
    with watching(here) as wait:
        for number in range(40):
            start = time.perf_counter()
            (there / f"file{number}").write_bytes(b"new")
            wait(b"file%d" % number)
            events.append(time.perf_counter() - start)
    for number in range(40):
        path = here / f"file{number}"
        assert path.stat().st_size == 3
        start = time.perf_counter()
        (there / path.name).write_bytes(b"changed")
        while path.stat().st_size != 7:
            time.sleep(0.001)
            if time.perf_counter() - start > WAIT:
                raise TimeoutError("a change in the box is not seen")
        seen.append(time.perf_counter() - start)
    shutil.rmtree(here)
    ground.arrive()
    last = len(events) * 95 // 100
    return {
        "event": Measurement(sorted(events)[last]),
        "seen": Measurement(sorted(seen)[last]),
    }


@contextmanager
def watching(directory: Path) -> Iterator[Callable[[bytes], None]]:
    """Watch a directory as hot reloaders do; yields what waits until a file of it was written."""
    libc = ctypes.CDLL(None, use_errno=True)
    inotify = libc.inotify_init1(os.O_CLOEXEC)
    try:
        if (
            inotify < 0
            or libc.inotify_add_watch(inotify, os.fsencode(directory), IN_CLOSE_WRITE) < 0
        ):
            raise OSError(ctypes.get_errno(), f"{directory} cannot be watched")

        def wait(name: bytes) -> None:
            heard = b""
            while name + b"\0" not in heard:
                if not select.select([inotify], [], [], WAIT)[0]:
                    raise TimeoutError("no event of a change in the box")
                heard += os.read(inotify, 65536)

        yield wait
    finally:
        os.close(inotify)


def bulk(ground: Ground, fixture: Fixture) -> Result:
    ground.cold()
    found = {}
    for key in ("read-bulk", "read-bulk-again"):
        with timed(ground, since_mount=key == "read-bulk") as watch:
            assert _read(ground.top / "large") == fixture.bulk
        found[key] = watch.measurement()
    block = os.urandom(1 << 20)
    path = ground.top / "written"
    with timed(ground) as watch, path.open("wb", buffering=0) as file:
        for _ in range(fixture.bulk >> 20):
            file.write(block)
        os.fsync(file.fileno())
    found["write-bulk"] = watch.measurement()
    path.unlink()
    ground.arrive()
    return found


def _read(path: Path) -> int:
    total = 0
    with path.open("rb", buffering=0) as file:
        while part := file.read(1 << 20):
            total += len(part)
    return total


WORKLOADS: list[tuple[Workload, tuple[str, ...]]] = [
    (status_first, ("mount", "status-first")),
    (status_warm, ("status-warm",)),
    (grep, ("grep",)),
    (copy_out, ("copy-out",)),
    (tar_and_rm, ("tar", "tar-in-box", "rm")),
    (save, ("save",)),
    (stats, ("stat-existing", "stat-missing")),
    (changes, ("event", "seen")),
    (bulk, ("read-bulk", "read-bulk-again", "write-bulk")),
]
