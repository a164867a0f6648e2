"""A box that is paused, black-holed, restarted, or out of reach: nothing hangs, nothing is lost."""

import array
import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sealos_devbox._transport.helper_bundle import find_helper
from tests.fuse.conftest import MakeBox
from tests.support.accounts import Account, as_launcher
from tests.support.long import LONG
from tests.support.mounts import PLAIN, MountedBox
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.slow,
    pytest.mark.skipif(PLAIN, reason="a directory has no link"),
]

TIMEOUT = 2
PATIENCE = 25
"""Seconds within which anything that is to end after TIMEOUT has, however busy the machine is."""
PAUSE = 600 if LONG else 4


class Outage:
    """Decides whether new helpers come up, by a program that stands in for the helper."""

    def __init__(self, box: MountedBox) -> None:
        self.box = box
        self.mark = box.scratch / "down"
        program = box.scratch / "helper.sh"
        program.write_text(
            "#!/bin/sh\n"
            f'while [ -e "{self.mark}" ]; do\n'
            f'  grep -q refuse "{self.mark}" && exit 1\n'
            "  sleep 0.1\n"
            "done\n"
            f'exec "{find_helper()}" "$@"\n'
        )
        program.chmod(0o755)
        self.program = program

    def start(self, *options: str) -> None:
        self.box.devboxfs(
            "mount", "--timeout", str(TIMEOUT), *options, self.box.name, self.box.mount,
            env={"DEVBOX_HELPER": str(self.program)},
        )  # fmt: skip

    def signal(self, number: int) -> None:
        for pid in self.box.helpers():
            as_launcher(os.kill, pid, number)

    def begin(self, how: str = "hang") -> None:
        """Lose the helper; the next one does not answer, or ends at once."""
        self.mark.write_text(how)
        self.signal(signal.SIGKILL)

    def end(self) -> None:
        self.mark.unlink()

    def wait_state(self, *states: str) -> None:
        wait_until(lambda: self.box.status()["state"] in states, timeout=60, what=f"state {states}")


@pytest.fixture
def outage(account: Account, make_box: MakeBox) -> Outage:
    box = make_box()
    return Outage(box)


def failing(path: Path) -> int:
    """The errno of reading a file; it comes in time."""
    begun = time.monotonic()
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is the answer
        path.read_bytes()
    assert time.monotonic() - begun < PATIENCE
    return caught.value.errno or 0


def fsync_errno(path: Path, content: bytes) -> int:
    begun = time.monotonic()
    with path.open("wb", buffering=0) as file:
        file.write(content)
        try:
            os.fsync(file.fileno())
        except OSError as error:
            return error.errno or 0
        finally:
            assert time.monotonic() - begun < PATIENCE
    return 0


def prepared(outage: Outage) -> MountedBox:
    """A mount with a file that was read, and one that was not."""
    box = outage.box
    outage.start()
    (box.box / "read").write_bytes(b"known")
    (box.box / "unread").write_bytes(b"x" * 300_000)
    (box.box / "gone").write_bytes(b"")
    wait_until(lambda: (box.mount / "gone").exists(), what="what was made in the box")
    wait_until(lambda: (box.mount / "unread").exists(), what="what was made in the box")
    assert (box.mount / "read").read_bytes() == b"known"
    return box


def test_a_box_that_is_paused(outage: Outage) -> None:
    box = prepared(outage)
    outage.signal(signal.SIGSTOP)
    try:
        assert failing(box.mount / "unread") in (errno.EIO, errno.ETIMEDOUT)
        assert (box.mount / "read").read_bytes() == b"known"
        assert (box.mount / "unread").stat().st_size == 300_000
        assert not (box.mount / "missing").exists()
        (box.mount / "new").write_bytes(b"written meanwhile")
        assert (box.mount / "new").read_bytes() == b"written meanwhile"
        assert fsync_errno(box.mount / "synced", b"1") == errno.EIO
        outage.wait_state("degraded", "offline")
        status = box.status()
        assert status["pending_operations"] > 0
        assert status["state_seconds"] > 1
    finally:
        outage.signal(signal.SIGCONT)
    outage.wait_state("online")
    box.sync()
    assert (box.box / "new").read_bytes() == b"written meanwhile"
    assert (box.box / "synced").read_bytes() == b"1"
    assert (box.mount / "unread").read_bytes() == b"x" * 300_000
    assert not list(box.box.glob("*conflict*"))


@pytest.mark.parametrize("how", ["hang", "refuse"])
def test_a_box_that_is_out_of_reach(outage: Outage, how: str) -> None:
    box = prepared(outage)
    outage.begin(how)
    outage.wait_state("offline")
    assert failing(box.mount / "unread") in (errno.EIO, errno.ETIMEDOUT)
    assert (box.mount / "read").read_bytes() == b"known"
    (box.mount / "new").write_bytes(b"written meanwhile")
    (box.mount / "directory").mkdir()
    (box.mount / "read").rename(box.mount / "directory" / "moved")
    assert fsync_errno(box.mount / "synced", b"1") == errno.EIO
    # Meanwhile, in the box:
    (box.box / "unread").write_bytes(b"changed there")
    (box.box / "gone").unlink()
    (box.box / "theirs").write_bytes(b"made there")
    outage.end()
    outage.wait_state("online")
    box.sync()
    assert (box.box / "new").read_bytes() == b"written meanwhile"
    assert (box.box / "directory" / "moved").read_bytes() == b"known"
    assert (box.box / "synced").read_bytes() == b"1"
    wait_until(lambda: not (box.mount / "gone").exists(), what="the snapshot's difference")
    wait_until(lambda: (box.mount / "theirs").exists(), what="the snapshot's difference")
    wait_until(
        lambda: (box.mount / "unread").read_bytes() == b"changed there", what="the new content"
    )
    assert not list(box.box.glob("*conflict*"))


