"""Directories of many entries, and files of more than 4 GiB that change by a few bytes."""

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fuse.conftest import Place
from tests.posix.conftest import LONG
from tests.support.accounts import Account
from tests.support.mounts import PLAIN
from tests.support.waiting import wait_until

COUNT = 100_000 if LONG else 3_000
SIZE = 5 << 30
MIDDLE = 4_500_000_000
PATIENCE = 300

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.opendir.restype = ctypes.c_void_p
_LIBC.readdir.restype = ctypes.c_void_p
_LIBC.telldir.restype = ctypes.c_long
for _function in (_LIBC.readdir, _LIBC.telldir, _LIBC.rewinddir, _LIBC.closedir):
    _function.argtypes = [ctypes.c_void_p]
_LIBC.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]


class _Entry(ctypes.Structure):
    _fields_ = (
        ("ino", ctypes.c_uint64),
        ("position", ctypes.c_int64),
        ("length", ctypes.c_ushort),
        ("kind", ctypes.c_ubyte),
        ("name", ctypes.c_char * 256),
    )


class Stream:
    """A directory that is being read, by opendir(3) and its like."""

    def __init__(self, path: Path) -> None:
        self._stream = _LIBC.opendir(os.fsencode(path))
        assert self._stream, os.strerror(ctypes.get_errno())

    def next(self) -> str | None:
        ctypes.set_errno(0)
        found = _LIBC.readdir(self._stream)
        if not found:
            assert ctypes.get_errno() == 0, os.strerror(ctypes.get_errno())
            return None
        return os.fsdecode(ctypes.cast(found, ctypes.POINTER(_Entry)).contents.name)

    def rest(self) -> list[str]:
        return [name for name in iter(self.next, None) if name not in (".", "..")]

    def tell(self) -> int:
        return int(_LIBC.telldir(self._stream))

    def seek(self, position: int) -> None:
        _LIBC.seekdir(self._stream, position)

    def rewind(self) -> None:
        _LIBC.rewinddir(self._stream)

    def close(self) -> None:
        _LIBC.closedir(self._stream)


@contextmanager
def reading(path: Path) -> Iterator[Stream]:
    stream = Stream(path)
    try:
        yield stream
    finally:
        stream.close()


def make(directory: Path, names: list[str]) -> None:
    directory.mkdir()
    for name in names:
        os.close(os.open(directory / name, os.O_CREAT | os.O_WRONLY, 0o644))


def numbered(count: int) -> list[str]:
    return [f"{number:06}" for number in range(count)]


def shown(directory: Path, count: int) -> None:
    wait_until(
        lambda: directory.is_dir() and len(os.listdir(directory)) == count,
        timeout=PATIENCE,
        what=f"{count} entries",
    )


@pytest.mark.timeout(900)
def test_a_directory_of_many_entries(account: Account, place: Place) -> None:
    """Made in the box, listed and looked at here, removed in the box, and gone here."""
    names = numbered(COUNT)
    place.sync()
    make(place.box / "many", names)
    many = place.mount / "many"
    shown(many, COUNT)
    assert sorted(os.listdir(many)) == names
    counted = place.run("sh", "-c", "ls -f many | wc -l", timeout=PATIENCE).stdout
    assert int(counted) == COUNT + 2
    found = place.run("find", "many", "-type", "f", timeout=PATIENCE).stdout
    assert len(found.splitlines()) == COUNT
    before = place.owner.round_trips()
    assert (many / names[-1]).stat().st_size == 0
    assert not (many / "another").exists()
    assert PLAIN or place.owner.round_trips() - before <= 3  # `status` has its own
    for name in names[::2]:
        os.unlink(place.box / "many" / name)
    shown(many, COUNT - len(names[::2]))
    assert sorted(os.listdir(many)) == names[1::2]
    # The kernel forgets 50,000 names one by one, behind the listing.
    wait_until(lambda: not (many / names[0]).exists(), timeout=PATIENCE, what="the first one's end")
    shutil.rmtree(place.box / "many")
    wait_until(lambda: not many.exists(), timeout=PATIENCE, what="the end of the directory")


@pytest.mark.timeout(600)
def test_what_the_box_made_is_removed_in_few_round_trips(account: Account, place: Place) -> None:
    place.sync()
    names = numbered(2000)
    make(place.box / "many", names)
    shown(place.mount / "many", len(names))
    before = place.owner.round_trips()
    place.run("rm", "-r", "many", timeout=PATIENCE)
    assert not (place.mount / "many").exists()
    place.sync()
    assert not (place.box / "many").exists()
    # A batch is cut every quarter of a second, however slow the machine is.
    assert place.owner.round_trips() - before < len(names) / 4


