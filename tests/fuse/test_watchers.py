"""Programs that watch the mount hear of changes in the box, and the other way round."""

import contextlib
import functools
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fuse.conftest import MakeBox, Place
from tests.support.accounts import Account, as_launcher
from tests.support.mounts import PLAIN, MountedBox
from tests.support.trees import differences, wait_until_equal
from tests.support.waiting import wait_until
from tests.support.watching import Heard, watching

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PLAIN, reason="a directory has one side only"),
]

QUIET = 0.4
"""Seconds: several times what an event takes."""

FLUSHED = 0.02
"""Seconds of quiet after which the daemon sends what was changed."""

WRITTEN = ["MODIFY ./{}", "OPEN ./{}", "CLOSE_WRITE,CLOSE ./{}"]
CREATED = ["CREATE ./{}", "OPEN ./{}", "MODIFY ./{}", "CLOSE_WRITE,CLOSE ./{}"]


@pytest.fixture
def known(place: Place, account: Account) -> Place:
    account.perform(_make_known, place)
    return place


def _make_known(place: Place) -> None:
    (place.mount / "file").write_bytes(b"old content")
    (place.mount / "other").write_bytes(b"other content")
    (place.mount / "directory").mkdir()
    place.sync()


def _named(events: list[str], name: str) -> list[str]:
    return [event.format(name) for event in events]


@contextlib.contextmanager
def blind(box: MountedBox) -> Iterator[None]:
    """The helper looks when a change of several steps is over, however slow they are."""
    (pid,) = as_launcher(box.helpers)
    as_launcher(os.kill, pid, signal.SIGSTOP)
    try:
        yield
    finally:
        as_launcher(os.kill, pid, signal.SIGCONT)


def _save(top: Path) -> None:
    (top / "file.tmp").write_bytes(b"saved the way editors do")
    (top / "file.tmp").rename(top / "file")


CHANGES: list[tuple[str, Callable[[Path], object], list[str]]] = [
    ("create", lambda top: (top / "new").write_bytes(b"content"), _named(CREATED, "new")),
    ("rewrite", lambda top: (top / "file").write_bytes(b"content"), _named(WRITTEN, "file")),
    ("mode", lambda top: (top / "file").chmod(0o640), ["ATTRIB ./file"]),
    ("time", lambda top: os.utime(top / "file"), ["ATTRIB ./file"]),
    ("remove", lambda top: (top / "file").unlink(), ["DELETE ./file"]),
    (
        "rename",
        lambda top: (top / "file").rename(top / "moved"),
        ["MOVED_FROM ./file", "MOVED_TO ./moved"],
    ),
    (
        "rename over another",
        lambda top: (top / "file").rename(top / "other"),
        ["MOVED_FROM ./file", "MOVED_TO ./other"],
    ),
    ("save", _save, _named(WRITTEN, "file")),
    ("make a directory", lambda top: (top / "made").mkdir(), ["CREATE,ISDIR ./made"]),
    ("remove a directory", lambda top: (top / "directory").rmdir(), ["DELETE,ISDIR ./directory"]),
    (
        "rename a directory",
        lambda top: (top / "directory").rename(top / "moved"),
        ["MOVED_FROM,ISDIR ./directory", "MOVED_TO,ISDIR ./moved"],
    ),
    ("link", lambda top: (top / "link").symlink_to("file"), ["CREATE ./link"]),
    ("pipe", lambda top: os.mkfifo(top / "pipe"), ["CREATE ./pipe"]),
]


@pytest.mark.parametrize(
    ("change", "events"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES]
)
def test_inotify_hears_what_happens_in_the_box(
    known: Place, account: Account, change: Callable[[Path], object], events: list[str]
) -> None:
    """Once each, and the mount shows the new state when it does."""
    with watching(known.mount) as heard:
        with blind(known.owner):
            change(known.box)
        assert heard.until(events[-1]) == events
        assert heard.rest(QUIET) == []
        assert differences(known.mount, known.box) == []


@pytest.mark.parametrize("hidden", [True, False], ids=["at once", "in steps"])
def test_who_watches_a_file_hears_that_it_is_replaced(
    known: Place, account: Account, hidden: bool
) -> None:
    """Compilers and bundlers watch files, not directories: they look again by the name then."""
    for _ in range(3):
        with watching(known.mount, name="file") as heard:
            with blind(known.owner) if hidden else contextlib.nullcontext():
                _save(known.box)
            heard.until("DELETE_SELF file")
        assert (known.mount / "file").read_bytes() == b"saved the way editors do"
        assert (known.mount / "file").stat().st_nlink == 1
    assert differences(known.mount, known.box) == []


