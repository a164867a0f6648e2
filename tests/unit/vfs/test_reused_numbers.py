"""The box gives the inode number of a removed file to the next one that is made."""

from __future__ import annotations

import pytest

from devboxfs.core.node import Directory, Node
from devboxfs.vfs.table import Table
from tests.unit.vfs.tables import DIRECTORY, Numbers, Told, attributes, listing

MOVED_TO, MODIFY = 0x80, 0x2


@pytest.fixture
def table() -> Table:
    return Table(attributes(2, mode=DIRECTORY, nlink=2), Numbers(), Told())


def _repository(table: Table) -> tuple[Directory, Node]:
    entries = {
        b"HEAD": attributes(10),
        b"objects": attributes(11, mode=DIRECTORY),
        b"refs": attributes(12, mode=DIRECTORY),
        b"logs": attributes(13, mode=DIRECTORY),
        b"index": attributes(14, size=100),
    }
    listing(table, table.root, entries)
    index = table.root.children[b"index"]
    index.lookups = 1
    return table.root, index


def test_git_replaces_its_files(table: Table) -> None:
    """Whoever has mapped the old one must not see it shrink."""
    directory, index = _repository(table)
    table.remote_name(directory, b"index", attributes(14, size=50, time=2), 1)
    there = directory.children[b"index"]
    assert there is not index
    assert (there.size, index.size) == (50, 100)
    assert there.ino != index.ino
    assert index.parent is None


def test_git_replaces_what_was_heard_of_while_ours_was_unsettled(table: Table) -> None:
    directory, index = _repository(table)
    index.pending = 1
    table.remote_name(directory, b"index", attributes(14, size=50, time=2), 5)
    asked: list[Directory] = []
    table.rescan = asked.append
    index.pending = 0
    table.object_settled(index, 1)
    assert index.size == 100
    assert asked == [directory]


def test_git_appends_to_reflogs(table: Table) -> None:
    directory, _index = _repository(table)
    logs = directory.children[b"logs"]
    assert isinstance(logs, Directory)
    listing(table, logs, {b"HEAD": attributes(20, size=10)})
    log = logs.children[b"HEAD"]
    table.remote_name(logs, b"HEAD", attributes(20, size=20, time=2), 1)
    assert logs.children[b"HEAD"] is log
    assert log.size == 20


def test_other_attributes_of_the_same_file(table: Table) -> None:
    directory, index = _repository(table)
    changed = attributes(14, size=100, mode=index.mode & ~0o022)
    table.remote_name(directory, b"index", changed, 1)
    assert directory.children[b"index"] is index


@pytest.mark.parametrize(
    ("mask", "same"), [(MODIFY, True), (MOVED_TO, False), (MOVED_TO | MODIFY, True), (None, True)]
)
def test_elsewhere_what_was_moved_there_and_not_written_is_another(
    table: Table, mask: int | None, same: bool
) -> None:
    listing(table, table.root, {b"a": attributes(10, size=100)})
    node = table.root.children[b"a"]
    table.watchers.mask = mask
    table.remote_name(table.root, b"a", attributes(10, size=50, time=2), 1)
    assert (table.root.children[b"a"] is node) == same
