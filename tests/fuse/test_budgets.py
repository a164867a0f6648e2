"""How often work on a mount goes to the box: counted, not timed.

A request that somebody waits for costs a round trip of his time; those that run ahead or behind
cost none. Where only the clock can tell them apart, the link is so slow that one round trip is
longer than all the rest.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import repository
from tests.support.accounts import ACCOUNTS, Account
from tests.support.commands import run
from tests.support.mounts import PLAIN, MountedBox
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(PLAIN, reason="a plain directory has no link")

Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def account() -> Account:
    """One is enough: what is counted does not depend on who counts."""
    return ACCOUNTS[0]


@pytest.fixture(scope="module")
def furnished(account: Account) -> Iterator[MountedBox]:
    """A box with the repository, a tree of 500 files, and a local archive of 1,000 small ones."""
    box = MountedBox(account)
    try:
        box.start()
        box.umount()
        account.perform(_furnish, box)
        yield box
    finally:
        complaints = box.close()
    assert complaints == []


def _furnish(box: MountedBox) -> None:
    repository.make(box.box / "repository", box.environment)
    repository.make_files(box.box / "tree", seed=2, files=500, directories=40)
    repository.make_archive(box.scratch / "thousand.tar", seed=3, files=1000)
    repository.make_archive(box.scratch / "some.tar", seed=4, files=300)


@pytest.fixture
def cold(furnished: MountedBox) -> Iterator[MountedBox]:
    """The box, mounted with empty caches; the snapshot is complete."""
    yield cold_start(furnished, delay_ms=20)
    furnished.umount()


def cold_start(box: MountedBox, *, delay_ms: float) -> MountedBox:
    shutil.rmtree(box.cache, ignore_errors=True)
    box.start(delay_ms=delay_ms)
    wait_until(
        lambda: box.status()["tree"]["snapshot_complete"],
        timeout=60,
        interval=0.02,
        what="snapshot",
    )
    return box


class Counter:
    """What happened on the link since the counter was made."""

    def __init__(self, box: MountedBox, record: Record) -> None:
        self.box = box
        self.record = record
        self.before = box.status()

    def _since(self, part: str, name: str) -> int:
        now: dict[str, Any] = self.box.status()
        count = int(now[part][name]) - int(self.before[part][name])
        self.record(f"{part}.{name}", count)
        return count

    def round_trips(self) -> int:
        return self._since("link", "round_trips")

    def waited(self) -> int:
        """How many answers were waited for, at most.

        Every read that waits does so for the answer to a request, many of them for the same one:
        the more, the slower its parts are worked in.
        """
        return min(self._since("reader", "misses"), self._since("reader", "requests"))


def git_status(box: MountedBox) -> bytes:
    argv = ["git", "status", "--porcelain"]
    return run(*argv, cwd=box.mount / "repository", env=box.environment).stdout


def test_mount_and_first_listing(furnished: MountedBox, record_property: Record) -> None:
    shutil.rmtree(furnished.cache, ignore_errors=True)
    furnished.start(delay_ms=20)
    try:
        assert sorted(os.listdir(furnished.mount)) == ["repository", "tree"]
        count = furnished.round_trips()
        record_property("link.round_trips", count)
        assert count <= 5
    finally:
        furnished.umount()


def test_first_git_status(cold: MountedBox, record_property: Record) -> None:
    counter = Counter(cold, record_property)
    assert git_status(cold) == b""
    counter.round_trips()
    assert counter.waited() <= 5


def test_warm_git_status(cold: MountedBox, record_property: Record) -> None:
    for _ in range(2):
        git_status(cold)
    cold.sync()
    counter = Counter(cold, record_property)
    assert git_status(cold) == b""
    # The time that index.lock gave to .git crosses the link afterwards; and where git writes the
    # index again, the lock itself.
    assert counter.round_trips() <= 2
    assert counter.waited() == 0


def test_warm_git_status_waits_for_nothing(furnished: MountedBox) -> None:
    cold_start(furnished, delay_ms=2000)
    try:
        git_status(furnished)
        start = time.monotonic()
        assert git_status(furnished) == b""
        assert time.monotonic() - start < 2
    finally:
        furnished.umount()


def test_cold_grep(cold: MountedBox, record_property: Record) -> None:
    counter = Counter(cold, record_property)
    argv = ["grep", "-rc", "alpha beta", "--include=*.py", "."]
    found = run(*argv, cwd=cold.mount / "repository", check=False).stdout
    assert found.count(b"\n") == repository.FILES
    counter.round_trips()
    assert counter.waited() <= 8


def test_cold_copy_of_500_files(furnished: MountedBox, record_property: Record) -> None:
    """No more than 5 requests, even if each was waited for by itself."""
    cold_start(furnished, delay_ms=500)
    try:
        counter = Counter(furnished, record_property)
        target = furnished.scratch / "copy"
        run("cp", "-r", furnished.mount / "tree", target)
        assert sum(len(files) for _, _, files in os.walk(target)) == 500
        assert counter.round_trips() <= 5
    finally:
        furnished.umount()


def test_1000_stats_of_existing_files(cold: MountedBox, record_property: Record) -> None:
    top = cold.mount / "repository"
    files = list((cold.box / "repository").glob("package*/**/*.py"))[:1000]
    counter = Counter(cold, record_property)
    for path in files:
        assert os.stat(top / path.relative_to(cold.box / "repository")).st_size > 0
    assert len(files) == 1000
    assert counter.round_trips() == 0


def test_1000_stats_of_missing_files(cold: MountedBox, record_property: Record) -> None:
    counter = Counter(cold, record_property)
    for number in range(1000):
        directory = cold.mount / "repository" / f"package{number % 11}"
        assert not os.path.lexists(directory / f"missing{number}")
    assert counter.round_trips() == 0


def test_tar_sends_batches_and_not_files(cold: MountedBox, record_property: Record) -> None:
    target = cold.mount / "extracted"
    target.mkdir()
    cold.sync()
    counter = Counter(cold, record_property)
    start = time.monotonic()
    run("tar", "xf", cold.scratch / "thousand.tar", "-C", target)
    at_the_shell = time.monotonic() - start
    cold.sync()
    assert counter.round_trips() <= batches_in(at_the_shell)

    counter = Counter(cold, record_property)
    start = time.monotonic()
    run("rm", "-rf", target)
    at_the_shell = time.monotonic() - start
    cold.sync()
    assert counter.round_trips() <= batches_in(at_the_shell)
    assert not (cold.box / "extracted").exists()


def batches_in(seconds: float) -> int:
    """Six; on a slow machine one for every 250 ms and for some pauses of 20 ms that it makes."""
    return max(6, int(seconds / 0.15) + 3)


def test_changes_wait_for_nothing(furnished: MountedBox) -> None:
    """With a round trip of 4 s, whatever takes less has not waited for one."""
    cold_start(furnished, delay_ms=4000)
    try:
        os.listdir(furnished.mount)
        target = furnished.mount / "waits-for-nothing"
        start = time.monotonic()
        target.mkdir()
        run("tar", "xf", furnished.scratch / "some.tar", "-C", target)
        assert time.monotonic() - start < 4
        assert sum(len(files) for _, _, files in os.walk(target)) == 300
        start = time.monotonic()
        run("rm", "-rf", target)
        assert time.monotonic() - start < 4
    finally:
        furnished.umount()


def save(path: Path, content: bytes) -> None:
    """The way editors save."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def test_a_save_waits_for_one_round_trip(furnished: MountedBox, record_property: Record) -> None:
    cold_start(furnished, delay_ms=500)
    try:
        path = furnished.mount / "edited"
        # The first one may find the journal still being attached.
        save(path, b"first")
        furnished.sync()
        for number in range(3):
            before = furnished.round_trips()
            start = time.monotonic()
            save(path, b"content %d" % number)
            seconds = time.monotonic() - start
            assert 0.5 <= seconds < 1.0
            assert (furnished.box / "edited.tmp").exists() or (furnished.box / "edited").exists()
            furnished.sync()
            # One for the fsync, one for the rename after it, one for `sync` at most.
            count = furnished.round_trips() - before
            record_property("link.round_trips", count)
            assert count <= 3
    finally:
        furnished.umount()


