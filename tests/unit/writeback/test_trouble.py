"""A box that is full, or read-only for a while: nothing is dropped, and what makes room passes."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest
import trio

from devboxfs.core.ops import Kind
from tests.unit.writeback.conftest import Place
from tests.unit.writeback.test_flusher import settled, version

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system"),
]


@pytest.fixture
def small(place: Place) -> Iterator[Place]:
    """A box of 4 MiB; the helper's state is on the same file system."""
    top = place.directory / "small"
    top.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", top], check=True)
    try:
        (top / "box").mkdir()
        (top / "helper-state").mkdir(mode=0o700)
        place.box_top = top
        place.limits = replace(place.limits, retry_first=0.05, retry_last=0.2)
        yield place
    finally:
        subprocess.run(["umount", "-l", top], check=True)


async def test_a_full_box_takes_everything_once_there_is_room(small: Place) -> None:
    ballast = small.box / "ballast"
    ballast.write_bytes(bytes(2 << 20))
    async with small.mounted() as m:
        m.user.create(b"before", b"1")
        await settled(m)
        big = m.user.create(b"big", None)
        for part in range(12):
            m.user.write(big, b"big", bytes([part]) * (1 << 18), offset=part << 18, mode=0o644)
        after = m.user.create(b"after", b"2")
        assert await m.writeback.sync([b"big"], m.writeback.last_seq) == errno.ENOSPC
        assert m.writeback.known_full
        number, oids = m.ears.troubles[0]
        assert number == errno.ENOSPC
        assert {big, after} <= oids
        assert await m.writeback.sync([b"after"], m.writeback.last_seq) == errno.ENOSPC
        assert not (small.box / "after").exists()
        ballast.unlink()
        with trio.fail_after(10):
            while after not in m.ears.objects:
                await m.writeback._flusher.wait_progress()
        await settled(m)
        assert m.ears.troubles[-1] == (0, set())
        assert not m.writeback.known_full
        expected = b"".join(bytes([part]) * (1 << 18) for part in range(12))
        assert (small.box / "big").read_bytes() == expected
        assert (small.box / "after").read_bytes() == b"2"
        assert (m.ears.conflicts, m.ears.errors) == ([], {})
        await m.writeback.drain()


async def test_a_removal_that_makes_room_passes(small: Place) -> None:
    ballast = small.box / "ballast"
    ballast.write_bytes(bytes(2 << 20))
    async with small.mounted() as m:
        seen = version(ballast)
        big = m.user.create(b"big", None)
        for part in range(12):
            m.user.write(big, b"big", bytes([part]) * (1 << 18), offset=part << 18, mode=0o644)
        assert await m.writeback.sync([b"big"], m.writeback.last_seq) == errno.ENOSPC
        m.user.do(Kind.UNLINK, m.writeback.next_oid(), b"ballast", base=seen)
        with trio.fail_after(10):
            while big not in m.ears.objects:
                await m.writeback._flusher.wait_progress()
        assert not ballast.exists()
        assert (small.box / "big").stat().st_size == 12 << 18
        assert (m.ears.conflicts, m.ears.errors) == ([], {})


async def test_trouble_in_the_middle_of_a_batch(small: Place) -> None:
    """Not staging but an operation has no room: the box then waits to be told to go on."""
    (small.box / "f").write_bytes(b"x")
    top = small.directory / "small"
    async with small.mounted() as m:
        await settled(m)
        for number in range(30):
            m.user.create(b"n%d" % number, b"%d" % number)
        subprocess.run(["mount", "-o", "remount,ro", top], check=True)
        try:
            assert await m.writeback.sync([b"n7"], m.writeback.last_seq) == errno.EROFS
        finally:
            subprocess.run(["mount", "-o", "remount,rw", top], check=True)
        with trio.fail_after(10):
            while m.writeback.statistics().pending_operations:
                await m.writeback._flusher.wait_progress()
        for number in range(30):
            assert (small.box / f"n{number}").read_bytes() == b"%d" % number
        assert (m.ears.conflicts, m.ears.errors) == ([], {})


async def test_recovery_into_a_full_box_says_so_and_keeps_everything(small: Place) -> None:
    async with small.mounted() as m:
        m.link.turn(up=False)
        m.link.kill()
        big = m.user.create(b"big", None)
        for part in range(20):
            m.user.write(big, b"big", bytes([part]) * (1 << 18), offset=part << 18, mode=0o644)
    with pytest.raises(BaseExceptionGroup) as caught:
        async with small.mounted() as m:
            raise AssertionError
    assert caught.group_contains(OSError, match="No space left")
    subprocess.run(["mount", "-o", "remount,size=16m", small.directory / "small"], check=True)
    async with small.mounted() as m:
        assert (small.box / "big").stat().st_size == 20 << 18


async def test_an_operation_in_trouble_is_resumed(small: Place) -> None:
    """The box has done what came before it, and nothing after it until it is told to go on."""
    inner = small.box / "inner"
    inner.mkdir()
    subprocess.run(["mount", "--bind", inner, inner], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", inner], check=True)
    try:
        async with small.mounted() as m:
            first = m.user.mkdir(b"a")
            stuck = m.user.mkdir(b"inner/x")
            last = m.user.create(b"b", b"2")
            assert await m.writeback.sync([b"b"], m.writeback.last_seq) == errno.EROFS
            assert first in m.ears.objects
            assert m.ears.seqs == [1]
            assert sorted(p.name for p in small.box.iterdir()) == ["a", "inner"]
            for number in range(3):
                m.user.create(b"later%d" % number, b"3")
                while len(m.ears.troubles) < number + 2:
                    await m.writeback._flusher.wait_progress()
            subprocess.run(["mount", "-o", "remount,bind,rw", inner], check=True)
            with trio.fail_after(10):
                while m.writeback.statistics().pending_operations:
                    await m.writeback._flusher.wait_progress()
            assert m.ears.objects[stuck] is not None
            assert m.ears.objects[last] is not None
            assert (small.box / "later2").read_bytes() == b"3"
            assert (m.ears.conflicts, m.ears.errors) == ([], {})
    finally:
        subprocess.run(["umount", "-l", inner], check=True)


async def test_what_vanished_beside_trouble_is_not_lost(small: Place) -> None:
    """A file that replaced another and was removed leaves a removal behind."""
    (small.box / "inner").mkdir()
    target = small.box / "inner/f"
    target.write_bytes(b"old")
    subprocess.run(["mount", "--bind", small.box / "inner", small.box / "inner"], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", small.box / "inner"], check=True)
    try:
        async with small.mounted() as m:
            oid = m.user.create(b"tmp", b"new")
            m.user.do(
                Kind.RENAME,
                oid,
                b"inner/f",
                other=b"tmp",
                replaced=77,
                replaced_base=version(target),
            )
            m.user.do(Kind.UNLINK, oid, b"inner/f")
            assert await m.writeback.sync([b"inner/f"], m.writeback.last_seq) == errno.EROFS
            assert m.ears.seqs == []
            subprocess.run(["mount", "-o", "remount,bind,rw", small.box / "inner"], check=True)
            with trio.fail_after(10):
                while m.writeback.statistics().pending_operations:
                    await m.writeback._flusher.wait_progress()
            assert not target.exists()
            assert m.ears.seqs == [1, 2, 3, 4]
    finally:
        subprocess.run(["umount", "-l", small.box / "inner"], check=True)
