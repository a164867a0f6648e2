"""Death and cut links at every point of a program's work on a mount, enumerated.

A program does everything once (script.py). The daemon dies at the n-th system call that changes
its journal, at the n-th frame to or from its helper, or while it recovers from such a death; or
the link goes at that frame, or the helper dies there or at one of its own points. After a death
the next mount, and after a loss the same one, has to bring all that was acknowledged into the box,
once, and nothing else.

There are some two thousand points, so every day other ones are tried, a few of each kind; with
DEVBOX_TEST_LONG=1 all. Batches are cut by the clock: a run may have a few points less than the one
that counted them.
"""

import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.accounts import Account, as_launcher
from tests.support.commands import kill_group
from tests.support.fault_points import HELPER_POINTS, KINDS, SIZE, Fault, read_counts
from tests.support.forks import Fork, Forks
from tests.support.history import fsynced
from tests.support.long import LONG
from tests.support.mounts import PLAIN, MountedBox
from tests.support.script import script, write_archive
from tests.support.tree_state import Found, found_in
from tests.support.under_way import differences

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PLAIN, reason="a directory has no journal"),
]

ROOT_OF_CHECKOUT = Path(__file__).parents[2]


class Machine:
    """One box, mounted by forks, and what must be in it."""

    def __init__(self, account: Account, forks: Forks) -> None:
        self.forks = forks
        self.owner = MountedBox(account)
        self.counts = self.owner.scratch / "counts"
        self.output = self.owner.home / "output"
        self.archive = self.owner.scratch / "archive.tar"
        write_archive(self.archive)
        self.operations = script()
        self.acknowledged = 0
        self.failure = ""
        """What the program that worked on the mount said of an operation that failed."""

    def command(self, *argv: str | os.PathLike[str], fault: Fault | None = None) -> Fork:
        self.counts.write_bytes(bytes(SIZE))
        return self.forks.start(
            argv, self.owner.environment, self.output, fault=fault, counts=self.counts
        )

    def mount(self, fault: Fault | None = None) -> Fork:
        """Start a daemon; it may have died when this returns."""
        argv = ["mount", "--foreground", self.owner.name, self.owner.mount]
        daemon = self.command(*argv, fault=fault)
        daemon.wait_ready()
        return daemon

    def ask(self, command: str) -> int:
        """Let a command have its say; returns its exit status."""
        return self.forks.start(
            [command, self.owner.mount], self.owner.environment, self.output
        ).wait()

    def status(self) -> dict[str, Any]:
        """What the mount says of itself."""
        said = self.owner.scratch / "status"
        argv = ["status", "--json", self.owner.mount]
        assert self.forks.start(argv, self.owner.environment, said).wait() == 0
        (mount,) = json.loads(said.read_text())["mounts"]
        said.unlink()
        return mount

    def work(self, *, online: bool = True) -> None:
        """Run the program until it has done everything, or an operation fails."""
        self.operations = script(online=online)
        environment = {**os.environ, "PYTHONPATH": str(ROOT_OF_CHECKOUT), "PYTHONSAFEPATH": "1"}
        argv = ["-m", "tests.support.writer", self.owner.mount, self.archive, str(online)]
        program = subprocess.Popen(
            [sys.executable, *argv], cwd="/", env=environment, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            said, complaint = program.communicate(timeout=100)
        finally:
            kill_group(program)
        self.acknowledged = len(said)
        self.failure = complaint.decode()

    def struck(self) -> bool:
        return read_counts(self.counts)[1]

    def said(self) -> str:
        """The end of what the daemons said."""
        return self.output.read_text()[-3000:] if self.output.exists() else ""

    # ------------------------------------------------------------------------- what must be

    def complete(self, complaint: str) -> list[str]:
        """Whether the program could do all that it wanted."""
        done = self.acknowledged == len(self.operations)
        return [] if done else [f"after {self.acknowledged} operations one failed: {complaint}"]

    def wrong_before_recovery(self) -> list[str]:
        """What was fsynced and is not in the box although no other daemon has run yet."""
        self.owner.wait_quiet()
        found = found_in(self.owner.box) if self.owner.box.exists() else {}
        durable = fsynced(self.operations[: self.acknowledged + 1], self.acknowledged)
        return [
            f"{name} was fsynced and is not in the box"
            for name, content in durable.items()
            if name not in found or found[name].content != content
        ]

    def wrong_now(self, daemon: Fork) -> list[str]:
        """What is wrong with mount and box; ends the mount."""
        wrong = []
        if status := self.ask("sync"):
            wrong.append(f"sync ended with {status}")
        wrong += [f"mount: {line}" for line in self._differs(found_in(self.owner.mount))]
        told = self.status()
        if told["conflicts"] or told["refused"] or told["pending_operations"]:
            wrong.append(f"status says {told}")
        seen = {name: one.mtime_ns for name, one in found_in(self.owner.mount).items()}
        if status := self.ask("umount"):
            wrong.append(f"umount ended with {status}")
        if status := daemon.wait():
            wrong.append(f"the daemon ended with {status}")
        self.owner.wait_quiet()
        found = found_in(self.owner.box)
        wrong += [f"box: {line}" for line in self._differs(found)]
        wrong += [
            f"{name}: shown with time {mtime_ns}, the box has {found[name].mtime_ns}"
            for name, mtime_ns in seen.items()
            if name in found and found[name].kind != "d" and found[name].mtime_ns != mtime_ns
        ]
        wrong += [f"is left over: {path}" for path in self._left_over()]
        return wrong

    def _differs(self, found: dict[str, Found]) -> list[str]:
        """How a tree differs from what was acknowledged, the operation under way done or not."""
        lines = differences(found, self.operations, self.acknowledged)
        return [f"after {self.acknowledged} operations: {line}" for line in lines[:5]]

    def _left_over(self) -> Iterator[Path]:
        """Journals, and contents that the helper holds for a batch."""
        yield from self.owner.state.glob("mounts/*/*/segment-*")
        yield from self.owner.state.glob("mounts/*/*/spool-*")
        for place in self.owner.box.parent.glob(".devbox-helper-*"):
            yield from place.glob("**/staged-*")


# ------------------------------------------------------------------------------------ fixtures


@pytest.fixture(scope="module")
def forks(account: Account, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    with Forks(account, tmp_path_factory.mktemp("forks")) as one:
        yield one


@contextlib.contextmanager
def machine(account: Account, forks: Forks) -> Iterator[Machine]:
    one = Machine(account, forks)
    try:
        yield one
    finally:
        complaints = one.owner.close()
    assert complaints == []


@pytest.fixture(scope="module")
def points(account: Account, forks: Forks) -> dict[str, int]:
    """How many points there are when nothing happens."""
    return account.perform(_count_points, account, forks)


def _count_points(account: Account, forks: Forks) -> dict[str, int]:
    with machine(account, forks) as one:
        daemon = one.mount(Fault())
        one.work()
        assert one.acknowledged == len(one.operations), one.failure
        assert one.wrong_now(daemon) == []
        return read_counts(one.counts)[0]


TODAY = datetime.datetime.now(datetime.UTC).toordinal()
Outcome = tuple[bool, list[str], str]
"""Whether the fault struck, what is wrong, and what the daemons said."""


class Tally:
    """What came of the points of one kind."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.numbers: Counter[str] = Counter()
        self.failed = 0
        self.failures: list[str] = []

    def try_points(self, count: int, attempt: Callable[[int], Outcome], *, step: int = 1) -> None:
        """Try each `step`-th point up to `count`, or today's."""
        points = list(range(1, count + 1, step))
        if LONG:
            for at in points:
                self.try_point(at, attempt)
            return
        chosen = (TODAY * 7 + zlib.crc32(self.name.encode())) % len(points)
        # There may be less of them this time.
        while not self.try_point(points[chosen], attempt) and chosen:
            chosen //= 2

    def try_point(self, at: int, attempt: Callable[[int], Outcome]) -> bool:
        """Try a point; whether it was reached."""
        try:
            struck, wrong, text = attempt(at)
        except (AssertionError, OSError):
            struck, wrong, text = True, [traceback.format_exc()], ""
        self.numbers["tried" if struck else "not reached"] += 1
        if LONG and (wrong or at % 20 == 0):
            # Seen with `pytest -s`, long before the end.
            print(f"{self.name} {at}: {dict(self.numbers)} {wrong}", file=sys.stderr, flush=True)
        if wrong:
            self.failed += 1
            self.failures += [f"{self.name} {at}: {line}" for line in wrong]
            self.failures.append(text)
        return struck

    def close(self) -> None:
        print(f"{self.name}: {dict(self.numbers)}, {self.failed} failed", file=sys.stderr)
        assert not self.failures, "\n".join(self.failures)
        assert self.numbers["tried"] > 0


# --------------------------------------------------------------------------------------- tests


@pytest.mark.timeout(6000 if LONG else 120)
@pytest.mark.parametrize("kind", KINDS)
def test_the_daemon_dies(account: Account, forks: Forks, points: dict[str, int], kind: str) -> None:
    def attempt(at: int) -> Outcome:
        with machine(account, forks) as one:
            daemon = one.mount(Fault(kind, at))
            if daemon.status is None:
                one.work()
                one.ask("umount")
            struck = daemon.wait() == -signal.SIGKILL
            wrong = one.wrong_before_recovery()
            return struck, wrong + one.wrong_now(one.mount()), one.said()

    tally = Tally(f"daemon dies, {kind}")
    tally.try_points(points[kind], attempt)
    tally.close()


@pytest.mark.timeout(6000 if LONG else 120)
@pytest.mark.parametrize("kind", KINDS)
def test_the_daemon_dies_while_it_recovers(account: Account, forks: Forks, kind: str) -> None:
    """What the first daemon leaves is all in its journal, and the box has taken some of it."""
    counted = 0

    def attempt(at: int) -> Outcome:
        nonlocal counted
        with machine(account, forks) as one:
            first = one.mount()
            os.listdir(one.owner.mount)
            one.ask("sync")
            helpers = one.owner.helpers()
            signal_all(helpers, signal.SIGSTOP)
            one.work(online=False)
            wrong = one.complete(one.failure)
            first.kill()
            # It takes what it was sent, and nobody hears of it.
            signal_all(helpers, signal.SIGCONT)
            one.owner.wait_quiet()
            second = one.mount(Fault(kind, at))
            if second.status is None:
                one.ask("umount")
            struck = second.wait() == -signal.SIGKILL
            counted = read_counts(one.counts)[0][kind]
            return struck, wrong + one.wrong_now(one.mount()), one.said()

    tally = Tally(f"daemon dies as it recovers, {kind}")
    assert attempt(0)[:2] == (False, [])
    tally.try_points(counted, attempt)
    tally.close()


@pytest.mark.timeout(6000 if LONG else 120)
@pytest.mark.parametrize("kind", ["sent", "received"])
def test_the_link_goes(account: Account, forks: Forks, points: dict[str, int], kind: str) -> None:
    """No operation of the program fails; the mount goes on.

    Of the three points of a frame both sides hear of every other one, then of the ones between.
    """

    def attempt(at: int) -> Outcome:
        return survived(account, forks, Fault(kind, at, "cut" if at % 2 else "lose"))

    tally = Tally(f"link goes, {kind}")
    tally.try_points(points[kind], attempt)
    tally.close()


@pytest.mark.timeout(6000 if LONG else 120)
@pytest.mark.parametrize("kind", ["sent", "received"])
def test_the_helper_dies(account: Account, forks: Forks, points: dict[str, int], kind: str) -> None:
    """It is killed where it cannot know, and the mount goes on."""

    def attempt(at: int) -> Outcome:
        return survived(account, forks, Fault(kind, at, "kill-helper"))

    tally = Tally(f"helper dies, {kind}")
    tally.try_points(points[kind], attempt, step=3)
    tally.close()


@pytest.mark.timeout(6000 if LONG else 120)
@pytest.mark.parametrize(
    "point", HELPER_POINTS if LONG else [HELPER_POINTS[(TODAY + n) % 11] for n in (0, 4, 8)]
)
def test_the_helper_dies_within_a_batch(account: Account, forks: Forks, point: str) -> None:
    def attempt(at: int) -> Outcome:
        return survived(account, forks, Fault(at=at, helper_point=point))

    tally = Tally(f"helper dies within a batch, {point}")
    if LONG:
        at = 1
        while tally.try_point(at, attempt):
            at += 1
    else:
        tally.try_point(1 + TODAY % 2, attempt)
    tally.close()


def signal_all(pids: list[int], number: int) -> None:
    for pid in pids:
        as_launcher(os.kill, pid, number)


def survived(account: Account, forks: Forks, fault: Fault) -> Outcome:
    """Let a fault befall a mount that has to go on."""
    with machine(account, forks) as one:
        daemon = one.mount(fault)
        wrong = []
        if daemon.status is not None:
            # It did not get as far as to serve, said so, and left nothing.
            wrong += [] if daemon.wait() > 0 else [f"mount ended with {daemon.wait()}"]
            wrong += ["there is a mount"] if one.owner.is_mounted() else []
            struck = one.struck()
            daemon = one.mount()
            one.work()
        else:
            one.work()
            struck = False
        wrong += one.complete(one.failure) + one.wrong_now(daemon)
        return struck or one.struck(), wrong, one.said()