def test_entries_come_and_go_while_a_directory_is_read(account: Account, place: Place) -> None:
    """What is there all the time is seen exactly once; positions stay what they are."""
    names = numbered(1000)
    place.sync()
    make(place.box / "many", names)
    many = place.mount / "many"
    shown(many, len(names))
    with reading(many) as stream:
        seen = [name for name in (stream.next() for _ in range(300)) if name not in (".", "..")]
        position = stream.tell()
        gone = {name for name in names[::7] if name not in seen}
        replaced = [name for name in names[1::7] if name not in seen]
        for name in gone:
            os.unlink(many / name)
        for number in range(200):
            (many / f"new-{number}").touch()
            (place.box / "many" / f"theirs-{number}").touch()
        for name in replaced:
            # As editors save: the name is there all the time.
            (many / "temporary").write_bytes(b"saved")
            os.rename(many / "temporary", many / name)
        wait_until(lambda: (many / "theirs-199").exists(), timeout=60, what="what the box made")
        rest = stream.rest()
        stable = set(names) - gone
        listed = [str(name) for name in seen] + rest
        assert sorted(name for name in listed if name in stable) == sorted(stable)
        assert len(listed) == len(set(listed))
        stream.seek(position)
        again = stream.rest()
        assert [name for name in again if name in stable] == [
            name for name in rest if name in stable
        ]
        stream.rewind()
        everything = stream.rest()
        assert sorted(everything) == sorted(os.listdir(place.mount / "many"))
        assert set(everything) >= stable | {"new-0", "new-199", "theirs-0", "theirs-199"}


def made_large(place: Place) -> tuple[Path, Path]:
    """5 GiB in the box, most of it a hole; seen here."""
    place.sync()
    there = place.box / "large"
    with there.open("wb") as file:
        file.truncate(SIZE)
        file.seek(SIZE - 4)
        file.write(b"last")
    here = place.mount / "large"
    wait_until(lambda: here.exists() and here.stat().st_size == SIZE, timeout=60, what="the file")
    return here, there


def carried(place: Place) -> int:
    link = place.owner.status()["link"]
    return int(link["bytes_sent"]) + int(link["bytes_received"])


def at(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        return os.pread(file.fileno(), size, offset)


def test_a_byte_appended_to_a_large_file_moves_alone(account: Account, place: Place) -> None:
    here, there = made_large(place)
    before = carried(place)
    with here.open("ab") as file:
        file.write(b"!")
    info = here.stat()
    # Holes are not told: `du` and `tar --sparse` must not take anything for one.
    assert info.st_size == SIZE + 1
    assert info.st_blocks == -(-(SIZE + 1) // 512)
    place.sync()
    assert there.stat().st_size == SIZE + 1
    assert at(there, SIZE - 4, 10) == b"last!"
    assert there.stat().st_blocks * 512 < 1 << 20  # still a hole
    assert carried(place) - before < 1 << 20


def test_the_middle_of_a_large_file_moves_alone(account: Account, place: Place) -> None:
    here, there = made_large(place)
    before = carried(place)
    with here.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"middle", MIDDLE)
        assert os.pread(file.fileno(), 8, MIDDLE - 1) == b"\0middle\0"
        os.fsync(file.fileno())
    assert at(there, MIDDLE - 1, 8) == b"\0middle\0"
    assert there.stat().st_size == here.stat().st_size == SIZE
    # Reads come with what lies ahead of them, of 5 GiB a little.
    assert carried(place) - before < 64 << 20


def test_a_large_file_is_cut_without_being_fetched(account: Account, place: Place) -> None:
    here, there = made_large(place)
    before = carried(place)
    os.truncate(here, MIDDLE)
    assert here.stat().st_size == MIDDLE
    place.sync()
    assert there.stat().st_size == MIDDLE
    os.truncate(here, SIZE + 7)
    place.sync()
    assert there.stat().st_size == here.stat().st_size == SIZE + 7
    assert at(there, SIZE - 4, 11) == bytes(11)
    assert there.stat().st_blocks * 512 < 1 << 20
    assert carried(place) - before < 1 << 20
    assert at(here, SIZE - 4, 11) == bytes(11)


def test_what_fills_a_hole_is_not_taken_for_one(account: Account, place: Place) -> None:
    """tar --sparse does not read files without blocks."""
    place.sync()
    with (place.box / "hole").open("wb") as file:
        file.truncate(100_000)
    here = place.mount / "hole"
    wait_until(lambda: here.exists() and here.stat().st_size == 100_000, what="the file")
    with here.open("r+b", buffering=0) as file:
        file.write(b"x" * 100_000)
        assert here.stat().st_blocks * 512 >= 100_000
    place.sync()
    assert here.stat().st_blocks * 512 >= 100_000
    place.run("tar", "--sparse", "-cf", place.local / "archive", "hole")
    place.run("tar", "-xf", place.local / "archive", cwd=place.local)
    assert (place.local / "hole").read_bytes() == b"x" * 100_000
