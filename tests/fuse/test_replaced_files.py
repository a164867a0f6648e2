"""Files that the box replaces while a program here has them mapped, and git's directories."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.fuse.conftest import Place
from tests.support.accounts import Account
from tests.support.mounts import PLAIN, MountedBox
from tests.support.waiting import wait_until
from tests.support.watching import watching

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PLAIN, reason="a directory has one side only"),
]

# A process of its own, because what is wrong would kill it (SIGBUS). Each content is one letter
# over and over; the second replacement gets the number that the first has made free.
_READER = """
import errno, mmap, os, sys
mounted, box = sys.argv[1:]
def put(name, letter, size):
    with open(os.path.join(box, "next.lock"), "wb") as file:
        file.write(letter * size)
    os.rename(file.name, os.path.join(box, name))
for number in range(60):
    letter = b"%c" % (97 + number % 26)
    put("index", letter, 20000)
    while True:
        try:
            with open(os.path.join(mounted, "index"), "rb") as file:
                size = os.fstat(file.fileno()).st_size
                pages = mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ)
            break
        except OSError as error:
            # ESTALE: it was replaced after each of the kernel's two looks at the name.
            if error.errno not in (errno.ENOENT, errno.ESTALE):
                raise
    put("index", letter.upper(), 100)
    put("index", letter.upper(), 50)
    seen = set(pages[:])
    assert len(seen) == 1, seen
    pages.close()
"""


def _make_repository(top: Path) -> None:
    for name in ("objects", "refs"):
        (top / name).mkdir(parents=True)
    (top / "HEAD").write_text("ref: refs/heads/main\n")
    (top / "index").write_bytes(b"first")


def test_a_mapped_index_keeps_its_content(place: Place, account: Account) -> None:
    account.perform(_make_repository, place.box / "bare")
    done = subprocess.run(
        [sys.executable, "-c", _READER, place.mount / "bare", place.box / "bare"],
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stderr)


def test_nothing_is_repeated_inside_git_directories(place: Place, account: Account) -> None:
    """Its names exclude others, so nobody makes one but who means it; that it changed is told."""
    repository = place.box / "bare"
    account.perform(_make_repository, repository)
    wait_until(lambda: (place.mount / "bare" / "index").exists(), timeout=10, what="the index")
    with watching(place.mount / "bare") as heard:
        lock = repository / "index.lock"
        lock.write_bytes(b"second")
        lock.rename(repository / "index")
        (repository / "packed-refs").write_bytes(b"")
        heard.until("ATTRIB,ISDIR ./")
        assert {event.split()[0] for event in heard.rest(0.4)} <= {"ATTRIB,ISDIR"}
    assert (place.mount / "bare" / "index").read_bytes() == b"second"


def test_unmounting_while_the_box_changes(box: MountedBox, account: Account) -> None:
    """The process that repeats the changes is inside the mount almost all the time."""
    busy = box.box / "busy"
    busy.mkdir()
    for _ in range(4):
        wait_until((box.mount / "busy").exists, timeout=10, what="the directory")
        list((box.mount / "busy").iterdir())
        over = threading.Event()

        def change(over: threading.Event = over) -> None:
            number = 0
            while not over.is_set():
                number += 1
                (busy / f"{number % 50}").write_bytes(b"%d" % number)
                (busy / f"{number % 50}").rename(busy / f"moved{number % 50}")
                over.wait(0.002)

        worker = threading.Thread(target=change)
        worker.start()
        try:
            wait_until(
                lambda: box.status()["watchers"]["performed"] > 3, timeout=60, what="repetitions"
            )
            box.umount()
        finally:
            over.set()
            worker.join()
        assert not box.is_mounted()
        box.start()
