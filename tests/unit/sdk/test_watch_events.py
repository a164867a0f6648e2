"""What the box reports, in the words of the API."""

import stat

import pytest

from sealos_devbox import Attributes, Event
from sealos_devbox._async.watch import watch_events

ATTR = Attributes(stat.S_IFREG | 0o640, 1, 0, 0, 5, 1, 7, 7, 7)


@pytest.mark.parametrize(
    ("mask", "kind"),
    [
        (0x100, "created"),
        (0x100 | 0x2 | 0x8, "created"),
        (0x80, "created"),
        (0x2, "modified"),
        (0x8, "modified"),
        (0x2 | 0x4, "modified"),
        (0x4, "attributes"),
    ],
)
def test_kinds(mask: int, kind: str) -> None:
    (event,) = watch_events([Event(1, b"a/b", mask, ATTR)])
    assert (event.kind, event.path, event.old_path) == (kind, "a/b", None)
    assert event.info is not None
    assert (event.info.type, event.info.mode, event.info.size) == ("file", 0o640, 5)


def test_deleted_and_overflow_have_nothing_to_show() -> None:
    deleted, overflow = watch_events(
        [Event(1, b"x", 0x200, None), Event(2, b"", 0x4000, None)],
    )
    assert (deleted.kind, deleted.path, deleted.info) == ("deleted", "x", None)
    assert (overflow.kind, overflow.path) == ("overflow", ".")


def test_a_move_is_one_event() -> None:
    (moved,) = watch_events(
        [Event(1, b"old", 0x40, None), Event(2, b"new\xff", 0x80, ATTR, b"old")],
    )
    assert (moved.kind, moved.path, moved.old_path) == ("moved", "new\udcff", "old")


def test_a_name_that_was_moved_away_and_later_deleted() -> None:
    """Frames that are taken together may tell of one name more than once."""
    said = watch_events(
        [
            Event(1, b"old", 0x40, None),
            Event(2, b"new", 0x80, ATTR, b"old"),
            Event(3, b"old", 0x100, ATTR),
            Event(4, b"old", 0x200, None),
        ]
    )
    assert [(event.kind, event.path) for event in said] == [
        ("moved", "new"),
        ("created", "old"),
        ("deleted", "old"),
    ]


def test_a_directory_whose_entries_changed_is_no_news() -> None:
    assert watch_events([Event(1, b"directory", 0, ATTR)]) == []


def test_the_root_that_is_gone() -> None:
    (gone,) = watch_events([Event(1, b"", 0x2000, None)])
    assert (gone.kind, gone.path) == ("deleted", ".")
