"""Flushing into a real box: what arrives, in how many round trips, through which breaks."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from devboxfs.core.ops import Kind, Operation
from devboxfs.writeback.limits import INLINE_LIMIT
from sealos_devbox import Version
from tests.unit.writeback.conftest import Mounted, Place

pytestmark = pytest.mark.anyio


def version(path: Path) -> Version:
    found = path.lstat()
    return Version(found.st_ino, found.st_ctime_ns, found.st_mtime_ns, found.st_size)


async def settled(mounted: Mounted) -> None:
    """Wait until nothing is pending."""
    assert await mounted.writeback.sync([], mounted.writeback.last_seq, sync_box=False) == 0


async def test_what_is_synced_is_in_the_box(place: Place) -> None:
    async with place.mounted() as m:
        m.user.mkdir(b"d")
        oid = m.user.create(b"d/f", b"hello ", mode=0o640)
        m.user.write(oid, b"d/f", b"world", offset=6, mode=0o640)
        m.user.do(Kind.SETATTR, oid, b"d/f", mtime_ns=12345678901, atime_ns=5)
        m.user.do(Kind.SYMLINK, m.writeback.next_oid(), b"d/l", data=b"f")
        m.user.do(Kind.LINK, oid, b"h", other=b"d/f")
        assert await m.writeback.sync([b"d/f"], m.writeback.last_seq) == 0
        found = (place.box / "d/f").stat()
        assert (place.box / "d/f").read_bytes() == b"hello world"
        assert (found.st_mode & 0o7777, found.st_mtime_ns, found.st_nlink) == (
            0o640,
            12345678901,
            2,
        )
        assert os.readlink(place.box / "d/l") == "f"
        assert m.ears.seqs == list(range(1, 8))
        attr = m.ears.objects[oid]
        assert attr is not None
        assert (attr.ino, attr.nlink) == (found.st_ino, 2)
        statistics = m.writeback.statistics()
        assert (statistics.pending_operations, statistics.pending_bytes) == (0, 0)
        assert statistics.last_error is None


@pytest.mark.parametrize("how", [Kind.UNLINK, Kind.RENAME])
async def test_an_object_that_loses_one_of_its_names_in_its_first_batch(
    place: Place, how: Kind
) -> None:
    """Its state then is not told; what it was in the box is."""
    async with place.mounted() as m:
        oid = m.user.create(b"one", b"content")
        m.user.do(Kind.LINK, oid, b"two", other=b"one")
        if how is Kind.UNLINK:
            m.user.do(Kind.UNLINK, oid, b"one")
        else:
            over = m.user.create(b"over", b"other")
            m.user.do(Kind.RENAME, over, b"one", other=b"over", replaced=oid)
        await settled(m)
        assert m.ears.objects[oid] is None
        there = (place.box / "two").stat()
        assert (m.ears.before[oid].ino, m.ears.before[oid].size) == (there.st_ino, there.st_size)


async def test_fsync_is_one_round_trip(place: Place) -> None:
    async with place.mounted() as m:
        m.user.create(b"first")
        await settled(m)
        assert m.link.transport is not None
        for number in range(3):
            before = m.link.transport.round_trips
            oid = m.user.create(b"f%d" % number, b"x" * 1000)
            m.writeback.file_opened(oid)
            assert await m.writeback.sync([b"f%d" % number], m.writeback.last_seq) == 0
            assert m.link.transport.round_trips == before + 1
            m.writeback.file_closed(oid)
            before = m.link.transport.round_trips
            assert await m.writeback.sync([b"f%d" % number], m.writeback.last_seq) == 0
            assert m.link.transport.round_trips == before + 1


async def test_what_lived_briefly_costs_only_the_directory_s_time(place: Place) -> None:
    async with place.mounted() as m:
        oid = m.user.create(b"tmp", b"x" * 100_000)
        m.user.do(Kind.UNLINK, oid, b"tmp")
        await settled(m)
        assert m.link.transport is not None
        assert m.link.transport.bytes_sent < 10_000
        assert m.writeback.statistics().wire_operations_sent == 1


async def test_changes_of_what_was_there(place: Place) -> None:
    file, gone = place.box / "file", place.box / "gone"
    file.write_bytes(b"0123456789" * 10)
    gone.write_bytes(b"")
    async with place.mounted() as m:
        oid = m.writeback.next_oid()
        m.user.write(oid, b"file", b"ABC", offset=10, base=version(file), mode=0o644)
        m.user.do(Kind.TRUNCATE, oid, b"file", size=20, mode=0o644)
        m.user.do(Kind.TRUNCATE, oid, b"file", size=30, mode=0o644)
        inode = file.stat().st_ino
        m.user.do(Kind.UNLINK, m.writeback.next_oid(), b"gone", base=version(gone))
        await settled(m)
        assert file.read_bytes() == b"0123456789ABC3456789" + bytes(10)
        assert file.stat().st_ino == inode
        assert not gone.exists()
        m.user.do(Kind.TRUNCATE, oid, b"file", size=0, mode=0o644, base=version(file))
        m.user.write(oid, b"file", b"new", mode=0o644)
        await settled(m)
        assert file.read_bytes() == b"new"
        assert file.stat().st_ino != inode
        assert m.ears.conflicts == []


async def test_batches_in_flight_build_on_each_other(place: Place) -> None:
    async with place.mounted() as m:
        m.user.create(b"first")
        await settled(m)
        oid = m.user.create(b"f", b"0")
        name = b"f"
        for number in range(1, 30):
            m.user.write(oid, name, b"%d" % (number % 10), offset=number, mode=0o644)
            new = b"f%d" % number
            m.user.do(Kind.RENAME, oid, new, other=name)
            name = new
            if number % 3 == 0:
                # Cut here, while the batches before are under way.
                m.writeback._ledger.more = True
                m.writeback._flusher.nudge()
                await trio.testing.wait_all_tasks_blocked()
        await settled(m)
        (place.box / "first").unlink()
        assert [p.name for p in place.box.iterdir()] == ["f29"]
        assert (place.box / "f29").read_bytes() == b"012345678901234567890123456789"
        assert m.ears.conflicts == []
        assert m.writeback.statistics().batches_sent > 2


async def test_large_writes_go_through_spool_files(place: Place) -> None:
    async with place.mounted() as m:
        data = os.urandom(INLINE_LIMIT * 3)
        oid = m.user.create(b"big", None)
        m.writeback.file_opened(oid)
        for part in range(3):
            op = Operation(
                Kind.WRITE, oid, b"big", m.user.now(), mode=0o644, offset=part * len(data)
            )
            await m.writeback.append_large_write(op, data)
            assert op.source is not None
            assert op.source.blob.read(op.source.offset, 10) == data[:10]
        assert await m.writeback.sync_all() == 0
        assert (place.box / "big").read_bytes() == data * 3


async def test_a_new_file_is_kept_back_while_it_is_open(place: Place) -> None:
    async with place.mounted() as m:
        oid = m.user.create(b"open", b"part")
        m.writeback.file_opened(oid)
        other = m.user.create(b"closed", b"whole")
        while other not in m.ears.objects:
            await m.writeback._flusher.wait_progress()
        assert not (place.box / "open").exists()
        m.user.write(oid, b"open", b" and rest", offset=4, mode=0o644)
        m.writeback.file_closed(oid)
        while oid not in m.ears.objects:
            await m.writeback._flusher.wait_progress()
        assert (place.box / "open").read_bytes() == b"part and rest"


async def test_drain_leaves_nothing(place: Place) -> None:
    steps: list[tuple[int, int]] = []
    async with place.mounted() as m:
        for number in range(50):
            oid = m.user.create(b"f%d" % number, b"x" * number)
            m.writeback.file_opened(oid)
        await m.writeback.drain(lambda done, total: steps.append((done, total)))
    assert len(list(place.box.iterdir())) == 50
    assert steps[-1] == (99, 99)
    assert [p.name for p in place.mounts.iterdir()] == []
    assert [p.name for p in (place.directory / "helper-state").iterdir()] == ["lock"]


async def test_a_killed_helper_loses_nothing(place: Place) -> None:
    async with place.mounted() as m:
        for number in range(400):
            m.user.create(b"f%d" % number, b"%d" % number * 50)
            if number % 100 == 50:
                m.writeback._ledger.more = True
                m.writeback._flusher.nudge()
                await trio.lowlevel.checkpoint()
                m.link.kill()
        await settled(m)
        assert m.link.connections > 1
        for number in range(400):
            assert (place.box / f"f{number}").read_bytes() == b"%d" % number * 50
        assert sorted(m.ears.seqs) == list(range(1, 801))
        assert m.ears.conflicts == []


async def test_offline_everything_waits(place: Place) -> None:
    async with place.mounted() as m:
        m.user.create(b"before")
        await settled(m)
        m.link.turn(up=False)
        m.link.kill()
        oid = m.user.create(b"meanwhile", b"data")
        with trio.move_on_after(0.2) as scope:
            await m.writeback.sync([b"meanwhile"], m.writeback.last_seq)
        assert scope.cancelled_caught
        assert m.writeback.statistics().pending_operations == 2
        m.link.turn(up=True)
        while oid not in m.ears.objects:
            await m.writeback._flusher.wait_progress()
        assert (place.box / "meanwhile").read_bytes() == b"data"


async def test_what_a_cancelled_flusher_left_is_recovered(place: Place) -> None:
    async with place.mounted() as m:
        m.user.create(b"one", b"1")
        await settled(m)
        m.user.create(b"two", b"2")
        m.writeback._ledger.more = True
        m.writeback._flusher.nudge()
        await trio.lowlevel.checkpoint()
    async with place.mounted() as m:
        assert m.recovered == []
        assert (place.box / "two").read_bytes() == b"2"
        assert m.writeback.next_oid() > 2
        await m.writeback.drain()
    assert [p.name for p in place.mounts.iterdir()] == []


async def test_journals_of_several_dead_mounts_are_all_brought_in(place: Place) -> None:
    one, two = place.open(), place.open()
    place_user = []
    for number, writeback in enumerate((one, two)):
        oid = writeback.next_oid()
        op = Operation(Kind.CREATE, oid, b"from-%d" % number, 10**18, mode=0o600)
        writeback.append(op)
        place_user.append(oid)
    one.close()
    two.close()
    async with place.mounted() as m:
        assert sorted(p.name for p in place.box.iterdir()) == ["from-0", "from-1"]
        assert len(list(place.mounts.iterdir())) == 1
        await m.writeback.drain()
    assert list(place.mounts.iterdir()) == []


async def test_writers_wait_while_too_much_is_unsent(place: Place) -> None:
    place.limits = replace(place.limits, unsent_bytes=1 << 20, unsent_seconds=0)
    async with place.mounted() as m:
        oid = m.user.create(b"big", None)
        with trio.fail_after(30):
            for part in range(40):
                await m.writeback.reserve(1 << 18)
                assert m.writeback.pending_bytes <= 1 << 20
                m.user.write(oid, b"big", bytes(1 << 18), offset=part << 18, mode=0o644)
        await settled(m)
        assert (place.box / "big").stat().st_size == 40 << 18


async def test_the_journal_lets_go_of_what_the_box_has_for_good(place: Place) -> None:
    place.limits = replace(place.limits, segment_bytes=1 << 16, durable_after=0.01)
    async with place.mounted() as m:
        for number in range(20):
            m.user.create(b"f%d" % number, bytes(20_000))
        await settled(m)
        with trio.fail_after(20):
            while m.writeback.statistics().journal_bytes > 1 << 17:
                await trio.sleep(0.01)
        (journal,) = place.mounts.iterdir()
        assert len(list(journal.glob("segment-*"))) == 1


async def test_a_full_journal_accepts_nothing_more(place: Place) -> None:
    place.limits = replace(place.limits, journal_bytes=1 << 16)
    async with place.mounted() as m:
        m.link.turn(up=False)
        m.link.kill()
        oid = m.user.create(b"f", None)
        accepted = 0
        while m.writeback.statistics().journal_bytes + 11_000 < 1 << 16:
            m.user.write(oid, b"f", b"x" * 10_000, offset=accepted * 10_000, mode=0o644)
            accepted += 1
        with pytest.raises(OSError, match="limit") as caught:
            m.user.write(oid, b"f", b"x" * 10_000, offset=accepted * 10_000, mode=0o644)
        assert caught.value.errno == errno.ENOSPC
        m.link.turn(up=True)
        await settled(m)
        assert (place.box / "f").stat().st_size == accepted * 10_000


async def test_an_outcome_says_which_events_are_older(place: Place) -> None:
    async with place.mounted() as m:
        transport = m.link.transport
        assert transport is not None
        async with transport.watch() as events:
            await events.receive()
            (place.box / "theirs").write_bytes(b"x")
            told = await events.receive()
            assert told
            m.user.create(b"ours", b"1")
            m.user.mkdir(b"directory")
            await settled(m)
            assert set(m.ears.events) == set(m.ears.seqs)
            assert min(m.ears.events.values()) >= told[-1].number > 0
