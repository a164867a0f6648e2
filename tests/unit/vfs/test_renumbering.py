"""A new connection numbers its events anew: numbers of an earlier one say nothing any more."""

from __future__ import annotations

import pytest

from devboxfs.core.event_log import OWN
from devboxfs.vfs.nodes import ROOT_INO
from devboxfs.vfs.table import Table
from tests.unit.vfs.tables import (
    DIRECTORY,
    Numbers,
    Told,
    attributes,
    listing,
    local,
    settle,
)


@pytest.fixture
def table() -> Table:
    return Table(attributes(2, mode=DIRECTORY, nlink=2), Numbers(), Told())


def test_a_new_connection_numbers_its_events_anew(table: Table) -> None:
    """A listing that had to wait for it counts as under way all the time."""
    listing(table, table.root, {b"a": attributes(10), b"b": attributes(11)})
    table.log.begin()
    table.remote_name(table.root, b"a", attributes(10, size=1, time=2), 500)
    table.log.note(ROOT_INO, b"b", OWN)
    table.heard(None)
    listing(table, table.root, {b"a": attributes(10, size=2, time=3)}, 0)
    assert set(table.root.children) == {b"a"}
    assert table.root.children[b"a"].size == 2


def test_what_an_earlier_connection_told_is_older_than_any_outcome(table: Table) -> None:
    """However high its number: the box made our change after it."""
    listing(table, table.root, {b"a": attributes(10), b"b": attributes(11)})
    ours, changed = local(table, table.root, b"new"), table.root.children[b"b"]
    changed.pending = 1
    table.remote_name(table.root, b"new", None, 500)
    table.remote_name(table.root, b"b", attributes(11, size=7, time=2), 501)
    table.heard(None)
    listing(table, table.root, {b"a": attributes(10), b"b": attributes(11, size=8, time=3)}, 0)
    settle(table, table.root, b"new", ours, attributes(12), 3)
    table.object_settled(ours, 3)
    changed.pending, changed.box = 0, attributes(11, size=9, time=4)
    changed.show(changed.box)
    table.object_settled(changed, 3)
    assert table.root.children[b"new"] is ours
    assert changed.size == 9
