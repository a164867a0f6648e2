"""What a process in the box changes is seen through the mount, without remounting.

Each test first makes the mount (and the kernel) know the old state: a stale cache would show
it. The bound is generous; how long it took is recorded as the property `latency_ms`.
"""

import os
import random
import shutil
import stat
from collections.abc import Callable

import pytest

from tests.fuse.conftest import MakeBox, Place
from tests.support.accounts import Account
from tests.support.commands import run
from tests.support.mounts import PLAIN
from tests.support.trees import differences, fill, fill_with_oddities, wait_until_equal
from tests.support.waiting import wait_until

BOUND = 5.0

Seen = Callable[[Callable[[], object]], None]


@pytest.fixture
def seen(record_property: Callable[[str, object], None]) -> Seen:
    """Wait until the mount shows something, and record how long that took."""

    def wait(condition: Callable[[], object]) -> None:
        _, seconds = wait_until(condition, timeout=BOUND)
        record_property("latency_ms", round(seconds * 1000, 1))

    return wait


@pytest.fixture
def known(place: Place, account: Account) -> Place:
    """A directory with a file, a subdirectory and a link that both sides have and know."""
    account.perform(_make_known, place)
    return place


def _make_known(place: Place) -> None:
    (place.mount / "file").write_bytes(b"old content")
    (place.mount / "directory").mkdir()
    (place.mount / "directory" / "inner").write_bytes(b"inner")
    (place.mount / "link").symlink_to("file")
    place.sync()
    for path in [place.mount, *place.mount.glob("**/*")]:
        path.lstat()
        if path.is_file():
            path.read_bytes()
    assert not (place.mount / "missing").exists()


def test_a_file_is_rewritten(known: Place, account: Account, seen: Seen) -> None:
    (known.box / "file").write_bytes(b"new content, longer than the old")
    path = known.mount / "file"
    seen(lambda: path.read_bytes() == b"new content, longer than the old")
    there = (known.box / "file").stat()
    here = path.stat()
    assert (here.st_size, here.st_mtime_ns) == (there.st_size, there.st_mtime_ns)


def test_a_file_is_rewritten_with_the_same_size(known: Place, account: Account, seen: Seen) -> None:
    (known.box / "file").write_bytes(b"OLD CONTENT")
    seen(lambda: (known.mount / "file").read_bytes() == b"OLD CONTENT")


def test_a_file_is_rewritten_with_the_same_size_and_time(
    known: Place, account: Account, seen: Seen
) -> None:
    """Only ctime tells: the kernel's own check (size and mtime) would keep stale pages."""
    path = known.box / "file"
    before = path.stat()
    path.write_bytes(b"OLD CONTENT")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    seen(lambda: (known.mount / "file").read_bytes() == b"OLD CONTENT")


def test_a_file_is_replaced_by_rename(known: Place, account: Account, seen: Seen) -> None:
    (known.box / "new").write_bytes(b"replaced")
    (known.box / "new").rename(known.box / "file")
    seen(lambda: (known.mount / "file").read_bytes() == b"replaced")
    assert sorted(os.listdir(known.mount)) == ["directory", "file", "link"]


def test_a_name_that_was_missing_appears(known: Place, account: Account, seen: Seen) -> None:
    (known.box / "missing").write_bytes(b"here")
    seen(lambda: (known.mount / "missing").read_bytes() == b"here")
    assert "missing" in os.listdir(known.mount)


def test_a_file_is_removed(known: Place, account: Account, seen: Seen) -> None:
    (known.box / "file").unlink()
    seen(lambda: not os.path.lexists(known.mount / "file"))
    assert sorted(os.listdir(known.mount)) == ["directory", "link"]
    with pytest.raises(FileNotFoundError):
        (known.mount / "file").read_bytes()


def test_a_file_is_renamed(known: Place, account: Account, seen: Seen) -> None:
    (known.box / "file").rename(known.box / "renamed")
    seen(lambda: (known.mount / "renamed").read_bytes() == b"old content")
    seen(lambda: not (known.mount / "file").exists())
    assert sorted(os.listdir(known.mount)) == ["directory", "link", "renamed"]


