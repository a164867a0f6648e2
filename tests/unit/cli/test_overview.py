import fcntl

import pytest

from devboxfs.core import records
from devboxfs.overview import Journal, Overview, duration, render, size, waiting_journals


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (20 << 20, "20 MiB"),
        (1 << 50, "1024.0 TiB"),
    ],
)
def test_sizes(count, text):
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119, "119 s"), (600, "10 min"), (7200, "2 h"), (1e6, "12 days")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.fixture
def journal(tmp_path):
    made = tmp_path / "mounts" / "uid" / ("1" * 32)
    made.mkdir(parents=True)
    (made / "owner").write_text("")
    (made / "meta").write_text('{"box_name": "my-box"}')
    return made


def test_an_empty_journal_does_not_wait(tmp_path, journal):
    (journal / "segment-1").write_bytes(b"x" * records.HEADER_SIZE)
    journal.with_name("old-" + journal.name).mkdir()
    assert waiting_journals(tmp_path) == []


def test_a_journal_waits_unless_it_is_owned(tmp_path, journal):
    (journal / "segment-1").write_bytes(b"x" * 1000)
    (journal / "spool-7-1").write_bytes(b"x" * 24)
    (waiting,) = waiting_journals(tmp_path)
    assert (waiting.box_uid, waiting.box, waiting.path) == ("uid", "my-box", str(journal))
    assert waiting.bytes == 1024 - records.HEADER_SIZE
    with (journal / "owner").open("rb") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        assert waiting_journals(tmp_path) == []


@pytest.mark.parametrize("meta", [b"", b"[]", b"\xff", b"{}"])
def test_a_journal_whose_description_is_damaged_is_shown(tmp_path, journal, meta):
    (journal / "meta").write_bytes(meta)
    (journal / "segment-1").write_bytes(b"x" * 1000)
    (waiting,) = waiting_journals(tmp_path)
    assert waiting.box == ""


def test_rendering_nothing():
    assert list(render(Overview([], []))) == ["Nothing is mounted."]


def test_rendering():
    entries = [
        {
            "mountpoint": "/mnt/a",
            "box": "a",
            "state": "offline",
            "state_seconds": 300.0,
            "location": "/data/a",
            "pending_operations": 2,
            "pending_bytes": 2048,
            "oldest_pending_seconds": 61.0,
            "conflicts": [{"path": "x", "kept_as": "x.conflict-h-1"}, {"path": "y"}],
            "link": {"round_trips": 3, "bytes_sent": 4096, "last_error": ""},
            "cache": {"disk_bytes": 0, "disk_ok": False, "fine": True},
        },
        {"mountpoint": "/mnt/b", "box": "b", "state": "dead"},
        {"mountpoint": "/mnt/c", "box": "c", "state": "online", "pending_operations": 0},
    ]
    assert list(render(Overview(entries, [Journal("uid", "", "/state/j", 5)]))) == [
        "a on /mnt/a: offline for 5 min",
        "  files      /data/a",
        "  pending    2 operations, 2.0 KiB, the oldest from 61 s ago",
        "  conflict   x, our version is x.conflict-h-1",
        "  conflict   y",
        "  cache      disk 0 B, disk ok: no",
        "  link       round trips 3, bytes sent 4.0 KiB",
        "b on /mnt/b: dead (its daemon has ended; devboxfs mount repairs it, devboxfs umount "
        "removes it)",
        "c on /mnt/c: online",
        "  pending    nothing",
        "Waiting: changes to a box (5 B) are in /state/j; mounting the box sends them.",
    ]
