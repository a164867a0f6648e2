"""EROFS and ETXTBSY: what a read-only mount and a running program refuse, as a local disk does."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fuse.conftest import MakeBox, Place
from tests.support.accounts import Account, as_launcher
from tests.support.mounts import PLAIN, MountedBox
from tests.support.posix import RENAME_EXCHANGE, RENAME_NOREPLACE, outcome, renameat2

pytestmark = pytest.mark.each_account

Call = Callable[[Path], object]


def tree(top: Path) -> None:
    (top / "file").write_bytes(b"content")
    (top / "other").write_bytes(b"other")
    (top / "directory").mkdir()
    (top / "directory" / "inside").touch()
    (top / "empty").mkdir()
    (top / "link").symlink_to("file")
    (top / "dangling").symlink_to("nowhere")
    os.mkfifo(top / "fifo")
    os.setxattr(top / "file", "user.set", b"x")


def opening(name: str, flags: int) -> Call:
    def call(top: Path) -> object:
        os.close(os.open(top / name, flags | os.O_NONBLOCK, 0o644))
        return "opened"

    return call


def calls() -> Iterator[tuple[str, Call]]:
    """Every call that changes something, on what is there and on what is not."""
    names = ("file", "missing", "directory", "link", "dangling", "fifo", "missing/below")
    flags = {
        "O_RDONLY": os.O_RDONLY,
        "O_WRONLY": os.O_WRONLY,
        "O_RDWR": os.O_RDWR,
        "O_WRONLY|O_APPEND": os.O_WRONLY | os.O_APPEND,
        "O_WRONLY|O_TRUNC": os.O_WRONLY | os.O_TRUNC,
        "O_RDONLY|O_CREAT": os.O_RDONLY | os.O_CREAT,
        "O_WRONLY|O_CREAT": os.O_WRONLY | os.O_CREAT,
        "O_RDONLY|O_CREAT|O_EXCL": os.O_RDONLY | os.O_CREAT | os.O_EXCL,
    }
    by_name: dict[str, Callable[[Path], object]] = {
        "mkdir": os.mkdir,
        "rmdir": os.rmdir,
        "unlink": os.unlink,
        "mkfifo": os.mkfifo,
        "chmod": lambda path: os.chmod(path, 0o600),
        "chown": lambda path: os.chown(path, os.geteuid(), -1),
        "truncate": lambda path: os.truncate(path, 3),
        "utime": lambda path: os.utime(path),
        "utime to a value": lambda path: os.utime(path, ns=(1, 1)),
        "setxattr": lambda path: os.setxattr(path, "user.a", b"b"),
        "removexattr": lambda path: os.removexattr(path, "user.set"),
        "symlink": lambda path: os.symlink("to", path),
        "access R_OK": lambda path: os.access(path, os.R_OK),
        "stat": lambda path: bool(os.stat(path)),
    }
    for name in names:
        for label, value in flags.items():
            yield f"open {name} {label}", opening(name, value)
        for label, call in by_name.items():
            yield f"{label} {name}", lambda top, call=call, name=name: call(top / name)
    yield "rmdir of an empty one", lambda top: os.rmdir(top / "empty")
    for source in ("file", "directory", "missing"):
        for target in ("other", "missing", "empty", "directory/inside", "file"):
            for kind, value in (
                ("", 0),
                (" noreplace", RENAME_NOREPLACE),
                (" swap", RENAME_EXCHANGE),
            ):
                yield (
                    f"rename{kind} {source} {target}",
                    lambda top, source=source, target=target, value=value: renameat2(
                        top / source, top / target, value
                    ),
                )
            yield (
                f"link {source} {target}",
                lambda top, source=source, target=target: os.link(top / source, top / target),
            )


@pytest.fixture
def read_only(account: Account, make_box: MakeBox) -> Iterator[tuple[MountedBox, Path]]:
    """A read-only mount, and a read-only local file system, of the same tree."""
    if not account.is_root or PLAIN:
        pytest.skip("only root can mount a local file system to compare with")
    box = make_box()
    box.start()
    tree(box.mount)
    box.umount()
    box.devboxfs("mount", "--read-only", box.name, box.mount)
    local = box.home / "local"
    local.mkdir()
    as_launcher(lambda: subprocess.run(["mount", "-t", "tmpfs", "tmpfs", local], check=True))
    try:
        tree(local)
        subprocess.run(["mount", "-o", "remount,ro", local], check=True)
        yield box, local
    finally:
        subprocess.run(["umount", local], check=True)


@pytest.mark.timeout(200)
def test_a_read_only_mount_says_what_a_read_only_disk_says(
    account: Account, read_only: tuple[MountedBox, Path]
) -> None:
    box, local = read_only
    differing = {}
    count = 0
    for name, call in calls():
        count += 1
        here, there = outcome(call, box.mount), outcome(call, local)
        if here != there and there == "EROFS":
            # What would have failed or changed nothing anyway says so: the kernel does not know
            # that the mount is read-only, and looks at the rest first (DESIGN.md, section 9).
            writable = box.scratch / f"writable-{count}"
            writable.mkdir()
            tree(writable)
            there = outcome(call, writable)
            *_, one, other = name.split()
            assert there in errno.errorcode.values() or one == other, name
        if here != there:
            differing[name] = (here, there)
    assert count > 200
    assert differing == {}
    assert (box.box / "file").read_bytes() == b"content"
    assert os.access(box.mount / "file", os.W_OK)


def test_a_running_program_is_not_written(account: Account, place: Place) -> None:
    """By whatever way; it may be removed and replaced."""
    sleep = shutil.which("sleep")
    assert sleep is not None
    ways: dict[str, Call] = {
        "write": opening("program", os.O_WRONLY),
        "both": opening("program", os.O_RDWR),
        "append": opening("program", os.O_WRONLY | os.O_APPEND),
        "open and truncate": opening("program", os.O_WRONLY | os.O_TRUNC),
        "truncate": lambda top: os.truncate(top / "program", 3),
        "read": opening("program", os.O_RDONLY),
        "chmod": lambda top: os.chmod(top / "program", 0o700),
        "touch": lambda top: os.utime(top / "program"),
        "link": lambda top: os.link(top / "program", top / "second"),
        "replace": lambda top: os.rename(top / "new", top / "program"),
        "write the new one": opening("program", os.O_WRONLY),
        "write the old one": opening("second", os.O_WRONLY),
        "remove": lambda top: os.unlink(top / "second"),
    }
    said: list[dict[str, object]] = []
    for top in (place.mount, place.local):
        shutil.copy(sleep, top / "program")
        (top / "program").chmod(0o755)
        (top / "new").write_bytes(b"new")
        with subprocess.Popen([top / "program", "60"]) as running:
            try:
                said.append({way: outcome(call, top) for way, call in ways.items()})
                assert running.poll() is None
            finally:
                running.kill()
        shutil.copy(sleep, top / "program")
        (top / "program").chmod(0o755)
        with (top / "program").open("r+b"):
            with pytest.raises(OSError, match="busy") as caught:
                subprocess.run([top / "program", "0"], check=True)
            assert caught.value.errno == errno.ETXTBSY
        subprocess.run([top / "program", "0"], check=True)
    assert said[0] == said[1]
    assert said[0]["write"] == said[0]["truncate"] == "ETXTBSY"
    place.sync()
