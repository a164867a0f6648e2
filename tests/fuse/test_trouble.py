"""A box that is full, read-only, or gone: an errno as of a local disk, and a daemon that lives
on."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuse.conftest import MakeBox
from tests.support.accounts import LAUNCHER, Account, as_launcher
from tests.support.mounts import PLAIN, MountedBox
from tests.support.posix import outcome
from tests.support.trees import differences
from tests.support.waiting import wait_until

pytestmark = pytest.mark.each_account

needs_root = pytest.mark.skipif(LAUNCHER != 0, reason="only root can mount a small tmpfs")
MIB = 1 << 20


def mount_tmpfs(account: Account, where: Path, size: int) -> None:
    options = f"size={size},uid={account.uid},gid={account.gid},mode=0755"
    argv = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", where]
    as_launcher(lambda: subprocess.run(argv, check=True, timeout=20))


def prepared(box: MountedBox, prepare: Callable[[Path], None]) -> MountedBox:
    """Make the box's directory, change it by `prepare`, and mount the box."""
    box.start()
    box.umount()
    prepare(box.box)
    return box.start()


def synced(box: MountedBox) -> bool:
    return box.plain or box.devboxfs("sync", box.mount, check=False).returncode == 0


def save(path: Path, content: bytes, *, fsync: bool) -> bool:
    """Write a file; True when every call was acknowledged, False when one found the disk full."""

    def write() -> None:
        with path.open("wb", buffering=0) as file:
            for start in range(0, len(content), 65536):
                part = content[start : start + 65536]
                if file.write(part) != len(part):
                    raise OSError(errno.ENOSPC, "a short write")
            if fsync:
                os.fsync(file.fileno())

    said = outcome(write)
    assert said in (None, "ENOSPC")
    return said is None


@needs_root
@pytest.mark.parametrize("fsync", [True, False], ids=["fsync", "no-fsync"])
def test_a_full_box(account: Account, make_box: MakeBox, fsync: bool) -> None:
    box = prepared(make_box(), lambda path: mount_tmpfs(account, path, 4 * MIB))
    saved: dict[str, bytes] = {}
    refused: list[str] = []
    for number in range(120):
        name, content = f"file{number}", bytes([number]) * 100_000
        if save(box.mount / name, content, fsync=fsync):
            saved[name] = content
        else:
            refused.append(name)
        if len(refused) == 3:
            break
    assert len(refused) == 3, "12 MB were acknowledged by a box of 4 MiB"
    assert len(saved) >= 20, "a box of 4 MiB took less than 2 MB"
    # The mount lives: what it knows can be read, and it says how it is.
    assert (box.mount / "file0").read_bytes() == saved["file0"]
    assert os.listdir(box.mount)
    if not PLAIN:
        assert box.status()["pid"]

    # Room is made, among what was refused and among what was not.
    for name in refused:
        (box.mount / name).unlink(missing_ok=True)
    for name in list(saved)[:15]:
        (box.mount / name).unlink()
        del saved[name]
    wait_until(lambda: synced(box), timeout=60, interval=0.2, what="sync succeeds again")
    assert save(box.mount / "after", b"works again" * 1000, fsync=True)
    saved["after"] = b"works again" * 1000
    assert synced(box)
    for top in (box.mount, box.box):
        found = {path.name: path.read_bytes() for path in top.iterdir() if path.is_file()}
        assert found == saved


@needs_root
def test_each_who_has_a_file_open_hears_once_that_it_has_no_room(
    account: Account, make_box: MakeBox
) -> None:
    def fill(path: Path) -> None:
        mount_tmpfs(account, path, 4 * MIB)
        (path / "filler").write_bytes(bytes(4 * MIB - 100_000))

    box = prepared(make_box(), fill)
    file = box.mount / "file"
    one = os.open(file, os.O_RDWR | os.O_CREAT)
    other = os.open(file, os.O_RDWR)
    try:
        os.write(one, b"x" * 300_000)
        assert outcome(lambda: os.fsync(one)) == "ENOSPC"
        assert outcome(lambda: os.close(os.dup(other))) == "ENOSPC"
        assert outcome(lambda: os.close(os.dup(other))) is None
        assert outcome(lambda: os.close(os.dup(one))) is None
        if not PLAIN:
            told = box.devboxfs("status", box.mount).stdout.decode()
            assert "No space left on device" in told, told
            assert "No space left on device" in box.log_tail()
        (box.box / "filler").unlink()
        wait_until(lambda: synced(box), timeout=60, interval=0.2, what="sync succeeds again")
        assert outcome(lambda: os.fsync(one)) is None
        assert outcome(lambda: os.fsync(other)) is None
    finally:
        os.close(one)
        os.close(other)
    assert (box.box / "file").read_bytes() == b"x" * 300_000


@needs_root
def test_a_full_box_has_room_for_removing(account: Account, make_box: MakeBox) -> None:
    box = prepared(make_box(), lambda path: mount_tmpfs(account, path, 4 * MIB))
    (box.mount / "tree").mkdir()
    for number in range(20):
        assert save(box.mount / "tree" / f"file{number}", b"x" * 100_000, fsync=False)
    filler = box.mount / "filler"
    assert not save(filler, b"x" * 8 * MIB, fsync=True)
    shutil.rmtree(box.mount / "tree")
    filler.unlink(missing_ok=True)
    wait_until(lambda: synced(box), timeout=60, interval=0.2, what="sync succeeds again")
    assert [path.name for path in box.box.iterdir() if not path.name.startswith(".")] == []
    assert save(box.mount / "new", b"y" * 2 * MIB, fsync=True)
    assert (box.box / "new").read_bytes() == b"y" * 2 * MIB


