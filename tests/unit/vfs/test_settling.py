"""Outcomes of our own changes in the table: how old the box's news is beside them."""

from __future__ import annotations

import stat
from typing import Any, cast

import pytest

from devboxfs.core.node import Directory, Doubt, Node
from devboxfs.core.ops import Kind, Operation
from devboxfs.vfs.pending import Pending
from devboxfs.vfs.table import Table
from devboxfs.writeback.seams import Settled
from sealos_devbox import Attributes
from tests.unit.vfs.tables import DIRECTORY, Numbers, Told, attributes, listing


class Journal:
    """What `Pending` asks of the durable path."""

    def __init__(self) -> None:
        self.last = 0

    def next_oid(self) -> int:
        self.last += 1
        return self.last

    def append(self, operation: Operation) -> None:
        self.last += 1
        operation.seq = self.last


class NoCache:
    """Holds nothing."""

    def get(self, *_: object) -> None:
        return None

    def put_image(self, *_: object, **__: object) -> None:
        pass


class Mount:
    """A table, and operations on its root as vfs/namespace.py makes them."""

    def __init__(self) -> None:
        self.table = Table(attributes(2, mode=DIRECTORY, nlink=2), Numbers(), Told())
        self.rescans: list[Directory] = []
        self.table.rescan = self.rescans.append
        nothing = cast(Any, NoCache())
        self.pending = Pending(self.table, cast(Any, Journal()), nothing, nothing)

    def operate(self, kind: Kind, names: tuple[bytes, ...], *nodes: Node, path: bytes = b"") -> int:
        """Journal an operation, which has the names and objects; returns its seq."""
        oids = [self.pending.oid(node) for node in nodes]
        operation = Operation(kind, oids[0], path or names[0], 1)
        root = self.table.root
        self.pending.append(operation, nodes, tuple((root, name) for name in names))
        return operation.seq

    def create(self, name: bytes, mode: int = stat.S_IFREG | 0o644) -> tuple[Node, int]:
        node = self.table.create(attributes(0, mode=mode))
        seq = self.operate(Kind.CREATE, (name,), node)
        self.table.attach(self.table.root, name, node)
        return node, seq


@pytest.fixture
def mount() -> Mount:
    made = Mount()
    listing(made.table, made.table.root, {})
    return made


def test_an_event_between_two_operations_of_a_batch_is_older_than_the_second(mount: Mount) -> None:
    """The box had the first file under the name when it decided the event."""
    table = mount.table
    first, made = mount.create(b"name")
    removed = mount.operate(Kind.UNLINK, (b"name",), first)
    table.detach(table.root, b"name")
    second, again = mount.create(b"name")
    table.remote_name(table.root, b"name", attributes(70), 20)
    objects: dict[int, Attributes | None] = {first.oid: None, second.oid: attributes(71)}
    events = {made: 19, removed: 20, again: 20}
    mount.pending.settled(Settled([made, removed, again], objects, {}, event=19, events=events))
    assert table.root.children[b"name"] is second


def test_an_event_between_two_operations_of_a_batch_is_newer_than_the_first(mount: Mount) -> None:
    table = mount.table
    ours, made = mount.create(b"ours")
    _other, later = mount.create(b"later")
    table.remote_name(table.root, b"ours", None, 20)
    objects: dict[int, Attributes | None] = {ours.oid: attributes(70)}
    events = {made: 19, later: 20}
    mount.pending.settled(Settled([made, later], objects, {}, event=19, events=events))
    assert b"ours" not in table.root.children


def test_exchanged_objects_stay_what_they_are(mount: Mount) -> None:
    """Also if the batch that exchanges them is the one that makes them."""
    table = mount.table
    one, first = mount.create(b"one")
    two, second = mount.create(b"two")
    third = mount.operate(Kind.RENAME, (b"one", b"two"), two, one)
    table.root.children.update({b"one": two, b"two": one})
    one.name, two.name = b"two", b"one"
    objects: dict[int, Attributes | None] = {one.oid: attributes(70), two.oid: attributes(71)}
    settled = Settled([first, second, third], objects, {}, touched={one.oid})
    mount.pending.settled(settled)
    assert one.doubt is Doubt.TOUCHED
    assert two.doubt is Doubt.NONE
    assert mount.rescans == [table.root]
    shown = one.ctime_ns
    entries = {b"one": attributes(71), b"two": replaced(attributes(70), ctime_ns=99)}
    listing(table, table.root, entries, 1)
    assert table.root.children == {b"one": two, b"two": one}
    assert one.ctime_ns == shown