def test_own_changes_are_heard_once(known: Place, account: Account) -> None:
    with watching(known.mount) as heard:
        (known.mount / "new").write_bytes(b"ours")
        (known.mount / "file").rename(known.mount / "moved")
        known.sync()
        (known.box / "end").mkdir()
        events = heard.until("CREATE,ISDIR ./end")
        assert events == [
            *_named(CREATED, "new"),
            "MOVED_FROM ./file",
            "MOVED_TO ./moved",
            "CREATE,ISDIR ./end",
        ]


def test_a_save_through_the_mount_is_one_event_in_the_box(known: Place, account: Account) -> None:
    """A whole file takes its name by a rename; nothing of its making is seen."""
    reading = ("ACCESS", "OPEN", "CLOSE_NOWRITE")
    with watching(known.box, recursive=True) as heard:
        for number in range(50):
            (known.mount / f"new{number}").write_bytes(b"ours" * 100_000)
            start = time.monotonic()
            (known.mount / "file").write_bytes(b"rewritten")
            took = time.monotonic() - start
            known.sync()
            files = [e for e in heard.rest(QUIET) if "ISDIR" not in e and not e.startswith(reading)]
            if took < FLUSHED:
                break
        # Later, the truncation may have gone on its way before the content was written.
        assert took < FLUSHED
        assert sorted(files) == ["MOVED_TO ./file", f"MOVED_TO ./new{number}"]


def test_nothing_is_performed_where_nobody_looked(known: Place, account: Account) -> None:
    """A directory that the kernel does not know has no watcher."""
    before = known.owner.status()["watchers"]["performed"]
    (known.box / "made" / "deep").mkdir(parents=True)
    wait_until(lambda: (known.mount / "made").is_dir())
    for number in range(20):
        (known.box / "made" / "deep" / f"file{number}").write_bytes(b"x")
    wait_until_equal(known.box, known.mount)
    assert known.owner.status()["watchers"]["performed"] - before <= 4


def test_watchfiles_hears_of_a_directory_that_appears(known: Place, account: Account) -> None:
    code = (
        "import json, sys, watchfiles\n"
        "for changes in watchfiles.watch('.', step=20, debounce=50, yield_on_timeout=True,\n"
        "                                rust_timeout=100):\n"
        "    print(json.dumps(sorted([c.name, p] for c, p in changes)), flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=known.mount,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "[]\n", "it watches when it first times out"

        def hears(kind: str, name: str) -> None:
            deadline = time.monotonic() + 20
            seen: list[object] = []
            while time.monotonic() < deadline:
                assert process.stdout is not None
                changes = json.loads(process.stdout.readline())
                seen += changes
                if any(c[0] == kind and c[1].endswith(name) for c in changes):
                    return
            pytest.fail(f"{kind} {name} not among {seen}")

        (known.box / "appears").mkdir()
        hears("added", "appears")
        (known.box / "appears" / "inside").write_bytes(b"1")
        hears("added", "appears/inside")
        (known.box / "appears" / "inside").write_bytes(b"22")
        hears("modified", "appears/inside")
        (known.box / "appears" / "inside").unlink()
        hears("deleted", "appears/inside")
    finally:
        process.kill()
        process.communicate()


def test_pytest_watcher_runs_again(known: Place, account: Account) -> None:
    """A tool's watch mode: it runs the tests when one is edited in the box."""
    log = known.local / "log"
    (known.mount / "test_it.py").write_text("def test_it():\n    assert 1 == 1\n")
    known.sync()
    runner = known.local / "runner"
    runner.write_text(f"#!/bin/sh\ncat test_it.py >> {log}\n")
    runner.chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest_watcher", ".", "--now", "--runner", runner],
        cwd=known.mount,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**known.owner.environment, "PATH": os.environ["PATH"]},
    )
    try:
        wait_until(lambda: "1 == 1" in log.read_text(), timeout=30)

        def again() -> bool:
            return "2 == 2" in log.read_text()

        # Between its first run and its first watch it is deaf: edits are repeated until heard.
        for _ in range(20):
            (known.box / "test_it.py").write_text("def test_it():\n    assert 2 == 2\n")
            try:
                wait_until(again, timeout=1.5)
                break
            except AssertionError:
                continue
        assert again()
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def watched(box: MountedBox, account: Account) -> MountedBox:
    account.perform((box.mount / "top").mkdir)
    account.perform(box.sync)
    return box