def changes(top: Path) -> dict[str, object]:
    """Every kind of change, in a directory that holds a file, a directory and a link."""
    file, directory = top / "file", top / "directory"
    calls: dict[str, Callable[[], object]] = {
        "create": lambda: os.close(os.open(top / "new", os.O_CREAT | os.O_WRONLY)),
        "open to write": lambda: os.close(os.open(file, os.O_WRONLY)),
        "open to truncate": lambda: os.close(os.open(file, os.O_WRONLY | os.O_TRUNC)),
        "truncate": lambda: os.truncate(file, 1),
        "mkdir": lambda: (top / "made").mkdir(),
        "rmdir": lambda: (directory / "empty").rmdir(),
        "unlink": lambda: (directory / "inner").unlink(),
        "symlink": lambda: (top / "symlink").symlink_to("x"),
        "link": lambda: os.link(file, top / "hard"),
        "rename": lambda: file.rename(top / "renamed"),
        "rename over": lambda: file.rename(directory / "inner"),
        "mkfifo": lambda: os.mkfifo(top / "fifo"),
        "unlink missing": lambda: (top / "missing").unlink(),
        "mkdir existing": lambda: directory.mkdir(),
        "read": lambda: file.read_bytes(),
        "list": lambda: sorted(os.listdir(directory)),
        "access": lambda: os.access(file, os.W_OK),
        "access directory": lambda: os.access(top, os.W_OK),
    }
    return {name: outcome(call) for name, call in calls.items()}


def attribute_changes(top: Path) -> dict[str, object]:
    file = top / "file"
    return {
        "chmod": outcome(file.chmod, 0o600),
        "utime": outcome(os.utime, file, (1, 1)),
        "setxattr": outcome(os.setxattr, file, "user.a", b"b"),
    }


def furnish(top: Path) -> None:
    (top / "file").write_bytes(b"content")
    (top / "directory" / "empty").mkdir(parents=True)
    (top / "directory" / "inner").write_bytes(b"inner")


def make_read_only(path: Path) -> None:
    def bind() -> None:
        subprocess.run(["mount", "--bind", path, path], check=True, timeout=20)
        subprocess.run(["mount", "-o", "remount,ro,bind", path], check=True, timeout=20)

    as_launcher(bind)


@needs_root
def test_a_read_only_bind_mount(account: Account, make_box: MakeBox) -> None:
    def prepare(path: Path) -> None:
        furnish(path)
        make_read_only(path)

    local = make_box(plain=True)
    prepared(local, prepare)
    expected = changes(local.mount) | attribute_changes(local.mount)
    assert expected["create"] == expected["chmod"] == "EROFS"
    box = prepared(make_box(), prepare)
    found = changes(box.mount) | attribute_changes(box.mount)
    if not PLAIN:
        # The kernel answers these from names and modes that it knows, without asking a mount that
        # is not read-only itself: as on a network file system.
        for call in ("unlink missing", "access", "access directory"):
            del found[call], expected[call]
    assert found == expected
    assert box.alive()
    assert differences(box.mount, box.box) == []


def test_a_directory_that_may_not_be_written(account: Account, make_box: MakeBox) -> None:
    """Root may all the same; its mount says so, too."""

    def prepare(path: Path) -> None:
        furnish(path)
        path.chmod(0o555)

    local = make_box(plain=True)
    prepared(local, prepare)
    box = prepared(make_box(), prepare)
    expected = changes(local.mount)
    assert expected["create"] == (None if account.is_root else "EACCES")
    assert changes(box.mount) == expected
    assert box.alive()
    box.sync()
    assert differences(box.mount, box.box, times="-") == []


@pytest.mark.skipif(PLAIN, reason="a mount that is its own box cannot lose it")
def test_a_box_directory_that_was_removed(account: Account, box: MountedBox) -> None:
    furnish(box.mount)
    (box.mount / "other").write_bytes(b"never read")
    box.sync()
    shutil.rmtree(box.box)
    wait_until(lambda: not (box.mount / "file").exists(), timeout=20)
    # As in a local directory that was removed while it was somebody's working directory. The news
    # of each entry comes for itself.
    wait_until(lambda: outcome((box.mount / "other").read_bytes) == "ENOENT", timeout=20)
    said = outcome(save_through, box.mount / "new")
    assert said in ("ENOENT", "ESTALE", "EIO"), said
    assert box.status()["pid"]


def save_through(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        file.write(b"x")
        os.fsync(file.fileno())


@pytest.mark.skipif(PLAIN, reason="a mount that is its own box cannot lose it")
def test_a_box_directory_that_was_moved_away(account: Account, box: MountedBox) -> None:
    """Whatever the calls answer, they answer, and the daemon is well when the directory is back."""
    furnish(box.mount)
    box.sync()
    away = box.box.with_name("away")
    box.box.rename(away)
    pid = box.pid
    expected = ("ENOENT", "ESTALE", "EIO", "ENOTCONN", "EROFS", "ETIMEDOUT")
    for call in (
        lambda: os.listdir(box.mount),
        lambda: (box.mount / "file").read_bytes(),
        lambda: (box.mount / "directory" / "inner").stat(),
        lambda: save_through(box.mount / "new"),
        lambda: (box.mount / "made").mkdir(),
        lambda: os.statvfs(box.mount),
    ):
        said = outcome(call)
        assert not isinstance(said, str) or said in expected
    assert box.pid == pid
    away.rename(box.box)
    box.remount()
    assert (box.mount / "file").read_bytes() == b"content"
    assert save(box.mount / "afterwards", b"well", fsync=True)
    assert (box.box / "afterwards").read_bytes() == b"well"
