"""A listing shows a directory under another name, before the event of the rename or without it."""

from __future__ import annotations

import pytest

from devboxfs.core.node import Directory
from devboxfs.vfs.merging import Merging
from devboxfs.vfs.table import Table
from sealos_devbox import Attributes
from tests.unit.vfs.tables import DIRECTORY, Numbers, Told, attributes, listing, local, settle

DIR, OTHER = attributes(10, mode=DIRECTORY, nlink=2), attributes(11, mode=DIRECTORY, nlink=2)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def moves() -> list[tuple[bytes, bytes]]:
    return []


@pytest.fixture
def table(told: Told, moves: list[tuple[bytes, bytes]]) -> Table:
    table = Table(attributes(2, mode=DIRECTORY, nlink=2), Numbers(), told)
    listing(table, table.root, {b"b": DIR, b"d": OTHER})
    for name in (b"b", b"d"):
        listing(table, child(table, name), {})
    table.moved = lambda old, new: moves.append((old, new))
    return table


@pytest.fixture
def merging(table: Table) -> Merging:
    return Merging(table)


def child(table: Table, path: bytes) -> Directory:
    node = table.resolve(path)
    assert isinstance(node, Directory)
    return node


def listed(
    merging: Merging, directory: Directory, entries: dict[bytes, Attributes], event: int = 0
) -> None:
    merging.merge(directory, entries.items(), event, set(entries))
    merging.finish(directory, set(entries), event)


def test_it_keeps_its_node(
    table: Table, merging: Merging, told: Told, moves: list[tuple[bytes, bytes]]
) -> None:
    node = child(table, b"b")
    listed(merging, table.root, {b"c": DIR, b"d": OTHER}, 1)
    assert table.root.children == {b"c": node, b"d": child(table, b"d")}
    assert node.complete
    assert moves == [(b"b", b"c")]
    assert {(1, b"b"), (1, b"c")} <= set(told.entries)
    # The event arrives behind.
    table.remote_name(table.root, b"b", None, 2)
    table.remote_name(table.root, b"c", DIR, 3)
    assert table.root.children[b"c"] is node


def test_in_another_directory(
    table: Table, merging: Merging, moves: list[tuple[bytes, bytes]]
) -> None:
    """While all of them are listed, after one in which it is missing."""
    node = child(table, b"b")
    merging.begin()
    listed(merging, table.root, {b"d": OTHER}, 1)
    assert not merging.may_come_from_elsewhere(child(table, b"d"), [(b"c", DIR)], {b"c"})
    listed(merging, child(table, b"d"), {b"c": DIR}, 1)
    assert not merging.remove_vanished(9)
    assert set(table.root.children) == {b"d"}
    assert child(table, b"d/c") is node
    assert moves == [(b"b", b"d/c")]
    assert (table.root.nlink, child(table, b"d").nlink) == (3, 3)


def test_a_file(table: Table, merging: Merging, moves: list[tuple[bytes, bytes]]) -> None:
    listed(merging, child(table, b"d"), {b"f": attributes(12, size=3)})
    node = table.resolve(b"d/f")
    listed(merging, child(table, b"d"), {b"g": attributes(12, size=3)}, 1)
    assert table.resolve(b"d/g") is node
    grown = attributes(12, size=4)
    listed(merging, child(table, b"d"), {b"h": grown}, 1)
    assert table.resolve(b"d/h") is not node
    assert moves == []


def test_it_waits_until_it_is_missing_elsewhere(
    table: Table, merging: Merging, moves: list[tuple[bytes, bytes]]
) -> None:
    """Below a mount in the box an object may have the number, and the times, of another one."""
    node = child(table, b"b")
    merging.begin()
    assert merging.may_come_from_elsewhere(child(table, b"d"), [(b"c", DIR)], {b"c"})
    listed(merging, child(table, b"d"), {b"c": DIR}, 1)
    listed(merging, table.root, {b"b": DIR, b"d": OTHER}, 1)
    assert child(table, b"b") is node
    assert child(table, b"d/c") is not node
    assert moves == []


