"""The disk of this machine is full: nothing is accepted that could not be kept."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from devboxfs.core.ops import Kind, Operation
from tests.unit.writeback.conftest import Place
from tests.unit.writeback.test_flusher import settled

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system"),
]


@pytest.fixture
def small(place: Place) -> Iterator[Path]:
    """The journals are on a disk of 1 MiB; the box is not."""
    place.mounts.mkdir(mode=0o700)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", place.mounts], check=True
    )
    try:
        yield place.mounts
    finally:
        subprocess.run(["umount", "-l", place.mounts], check=True)


@contextmanager
def no_space() -> Iterator[None]:
    """What is in here fails at some point because the disk is full."""
    with pytest.raises(OSError, match="No space") as caught:
        yield
    assert caught.value.errno == errno.ENOSPC


async def test_a_full_local_disk_accepts_nothing(place: Place, small: Path) -> None:
    async with place.mounted() as m:
        m.link.turn(up=False)
        m.link.kill()
        oid = m.user.create(b"f", None)
        accepted = 0
        with no_space():
            while accepted < 1000:
                m.user.write(oid, b"f", b"x" * 10_000, offset=accepted * 10_000, mode=0o644)
                accepted += 1
        assert accepted > 50
        # Large ones too, and what is smaller than what was refused may still fit, or not.
        large = Operation(Kind.WRITE, oid, b"f", m.user.now(), mode=0o644, offset=0)
        with no_space():
            await m.writeback.append_large_write(large, b"y" * 500_000)
        assert m.writeback.statistics().pending_operations == accepted + 1
    # The next daemon finds all that was accepted, and nothing of what was not.
    (small / "room").touch()
    subprocess.run(["mount", "-o", "remount,size=4m", small], check=True)
    async with place.mounted() as m:
        assert (place.box / "f").read_bytes() == b"x" * (accepted * 10_000)
        m.user.create(b"g", b"works again")
        with trio.fail_after(20):
            await settled(m)
        assert (place.box / "g").read_bytes() == b"works again"


@pytest.mark.parametrize("given", [False, True], ids=["nobody gives way", "a cache gives way"])
async def test_a_disk_that_takes_no_more_files(place: Place, small: Path, given: bool) -> None:
    """Bytes are left, names are not: a large write needs a file of its own, a small one none."""
    async with place.mounted() as m:
        oid = m.user.create(b"f", b"small")
        await settled(m)
        m.link.turn(up=False)
        m.link.kill()
        subprocess.run(["mount", "-o", "remount,nr_inodes=64", small], check=True)
        fillers = small / "fillers"
        fillers.mkdir()
        with no_space():
            for number in range(100):
                (fillers / str(number)).touch()
        asked: list[int] = []

        def make_room(size: int) -> bool:
            asked.append(size)
            if given:
                (fillers / "0").unlink()
            return given

        m.writeback.on_full_disk(make_room)
        before = m.writeback.statistics()
        large = Operation(Kind.WRITE, oid, b"f", m.user.now(), mode=0o644)
        if given:
            await m.writeback.append_large_write(large, b"y" * 300_000)
        else:
            with no_space():
                await m.writeback.append_large_write(large, b"y" * 300_000)
            after = m.writeback.statistics()
            assert (after.pending_operations, after.journal_bytes) == (0, before.journal_bytes)
        assert asked == [300_000]
        # What needs no file goes on.
        m.user.write(oid, b"f", b"SMALL", mode=0o644)
        (fillers / "1").unlink()
        m.link.turn(up=True)
        with trio.fail_after(20):
            await settled(m)
        expected = b"y" * 300_000 if given else b"small"
        assert (place.box / "f").read_bytes() == b"SMALL" + expected[5:]


async def test_a_disk_that_is_full_for_a_while(place: Place, small: Path) -> None:
    """The flusher's own records find no room either; it goes on when there is."""
    async with place.mounted() as m:
        oid = m.user.create(b"f", b"1")
        await settled(m)
        filler = small / "filler"
        with filler.open("wb", buffering=0) as file, no_space():
            while True:
                file.write(bytes(4096))
        with no_space():
            while True:
                m.user.write(oid, b"f", b"x" * 500, mode=0o644)
        filler.unlink()
        seq = m.user.do(Kind.MKDIR, m.writeback.next_oid(), b"d", mode=0o755)
        with trio.fail_after(30):
            while seq not in m.ears.seqs:
                await m.writeback._flusher.wait_progress()
        assert (place.box / "d").is_dir()
        assert m.ears.conflicts == []
