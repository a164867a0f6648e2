"""`devboxfs umount` returns when everything is in the box."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.fuse.conftest import MakeBox
from tests.support.accounts import Account
from tests.support.commands import kill_group
from tests.support.mounts import PLAIN, MountedBox
from tests.support.trees import differences, fill, fill_with_oddities
from tests.support.waiting import wait_until

pytestmark = pytest.mark.each_account


def test_2000_pending_writes_are_in_the_box(account: Account, make_box: MakeBox) -> None:
    box = make_box().start(delay_ms=50)
    for number in range(2000):
        (box.mount / f"file{number}").write_bytes(b"content of %d" % number)
    box.umount()
    for number in range(2000):
        assert (box.box / f"file{number}").read_bytes() == b"content of %d" % number
    if not PLAIN:
        assert os.listdir(box.mount) == []


def test_a_tree_is_in_the_box_and_comes_back(account: Account, make_box: MakeBox) -> None:
    box = make_box()
    source = box.scratch / "source"
    source.mkdir()
    fill(source, seed=51, files=300, directories=30)
    fill_with_oddities(source)
    box.start(delay_ms=50)
    subprocess.run(["cp", "-a", source, box.mount / "copy"], check=True, timeout=60)
    (box.mount / "large").write_bytes(bytes(range(256)) * 40_000)
    box.umount()
    assert differences(source, box.box / "copy") == []
    assert (box.box / "large").read_bytes() == bytes(range(256)) * 40_000
    box.start()
    assert differences(source, box.mount / "copy") == []


@pytest.mark.skipif(PLAIN, reason="a plain directory is not unmounted")
def test_a_busy_mount_stays(account: Account, box: MountedBox) -> None:
    """An open file keeps the mount, and the mount goes on working."""
    with (box.mount / "file").open("wb", buffering=0) as file:
        file.write(b"before")
        done = box.devboxfs("umount", box.mount, check=False)
        assert done.returncode == 5
        # Whose it is can be said only of processes that the user may look into.
        assert b"stays mounted" in done.stderr
        assert not account.is_root or f"pid {os.getpid()}".encode() in done.stderr
        file.write(b" and after")
        assert (box.mount / "file").read_bytes() == b"before and after"
    box.umount()
    assert (box.box / "file").read_bytes() == b"before and after"


@pytest.mark.skipif(PLAIN, reason="a plain directory is not unmounted")
def test_sync_is_a_barrier(account: Account, make_box: MakeBox) -> None:
    """What was acknowledged before the call is there when it returns, while writes go on."""
    box = make_box().start(delay_ms=50)
    script = 'i=0; while :; do echo $i > "$0/w$i"; i=$((i+1)); echo $i; done'
    writer = subprocess.Popen(
        ["sh", "-c", script, box.mount],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        for _ in range(3):
            for _ in range(100):
                number = int(writer.stdout.readline())
            box.sync()
            for one in range(number):
                assert (box.box / f"w{one}").read_text() == f"{one}\n"
    finally:
        kill_group(writer)


@pytest.mark.skipif(PLAIN, reason="a plain directory is not unmounted")
def test_plain_umount_loses_nothing(account: Account, make_box: MakeBox) -> None:
    """`fusermount3 -u` does not wait for the daemon; the daemon finishes all the same."""
    box = make_box().start(delay_ms=100)
    for number in range(300):
        (box.mount / f"file{number}").write_bytes(b"%d" % number)
    subprocess.run(["fusermount3", "-u", Path(box.mount)], check=True, timeout=20)
    wait_until(lambda: not box.processes(), timeout=20, what="the daemon ends")
    for number in range(300):
        assert (box.box / f"file{number}").read_bytes() == b"%d" % number
