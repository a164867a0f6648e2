"""The journal: limits, local errors, owners, removal."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from devboxfs.core.ops import Kind, Operation, Source
from devboxfs.core.records import RecordError
from devboxfs.writeback.backlog import Backlog
from devboxfs.writeback.journal import Journal
from devboxfs.writeback.journal_directory import JournalInUseError, find_journals
from devboxfs.writeback.limits import Limits
from devboxfs.writeback.spools import write_spool


def create(directory: Path, limits: Limits | None = None) -> Journal:
    return Journal.create(directory, box_uid="uid", box_name="box", limits=limits or Limits())


def write(journal: Journal, data: bytes) -> Operation:
    op = Operation(Kind.WRITE, 7, b"f", 1)
    journal.append_write(op, data)
    return op


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let the kernel refuse to write beyond a size: what is written up to there is written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_record_that_does_not_fit_is_cut_away(tmp_path: Path) -> None:
    journal = create(tmp_path)
    write(journal, b"one")
    size = journal.size
    file = journal.path / "segment-1"
    for room in range(1, 60, 7):
        with (
            file_size_limit(file.stat().st_size + room),
            pytest.raises(OSError, match="large") as caught,
        ):
            write(journal, b"x" * 100)
        assert caught.value.errno == errno.EFBIG
        assert journal.size == size == file.stat().st_size
    op = write(journal, b"two")
    assert op.seq == 2
    journal.close()
    journal, found = Journal.adopt(journal.path, Limits())
    assert [item.source.blob.read(item.source.offset, item.length) for item in found] == [
        b"one",
        b"two",
    ]  # type: ignore[union-attr]
    journal.close()


def test_nothing_is_accepted_beyond_the_limit(tmp_path: Path) -> None:
    journal = create(tmp_path, Limits(journal_bytes=400))
    write(journal, b"x" * 100)
    with pytest.raises(OSError, match="limit") as caught:
        write(journal, b"x" * 300)
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="limit"):
        journal.spool_for(7, 300)
    assert write(journal, b"x").seq == 2
    journal.append_control(34, 0, b"x" * 500)
    journal.close()


def test_a_living_owner_keeps_its_journal(tmp_path: Path) -> None:
    journal = create(tmp_path)
    assert find_journals(tmp_path) == [journal.path]
    with pytest.raises(JournalInUseError):
        Journal.adopt(journal.path, Limits())
    journal.close()
    adopted, _ = Journal.adopt(journal.path, Limits())
    assert adopted.incarnation != journal.incarnation
    assert (adopted.path.stat().st_mode & 0o777, adopted.ident) == (0o700, journal.ident)
    adopted.close(remove=True)
    assert find_journals(tmp_path) == []


def test_another_format_is_left_alone(tmp_path: Path) -> None:
    journal = create(tmp_path)
    write(journal, b"x")
    journal.close()
    meta = journal.path / "meta"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "format": 2}))
    before = (journal.path / "segment-1").read_bytes()
    with pytest.raises(RecordError, match="format 2"):
        Journal.adopt(journal.path, Limits())
    assert (journal.path / "segment-1").read_bytes() == before
    assert len(list(journal.path.glob("segment-*"))) == 1


def test_what_was_released_can_be_read_while_it_is_held(tmp_path: Path) -> None:
    journal = create(tmp_path, Limits(segment_bytes=300))
    held = write(journal, b"a" * 200)
    spool, offset = journal.spool_for(7, 1000)
    write_spool(spool, offset, b"s" * 1000)
    journal.spooled(spool)
    large = Operation(Kind.WRITE, 7, b"f", 1, length=1000, source=Source(spool.blob, offset))
    journal.append(large)
    last = write(journal, b"b" * 200)
    assert held.source is not None
    journal.release(last.seq, 1)
    assert sorted(p.name for p in journal.path.iterdir()) == ["meta", "owner", "segment-3"]
    assert held.source.blob.read(held.source.offset, 200) == b"a" * 200
    assert spool.blob.read(0, 1000) == b"s" * 1000
    with pytest.raises(OSError, match="shorter"):
        spool.blob.read(999, 2)
    descriptors = len(os.listdir("/proc/self/fd"))
    del held, spool, large
    assert len(os.listdir("/proc/self/fd")) == descriptors - 2
    journal.close()


def test_spools_survive(tmp_path: Path) -> None:
    journal = create(tmp_path)
    spool, offset = journal.spool_for(7, 3)
    write_spool(spool, offset, b"abc")
    journal.spooled(spool)
    journal.append(Operation(Kind.WRITE, 7, b"f", 1, length=3, source=Source(spool.blob, offset)))
    journal.close()
    journal, found = Journal.adopt(journal.path, Limits())
    (op,) = found
    assert isinstance(op, Operation)
    assert op.source is not None
    assert op.source.blob.read(op.source.offset, 3) == b"abc"
    other, _ = journal.spool_for(7, 3)
    assert other.blob.path != op.source.blob.path  # type: ignore[attr-defined]
    journal.release(2, 1)
    assert op.source.blob.read(op.source.offset, 3) == b"abc"
    journal.close()


def test_everything_is_synced_once(tmp_path: Path) -> None:
    journal = create(tmp_path, Limits(segment_bytes=300))
    position = journal.append_control(34, 0, b"x")
    assert journal.has_unsynced
    assert not journal.is_durable(position)
    write(journal, b"a" * 200)
    write(journal, b"a" * 200)
    descriptors = len(os.listdir("/proc/self/fd"))
    journal.sync(journal.sync_plan())
    assert len(os.listdir("/proc/self/fd")) == descriptors - 2, "full segments are closed"
    assert journal.is_durable(position)
    assert not journal.has_unsynced
    write(journal, b"b")
    assert journal.has_unsynced
    journal.close()


def test_what_a_removal_has_left_is_removed(tmp_path: Path) -> None:
    """It was cut short by a death, when it was no journal any more."""
    left = tmp_path / f"old-{'5d' * 16}"
    left.mkdir()
    (left / "segment-3").write_bytes(b"x" * 1000)
    other = tmp_path / "old-and-dear"
    other.mkdir()
    Backlog(tmp_path, Limits(), lambda: 0.0).find()
    assert list(tmp_path.iterdir()) == [other]
