"""Attributes: times, modes, owners, extended attributes, free space; locks. A tmpfs is the
model."""

import fcntl
import os
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fuse.conftest import Place
from tests.support.accounts import LAUNCHER, Account, as_launcher
from tests.support.commands import kill_group
from tests.support.posix import RENAME_EXCHANGE, opened, outcome, renameat2
from tests.support.trees import differences, wait_until_equal
from tests.support.waiting import wait_until

pytestmark = pytest.mark.each_account

LONG_AGO = 1_000_000_000_000_000_000


def let_the_clock_tick() -> None:
    """Wait until a change gets another time than the last one did: at HZ=100, for 10 ms."""
    start = time.monotonic_ns()
    wait_until(lambda: time.monotonic_ns() > start + 12_000_000)


def changed_times(objects: dict[str, Path], change: Callable[[], object]) -> dict[str, str]:
    """Which of mtime and ctime a change moves, for each object; mtimes start long ago."""
    for path in objects.values():
        os.utime(path, ns=(LONG_AGO, LONG_AGO), follow_symlinks=False)
    before = {name: path.lstat() for name, path in objects.items()}
    let_the_clock_tick()
    change()
    found = {}
    for name, path in objects.items():
        if not os.path.lexists(path):
            continue
        now = path.lstat()
        moved = ["mtime"] if now.st_mtime_ns != before[name].st_mtime_ns else []
        moved += ["ctime"] if now.st_ctime_ns > before[name].st_ctime_ns else []
        assert now.st_ctime_ns >= before[name].st_ctime_ns
        found[name] = " ".join(moved)
    return found


def times(top: Path) -> dict[str, object]:
    one, two, file = top / "one", top / "two", top / "one" / "file"
    for directory in (one, two):
        directory.mkdir()
    file.write_bytes(b"content")
    os.link(file, two / "second")
    (two / "link").symlink_to("x")
    objects = {"one": one, "two": two, "file": file, "link": two / "link"}
    changes: dict[str, Callable[[], object]] = {
        "read": lambda: file.read_bytes(),
        "write": lambda: _write(file, b"new"),
        "write nothing": lambda: _write(file, b""),
        "open and close": lambda: os.close(os.open(file, os.O_RDWR)),
        "truncate": lambda: os.truncate(file, 100),
        "truncate to the same size": lambda: os.truncate(file, 100),
        "open with O_TRUNC": lambda: os.close(os.open(file, os.O_WRONLY | os.O_TRUNC)),
        "open empty with O_TRUNC": lambda: os.close(os.open(file, os.O_WRONLY | os.O_TRUNC)),
        "chmod": lambda: file.chmod(0o600),
        "chmod to the same": lambda: file.chmod(0o600),
        "create": lambda: (one / "new").touch(),
        "mkdir": lambda: (one / "directory").mkdir(),
        "symlink": lambda: (one / "symlink").symlink_to("x"),
        "link": lambda: os.link(file, one / "third"),
        "unlink": lambda: (one / "third").unlink(),
        "rmdir": lambda: (one / "directory").rmdir(),
        "rename within": lambda: (one / "new").rename(one / "newer"),
        "rename across": lambda: (one / "newer").rename(two / "newer"),
        "rename of a directory": lambda: (one / "symlink").rename(two / "symlink"),
        "exchange": lambda: renameat2(file, two / "newer", RENAME_EXCHANGE),
        "exchange back": lambda: renameat2(two / "newer", file, RENAME_EXCHANGE),
        "rename over": lambda: (two / "newer").rename(two / "second"),
        "setxattr": lambda: os.setxattr(file, "user.a", b"b"),
        "list": lambda: os.listdir(one),
        "refused": lambda: outcome(one.rmdir),
    }
    return {name: changed_times(objects, change) for name, change in changes.items()}


def _write(path: Path, data: bytes) -> None:
    with opened(path, os.O_WRONLY) as file:
        os.write(file, data)


def chosen_times(top: Path) -> list[object]:
    path, link = top / "file", top / "link"
    path.touch()
    link.symlink_to("file")
    seen: list[object] = []
    for when in (0, 1, 999_999_999, 1_234_567_890_987_654_321, -1_500_000_000, 2**33 * 10**9 + 7):
        os.utime(path, ns=(when, when))
        seen.append(path.stat().st_mtime_ns)
        os.utime(link, ns=(when, when + 3), follow_symlinks=False)
        seen += [link.lstat().st_mtime_ns, path.stat().st_mtime_ns]
    os.utime(path, ns=(5_000_000_005, 6_000_000_006))
    seen += [path.stat().st_atime_ns, path.stat().st_mtime_ns]
    before = path.stat().st_mtime_ns
    os.utime(path)
    seen.append(path.stat().st_mtime_ns > before)
    with opened(path, os.O_RDONLY) as file:
        os.utime(file, ns=(7, 8))
        seen += [os.fstat(file).st_mtime_ns, path.stat().st_mtime_ns]
    os.utime(top, ns=(9, 10))
    return [*seen, top.stat().st_mtime_ns]


