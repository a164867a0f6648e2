"""Nothing stays stale, however lookups, reads and changes in the box race with each other."""

import contextlib
import mmap
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuse.conftest import Place
from tests.support.accounts import Account
from tests.support.mounts import PLAIN
from tests.support.trees import wait_until_equal
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PLAIN, reason="a directory has one side only"),
]

DIRECTORIES = 4
NAMES = 25


def _any_path(random_: random.Random, top: Path) -> Path:
    path = top / f"directory{random_.randrange(DIRECTORIES)}"
    if random_.random() < 0.3:
        path /= f"sub{random_.randrange(2)}"
    return path / f"name{random_.randrange(NAMES)}"


def _change(random_: random.Random, top: Path, number: int) -> None:
    """Do one of everything that a process in the box may do to a name."""
    path, other = _any_path(random_, top), _any_path(random_, top)
    match random_.choices(range(10), [8, 4, 4, 4, 2, 2, 2, 2, 1, 1])[0]:
        case 0:
            path.write_bytes(b"%d " % number * random_.randint(1, 500))
        case 1:
            path.unlink()
        case 2:
            path.rename(other)
        case 3:
            (top / "unseen").write_bytes(b"new %d" % number)
            (top / "unseen").rename(path)
        case 4:
            with path.open("r+b") as file:
                file.seek(random_.randrange(100))
                file.write(b"in place %d" % number)
        case 5:
            path.symlink_to(f"name{number}")
        case 6:
            path.chmod(random_.choice([0o600, 0o640, 0o644, 0o755]))
        case 7:
            when = random_.randrange(10**18, 2 * 10**18)
            os.utime(path, ns=(when, when))
        case 8:
            sub = path.parent
            sub.rename(top / "moved")
            (top / "moved").rename(sub)
        case 9:
            os.link(path, other)


def _look(random_: random.Random, top: Path) -> None:
    """Make the kernel know something: a name, its absence, attributes, pages, a listing."""
    path = _any_path(random_, top)
    match random_.randrange(5):
        case 0:
            path.lstat()
        case 1:
            path.read_bytes()
        case 2:
            os.listdir(path.parent)
        case 3:
            path.with_name(f"never{random_.randrange(9)}").exists()
        case 4:
            list(os.scandir(path.parent.parent))


def _repeat(
    seed: int, what: Callable[[random.Random, Path], object], top: Path, stop: threading.Event
) -> None:
    random_ = random.Random(seed)
    while not stop.is_set():
        with contextlib.suppress(OSError):
            what(random_, top)


@pytest.mark.parametrize("seed", [41, 42])
def test_lookups_and_reads_race_with_changes(account: Account, place: Place, seed: int) -> None:
    """Every name, attribute and byte agrees at the end, link counts and directories' times too."""
    for number in range(DIRECTORIES):
        for sub in range(2):
            (place.mount / f"directory{number}" / f"sub{sub}").mkdir(parents=True)
    place.sync()
    stop = threading.Event()
    lookers = [
        threading.Thread(
            target=account.perform, args=(_repeat, 100 * seed + n, _look, place.mount, stop)
        )
        for n in range(4)
    ]
    for looker in lookers:
        looker.start()
    try:
        random_ = random.Random(seed)
        for number in range(4000):
            with contextlib.suppress(OSError):
                _change(random_, place.box, number)
    finally:
        stop.set()
        for looker in lookers:
            looker.join(60)
    assert not any(looker.is_alive() for looker in lookers)
    wait_until_equal(place.box, place.mount, timeout=30)


def test_a_mapped_file_that_changes_in_place(account: Account, place: Place) -> None:
    """Pages that are mapped are replaced when the box writes into the same file."""
    (place.mount / "mapped").write_bytes(b"a" * 20_000)
    place.sync()
    with (
        (place.mount / "mapped").open("rb") as file,
        mmap.mmap(file.fileno(), 20_000, prot=mmap.PROT_READ) as mapped,
    ):
        assert mapped[9000:9003] == b"aaa"
        for letter in (b"b", b"c", b"d"):
            with (place.box / "mapped").open("r+b") as there:
                there.seek(9000)
                there.write(letter * 3)
            wait_until(lambda letter=letter: mapped[9000:9003] == letter * 3)
            assert os.pread(file.fileno(), 3, 9000) == letter * 3
            assert mapped[8999] == mapped[9003] == ord("a")
