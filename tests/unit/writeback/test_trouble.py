"""A box that is full, or read-only for a while: nothing is dropped, and what makes room passes."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from devboxfs.core.ops import Kind
from devboxfs.writeback.inspection import inspect_journal
from tests.unit.writeback.conftest import BoxLink, Place
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


@asynccontextmanager
async def other_link(place: Place) -> AsyncIterator[BoxLink]:
    link = place.link()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await link.wait_transport()
        yield link
        nursery.cancel_scope.cancel()


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
    async with small.mounted() as m:
        # It is mounted all the same, or nobody could make room through it.
        ((path, number),) = m.writeback.set_aside
        assert number == errno.ENOSPC
        assert path != m.writeback.path
        assert inspect_journal(path).operations == 21
        assert not (small.box / "big").exists()
        m.user.do(Kind.MKDIR, m.writeback.next_oid(), b"works", mode=0o755)
        await settled(m)
        subprocess.run(["mount", "-o", "remount,size=16m", small.directory / "small"], check=True)
        async with other_link(small) as link:
            assert await m.writeback.recover_others(link) == []
        assert m.writeback.set_aside == []
        assert (small.box / "big").stat().st_size == 20 << 18
        await m.writeback.drain()
    assert list(small.mounts.iterdir()) == []


async def test_what_is_refused_can_be_given_up(small: Place) -> None:
    inner = small.box / "inner"
    inner.mkdir()
    with read_only(inner):
        async with small.mounted() as m:
            oid = m.user.mkdir(b"inner/x")
            m.user.create(b"inner/x/f", b"1")
            m.user.create(b"inner/y", b"2")
            with trio.fail_after(10):
                assert await m.writeback.sync_all() == errno.EROFS
                assert await m.writeback.drain() is False
            assert m.writeback.discard([b"elsewhere"]) == 0
            assert m.writeback.discard([b"inner/x"]) == 3
            assert m.ears.errors[oid] == errno.ECANCELED
            assert [one.path for one in m.writeback.refusals()] == [b"inner/y"]
            assert m.writeback.discard([]) == 2
            with trio.fail_after(10):
                assert await m.writeback.drain() is True


@contextmanager
def read_only(inner: Path) -> Iterator[Callable[[str], None]]:
    """A directory of the box that is read-only; called with "rw" or "ro" it changes."""
    subprocess.run(["mount", "--bind", inner, inner], check=True)

    def turn(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,bind,{how}", inner], check=True)

    turn("ro")
    try:
        yield turn
    finally:
        subprocess.run(["umount", "-l", inner], check=True)


async def test_what_does_not_depend_on_a_read_only_part_goes_on(small: Place) -> None:
    inner = small.box / "inner"
    inner.mkdir()
    with read_only(inner) as turn:
        async with small.mounted() as m:
            first = m.user.mkdir(b"a")
            stuck = m.user.mkdir(b"inner/x")
            below = m.user.create(b"inner/x/f", b"1")
            last = m.user.create(b"b", b"2")
            with trio.fail_after(10):
                assert await m.writeback.sync([b"b"], m.writeback.last_seq) == 0
                assert (small.box / "b").read_bytes() == b"2"
                assert await m.writeback.sync([b"inner/x"], m.writeback.last_seq) == errno.EROFS
                assert await m.writeback.sync([b"inner/x/f"], m.writeback.last_seq) == errno.EROFS
                assert await m.writeback.sync_all() == errno.EROFS
                m.user.create(b"later", b"3")
                assert await m.writeback.sync([b"later"], m.writeback.last_seq) == 0
            assert {first, last} <= set(m.ears.objects)
            assert not {stuck, below} & set(m.ears.objects)
            assert m.ears.refused == [{stuck: errno.EROFS}]
            (refused,) = m.writeback.refusals()
            assert (refused.path, refused.errno, refused.operations) == (
                b"inner/x", errno.EROFS, 3
            )  # fmt: skip
            turn("rw")
            with trio.fail_after(10):
                while m.writeback.statistics().pending_operations:
                    await m.writeback._flusher.wait_progress()
            assert (inner / "x/f").read_bytes() == b"1"
            assert m.writeback.refusals() == []
            assert (m.ears.conflicts, m.ears.errors) == ([], {})
            assert sorted(m.ears.seqs) == list(range(1, m.writeback.last_seq + 1))


async def test_a_removal_of_what_is_refused_ends_it(small: Place) -> None:
    inner = small.box / "inner"
    inner.mkdir()
    small.limits = replace(small.limits, retry_first=3600, retry_last=3600)
    with read_only(inner):
        async with small.mounted() as m:
            oid = m.user.create(b"inner/f", b"1")
            with trio.fail_after(10):
                assert await m.writeback.sync([b"inner/f"], m.writeback.last_seq) == errno.EROFS
                m.user.do(Kind.UNLINK, oid, b"inner/f")
                while m.writeback.statistics().pending_operations:
                    await m.writeback._flusher.wait_progress()
            assert m.ears.conflicts == []


async def test_a_git_directory_waits_as_a_whole(small: Place) -> None:
    objects = small.box / ".git/objects"
    objects.mkdir(parents=True)
    with read_only(objects) as turn:
        async with small.mounted() as m:
            m.user.create(b".git/objects/ab", b"1")
            reference = m.user.create(b".git/main", b"ab")
            with trio.fail_after(10):
                assert await m.writeback.sync_all() == errno.EROFS
                m.user.create(b"other", b"3")
                assert await m.writeback.sync([b"other"], m.writeback.last_seq) == 0
                assert not (small.box / ".git/main").exists()
                turn("rw")
                m.writeback.try_again()
                while reference not in m.ears.objects:
                    await m.writeback._flusher.wait_progress()


async def test_a_sparse_file_that_did_not_fit_is_no_conflict(small: Place) -> None:
    """Its empty file and some of its ranges are there when the box is full."""
    ballast = small.box / "ballast"
    async with small.mounted() as m:
        m.user.create(b"before", b"1")
        await settled(m)
        ballast.write_bytes(bytes(2 << 20))
        oid = m.user.create(b"sparse", None)
        for part in range(5):
            m.user.write(oid, b"sparse", b"x" * (1 << 18), offset=part * 10 << 20, mode=0o644)
        assert await m.writeback.sync([b"sparse"], m.writeback.last_seq) == errno.ENOSPC
        assert (small.box / "sparse").exists()
        ballast.unlink()
        with trio.fail_after(10):
            while oid not in m.ears.objects:
                await m.writeback._flusher.wait_progress()
        assert (m.ears.conflicts, m.ears.errors) == ([], {})
        assert (small.box / "sparse").stat().st_size == (40 << 20) + (1 << 18)
        assert (small.box / "sparse").read_bytes()[40 << 20 :] == b"x" * (1 << 18)
        assert sorted(path.name for path in small.box.iterdir()) == ["before", "sparse"]


async def test_a_write_that_was_cut_by_a_full_disk_is_no_conflict(small: Place) -> None:
    ballast, file = small.box / "ballast", small.box / "f"
    file.write_bytes(b"start")
    async with small.mounted() as m:
        m.user.create(b"before", b"1")
        await settled(m)
        ballast.write_bytes(bytes(2 << 20))
        oid = m.writeback.next_oid()
        m.user.write(oid, b"f", b"x" * (1 << 18), offset=5, base=version(file), mode=0o644)
        for part in range(1, 5):
            m.user.write(oid, b"f", b"x" * (1 << 18), offset=5 + (part << 18), mode=0o644)
        assert await m.writeback.sync([b"f"], m.writeback.last_seq) == errno.ENOSPC
        ballast.unlink()
        with trio.fail_after(10):
            while oid not in m.ears.objects:
                await m.writeback._flusher.wait_progress()
        assert (m.ears.conflicts, m.ears.errors) == ([], {})
        assert file.read_bytes() == b"start" + b"x" * (5 << 18)


async def test_what_vanished_beside_trouble_is_not_lost(small: Place) -> None:
    """A file that replaced another and was removed leaves a removal behind."""
    (small.box / "inner").mkdir()
    target = small.box / "inner/f"
    target.write_bytes(b"old")
    with read_only(small.box / "inner") as turn:
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
            turn("rw")
            with trio.fail_after(10):
                while m.writeback.statistics().pending_operations:
                    await m.writeback._flusher.wait_progress()
            assert not target.exists()
            assert m.ears.seqs == [1, 2, 3, 4]
