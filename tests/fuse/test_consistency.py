"""`--consistency=strict`: what has returned is in the box."""

import errno
import os
import signal
from pathlib import Path

import pytest

from tests.fuse.conftest import MakeBox
from tests.support.accounts import Account
from tests.support.mounts import PLAIN, MountedBox
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(PLAIN, reason="a plain directory has no other side")


def mounted(box: MountedBox, *options: str) -> MountedBox:
    box.devboxfs("mount", box.name, box.mount, *options)
    return box


@pytest.mark.slow
def test_what_has_returned_is_in_the_box(account: Account, make_box: MakeBox) -> None:
    box = mounted(make_box(), "--consistency=strict")
    here, there = box.mount, box.box
    assert box.status()["consistency"] == "strict"
    (here / "dir").mkdir()
    assert (there / "dir").is_dir()
    descriptor = os.open(here / "dir" / "file", os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
    assert (there / "dir" / "file").exists()
    os.write(descriptor, b"content")
    os.close(descriptor)
    assert (there / "dir" / "file").read_bytes() == b"content"
    (here / "dir" / "file").rename(here / "moved")
    assert not (there / "dir" / "file").exists()
    assert (there / "moved").read_bytes() == b"content"
    os.truncate(here / "moved", 3)
    (here / "moved").chmod(0o640)
    assert (there / "moved").read_bytes() == b"con"
    assert (there / "moved").stat().st_mode & 0o777 == 0o640
    os.setxattr(here / "moved", "user.origin", b"here")
    assert os.getxattr(there / "moved", "user.origin") == b"here"
    os.removexattr(here / "moved", "user.origin")
    assert os.listxattr(there / "moved") == []
    os.mkfifo(here / "fifo")
    assert (there / "fifo").is_fifo()
    (here / "fifo").unlink()
    (here / "link").symlink_to("moved")
    (here / "hard").hardlink_to(here / "moved")
    assert os.readlink(there / "link") == "moved"
    assert (there / "hard").samefile(there / "moved")
    (here / "link").unlink()
    (here / "dir").rmdir()
    assert sorted(os.listdir(there)) == ["hard", "moved"]


@pytest.mark.slow
def test_without_it_nothing_waits(account: Account, make_box: MakeBox) -> None:
    box = make_box().start(delay_ms=2000)
    box.sync()
    (box.mount / "dir").mkdir()
    assert not (box.box / "dir").exists()


@pytest.mark.slow
def test_what_the_box_does_not_answer_is_an_error_and_kept(
    account: Account, make_box: MakeBox
) -> None:
    box = mounted(make_box(), "--consistency=strict", "--timeout", "1")
    (box.mount / "before").mkdir()
    (box.mount / "file").write_bytes(b"old")
    (helper,) = box.helpers()
    os.kill(helper, signal.SIGSTOP)
    try:
        with pytest.raises(OSError, match="Input/output") as failure:
            (box.mount / "during").mkdir()
        assert failure.value.errno == errno.EIO
        descriptor = os.open(box.mount / "file", os.O_WRONLY | os.O_TRUNC)
        os.write(descriptor, b"new")
        with pytest.raises(OSError, match="Input/output") as failure:
            os.close(descriptor)
        assert failure.value.errno == errno.EIO
        assert (box.mount / "file").read_bytes() == b"new"
    finally:
        os.kill(helper, signal.SIGCONT)
    wait_until(lambda: (box.box / "during").is_dir(), timeout=20, what="the directory is there")
    wait_until(lambda: content(box.box / "file") == b"new", timeout=20, what="the content is")
    (box.mount / "after").mkdir()
    assert (box.box / "after").is_dir()


def content(path: Path) -> bytes:
    return path.read_bytes()
