"""Journals that cannot be read, or not wholly: nothing of them is lost, and somebody is told."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from devboxfs.core import records
from devboxfs.core.ops import Kind, Operation
from devboxfs.writeback.inspection import inspect_journal
from devboxfs.writeback.journal import Journal
from devboxfs.writeback.limits import Limits
from devboxfs.writeback.writeback import WriteBack
from tests.unit.writeback.conftest import Place

pytestmark = pytest.mark.anyio

SMALL = Limits(segment_bytes=400)


def left_behind(place: Place, names: list[bytes], limits: Limits = SMALL) -> Path:
    """Write a journal as a mount that died left it; each name is a new file with its name in it."""
    place.mounts.mkdir(mode=0o700, exist_ok=True)
    journal = Journal.create(place.mounts, box_uid="uid", box_name="my-box", limits=limits)
    for oid, name in enumerate(names, 1):
        journal.append(Operation(Kind.CREATE, oid, name, oid, mode=0o644))
        journal.append_write(Operation(Kind.WRITE, oid, name, oid, mode=0o644), name)
    journal.close()
    return journal.path


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def reformat(journal: Path) -> None:
    meta = json.loads((journal / "meta").read_text())
    (journal / "meta").write_text(json.dumps({**meta, "format": records.FORMAT + 1}))


def renumber_segment(journal: Path) -> None:
    segment = max(journal.glob("segment-*"))
    data = segment.read_bytes()
    header = dataclasses.replace(records.unpack_header(data), format=records.FORMAT + 1)
    again = records.pack_header(header)
    segment.write_bytes(again + data[records.HEADER_SIZE :])


def add_operation(journal: Path) -> None:
    with max(journal.glob("segment-*")).open("ab") as file:
        file.write(records.frame(31, 1000, b"of a later version"))


def add_control(journal: Path) -> None:
    with max(journal.glob("segment-*")).open("ab") as file:
        file.write(records.frame(records.LINK + 1, 0, b"\x90"))


def add_result(journal: Path) -> None:
    with max(journal.glob("segment-*")).open("ab") as file:
        file.write(records.frame(records.RESULT, 0, msgspec.msgpack.encode({"number": 0})))


@pytest.mark.parametrize(
    "later", [reformat, renumber_segment, add_operation, add_control, add_result]
)
async def test_the_journal_of_a_later_version_is_left_as_it_is(
    place: Place, later: Callable[[Path], None]
) -> None:
    path = left_behind(place, [b"f", b"g", b"h"])
    later(path)
    before = contents(path)
    async with place.mounted() as m:
        assert [journal for journal, _ in m.writeback.unreadable] == [path]
        assert "not known to this version" in m.writeback.unreadable[0][1]
        assert m.writeback.path != path
        assert not m.writeback.damage
        m.user.create(b"new", b"goes on")
        assert await m.writeback.sync_all() == 0
    after = contents(path)
    assert {name: after[name] for name in before} == before
    assert sorted(os.listdir(place.box)) == ["new"]
    assert not list(place.mounts.glob("damaged-*"))


async def test_the_torn_end_of_a_journal_is_no_damage(place: Place) -> None:
    path = left_behind(place, [b"f", b"g"], Limits())
    segment = path / "segment-1"
    segment.write_bytes(segment.read_bytes()[:-1])
    async with place.mounted() as m:
        assert not m.writeback.damage
        assert not m.writeback.unreadable
        # The last write had not been acknowledged.
        assert contents(place.box) == {"f": b"f", "g": b""}


async def test_what_precedes_damage_is_replayed_and_the_rest_is_kept(place: Place) -> None:
    names = [b"file-%d" % number for number in range(12)]
    path = left_behind(place, names)
    before = contents(path)
    segments = sorted(path.glob("segment-*"))
    assert len(segments) >= 4
    damaged = bytearray(segments[1].read_bytes())
    damaged[records.HEADER_SIZE + 30] ^= 0xFF
    segments[1].write_bytes(damaged)
    looked = inspect_journal(path)
    assert looked.damage is not None
    assert looked.operations < 24
    async with place.mounted() as m:
        (told,) = m.writeback.damage
        assert "segment 2 is damaged" in told
        assert m.writeback.statistics().last_error == told
        (kept,) = place.mounts.glob("damaged-*")
        assert str(kept) in told
        assert kept.stat().st_mode & 0o777 == 0o700
        # All that follows is there, byte for byte, and the first damaged one as it was found.
        expected = {name: before[name] for name in before if name.startswith("segment-")}
        del expected["segment-1"]
        expected["segment-2"] = bytes(damaged)
        assert contents(kept) == expected
        replayed = contents(place.box)
        assert replayed
        assert set(replayed) < {os.fsdecode(name) for name in names}
        assert all(data == os.fsencode(name) for name, data in list(replayed.items())[:-1])


async def test_a_damaged_journal_beside_a_sound_one_is_told_of(place: Place) -> None:
    sound = left_behind(place, [b"sound"])
    path = left_behind(place, [b"file-%d" % number for number in range(12)])
    (path / "segment-2").write_bytes(b"nothing")
    async with place.mounted() as m:
        assert m.writeback.path == sound
        assert len(m.writeback.damage) == 1
        assert (place.box / "sound").read_bytes() == b"sound"
        assert (place.box / "file-0").read_bytes() == b"file-0"


async def test_looking_at_a_journal_with_a_lock_changes_nothing(place: Place) -> None:
    place.mounts.mkdir(mode=0o700)
    writeback = WriteBack.open(place.mounts, box_uid="uid", box_name="my-box", limits=Limits())
    writeback.append(Operation(Kind.LOCK, 7, b".git/HEAD.lock", 1, mode=0o644))
    before = contents(writeback.path)
    looked = inspect_journal(writeback.path)
    assert [one.path for one in looked.objects] == [b".git/HEAD.lock"]
    assert contents(writeback.path) == before
    writeback.close()
