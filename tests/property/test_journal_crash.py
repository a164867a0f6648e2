"""A journal cut or damaged at every byte gives back a prefix of what it had accepted.

All before that.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devboxfs.core import records
from devboxfs.core.ops import Kind, Operation
from devboxfs.writeback.journal import Journal
from devboxfs.writeback.journal_reading import Control
from devboxfs.writeback.limits import Limits

SMALL = Limits(segment_bytes=500)


def create(directory: Path, limits: Limits = SMALL) -> Journal:
    return Journal.create(directory, box_uid="uid", box_name="box", limits=limits)


def fill(journal: Journal, count: int) -> list[tuple[Kind, bytes, bytes]]:
    accepted = []
    for number in range(count):
        path = b"file-%d" % number
        if number % 3 == 2:
            journal.append_control(records.LINK, 0, b"\x91%c" % number)
            accepted.append((Kind.CREATE, b"control", b"%d" % number))
            continue
        if number % 3:
            op = Operation(Kind.WRITE, number, path, number, mode=0o644)
            data = bytes([number]) * (number * 7 % 40 + 1)
            journal.append_write(op, data)
            accepted.append((Kind.WRITE, path, data))
        else:
            journal.append(Operation(Kind.CREATE, number, path, number, mode=0o644))
            accepted.append((Kind.CREATE, path, b""))
    return accepted


def seen(found: list[Operation | Control]) -> list[tuple[Kind, bytes, bytes]]:
    result = []
    for item in found:
        if isinstance(item, Control):
            result.append((Kind.CREATE, b"control", b"%d" % item.payload[1]))
        else:
            data = item.source.blob.read(item.source.offset, item.length) if item.source else b""
            result.append((item.kind, item.path, data))
    return result


def reopen(path: Path, copy: Path) -> list[tuple[Kind, bytes, bytes]]:
    journal, found = Journal.adopt(copy, SMALL)
    result = seen(found)
    # It goes on, and what is appended now is found behind the rest.
    op = Operation(Kind.CREATE, 500, b"later", 1)
    journal.append(op)
    journal.close()
    journal, found = Journal.adopt(copy, SMALL)
    assert seen(found) == [*result, (Kind.CREATE, b"later", b"")]
    journal.close()
    return result


@pytest.mark.slow
def test_cut_at_every_byte_of_the_last_segment(tmp_path: Path) -> None:
    journal = create(tmp_path)
    accepted = fill(journal, 12)
    journal.close()
    segments = sorted(journal.path.glob("segment-*"), key=lambda p: int(p.name[8:]))
    assert len(segments) > 1
    size = segments[-1].stat().st_size
    before = -1
    for length in range(size, -1, -1):
        copy = tmp_path / "copies" / journal.path.name
        shutil.copytree(journal.path, copy)
        with (copy / segments[-1].name).open("r+b") as file:
            file.truncate(length)
        found = reopen(journal.path, copy)
        assert found == accepted[: len(found)]
        assert before < 0 or before - 1 <= len(found) <= before, "one record at a time"
        before = len(found)
        shutil.rmtree(copy)
    assert 0 < before < len(accepted)


@pytest.mark.slow
def test_damage_at_every_byte_of_the_last_segment(tmp_path: Path) -> None:
    journal = create(tmp_path)
    accepted = fill(journal, 10)
    journal.close()
    segments = sorted(journal.path.glob("segment-*"), key=lambda p: int(p.name[8:]))
    last = segments[-1].read_bytes()
    for at in range(len(last)):
        copy = tmp_path / "copies" / journal.path.name
        shutil.copytree(journal.path, copy)
        damaged = bytearray(last)
        damaged[at] ^= 0x55
        (copy / segments[-1].name).write_bytes(damaged)
        found = reopen(journal.path, copy)
        assert found == accepted[: len(found)]
        shutil.rmtree(copy.parent)


@pytest.mark.slow
def test_damage_in_a_middle_segment_keeps_the_rest(tmp_path: Path) -> None:
    journal = create(tmp_path)
    accepted = fill(journal, 30)
    journal.close()
    segments = sorted(journal.path.glob("segment-*"), key=lambda p: int(p.name[8:]))
    assert len(segments) >= 3
    middle = segments[1].read_bytes()
    for at in range(0, len(middle), 3):
        copies = tmp_path / "copies"
        copy = copies / journal.path.name
        shutil.copytree(journal.path, copy)
        damaged = bytearray(middle)
        damaged[at] ^= 0x55
        (copy / segments[1].name).write_bytes(damaged)
        adopted, items = Journal.adopt(copy, SMALL)
        found = seen(items)
        assert found == accepted[: len(found)]
        assert 0 < len(found) < len(accepted)
        assert adopted.damage is not None
        kept = next(copies.glob("damaged-*"))
        assert (kept / segments[1].name).read_bytes() == damaged
        for later in segments[2:]:
            assert (kept / later.name).read_bytes() == later.read_bytes()
        adopted.append(Operation(Kind.CREATE, 500, b"later", 1))
        adopted.close()
        again, items = Journal.adopt(copy, SMALL)
        assert seen(items) == [*found, (Kind.CREATE, b"later", b"")]
        again.close()
        shutil.rmtree(copies)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.integers(0, 700), max_size=12), st.integers(100, 2000))
def test_what_is_appended_is_read(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], segment: int
) -> None:
    directory = tmp_path_factory.mktemp("journal")
    limits = Limits(segment_bytes=segment)
    journal = create(directory, limits)
    expected = []
    for number, size in enumerate(sizes):
        op = Operation(Kind.WRITE, 1, b"f", 5, offset=number)
        journal.append_write(op, bytes([number]) * size)
        expected.append((Kind.WRITE, b"f", bytes([number]) * size))
    journal.close()
    journal, found = Journal.adopt(journal.path, limits)
    assert seen(found) == expected
    assert [item.seq for item in found if isinstance(item, Operation)] == list(
        range(1, len(sizes) + 1)
    )
    assert journal.next_seq == len(sizes) + 1
    journal.close(remove=True)
    assert list(directory.iterdir()) == []