def test_mode_and_time_change(known: Place, account: Account, seen: Seen) -> None:
    (known.box / "file").chmod(0o640)
    seen(lambda: stat.S_IMODE((known.mount / "file").stat().st_mode) == 0o640)
    when = 1_234_567_890_123_456_789
    os.utime(known.box / "file", ns=(when, when))
    seen(lambda: (known.mount / "file").stat().st_mtime_ns == when)
    (known.box / "directory").chmod(0o700)
    seen(lambda: stat.S_IMODE((known.mount / "directory").stat().st_mode) == 0o700)


def test_a_symbolic_link_is_redirected(known: Place, account: Account, seen: Seen) -> None:
    (known.box / "link").unlink()
    (known.box / "link").symlink_to("directory/inner")
    seen(lambda: (known.mount / "link").read_bytes() == b"inner")
    assert os.readlink(known.mount / "link") == "directory/inner"


def test_a_file_becomes_a_directory_and_back(known: Place, account: Account, seen: Seen) -> None:
    (known.box / "file").unlink()
    (known.box / "file").mkdir()
    (known.box / "file" / "below").write_bytes(b"below")
    seen(lambda: (known.mount / "file" / "below").read_bytes() == b"below")
    shutil.rmtree(known.box / "file")
    (known.box / "file").write_bytes(b"a file again")
    seen(lambda: (known.mount / "file").read_bytes() == b"a file again")


def test_a_file_that_is_open_grows(known: Place, account: Account, seen: Seen) -> None:
    with (known.mount / "file").open("rb", buffering=0) as file:
        assert file.read() == b"old content"
        with (known.box / "file").open("ab") as there:
            there.write(b", appended")
        seen(lambda: os.fstat(file.fileno()).st_size == len(b"old content, appended"))
        assert file.read() == b", appended"
        assert os.pread(file.fileno(), 100, 0) == b"old content, appended"


def test_a_file_that_is_open_is_rewritten_in_place(
    known: Place, account: Account, seen: Seen
) -> None:
    with (known.mount / "file").open("rb", buffering=0) as file:
        assert file.read() == b"old content"
        with (known.box / "file").open("r+b") as there:
            there.write(b"new")
        seen(lambda: os.pread(file.fileno(), 100, 0) == b"new content")


def test_a_file_that_is_open_is_replaced(known: Place, account: Account, seen: Seen) -> None:
    """The name shows the new file; the open one stays what it was, as on a local disk."""
    with (known.mount / "file").open("rb", buffering=0) as file:
        (known.box / "new").write_bytes(b"replaced")
        (known.box / "new").rename(known.box / "file")
        seen(lambda: (known.mount / "file").read_bytes() == b"replaced")
        assert os.pread(file.fileno(), 100, 0) == b"old content"
        assert os.fstat(file.fileno()).st_ino != (known.mount / "file").stat().st_ino


def test_a_file_that_is_open_is_removed(known: Place, account: Account, seen: Seen) -> None:
    with (known.mount / "file").open("rb", buffering=0) as file:
        (known.box / "file").unlink()
        seen(lambda: not (known.mount / "file").exists())
        assert os.pread(file.fileno(), 100, 0) == b"old content"


def test_a_tree_appears(known: Place, account: Account, seen: Seen) -> None:
    built = known.local / "built"
    built.mkdir()
    fill(built, seed=31, files=300, directories=40)
    fill_with_oddities(built)
    run("cp", "-a", built, known.box / "missing")
    wait_until_equal(built, known.mount / "missing", timeout=BOUND)