def test_an_object_that_loses_a_name_in_the_batch_that_makes_it_stays_what_it_is(
    mount: Mount,
) -> None:
    table = mount.table
    node, made = mount.create(b"one")
    linked = mount.operate(Kind.LINK, (b"two",), node)
    table.attach(table.root, b"two", node)
    removed = mount.operate(Kind.UNLINK, (b"one",), node)
    table.detach(table.root, b"one")
    number, shown = node.ino, node.ctime_ns
    settled = Settled([made, linked, removed], {node.oid: None}, {})
    settled.before[node.oid] = attributes(70, nlink=2)
    mount.pending.settled(settled)
    assert mount.rescans == [table.root]
    listing(table, table.root, {b"two": replaced(attributes(70), ctime_ns=99)}, 1)
    assert table.root.children == {b"two": node}
    assert (node.ino, node.ctime_ns, node.nlink) == (number, shown, 1)


def replaced(attr: Attributes, *, ctime_ns: int) -> Attributes:
    return Attributes(
        attr.mode, attr.nlink, attr.uid, attr.gid, attr.size, attr.ino, attr.mtime_ns, ctime_ns, 1
    )


def test_an_event_that_the_outcome_of_an_object_has_passed(mount: Mount) -> None:
    """The operation holds no name: what it made of the file is younger than "gone" all the same."""
    table = mount.table
    listing(table, table.root, {b"file": attributes(70)})
    file = table.root.children[b"file"]
    seq = mount.operate(Kind.SETATTR, (), file, path=b"file")
    objects: dict[int, Attributes | None] = {file.oid: attributes(70, time=2)}
    mount.pending.settled(Settled([seq], objects, {}, event=1, events={seq: 20}))
    table.remote_name(table.root, b"file", None, 19)
    assert table.root.children[b"file"] is file
    table.remote_name(table.root, b"file", None, 21)
    assert b"file" not in table.root.children


def test_a_removal_of_which_is_not_known_when_it_came_about(mount: Mount) -> None:
    """The next helper has finished the batch, before or after it listed the directory.

    Neither is the name believed to be there again, nor the state of an object to be the last one.
    """
    table = mount.table
    listing(
        table, table.root, {b"file": attributes(70, nlink=2), b"other": attributes(70, nlink=2)}
    )
    file = table.root.children[b"file"]
    seq = mount.operate(Kind.UNLINK, (b"file",), file)
    table.detach(table.root, b"file")
    listing(table, table.root, {b"file": attributes(70), b"other": attributes(70)}, event=3)
    asked: list[Directory] = []
    table.rescan = asked.append
    mount.pending.settled(Settled([seq], {file.oid: None}, {}, event=0, events={seq: -1}))
    assert b"file" not in table.root.children
    assert asked
    assert set(asked) == {table.root}


def test_an_object_of_which_the_last_state_is_not_known(mount: Mount) -> None:
    """A snapshot saw it between its new name and the loss of an old one, and so may have others."""
    table = mount.table
    listing(table, table.root, {b"d": attributes(80, mode=DIRECTORY, nlink=2)})
    directory = table.root.children[b"d"]
    assert isinstance(directory, Directory)
    both = attributes(70, nlink=2)
    listing(table, table.root, {b"d": attributes(80, mode=DIRECTORY, nlink=2), b"file": both})
    listing(table, directory, {b"other": both})
    file = directory.children[b"other"]
    seq = mount.operate(Kind.UNLINK, (b"file",), file)
    table.detach(table.root, b"file")
    file.nlink = 1
    listing(table, directory, {b"other": both}, event=3)
    asked: list[Directory] = []
    table.rescan = asked.append
    mount.pending.settled(Settled([seq], {file.oid: None}, {}, event=0, events={seq: -1}))
    assert directory in asked
    assert file.nlink == 1


def test_an_older_outcome_does_not_make_events_of_a_name_younger(mount: Mount) -> None:
    table = mount.table
    _node, _seq = mount.create(b"ours")
    table.name_settled(table.root, b"ours", 20)
    table.name_settled(table.root, b"ours", 10)
    assert table.overtaken(table.root, b"ours", 15)
    assert not table.overtaken(table.root, b"ours", 21)


def test_an_event_that_the_times_of_a_directory_have_passed(mount: Mount) -> None:
    """The batch gave it the times after its operations, which are older than the event."""
    table = mount.table
    node, seq = mount.create(b"ours")
    objects: dict[int, Attributes | None] = {node.oid: attributes(70)}
    shown = table.root.mtime_ns
    settled = Settled([seq], objects, {}, event=1, events={seq: 5}, directories={b"": 20})
    mount.pending.settled(settled)
    table.update(table.root, attributes(2, mode=DIRECTORY, nlink=2, time=shown + 7), 19)
    assert table.root.mtime_ns == shown
    table.update(table.root, attributes(2, mode=DIRECTORY, nlink=2, time=shown + 8), 21)
    assert table.root.mtime_ns == shown + 8