def test_what_is_nowhere_is_removed(table: Table, merging: Merging) -> None:
    merging.begin()
    listed(merging, table.root, {}, 1)
    assert set(table.root.children) == {b"b", b"d"}
    assert merging.remove_vanished(1)
    assert not merging.remove_vanished(9)
    assert table.root.children == {}
    assert merging.end() == []


def test_what_was_not_looked_for_everywhere_is_in_doubt(table: Table, merging: Merging) -> None:
    """A snapshot that is cancelled while another one goes on leaves it to that."""
    merging.begin()
    merging.begin()
    listed(merging, table.root, {b"d": OTHER}, 1)
    assert merging.end() == []
    assert b"b" in table.root.children
    assert merging.end() == [table.root]
    listed(merging, table.root, {b"d": OTHER}, 1)
    assert b"b" not in table.root.children


def test_over_another_one(table: Table, merging: Merging, moves: list[tuple[bytes, bytes]]) -> None:
    node = child(table, b"b")
    listed(merging, table.root, {b"d": DIR}, 1)
    assert table.root.children == {b"d": node}
    assert moves == [(b"b", b"d")]


def test_one_that_was_made_here(
    table: Table, merging: Merging, moves: list[tuple[bytes, bytes]]
) -> None:
    """It is shown under a number of ours."""
    ours = attributes(20, mode=DIRECTORY, nlink=2)
    node = local(table, table.root, b"new", DIRECTORY)
    settle(table, table.root, b"new", node, None, 0)
    table.box_state(node, ours)
    listed(merging, table.root, {b"b": DIR, b"d": OTHER, b"renamed": ours}, 1)
    assert table.root.children[b"renamed"] is node
    assert moves == [(b"new", b"renamed")]


def test_another_one_has_its_number(
    table: Table, merging: Merging, moves: list[tuple[bytes, bytes]]
) -> None:
    """File systems give free numbers again at once; the entries would be another directory's."""
    node = child(table, b"b")
    listed(merging, child(table, b"b"), {b"x": attributes(12)})
    made = attributes(10, mode=DIRECTORY, nlink=2, time=2)
    listed(merging, table.root, {b"c": made, b"d": OTHER}, 1)
    assert table.root.children[b"c"] is not node
    assert child(table, b"c").children == {}
    assert moves == []


def test_what_is_known_of_the_old_name_is_younger(
    table: Table, merging: Merging, moves: list[tuple[bytes, bytes]]
) -> None:
    """It was renamed back since."""
    table.log.begin()
    node = child(table, b"b")
    table.remote_name(table.root, b"b", DIR, 5)
    merging.merge(table.root, [(b"c", DIR)], 4, {b"c", b"d"})
    assert table.root.children[b"b"] is node
    assert moves == []


def test_not_into_itself(table: Table, merging: Merging, moves: list[tuple[bytes, bytes]]) -> None:
    """`mv d/above x && mv d x/above`, and only the last is known."""
    above = attributes(13, mode=DIRECTORY, nlink=2)
    listed(merging, child(table, b"d"), {b"above": above})
    merging.begin()
    listed(merging, table.root, {b"b": DIR})
    listed(merging, child(table, b"d/above"), {b"d": OTHER})
    assert child(table, b"d").path() == b"d"
    assert child(table, b"d/above/d") is not child(table, b"d")
    assert moves == []


def test_one_that_has_changes_of_ours_stays(
    table: Table, merging: Merging, moves: list[tuple[bytes, bytes]]
) -> None:
    """The write-back decides what becomes of them."""
    node = child(table, b"b")
    node.pending = 1
    listed(merging, table.root, {b"c": DIR, b"d": OTHER}, 1)
    assert table.root.children[b"b"] is node
    assert moves == []