def test_a_tree_is_moved(known: Place, account: Account, seen: Seen) -> None:
    fill(known.mount / "directory", seed=32, files=100, directories=10)
    known.sync()
    run("cp", "-a", known.box / "directory", known.local / "copy")
    assert differences(known.mount / "directory", known.local / "copy") == []
    (known.box / "directory").rename(known.box / "moved")
    seen(lambda: not (known.mount / "directory").exists())
    wait_until_equal(known.local / "copy", known.mount / "moved", timeout=BOUND)
    # What happens in it afterwards is seen, too: it is watched under its new name.
    (known.box / "moved" / "later").write_bytes(b"later")
    seen(lambda: (known.mount / "moved" / "later").read_bytes() == b"later")


def test_a_tree_is_removed(known: Place, account: Account, seen: Seen) -> None:
    fill(known.mount / "directory", seed=33, files=100, directories=10)
    known.sync()
    assert run("find", known.mount, "-type", "f").stdout.count(b"\n") == 102
    shutil.rmtree(known.box / "directory")
    seen(lambda: not (known.mount / "directory").exists())
    assert sorted(os.listdir(known.mount)) == ["file", "link"]


def test_a_hard_link_is_made_in_the_box(known: Place, account: Account, seen: Seen) -> None:
    os.link(known.box / "file", known.box / "directory" / "second")
    seen(lambda: (known.mount / "directory" / "second").stat().st_nlink == 2)
    seen(lambda: (known.mount / "file").stat().st_nlink == 2)
    (known.box / "directory" / "second").write_bytes(b"through the other name")
    seen(lambda: (known.mount / "file").read_bytes() == b"through the other name")


def test_many_changes_in_a_row_end_in_the_last_state(
    known: Place, account: Account, seen: Seen
) -> None:
    random_ = random.Random(34)
    top = known.box / "directory"
    for number in range(1500):
        path = top / f"file{random_.randrange(60)}"
        choice = random_.random()
        if choice < 0.6:
            path.write_bytes(b"%d" % number * random_.randint(1, 50))
        elif choice < 0.8:
            path.unlink(missing_ok=True)
        elif path.exists():
            path.rename(top / f"file{random_.randrange(60)}")
    wait_until_equal(top, known.mount / "directory", timeout=BOUND, times="-l")


def test_both_sides_work_in_one_directory(known: Place, account: Account, seen: Seen) -> None:
    """Names of the one side do not disturb those of the other."""
    for number in range(150):
        (known.mount / "directory" / f"here{number}").write_bytes(b"here %d" % number)
        (known.box / "directory" / f"there{number}").write_bytes(b"there %d" % number)
        if number % 3 == 0:
            (known.mount / "directory" / f"here{number}").unlink()
        if number % 3 == 1:
            (known.box / "directory" / f"there{number}").unlink()
    known.sync()
    wait_until_equal(known.box, known.mount, timeout=BOUND, times="-l")
    assert len(os.listdir(known.mount / "directory")) == 201


@pytest.mark.skipif(PLAIN, reason="a directory has one side only")
def test_two_writers_of_one_file_lose_nothing(account: Account, make_box: MakeBox) -> None:
    """The box's version keeps the name, ours is kept beside it."""
    # On a slow link, the box's writer is done before our change arrives.
    box = make_box().start(delay_ms=600)
    (box.mount / "file").write_bytes(b"old content")
    box.sync()
    (box.mount / "file").write_bytes(b"ours")
    (box.box / "new").write_bytes(b"theirs, by another writer")
    (box.box / "new").rename(box.box / "file")
    told = box.devboxfs("sync", box.mount, check=False)
    # It says that there is a conflict, unless that was known before it was asked. Either way the
    # copy is in the box when it returns.
    if told.returncode != 0:
        assert told.returncode == 7
        assert b"one object was changed by both sides, see devboxfs conflicts" in told.stderr
    contents = {path.name: path.read_bytes() for path in box.box.iterdir()}
    assert contents.pop("file") == b"theirs, by another writer"
    assert list(contents.values()) == [b"ours"]
    (name,) = contents
    assert name.startswith("file.conflict-")
    wait_until(lambda: sorted(os.listdir(box.mount)) == ["file", name], timeout=BOUND)
    assert (box.mount / "file").read_bytes() == b"theirs, by another writer"
    assert (box.mount / name).read_bytes() == b"ours"