@dataclass
class Git:
    """Somebody who works in a repository of the mount, and counts how often he waits."""

    box: MountedBox
    where: Path
    record: Record

    def __call__(self, *arguments: str, where: Path | None = None) -> int:
        """Run git; returns how often it waited for a lock."""
        before = self.box.status()
        run("git", *arguments, cwd=where or self.where, env=self.box.environment)
        after = self.box.status()
        waits = int(after["locks"]["waits"]) - int(before["locks"]["waits"])
        misses = int(after["reader"]["misses"]) - int(before["reader"]["misses"])
        self.record(f"git {arguments[0]}: locks", waits)
        self.record(f"git {arguments[0]}: contents", misses)
        return waits


@pytest.mark.slow
def test_git_waits_for_locks_that_exclude_somebody(
    furnished: MountedBox, record_property: Record
) -> None:
    """The link is slow, so that nothing is answered before it is waited for."""
    cold_start(furnished, delay_ms=100)
    try:
        top = furnished.scratch / "upstream"
        top.mkdir()
        there = Git(furnished, top / "there", record_property)
        there("init", "-q", "--bare", "bare.git", where=top)
        there("clone", "-q", "bare.git", "there", where=top)
        for number in range(20):
            (there.where / f"file{number}").write_text(f"{number}\n")
        there("add", "-A")
        there("commit", "-q", "-m", "first")
        there("push", "-q", "origin", "HEAD")
        here = Git(furnished, furnished.mount / "clone", record_property)
        here("clone", "-q", str(top / "bare.git"), "clone", where=furnished.mount)

        (there.where / "file1").write_text("changed\n")
        there("commit", "-q", "-a", "-m", "second")
        there("push", "-q", "origin", "HEAD")
        furnished.sync()
        # The remote branch, ORIG_HEAD, HEAD, the branch, and the index.
        assert here("pull", "-q", "--ff-only") <= 5

        (here.where / "new").write_text("new\n")
        furnished.sync()
        assert here("add", "new") <= 1
        furnished.sync()
        assert here("commit", "-q", "-m", "ours") <= 3
        furnished.sync()
        assert here("status", "--porcelain") <= 1

        (there.where / "file2").write_text("changed\n")
        there("commit", "-q", "-a", "-m", "third")
        there("push", "-q", "origin", "HEAD")
        furnished.sync()
        # HEAD three times, the index three or four times, packed-refs twice, other references.
        assert here("pull", "-q", "--rebase") <= 12
    finally:
        furnished.umount()


def test_an_idle_mount_is_quiet(cold: MountedBox, record_property: Record) -> None:
    """Watching costs nothing as long as nothing happens: a heartbeat in 10 s is no round trip."""
    subprocess.run(["ls", "-lR", cold.mount], stdout=subprocess.DEVNULL, check=True, timeout=20)
    cold.sync()
    counter = Counter(cold, record_property)
    before = cold.status()["link"]
    for _ in range(3):
        cold.status()
    after = cold.status()["link"]
    assert counter.round_trips() == 0
    assert after["bytes_sent"] - before["bytes_sent"] < 2000
    assert after["bytes_received"] - before["bytes_received"] < 2000
