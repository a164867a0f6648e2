"""Dies, or loses the link, at every point of one scenario: `python every_fault.py WHAT STEP FIRST`.

WHAT is `daemon` (killed at each record of the journal, at each other point of the durable path, and
at each frame), `link` (cut at each frame), or `helper` (killed at each of its points). The points
of the scenario are counted first; then there is one run for each STEP-th of them. After each run a
new daemon recovers, and the box must have all that was accepted, once, and nothing else. Prints one
line of JSON: how many points there are, how many were tried, and what went wrong.

Each run is a fork of this process: the imports are paid for once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import trio

from devboxfs.writeback import faults
from sealos_devbox._transport.base import ByteChannel
from tests.fakes.frame_channel import FrameChannel, LinkCutError
from tests.unit.writeback import driver
from tests.unit.writeback.conftest import Place
from tests.unit.writeback.test_kill import check

COUNT = 60
TIMEOUT = 15
HELPER_POINTS = (
    "staged",
    "accepted",
    "before",
    "linked",
    "changed",
    "verified",
    "logged",
    "finished",
    "complete",
    "reply",
)


def forked(work: Callable[[Callable[[str], None]], None]) -> tuple[int, list[str]]:
    """Run `work` in a child; returns how it ended (negative: a signal) and what it said."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        status = 1
        try:
            signal.alarm(TIMEOUT)
            work(lambda text: [None, os.write(writing, text.encode() + b"\n")][0])
            status = 0
        except BaseException:  # noqa: BLE001 - the child ends here, with what it met
            os.write(writing, traceback.format_exc().encode())
        finally:
            os._exit(status)
    os.close(writing)
    said = b""
    while part := os.read(reading, 1 << 16):
        said += part
    os.close(reading)
    _, ended = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(ended), said.decode().splitlines()


class Points:
    """Counts what is passed, and does something at one of them."""

    def __init__(self, at: int, act: Callable[[], None]) -> None:
        self.passed = 0
        self._at = at
        self._act = act

    def pass_one(self, _name: str) -> None:
        self.passed += 1
        if self.passed == self._at:
            self._act()


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def cut() -> None:
    raise LinkCutError


def scenario(directory: Path, what: str, at: int, say: Callable[[str], None]) -> None:
    """Run the driver; says how many points it passed if it lives to see the end."""
    points = Points(at, cut if what == "link" else kill_self)
    link = Place(directory).link()
    if what != "helper":
        link.wrap = lambda channel: FrameChannel(channel, points.pass_one)
    if what == "daemon":
        faults.passing = points.pass_one
    trio.run(driver.main, directory, COUNT, say, link)
    say(f"passed {points.passed}")


def helper_scenario(directory: Path, point: str, at: int, say: Callable[[str], None]) -> None:
    """Run the driver with a helper that dies at a point; the next one does not."""
    link = Place(directory).link()
    link.environment = {"DEVBOX_HELPER_FAULT": f"exit:{point}:{at}"}

    def harmless(channel: ByteChannel) -> ByteChannel:
        link.environment = {}
        return channel

    link.wrap = harmless
    trio.run(driver.main, directory, COUNT, say, link)
    say(f"connections {link.connections}")


def verified(directory: Path, accepted: int, synced: int) -> list[str]:
    """What is wrong with the box after a new daemon has recovered."""
    ended, said = forked(lambda _say: trio.run(check, Place(directory), accepted, synced))
    return [] if ended == 0 else [f"recovery ended with {ended}", *said[-8:]]


def number(said: list[str], word: str) -> int:
    found = [line.split()[1] for line in said if line.startswith(word + " ")]
    return int(found[-1]) if found else 0


def one(what: str, point: str, at: int) -> tuple[bool, int, list[str]]:
    """One run; returns whether the fault struck, how many points were passed, what went wrong."""
    with tempfile.TemporaryDirectory(prefix="every-fault-") as name:
        directory = Path(name)
        (directory / "box").mkdir()
        (directory / "helper-state").mkdir(mode=0o700)
        if what == "helper":
            ended, said = forked(lambda say: helper_scenario(directory, point, at, say))
            struck = number(said, "connections") > 1
        else:
            ended, said = forked(lambda say: scenario(directory, what, at, say))
            struck = ended == -signal.SIGKILL or (what == "link" and at > 0)
        wrong = []
        if ended not in ((0, -signal.SIGKILL) if what == "daemon" else (0,)):
            wrong = [f"ended with {ended}", *said[-8:]]
        wrong += verified(directory, number(said, "accepted"), number(said, "synced"))
        return struck, number(said, "passed"), wrong


def main(what: str, step: int, first: int) -> None:
    tried = total = 0
    failures: list[str] = []
    if what == "helper":
        for point in HELPER_POINTS:
            at = 1
            while True:
                struck, _, wrong = one(what, point, at)
                failures += [f"{point} {at}: {line}" for line in wrong]
                if not struck:
                    break
                tried += 1
                total = tried
                # The first always: most of them are passed only a few times.
                at += first if at == 1 else step
    else:
        _, total, wrong = one(what, "", 0)
        failures += wrong
        for at in range(first, total + 1, step):
            struck, _, wrong = one(what, "", at)
            tried += struck
            failures += [f"point {at}: {line}" for line in wrong]
    print(json.dumps({"what": what, "points": total, "tried": tried, "failures": failures}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