def _storm(top: Path, count: int) -> None:
    for number in range(count):
        path = top / f"file{number % 2500}"
        match number % 5:
            case 0 | 1:
                path.write_bytes(b"%d" % number)
            case 2:
                path.unlink(missing_ok=True)
            case 3 if path.exists():
                path.rename(top / f"file{(number * 7) % 2500}")
            case 4:
                path.mkdir(exist_ok=True) if not path.exists() else path.chmod(0o700)


def test_a_storm_is_coalesced(watched: MountedBox, account: Account) -> None:
    """10,000 changes: the mount answers all the while and ends in the box's state."""
    with watching(watched.mount / "top") as heard:
        _storm(watched.box / "top", 10_000)
        (watched.box / "top" / "end").write_bytes(b"end")
        wait_until(lambda: (watched.mount / "top" / "end").read_bytes() == b"end", timeout=60)
        wait_until_equal(watched.box / "top", watched.mount / "top", timeout=60)
        wait_until(lambda: watched.status()["watchers"]["waiting"] == 0, timeout=60)
        assert len(heard.rest(QUIET)) > 100
        # And it is well again.
        (watched.box / "top" / "after").mkdir()
        heard.until("CREATE,ISDIR ./after")


def _echo(box: MountedBox, but: int = 0) -> int:
    """The process that repeats changes; 0 while there is none but one that ends."""
    for pid in box.processes():
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"echo_process" in command and pid != but:
                return pid
    return 0


def test_the_process_is_killed_in_the_middle(watched: MountedBox, account: Account) -> None:
    """Another one takes its place; nothing is stale or stuck."""
    with watching(watched.mount / "top") as heard:
        for round_ in range(3):
            pid = wait_until(lambda: as_launcher(_echo, watched))[0]
            _storm(watched.box / "top", 300)
            as_launcher(os.kill, pid, signal.SIGKILL)
            _storm(watched.box / "top", 300)
            wait_until(functools.partial(as_launcher, _echo, watched, pid))
            wait_until_equal(watched.box / "top", watched.mount / "top", timeout=30)
            name = f"round{round_}"

            def hears(name: str = name) -> bool:
                (watched.box / "top" / name).mkdir(exist_ok=True)
                heard.rest(0.2)
                (watched.box / "top" / name).rmdir()
                return any(name in event for event in heard.rest(0.2))

            wait_until(hears, timeout=30)


@pytest.mark.each_account
def test_other_pid_namespaces_are_not_taken_for_the_process(
    make_box: MakeBox, account: Account
) -> None:
    """Their processes have the number 0 for the daemon, also while nothing repeats changes."""
    if not account.is_root:
        pytest.skip("only root can make a namespace of processes")
    box = make_box()
    argv = [sys.executable, "-m", "devboxfs", "mount", "--foreground", box.name, str(box.mount)]
    daemon = subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", *argv],
        cwd="/", env=box.environment, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        pid = wait_until(lambda: _echo(box))[0]
        os.kill(pid, signal.SIGKILL)
        made = itertools.count()

        def works_and_another_one_has_started() -> int:
            (box.mount / f"directory{next(made)}").mkdir()
            return _echo(box, pid)

        wait_until(works_and_another_one_has_started, timeout=30)
        assert len(os.listdir(box.mount)) == next(made)
        subprocess.run(["umount", box.mount], check=True, timeout=30)
        assert daemon.wait(30) == 0
    finally:
        daemon.kill()
        daemon.wait()


def test_the_daemon_is_killed_in_the_middle(make_box: MakeBox, account: Account) -> None:
    """No process outlives it, no watcher hangs, and the mount point can be mounted again."""
    box = make_box().start()
    (box.mount / "top").mkdir()
    box.sync()
    for _ in range(3):
        with watching(box.mount / "top") as heard:
            _storm(box.box / "top", 500)
            heard.until(heard_any(heard))
            box.kill()
        box.start()
        wait_until_equal(box.box / "top", box.mount / "top", timeout=30)


def heard_any(heard: Heard) -> str:
    """Wait for whatever comes first."""
    first = wait_until(lambda: heard.rest(0.05))[0]
    heard.events = first + heard.events
    return first[0]


def test_read_only_mounts_hear_too(make_box: MakeBox, account: Account) -> None:
    box = make_box()
    box.devboxfs("mount", "--read-only", box.name, box.mount)
    with watching(box.mount) as heard:
        (box.box / "new").write_bytes(b"content")
        assert heard.until("CLOSE_WRITE,CLOSE ./new") == _named(CREATED, "new")
        with pytest.raises(OSError, match="Read-only"):
            (box.mount / "mine").write_bytes(b"")
    shutil.rmtree(box.scratch, ignore_errors=True)
