"""Two sides change the same: the box's version keeps the name, ours is kept beside it or here."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from devboxfs.core.extents import ExtentMap
from devboxfs.core.ops import Kind
from devboxfs.writeback.conflicts import ConflictStore, conflict_name, is_conflict_name
from sealos_devbox import Version
from tests.unit.writeback.conftest import Mounted, Place
from tests.unit.writeback.test_flusher import settled, version

pytestmark = pytest.mark.anyio


def only_conflict(place: Place, name: str) -> Path:
    (found,) = place.box.rglob(f"{name}.conflict-*")
    return found


async def synced(m: Mounted, *paths: bytes) -> int:
    return await m.writeback.sync(list(paths), m.writeback.last_seq)


async def test_both_made_the_same_name(place: Place) -> None:
    async with place.mounted() as m:
        oid = m.user.create(b"f", b"ours")
        (place.box / "f").write_bytes(b"theirs")
        assert await synced(m, b"f") == errno.EIO
        await settled(m)
        ours = only_conflict(place, "f")
        assert (place.box / "f").read_bytes() == b"theirs"
        assert ours.read_bytes() == b"ours"
        (report,) = m.ears.conflicts
        assert (report.oid, report.path, report.errno) == (oid, b"f", errno.EEXIST)
        assert report.kept_as == os.fsencode(ours.name)
        assert report.remote is not None
        assert report.remote.size == 6
        assert m.ears.seqs == [1, 2]
        attr = m.ears.objects[oid]
        assert attr is not None
        assert attr.ino == ours.stat().st_ino


async def test_equal_content_is_no_conflict(place: Place) -> None:
    async with place.mounted() as m:
        m.user.create(b"f", b"same")
        (place.box / "f").write_bytes(b"same")
        assert await synced(m, b"f") == 0
        assert m.ears.conflicts == []


async def test_a_file_that_was_rewritten_there_is_not_overwritten(place: Place) -> None:
    file = place.box / "f"
    file.write_bytes(b"base")
    async with place.mounted() as m:
        oid = m.writeback.next_oid()
        m.user.do(Kind.TRUNCATE, oid, b"f", size=0, mode=0o644, base=version(file))
        m.user.write(oid, b"f", b"ours", mode=0o644)
        m.user.do(Kind.RENAME, oid, b"g", other=b"f")
        m.user.write(oid, b"g", b"more", mode=0o644, offset=4)
        file.write_bytes(b"theirs, longer")
        assert await synced(m, b"g") == errno.EIO
        await settled(m)
        assert file.read_bytes() == b"theirs, longer"
        # Ours went on under its new name, which nobody else claims.
        assert (place.box / "g").read_bytes() == b"oursmore"
        assert sorted(p.name for p in place.box.iterdir()) == ["f", "g"]


async def test_what_follows_goes_to_the_conflict_name_too(place: Place) -> None:
    async with place.mounted() as m:
        oid = m.user.create(b"f", b"ours")
        (place.box / "f").write_bytes(b"theirs")
        m.writeback._ledger.more = True
        m.writeback._flusher.nudge()
        m.user.write(oid, b"f", b" and more", offset=4, mode=0o644)
        await settled(m)
        m.user.write(oid, m.ears.conflicts[0].kept_as or b"", b"!", offset=13, mode=0o644)
        m.user.do(Kind.SETATTR, oid, m.ears.conflicts[0].kept_as or b"", mode=0o600)
        await settled(m)
        ours = only_conflict(place, "f")
        assert ours.read_bytes() == b"ours and more!"
        assert ours.stat().st_mode & 0o777 == 0o600
        assert (place.box / "f").read_bytes() == b"theirs"
        assert len(m.ears.conflicts) == 1


async def test_an_editor_saves_over_what_changed_there(place: Place) -> None:
    file = place.box / "f"
    file.write_bytes(b"base")
    async with place.mounted() as m:
        seen = version(file)
        temporary = m.user.create(b".f.swp", b"ours")
        m.user.do(Kind.RENAME, temporary, b"f", other=b".f.swp", replaced=99, replaced_base=seen)
        file.write_bytes(b"theirs")
        assert await synced(m, b"f") == errno.EIO
        await settled(m)
        assert file.read_bytes() == b"theirs"
        assert only_conflict(place, "f").read_bytes() == b"ours"
        assert len(list(place.box.iterdir())) == 2
        assert m.ears.conflicts[0].kept_as is not None


async def test_a_part_of_a_file_goes_to_the_store(place: Place) -> None:
    file = place.box / "f"
    file.write_bytes(b"0123456789")
    async with place.mounted() as m:
        m.user.write(m.writeback.next_oid(), b"f", b"AB", offset=4, mode=0o644, base=version(file))
        file.write_bytes(b"theirs")
        assert await synced(m, b"f") == errno.EIO
        assert file.read_bytes() == b"theirs"
        (report,) = m.ears.conflicts
        assert report.kept_as is None
        assert report.stored_at is not None
        stored = Path(report.stored_at)
        assert stored.parent == place.mounts / "conflicts"
        assert stored.read_bytes() == bytes(4) + b"AB" + bytes(4)
        facts = json.loads(Path(report.stored_at + ".json").read_text())
        assert (facts["path"], facts["ranges"], facts["whole"]) == ("f", [[4, 2]], False)


async def test_a_part_of_a_file_that_is_known_is_made_whole(place: Place) -> None:
    file = place.box / "f"
    file.write_bytes(b"0123456789")
    async with place.mounted() as m:
        oid = m.writeback.next_oid()
        m.ears.known[file.stat().st_ino] = b"0123456789"
        m.user.write(oid, b"f", b"AB", offset=4, mode=0o600, base=version(file))
        m.user.write(oid, b"f", b"CD", offset=12, mode=0o600)
        file.write_bytes(b"theirs")
        assert await synced(m, b"f") == errno.EIO
        await settled(m)
        assert file.read_bytes() == b"theirs"
        ours = only_conflict(place, "f")
        assert ours.read_bytes() == b"0123AB6789\0\0CD"
        assert ours.stat().st_mode & 0o777 == 0o600
        (report,) = m.ears.conflicts
        assert report.kept_as == os.fsencode(ours.name)
        assert report.copy_oid not in (0, oid)
        assert not (place.mounts / "conflicts").exists()


@pytest.mark.parametrize("name", [b".git/refs/heads/main", b"x" * 250])
async def test_where_no_copy_can_be_made_it_goes_to_the_store(place: Place, name: bytes) -> None:
    path = place.box / os.fsdecode(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    async with place.mounted() as m:
        m.user.create(name, b"ours")
        path.write_bytes(b"theirs")
        assert await synced(m, name) == errno.EIO
        assert path.read_bytes() == b"theirs"
        (report,) = m.ears.conflicts
        assert report.stored_at is not None
        assert Path(report.stored_at).read_bytes() == b"ours"


async def test_a_parent_that_is_gone(place: Place) -> None:
    (place.box / "d").mkdir()
    async with place.mounted() as m:
        oid = m.user.create(b"d/f", b"ours")
        m.user.write(oid, b"d/f", b"!", offset=4, mode=0o644)
        (place.box / "d").rmdir()
        assert await synced(m, b"d/f") == errno.ENOENT
        assert m.ears.errors == {oid: errno.ENOENT}
        (stored,) = [p for p in (place.mounts / "conflicts").iterdir() if p.suffix != ".json"]
        assert stored.read_bytes() == b"ours!"
        # What follows is kept as well.
        m.user.write(oid, b"d/f", b"later", mode=0o644)
        await m.writeback.sync([], m.writeback.last_seq, sync_box=False)
        assert m.writeback.statistics().pending_operations == 0
        kept = [p for p in (place.mounts / "conflicts").iterdir() if p.suffix != ".json"]
        assert sorted(p.read_bytes() for p in kept) == [b"later", b"ours!"]


async def test_a_removal_of_what_changed_is_refused(place: Place) -> None:
    file = place.box / "f"
    file.write_bytes(b"base")
    async with place.mounted() as m:
        oid = m.writeback.next_oid()
        m.user.do(Kind.UNLINK, oid, b"f", base=version(file))
        file.write_bytes(b"theirs")
        await settled(m)
        assert file.read_bytes() == b"theirs"
        (report,) = m.ears.conflicts
        assert (report.kept_as, report.stored_at) == (None, None)
        assert m.ears.seqs == [1]


async def test_both_removed_it(place: Place) -> None:
    file = place.box / "f"
    file.write_bytes(b"base")
    async with place.mounted() as m:
        m.user.do(Kind.UNLINK, m.writeback.next_oid(), b"f", base=version(file))
        file.unlink()
        assert await synced(m, b"f") == 0
        assert m.ears.conflicts == []


async def test_both_made_the_directory(place: Place) -> None:
    async with place.mounted() as m:
        oid = m.user.mkdir(b"d")
        m.user.create(b"d/ours", b"1")
        m.user.do(Kind.SETATTR, oid, b"d", mode=0o700, is_dir=True)
        (place.box / "d").mkdir()
        (place.box / "d/theirs").write_bytes(b"2")
        assert await synced(m, b"d/ours") == 0
        await settled(m)
        assert sorted(p.name for p in (place.box / "d").iterdir()) == ["ours", "theirs"]
        assert (place.box / "d").stat().st_mode & 0o777 == 0o700
        assert m.ears.conflicts == []


async def test_a_directory_where_a_file_is(place: Place) -> None:
    async with place.mounted() as m:
        m.user.mkdir(b"d")
        m.user.create(b"d/f", b"1")
        m.user.mkdir(b"d/e")
        m.user.create(b"d/e/g", b"2")
        (place.box / "d").write_bytes(b"theirs")
        assert await synced(m, b"d/f") == errno.EIO
        await settled(m)
        ours = only_conflict(place, "d")
        assert (place.box / "d").read_bytes() == b"theirs"
        assert (ours / "f").read_bytes() == b"1"
        assert (ours / "e/g").read_bytes() == b"2"
        assert len(m.ears.conflicts) == 1


async def test_a_directory_that_got_something_is_not_removed(place: Place) -> None:
    directory = place.box / "d"
    directory.mkdir()
    async with place.mounted() as m:
        m.user.do(Kind.RMDIR, m.writeback.next_oid(), b"d", base=version(directory), is_dir=True)
        (directory / "new").write_bytes(b"theirs")
        await settled(m)
        assert (directory / "new").read_bytes() == b"theirs"
        assert [report.kept_as for report in m.ears.conflicts] == [None]


async def test_one_refusal_does_not_stop_the_others(place: Place) -> None:
    async with place.mounted() as m:
        for number in range(20):
            m.user.create(b"f%d" % number, b"ours %d" % number)
            if number % 3 == 0:
                (place.box / f"f{number}").write_bytes(b"theirs")
        await settled(m)
        for number in range(20):
            path = place.box / f"f{number}"
            if number % 3 == 0:
                assert path.read_bytes() == b"theirs"
                path = only_conflict(place, f"f{number}")
            assert path.read_bytes() == b"ours %d" % number
        assert sorted(m.ears.seqs) == list(range(1, 41))


async def test_other_errors_are_reported_and_the_data_is_kept(place: Place) -> None:
    async with place.mounted() as m:
        oid = m.user.create(b"x" * 256, b"ours")
        other = m.user.create(b"fine", b"1")
        assert await synced(m, b"x" * 256) == errno.ENAMETOOLONG
        assert m.ears.errors == {oid: errno.ENAMETOOLONG}
        assert m.ears.objects[other] is not None
        (stored,) = [p for p in (place.mounts / "conflicts").iterdir() if p.suffix != ".json"]
        assert stored.read_bytes() == b"ours"


async def test_a_sync_of_everything_waits_for_what_it_moved_aside(place: Place) -> None:
    async with place.mounted() as m:
        for number in range(9):
            m.user.create(b"f%d" % number, b"ours %d" % number)
            if number % 4 == 0:
                (place.box / f"f{number}").write_bytes(b"theirs")
        assert await m.writeback.sync_all() == errno.EIO
        for number in range(9):
            path = place.box / f"f{number}"
            if number % 4 == 0:
                assert path.read_bytes() == b"theirs"
                path = only_conflict(place, f"f{number}")
            assert path.read_bytes() == b"ours %d" % number
        assert not m.writeback.statistics().pending_operations
        # It is told once.
        assert await m.writeback.sync_all() == 0


async def test_a_sync_of_everything_waits_for_the_copy_that_it_made(place: Place) -> None:
    file = place.box / "f"
    file.write_bytes(b"0123456789")
    async with place.mounted() as m:
        m.ears.known[file.stat().st_ino] = b"0123456789"
        m.user.write(m.writeback.next_oid(), b"f", b"AB", offset=4, mode=0o600, base=version(file))
        m.user.create(b"g", b"fine")
        file.write_bytes(b"theirs")
        assert await m.writeback.sync_all() == errno.EIO
        assert only_conflict(place, "f").read_bytes() == b"0123AB6789"
        assert (place.box / "g").read_bytes() == b"fine"


async def test_a_sync_of_everything_ends_when_the_conflict_name_is_taken_too(place: Place) -> None:
    async with place.mounted() as m:
        m.user.create(b"f", b"ours")
        (place.box / "f").write_bytes(b"theirs")
        name = conflict_name(b"f", m.user.time, 0)
        assert name is not None
        (place.box / os.fsdecode(name)).write_bytes(b"theirs as well")
        assert await m.writeback.sync_all() == errno.EIO
        assert only_conflict(place, "f").read_bytes() == b"theirs as well"
        stored = m.ears.conflicts[-1].stored_at
        assert stored is not None
        assert Path(stored).read_bytes() == b"ours"
        assert not m.writeback.statistics().pending_operations


async def test_a_conflict_survives_a_restart(place: Place) -> None:
    async with place.mounted() as m:
        m.user.create(b"first")
        await settled(m)
        m.user.create(b"f", b"ours")
        (place.box / "f").write_bytes(b"theirs")
        m.link.turn(up=False)
        m.link.kill()
    async with place.mounted() as m:
        assert (place.box / "f").read_bytes() == b"theirs"
        assert only_conflict(place, "f").read_bytes() == b"ours"
        (report,) = m.recovered
        assert report.path == b"f"


@pytest.mark.parametrize("name", ["x" * 255, "\U0001f600" * 63, "\u6f22" * 85])
def test_the_store_takes_the_longest_names(tmp_path: Path, name: str) -> None:
    """What it does not take holds everything up."""
    store = ConflictStore(tmp_path / "conflicts")
    kept = store.keep(name.encode(), ExtentMap(3), errno=5, time_ns=0, seq=10**12)
    assert kept.stat().st_size == 3
    assert json.loads(kept.with_name(kept.name + ".json").read_text())["path"] == name
    assert list(store.list()) == [kept]


def test_conflict_names() -> None:
    name = conflict_name(b"d/f.txt", 1_700_000_000_000_000_000, 0)
    assert name is not None
    assert name.startswith(b"d/f.txt.conflict-")
    assert name.endswith(b"-20231114T221320Z")
    assert is_conflict_name(name)
    assert not is_conflict_name(b"x.conflict-1/f")
    assert conflict_name(b"f", 0, 2) != conflict_name(b"f", 0, 1)
    assert conflict_name(b"a/.git/HEAD", 0, 0) is None
    assert conflict_name(b"bare.git/HEAD", 0, 0) is None
    assert conflict_name(b"x" * 240, 0, 0) is None


def test_version_of_a_path_is_that_of_the_box(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12")
    assert isinstance(version(tmp_path / "f"), Version)
