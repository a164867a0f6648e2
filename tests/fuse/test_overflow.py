"""What inotify does not tell: overflow, more directories than it may watch, another clock."""

import os
import signal
import time

import pytest

from tests.fuse.conftest import MakeBox
from tests.support.accounts import Account, as_launcher
from tests.support.mounts import PLAIN, MountedBox
from tests.support.trees import fill, wait_until_equal
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PLAIN, reason="a directory has one side only"),
]


def test_events_that_the_kernel_drops(box: MountedBox, account: Account) -> None:
    """The helper stands still while more happens than inotify keeps: 16,384 events."""
    with open("/proc/sys/fs/inotify/max_queued_events") as limit:
        most = int(limit.read())
    assert most <= 65536, "the test makes as many events as the queue holds"
    (box.mount / "top").mkdir()
    fill(box.mount / "top", seed=61, files=50, directories=10)
    box.sync()
    assert sum(len(files) for _, _, files in os.walk(box.mount)) == 50
    (helper,) = as_launcher(box.helpers)
    as_launcher(os.kill, helper, signal.SIGSTOP)
    try:
        for number in range(most // 3 + 500):  # open, write, close: three events each
            (box.box / "top" / f"file{number % 300}").write_bytes(b"%d" % number)
        late = box.box / "top" / "late" / "deep"
        late.mkdir(parents=True)
        (late / "file").write_bytes(b"1")
    finally:
        as_launcher(os.kill, helper, signal.SIGCONT)
    wait_until_equal(box.box / "top", box.mount / "top", timeout=30)
    # What appeared meanwhile is watched, too.
    (late / "file").write_bytes(b"written later")
    wait_until(
        lambda: (box.mount / "top/late/deep/file").read_bytes() == b"written later", timeout=20
    )


def test_more_directories_than_may_be_watched(make_box: MakeBox, account: Account) -> None:
    box = make_box().start(env={"DEVBOX_HELPER_WATCH_LIMIT": "4"})
    (box.mount / "top").mkdir()
    made = fill(box.mount / "top", seed=62, files=60, directories=20)
    box.sync()
    for path in made:
        path.read_bytes()
    fill(box.box / "top" / "more", seed=63, files=30, directories=10)
    wait_until_equal(box.box / "top", box.mount / "top", timeout=60)
    for path in made[::7]:
        there = box.box / path.relative_to(box.mount)
        there.write_bytes(b"rewritten")
    for path in made[1::7]:
        (box.box / path.relative_to(box.mount)).unlink()
    wait_until_equal(box.box / "top", box.mount / "top", timeout=60)


@pytest.mark.parametrize("hours", [-5, 7])
def test_a_clock_in_the_box_that_is_hours_off(
    make_box: MakeBox, account: Account, hours: int
) -> None:
    """Ours are stamped in the box's time, and both sides' changes arrive all the same."""
    box = make_box().start(env={"DEVBOX_HELPER_CLOCK_OFFSET": str(hours * 3600)})
    (box.mount / "ours").write_bytes(b"ours")
    ahead = (box.mount / "ours").stat().st_mtime - time.time()
    assert abs(ahead - hours * 3600) < 60
    box.sync()
    assert (box.box / "ours").stat().st_mtime_ns == (box.mount / "ours").stat().st_mtime_ns
    for content in (b"theirs", b"THEIRS", b"longer than before"):
        (box.box / "ours").write_bytes(content)
        wait_until(lambda content=content: (box.mount / "ours").read_bytes() == content)
        (box.mount / "ours").write_bytes(content + b" and ours")
        box.sync()
        assert (box.box / "ours").read_bytes() == content + b" and ours"
    wait_until_equal(box.box, box.mount)
    assert box.status()["conflicts"] == []