def modes(top: Path) -> list[object]:
    seen: list[object] = []
    (top / "file").touch()
    (top / "directory").mkdir()
    for name in ("file", "directory"):
        for mode in (0o000, 0o644, 0o777, 0o1777, 0o2755, 0o4711, 0o7777):
            (top / name).chmod(mode)
            seen.append(oct((top / name).stat().st_mode))
    with opened(top / "new", os.O_CREAT | os.O_RDWR, 0o000) as file:
        seen += [os.write(file, b"a descriptor outlives its mode"), os.fchmod(file, 0o444)]
        seen += [os.write(file, b"!"), oct(os.fstat(file).st_mode)]
    return [*seen, outcome(lambda: _write(top / "new", b"!"))]


def umasks(top: Path) -> list[object]:
    script = "for m in 000 022 077 027; do umask $m; : > f$m; mkdir d$m; done; mkfifo p; ln -s x l"
    subprocess.run(["sh", "-c", script], cwd=top, check=True, timeout=20)
    return [(path.name, oct(path.lstat().st_mode)) for path in sorted(top.iterdir())]


def inherited_groups(top: Path) -> list[object]:
    place = top / "group"
    place.mkdir()
    if os.geteuid() == 0:
        os.chown(place, -1, 1234)
    place.chmod(0o2775)
    (place / "file").touch()
    (place / "directory").mkdir()
    (place / "directory" / "below").mkdir()
    (place / "link").symlink_to("x")
    os.mkfifo(place / "fifo")
    found = [(path.lstat().st_gid, oct(path.lstat().st_mode)) for path in sorted(place.rglob("*"))]
    place.chmod(0o755)
    (place / "later").touch()
    return [found, (place / "later").stat().st_gid]


def extended_attributes(top: Path) -> list[object]:
    path, link, directory = top / "file", top / "link", top / "directory"
    path.touch()
    link.symlink_to("file")
    directory.mkdir()
    seen = [
        outcome(os.getxattr, path, "user.missing"),
        outcome(os.setxattr, path, "user.one", b"first"),
        outcome(os.setxattr, path, "user.two", b"\0\xff" * 500),
        outcome(os.setxattr, path, "user.empty", b""),
        outcome(os.setxattr, path, "user.one", b"x", os.XATTR_CREATE),
        outcome(os.setxattr, path, "user.none", b"x", os.XATTR_REPLACE),
        outcome(os.setxattr, path, "user.one", b"second", os.XATTR_REPLACE),
        outcome(os.getxattr, path, "user.one"),
        outcome(os.getxattr, path, "user.two"),
        outcome(os.getxattr, path, "user.empty"),
        outcome(os.getxattr, link, "user.one"),
        outcome(os.setxattr, link, "user.link", b"x", follow_symlinks=False),
        outcome(os.setxattr, path, "nonsense.name", b"x"),
        outcome(os.getxattr, path, "nonsense.name"),
        outcome(os.removexattr, path, "user.empty"),
        outcome(os.removexattr, path, "user.empty"),
        outcome(os.setxattr, directory, "user.of-a-directory", b"y"),
        outcome(os.getxattr, path, "security.capability"),
    ]
    path.rename(top / "renamed")
    found = [
        sorted(name for name in os.listxattr(one) if name.startswith("user."))
        for one in (top / "renamed", directory)
    ]
    return [seen, found, outcome(os.getxattr, top / "renamed", "user.one")]


def access_by_the_book(top: Path) -> list[object]:
    seen: list[object] = []
    path = top / "file"
    path.touch()
    for mode in (0o000, 0o100, 0o200, 0o400, 0o700, 0o077):
        path.chmod(mode)
        seen.append([os.access(path, way) for way in (os.F_OK, os.R_OK, os.W_OK, os.X_OK)])
    path.chmod(0o644)
    return [*seen, os.access(top / "missing", os.F_OK)]


SCENARIOS: list[Callable[[Path], object]] = [
    times,
    chosen_times,
    modes,
    umasks,
    inherited_groups,
    extended_attributes,
    access_by_the_book,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.__name__)
def test_attributes_behave_as_on_a_tmpfs(
    account: Account, place: Place, scenario: Callable[[Path], object]
) -> None:
    assert scenario(place.mount) == scenario(place.local)
    assert differences(place.mount, place.local, times="") == []
    wait_until_equal(place.mount, place.box, timeout=10)


def test_extended_attributes_arrive_in_the_box(account: Account, place: Place) -> None:
    (place.mount / "file").write_bytes(b"content")
    os.setxattr(place.mount / "file", "user.origin", b"the mount")
    place.sync()
    assert os.getxattr(place.box / "file", "user.origin") == b"the mount"
    os.setxattr(place.box / "file", "user.origin", b"the box")
    wait_until(lambda: os.getxattr(place.mount / "file", "user.origin") == b"the box", timeout=5)


