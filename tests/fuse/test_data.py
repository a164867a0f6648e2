"""Programs that depend on what a file system promises of one file: SQLite, logs, maps, appends."""

import contextlib
import mmap
import os
import random
import select
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fuse.conftest import Place
from tests.support.accounts import Account
from tests.support.commands import kill_group, need
from tests.support.waiting import wait_until


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_sqlite_from_two_connections(account: Account, place: Place, mode: str) -> None:
    database = place.mount / "database"
    with (
        contextlib.closing(sqlite3.connect(database, timeout=30)) as one,
        contextlib.closing(sqlite3.connect(database, timeout=30)) as two,
    ):
        assert one.execute(f"pragma journal_mode={mode}").fetchone() == (mode,)
        one.execute("create table facts (id integer primary key, what blob)")
        random_ = random.Random(21)
        for number in range(40):
            writer = (one, two)[number % 2]
            with writer:
                rows = [(random_.randbytes(random_.randint(1, 2000)),) for _ in range(10)]
                writer.executemany("insert into facts (what) values (?)", rows)
            seen = (two, one)[number % 2].execute("select count(*) from facts").fetchone()
            assert seen == (10 * (number + 1),)
        # One writes, the other is refused rather than let in.
        one.execute("begin immediate")
        two.execute("pragma busy_timeout=0")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            two.execute("begin immediate")
        one.execute("delete from facts where id % 3 = 0")
        one.rollback()
        assert one.execute("pragma integrity_check").fetchone() == ("ok",)
        assert two.execute("pragma integrity_check").fetchone() == ("ok",)
    place.sync()
    with contextlib.closing(sqlite3.connect(place.box / "database")) as there:
        assert there.execute("pragma integrity_check").fetchone() == ("ok",)
        assert there.execute("select count(*) from facts").fetchone() == (400,)


_APPENDER = """\
import sys
with open(sys.argv[1], "ab", buffering=0) as log:
    for number in range(int(sys.argv[3])):
        log.write(f"{sys.argv[2]} line {number}\\n".encode())
"""


def test_a_log_is_tailed_while_it_grows(account: Account, place: Place) -> None:
    need("tail")
    log = place.mount / "log"
    log.touch()
    tail = subprocess.Popen(
        ["tail", "-n", "+1", "-F", "-s", "0.05", log],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        place.run("/usr/bin/env", "python3", "-c", _APPENDER, log, "one", "500")
        wanted = b"".join(b"one line %d\n" % number for number in range(500))
        assert read_exactly(tail.stdout.fileno(), len(wanted)) == wanted
        # Rotated: tail follows the name.
        log.rename(place.mount / "log.1")
        place.run("/usr/bin/env", "python3", "-c", _APPENDER, log, "two", "5")
        wanted = b"".join(b"two line %d\n" % number for number in range(5))
        assert read_exactly(tail.stdout.fileno(), len(wanted)) == wanted
    finally:
        kill_group(tail)
    place.sync()
    assert (place.box / "log").read_bytes() == wanted
    assert (place.box / "log.1").read_bytes().count(b"\n") == 500


def read_exactly(descriptor: int, size: int, timeout: float = 20) -> bytes:
    got = b""
    while len(got) < size:
        ready, _, _ = select.select([descriptor], [], [], timeout)
        assert ready, f"nothing for {timeout} s after {got[-80:]!r}"
        part = os.read(descriptor, size - len(got))
        assert part, f"the end after {got[-80:]!r}"
        got += part
    return got


def test_appends_of_two_processes_do_not_overwrite_each_other(
    account: Account, place: Place
) -> None:
    log = place.mount / "log"
    log.touch()
    with ThreadPoolExecutor(2) as both:
        argv = ["/usr/bin/env", "python3", "-c", _APPENDER, log]
        runs = [both.submit(account.perform, place.run, *argv, who, "400") for who in ("a", "b")]
        for one in runs:
            one.result()
    place.sync()
    for top in (place.mount, place.box):
        lines = (top / "log").read_text().splitlines()
        for who in ("a", "b"):
            mine = [line for line in lines if line.startswith(who)]
            assert mine == [f"{who} line {number}" for number in range(400)]
        assert len(lines) == 800


def test_a_shared_map_is_written_back(account: Account, place: Place) -> None:
    path = place.mount / "mapped"
    size = 5 * mmap.PAGESIZE + 100
    path.write_bytes(b"a" * size)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size) as view:
        view[:5] = b"start"
        view[mmap.PAGESIZE * 3 - 2 : mmap.PAGESIZE * 3 + 2] = b"edge"
        view[-3:] = b"end"
        view.flush()
        os.fsync(file.fileno())
        seen = bytes(view)
        assert seen == path.read_bytes()
        # What write() changes is seen through the map, in the same file.
        os.pwrite(file.fileno(), b"WRITTEN", mmap.PAGESIZE)
        assert view[mmap.PAGESIZE : mmap.PAGESIZE + 7] == b"WRITTEN"
    place.sync()
    content = (place.box / "mapped").read_bytes()
    assert len(content) == size
    assert content[:5] == b"start"
    assert content[-3:] == b"end"
    assert content[mmap.PAGESIZE * 3 - 2 : mmap.PAGESIZE * 3 + 2] == b"edge"
    assert content[mmap.PAGESIZE : mmap.PAGESIZE + 7] == b"WRITTEN"


