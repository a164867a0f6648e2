"""Two mounts of one box, served by two processes, see each other's changes."""

import os
from pathlib import Path

import pytest

from tests.support.accounts import Account
from tests.support.mounts import PLAIN, MountedBox
from tests.support.trees import fill, wait_until_equal
from tests.support.waiting import wait_until
from tests.support.watching import watching

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PLAIN, reason="a directory has one side only"),
]


def test_each_sees_what_the_other_does(box: MountedBox, second: Path, account: Account) -> None:
    first = box.mount
    for here, there in ((first, second), (second, first)):
        assert not (there / "file").exists()
        (here / "file").write_bytes(b"made")
        wait_until(lambda there=there: (there / "file").read_bytes() == b"made")
        (here / "file").write_bytes(b"changed, and longer")
        wait_until(lambda there=there: (there / "file").read_bytes() == b"changed, and longer")
        (here / "file").chmod(0o640)
        wait_until(lambda there=there: (there / "file").stat().st_mode & 0o777 == 0o640)
        assert (there / "file").stat().st_mtime_ns == (here / "file").stat().st_mtime_ns
        (here / "file").rename(here / "renamed")
        wait_until(lambda there=there: sorted(os.listdir(there)) == ["renamed"])
        (here / "renamed").unlink()
        wait_until(lambda there=there: os.listdir(there) == [])


def test_trees_written_on_both_at_once(box: MountedBox, second: Path, account: Account) -> None:
    (box.mount / "one").mkdir()
    (second / "two").mkdir()
    fill(box.mount / "one", seed=51, files=150, directories=15)
    fill(second / "two", seed=52, files=150, directories=15)
    box.devboxfs("sync", box.mount)
    box.devboxfs("sync", second)
    wait_until_equal(box.mount, second, timeout=30, times="-l")
    wait_until_equal(box.box, box.mount, timeout=30, times="-l")


def test_watchers_of_the_other_mount_hear(box: MountedBox, second: Path, account: Account) -> None:
    """One mount's save is the other's MOVED_TO in the box: whole, and heard once."""
    with watching(second) as heard:
        (box.mount / "new").write_bytes(b"content")
        assert heard.until("CLOSE_WRITE,CLOSE ./new") == [
            "CREATE ./new",
            "OPEN ./new",
            "MODIFY ./new",
            "CLOSE_WRITE,CLOSE ./new",
        ]
        (box.mount / "new").write_bytes(b"other content")
        assert heard.until("CLOSE_WRITE,CLOSE ./new") == [
            "MODIFY ./new",
            "OPEN ./new",
            "CLOSE_WRITE,CLOSE ./new",
        ]