def test_an_extended_attribute_for_which_a_file_has_no_room(account: Account, place: Place) -> None:
    """It is refused like on the box's own disk, and nothing else suffers."""
    path, there = place.mount / "file", place.box.parent / "probe"
    value = b"v" * 60_000
    with path.open("wb") as file:
        file.write(b"content")
        place.sync()
        account.perform(there.touch)
        refusal = 0
        try:
            account.perform(lambda: os.setxattr(there, "user.much", value))
        except OSError as error:
            refusal = error.errno
        finally:
            account.perform(there.unlink)
        told = 0
        try:
            os.setxattr(file.fileno(), "user.much", value)
        except OSError as error:
            told = error.errno
        assert told == refusal
        assert os.listxattr(path) == ([] if refusal else ["user.much"])
    (place.mount / "after").write_bytes(b"x")
    place.sync()
    assert (place.box / "after").read_bytes() == b"x"
    os.setxattr(path, "user.little", b"1")
    place.sync()
    assert os.getxattr(place.box / "file", "user.little") == b"1"


def test_listing_at_length_asks_for_no_label_of_each_file(account: Account, place: Place) -> None:
    """ls, find and cp ask once where a file system says that it has none of SELinux's labels."""
    path = place.mount / "file"
    path.touch()
    with pytest.raises(OSError, match="not supported"):
        os.getxattr(path, "security.selinux")
    with pytest.raises(OSError, match="No data"):
        os.getxattr(path, "security.capability")  # getcap(8) complains of any other error


def test_times_that_no_inode_holds(account: Account, place: Place) -> None:
    (place.mount / "file").touch()
    for seconds in (2**33, -(2**33), 2**34, 253_402_300_799):
        os.utime(place.mount / "file", (seconds, seconds))
        shown = (place.mount / "file").stat().st_mtime
        assert abs(shown - max(-(2**63) / 1e9, min(seconds, 2**63 / 1e9))) < 1
    place.sync()


def test_free_space_is_that_of_the_box(account: Account, place: Place) -> None:
    place.sync()
    here, there = os.statvfs(place.mount), os.statvfs(place.box)
    assert here.f_blocks * here.f_frsize == there.f_blocks * there.f_frsize
    assert here.f_namemax == there.f_namemax
    assert here.f_files == there.f_files
    # Others use the disk, too.
    assert abs(here.f_bavail * here.f_frsize - there.f_bavail * there.f_frsize) < 1 << 30


def test_a_sticky_directory_of_another_user(place: Place, account: Account) -> None:
    """Who may write into it may not remove what others own."""
    if account.is_root:
        pytest.skip("nothing is forbidden to root")
    if LAUNCHER != 0:
        pytest.skip("only root can make files of another user")
    place.sync()
    for top in (place.box, place.local):
        as_launcher(_make_sticky, top)
    sticky = place.mount / "sticky"
    wait_until(lambda: (sticky / "of-root").exists(), timeout=5)
    assert sticky.stat().st_uid == 0

    def changes(top: Path) -> list[object]:
        return [
            outcome(os.unlink, top / "of-root"),
            outcome(os.rename, top / "of-root", top / "mine-now"),
            outcome((top / "own").write_bytes, b"own"),
            outcome(os.rename, top / "own", top / "of-root"),
            outcome(os.rename, top / "own", top / "renamed"),
            outcome(os.chmod, top / "of-root", 0o600),
            outcome(os.utime, top / "of-root", (1, 1)),
            outcome(os.unlink, top / "renamed"),
            sorted(os.listdir(top)),
        ]

    assert changes(sticky) == changes(place.local / "sticky")


def _make_sticky(top: Path) -> None:
    (top / "sticky").mkdir()
    (top / "sticky").chmod(0o1777)
    (top / "sticky" / "of-root").write_bytes(b"not yours")


_LOCKER = """\
import fcntl, sys
with open(sys.argv[1], "r+") as file:
    getattr(fcntl, sys.argv[2])(file, fcntl.LOCK_EX)
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextmanager
def locked_by_another_process(path: Path, call: str) -> Iterator[subprocess.Popen[bytes]]:
    other = subprocess.Popen(
        ["/usr/bin/env", "python3", "-c", _LOCKER, path, call],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        assert other.stdout.readline() == b"locked\n"
        yield other
    finally:
        kill_group(other)


@pytest.mark.parametrize("call", ["flock", "lockf"])
def test_locks_between_processes(account: Account, place: Place, call: str) -> None:
    path = place.mount / "locked"
    path.touch()
    lock = getattr(fcntl, call)
    with path.open("r+") as file:
        with locked_by_another_process(path, call):
            assert outcome(lock, file, fcntl.LOCK_EX | fcntl.LOCK_NB) in ("EAGAIN", "EACCES")
        lock(file, fcntl.LOCK_EX)
    assert stat.S_ISREG(path.stat().st_mode)