def test_unmounting_while_the_box_is_out_of_reach(outage: Outage) -> None:
    box = prepared(outage)
    outage.begin()
    outage.wait_state("offline")
    (box.mount / "new").write_bytes(b"kept")
    said = box.devboxfs("umount", box.mount, check=False)
    assert said.returncode == 7, said
    assert b"2 operations" in said.stderr
    assert b"the box cannot be reached" in said.stderr
    waiting = box.devboxfs("journal", "list").stdout
    assert b"new" in waiting, waiting
    outage.end()
    outage.start()
    assert (box.mount / "new").read_bytes() == b"kept"
    box.sync()
    assert (box.box / "new").read_bytes() == b"kept"


def test_the_journal_will_do(outage: Outage) -> None:
    box = outage.box
    outage.start("--offline-fsync", "journal")
    outage.begin()
    outage.wait_state("offline")
    assert fsync_errno(box.mount / "synced", b"1") == 0
    outage.end()
    outage.wait_state("online")
    box.sync()
    assert (box.box / "synced").read_bytes() == b"1"


def test_a_helper_that_dies_again_and_again(outage: Outage) -> None:
    box = prepared(outage)
    for number in range(5):
        (box.mount / f"f{number}").write_bytes(b"%d" % number * 1000)
        outage.signal(signal.SIGKILL)
    outage.wait_state("online")
    box.sync()
    for number in range(5):
        assert (box.box / f"f{number}").read_bytes() == b"%d" % number * 1000
    assert not list(box.box.glob("*conflict*"))


@pytest.mark.timeout(PAUSE + 200)
def test_a_box_that_is_paused_for_long(outage: Outage) -> None:
    """Nobody answers and nothing is refused, neither to the old connection nor to a new one."""
    box = prepared(outage)
    outage.mark.write_text("hang")
    paused = box.helpers()
    outage.signal(signal.SIGSTOP)
    begun = time.monotonic()
    written = 0
    states = set()
    try:
        while (passed := time.monotonic() - begun) < PAUSE:
            name = f"f{written:05}"
            (box.mount / name).write_bytes(name.encode() * 100)
            (box.mount / name).rename(box.mount / f"{name}-done")
            assert (box.mount / "read").read_bytes() == b"known"
            assert not (box.mount / "missing").exists()
            assert "gone" in os.listdir(box.mount)
            written += 1
            if written % 20 == 1:
                status = box.status()
                states.add(status["state"])
                assert status["pending_operations"] >= 3 * (written - 1)
                assert status["state_seconds"] <= passed + PATIENCE
            time.sleep(PAUSE / 300)
        assert failing(box.mount / "unread") in (errno.EIO, errno.ETIMEDOUT)
        outage.wait_state("offline")
        assert b"offline" in box.devboxfs("status", box.mount).stdout
    finally:
        outage.end()
        for pid in paused:
            with contextlib.suppress(ProcessLookupError):
                as_launcher(os.kill, pid, signal.SIGCONT)
    outage.wait_state("online")
    box.sync()
    assert "offline" in states or PAUSE < 60
    done = {f"f{number:05}-done" for number in range(written)}
    for top in (box.mount, box.box):
        assert set(os.listdir(top)) == done | {"read", "unread", "gone"}
        for name in done:
            assert (top / name).read_bytes() == name[:6].encode() * 100
    assert (box.mount / "unread").read_bytes() == b"x" * 300_000


def until_full(make: Callable[[int], object]) -> int:
    """How many are made before it is ENOSPC."""
    for number in range(1000):
        try:
            make(number)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return number
    raise AssertionError("there is no limit")


def test_a_journal_at_its_limit(outage: Outage) -> None:
    """Nothing is accepted any more, nothing that was is lost, and reading goes on."""
    box = outage.box
    outage.start("--journal-limit", "64M")
    (box.mount / "before").write_bytes(b"known")
    box.sync()
    outage.begin()
    outage.wait_state("offline")
    written = 0
    with (box.mount / "large").open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 16, 1 << 12, 1 << 8):

            def append(_number: int, size: int = size) -> None:
                nonlocal written
                written += file.write(block(written, size))

            until_full(append)
    assert 50 << 20 < written < 64 << 20
    # What is smaller finds room for a while.
    made = until_full(lambda number: (box.mount / f"directory{number}").mkdir())
    assert made < 20
    with pytest.raises(OSError, match="No space left"):
        (box.mount / "before").rename(box.mount / "after")
    with (box.mount / "before").open("r+b", buffering=0) as file:
        with pytest.raises(OSError, match="No space left"):
            file.write(b"KNOWN" * 10)
        assert file.read() == b"known"
    assert (box.mount / "large").stat().st_size == written
    assert box.status()["pending_operations"] > made
    outage.end()
    outage.wait_state("online")
    box.sync()
    (box.mount / "before").rename(box.mount / "after")
    box.sync()
    for top in (box.mount, box.box):
        assert set(os.listdir(top)) == {"after", "large", *(f"directory{n}" for n in range(made))}
        assert (top / "after").read_bytes() == b"known"
        with (top / "large").open("rb") as file:
            start = 0
            while found := file.read(1 << 20):
                assert found == block(start, len(found))
                start += len(found)
        assert start == written


def block(start: int, size: int) -> bytes:
    """Part of a content in which each 8 bytes say where they are."""
    first, last = start // 8, (start + size) // 8 + 1
    numbers = array.array("Q", range(first, last)).tobytes()
    return numbers[start % 8 : start % 8 + size]