def test_a_map_of_a_file_that_the_box_had(account: Account, place: Place) -> None:
    place.sync()
    content = random.Random(22).randbytes(3_000_000)
    (place.box / "data").write_bytes(content)
    path = place.mount / "data"
    wait_until(lambda: path.exists() and path.stat().st_size == len(content), timeout=5)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        assert view[2_000_000:2_000_100] == content[2_000_000:2_000_100]
        assert bytes(view) == content


def test_large_content_goes_both_ways(account: Account, place: Place) -> None:
    """Bigger than a frame, a window and a journal segment."""
    content = random.Random(23).randbytes(40_000_000)
    (place.mount / "written").write_bytes(content)
    assert (place.mount / "written").read_bytes() == content
    place.sync()
    assert (place.box / "written").read_bytes() == content
    (place.box / "made-there").write_bytes(content[::-1])
    path = place.mount / "made-there"
    wait_until(lambda: path.exists() and path.stat().st_size == len(content), timeout=5)
    assert path.read_bytes() == content[::-1]


def test_random_writes_into_a_large_file(account: Account, place: Place) -> None:
    random_ = random.Random(24)
    model = bytearray(random_.randbytes(2_000_000))
    path = place.mount / "file"
    path.write_bytes(model)
    place.sync()
    with path.open("r+b", buffering=0) as file:
        for round_ in range(4):
            for _ in range(30):
                start = random_.randrange(len(model))
                part = random_.randbytes(random_.randint(1, 30_000))
                model[start : start + len(part)] = part
                os.pwrite(file.fileno(), part, start)
            if round_ == 1:
                os.fsync(file.fileno())
                assert (place.box / "file").read_bytes() == model
            if round_ == 2:
                place.sync()
            assert os.pread(file.fileno(), len(model) + 1, 0) == model
    place.sync()
    assert (place.box / "file").read_bytes() == model


def test_fsync_means_that_the_box_has_it(account: Account, place: Place) -> None:
    for number in range(5):
        temporary, final = place.mount / ".save", place.mount / f"saved{number}"
        with temporary.open("wb") as file:
            file.write(b"content %d" % number)
            file.flush()
            os.fsync(file.fileno())
            assert (place.box / ".save").read_bytes() == b"content %d" % number
        temporary.rename(final)
        sync_directory(place.mount)
        assert (place.box / final.name).read_bytes() == b"content %d" % number
        assert not (place.box / ".save").exists()


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def test_without_fsync_the_box_has_it_soon(account: Account, place: Place) -> None:
    (place.mount / "note").write_text("soon\n")
    _, seconds = wait_until(lambda: (place.box / "note").read_text() == "soon\n", timeout=5)
    print(f"in the box after {seconds * 1000:.0f} ms", file=sys.stderr)
