"""Answers and events that pass each other, and directories that have other names here."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from devboxfs.core.node import Directory, Node
from devboxfs.core.ops import Kind, Operation
from devboxfs.vfs.listings import ASKED_AGAIN
from devboxfs.vfs.remote import Remote
from devboxfs.writeback.seams import Settled
from sealos_devbox import Attributes, BoxFileError, DirectoryRecord, Event
from tests.unit.vfs.tables import DIRECTORY, attributes, listing
from tests.unit.vfs.test_settling import Mount

A, B = (attributes(ino, mode=DIRECTORY, nlink=2) for ino in (10, 20))
A_X, B_X = attributes(11), attributes(21)


class Link:
    """A connection whose transport answers as it is told."""

    online, timeout = True, 30.0

    def __init__(self) -> None:
        self.listed: list[bytes] = []
        self.answer: Any = None

    async def wait_transport(self, _previous: object = None) -> Link:
        return self

    def deadline(self) -> float:
        return trio.current_time() + 30

    async def list(self, path: bytes) -> tuple[int, Attributes, list[tuple[bytes, Attributes]]]:
        self.listed.append(path)
        return cast(
            "tuple[int, Attributes, list[tuple[bytes, Attributes]]]", await self.answer(path)
        )

    async def stat(self, path: bytes) -> tuple[int, Attributes]:
        return cast("tuple[int, Attributes]", await self.answer(path))


class Box(Mount):
    """Directories a and b with a file x in each, and what keeps them true."""

    def __init__(self) -> None:
        super().__init__()
        listing(self.table, self.table.root, {b"a": A, b"b": B})
        self.a, self.b = self.directory(b"a"), self.directory(b"b")
        listing(self.table, self.a, {b"x": A_X})
        listing(self.table, self.b, {b"x": B_X})
        self.a_x, self.b_x = self.a.children[b"x"], self.b.children[b"x"]
        self.link = Link()
        self.remote = Remote(self.table, cast(Any, self.link), self.pending, cast(Any, None))
        self.listings = self.remote.listings
        self.table.rescan = self.listings.request_rescan = self.rescans.append  # type: ignore[method-assign]

    def directory(self, name: bytes) -> Directory:
        node = self.table.root.children[name]
        assert isinstance(node, Directory)
        return node

    def exchange(self) -> int:
        """Journal an exchange of a and b as vfs/namespace.py does."""
        root = self.table.root
        operation = Operation(Kind.RENAME, self.pending.oid(self.a), b"b", 1, is_dir=True)
        self.pending.oid(self.b)
        names = ((root, b"a"), (root, b"b"))
        self.pending.append(operation, (self.a, self.b), names, move=True)
        root.children.update({b"a": self.b, b"b": self.a})
        self.a.name, self.b.name = b"b", b"a"
        return operation.seq

    def hear(self, number: int, path: bytes, attr: Attributes | None) -> None:
        self.remote._take([Event(number, path, 2, attr, None)])
        self.table.heard(number)

    def settle(self, seq: int, event: int) -> None:
        objects: dict[int, Attributes | None] = {self.a.oid: A, self.b.oid: B}
        settled = Settled([seq], objects, {}, event=1, events={seq: event})
        self.pending.settled(settled)
        self.rescans.clear()

    def sizes(self) -> tuple[int, int]:
        return self.a_x.size, self.b_x.size


@pytest.fixture
def box() -> Box:
    return Box()


def test_an_event_below_a_name_that_another_directory_has_got_here(box: Box) -> None:
    seq = box.exchange()
    box.hear(2, b"a/x", attributes(11, size=5, time=2))
    assert (box.a.children, box.b.children) == ({b"x": box.a_x}, {b"x": box.b_x})
    assert set(box.rescans) == {box.a, box.b}, "a listing says it when the names agree again"
    box.settle(seq, event=4)
    box.hear(3, b"a/x", attributes(11, size=6, time=3))
    assert (box.a.children, box.b.children) == ({b"x": box.a_x}, {b"x": box.b_x})
    assert set(box.rescans) == {box.a, box.b}, "it was on its way"
    box.hear(5, b"a/x", attributes(21, size=7, time=4))
    assert box.sizes() == (0, 7)
    assert not box.pending.moving


def test_an_event_of_another_directory_is_none_of_that(box: Box) -> None:
    box.exchange()
    other = attributes(30, mode=DIRECTORY, nlink=2)
    box.hear(2, b"other", other)
    listing(box.table, box.directory(b"other"), {b"x": attributes(31)})
    box.hear(3, b"other/x", attributes(31, size=5, time=2))
    assert box.directory(b"other").children[b"x"].size == 5
    assert box.rescans == []


def test_what_left_for_a_name_that_another_directory_has_got_here(box: Box) -> None:
    """Where it went is for listings to say, and so is that it left."""
    box.hear(2, b"other", attributes(30, mode=DIRECTORY, nlink=2))
    other = box.directory(b"other")
    listing(box.table, other, {b"z": attributes(31)})
    box.exchange()
    box.remote._take([Event(3, b"a/z", 2, attributes(31), b"other/z")])
    assert set(box.rescans) == {box.a, box.b, other}
    assert b"z" not in {**box.a.children, **box.b.children}


@pytest.mark.parametrize("refused", [False, True])
def test_a_listing_that_a_rename_overtakes_is_repeated(box: Box, refused: bool) -> None:
    box.a.complete = False

    async def answer(path: bytes) -> object:
        if len(box.link.listed) == 1:
            box.settle(box.exchange(), event=4)
            if refused:
                raise BoxFileError(2, "no such file")
            return 5, B, [(b"x", B_X)]
        return 5, A, [(b"x", attributes(11, size=5, time=2))]

    box.link.answer = answer
    trio.run(box.listings._list, box.a)
    assert box.link.listed == [b"a", b"b"]
    assert box.a.children == {b"x": box.a_x}
    assert box.sizes() == (5, 0)


def test_a_look_that_a_rename_overtakes_says_nothing(box: Box) -> None:
    async def answer(_path: bytes) -> object:
        box.settle(box.exchange(), event=4)
        return 5, B_X  # which has that path by now

    box.link.answer = answer
    trio.run(box.listings.refresh, box.a_x)
    assert (box.a.children, box.b.children) == ({b"x": box.a_x}, {b"x": box.b_x})
    assert box.a_x.box == A_X


def test_a_look_waits_for_renames_of_directories(box: Box) -> None:
    """Until the box knows of them, its paths are not those that are shown."""
    asked: list[bytes] = []

    async def answer(path: bytes) -> object:
        asked.append(path)
        return 5, attributes(11, size=5, time=2)

    async def look() -> None:
        seq = box.exchange()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(box.listings.refresh, box.a_x)
            await trio.testing.wait_all_tasks_blocked()
            assert asked == []
            box.settle(seq, event=4)

    box.link.answer = answer
    trio.run(look)
    assert asked == [b"b/x"]
    assert box.sizes() == (5, 0)


def test_a_snapshot_that_a_rename_overtakes(box: Box) -> None:
    """What it says of a path is from before the rename, or from after it: a listing decides."""

    class Records:
        async def __aenter__(self) -> Records:
            return self

        async def __aexit__(self, *_: object) -> None:
            pass

        async def receive(self) -> list[DirectoryRecord] | None:
            if box.a.name == b"b":
                return None
            box.settle(box.exchange(), event=4)
            return [DirectoryRecord(3, b"a", True, [(b"x", attributes(11, size=5, time=2))])]

    box.link.snapshot = lambda *_, **__: Records()  # type: ignore[attr-defined]
    box.remote.visibility = cast(Any, SimpleNamespace(prune=None))
    trio.run(partial(box.remote._snapshot, cast(Any, box.link), repeated=True))
    assert (box.a.children, box.b.children) == ({b"x": box.a_x}, {b"x": box.b_x})
    assert box.sizes() == (0, 0)
    assert box.b in box.rescans


def test_a_directory_without_a_name_is_empty(box: Box) -> None:
    """The path that it has left is the root's."""
    box.a.lookups = 1
    box.table.remove_remote(box.table.root, b"a")
    box.a.complete = False
    trio.run(box.listings._list, box.a)
    assert (box.link.listed, box.a.children, box.a.complete) == ([], dict[bytes, Node](), True)


class Tree:
    """What the box answers: listings, ENOENT for what is not there."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.event = 2
        self.listings: dict[bytes, tuple[Attributes, list[tuple[bytes, Attributes]]]] = {
            b"": (box.table.root.box or A, [(b"a", A), (b"b", B)]),
            b"a": (A, [(b"x", A_X)]),
            b"b": (B, [(b"x", B_X)]),
        }
        self.then: Any = lambda _path: None
        """Is called after what is answered was looked at, before it arrives."""
        box.link.answer = self.answer

    async def answer(self, path: bytes) -> object:
        await trio.lowlevel.checkpoint()
        parent, _, name = path.rpartition(b"/")
        there = self.listings.get(path)
        file = dict(self.listings.get(parent, (A, []))[1]).get(name)
        self.then(path)
        if there is not None:
            return self.event, *there
        if file is not None and parent:
            return self.event, file
        raise BoxFileError(2, "no such file", path)


async def with_rescans(box: Box, function: Any, *arguments: object) -> None:
    """Call something while directories are listed again, and until they are."""
    del box.listings.request_rescan  # type: ignore[method-assign]
    box.table.rescan = box.listings.request_rescan
    async with trio.open_nursery() as nursery:
        nursery.start_soon(box.listings.run)
        await trio.testing.wait_all_tasks_blocked()
        await function(*arguments)
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()


def test_a_name_that_the_box_lacks(box: Box) -> None:
    tree = Tree(box)
    tree.listings[b"a"] = (A, [])
    with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="Stale")):
        trio.run(with_rescans, box, box.listings.refresh, box.a_x)
    assert b"x" not in box.a.children
    assert box.link.listed == [b"a"]


def test_a_name_that_is_back_when_the_box_is_heard_to_lack_it(box: Box) -> None:
    """An answer with an errno says not how old it is, and events may pass it on its way."""
    tree = Tree(box)
    tree.listings[b"a"] = (A, [])

    def back(path: bytes) -> None:
        if path == b"a/x":
            box.hear(3, b"a/x", attributes(12, size=5, time=2))

    tree.then = back
    with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="Stale")):
        trio.run(with_rescans, box, box.listings.refresh, box.a_x)
    assert box.a.children[b"x"].size == 5


def test_a_name_in_a_directory_that_comes_back(box: Box) -> None:
    """Nobody tells again of what is in a directory that was away for a moment."""
    tree = Tree(box)
    missing = tree.listings.pop(b"a")

    def back(path: bytes) -> None:
        if path == b"":
            tree.listings[b"a"] = missing

    tree.then = back
    trio.run(with_rescans, box, box.listings.refresh, box.a_x)
    assert box.a.children[b"x"] is box.a_x
    assert box.link.listed == [b"a", b"", b"a"]


async def asked_for(box: Box, directory: Directory) -> None:
    box.listings.request_rescan(directory)


def test_a_directory_that_the_box_lacks(box: Box) -> None:
    tree = Tree(box)
    del tree.listings[b"a"]
    tree.listings[b""] = (tree.listings[b""][0], [(b"b", B)])
    trio.run(with_rescans, box, asked_for, box, box.a)
    assert list(box.table.root.children) == [b"b"]
    assert box.link.listed == [b"a", b""]


def test_a_directory_that_is_back_when_the_box_is_heard_to_lack_it(box: Box) -> None:
    tree = Tree(box)
    missing = tree.listings.pop(b"a")

    def back(path: bytes) -> None:
        tree.listings[b"a"] = missing
        if path == b"a":
            box.hear(3, b"a", A)

    tree.then = back
    trio.run(with_rescans, box, asked_for, box, box.a)
    assert box.table.root.children[b"a"] is box.a
    assert box.a.children[b"x"] is box.a_x
    assert box.link.listed == [b"a", b"", b"a"]


def test_a_directory_that_stays_away_while_its_parent_lists_it(box: Box) -> None:
    """One that may be listed by nobody, or is told of by events that do not end, is given up."""
    tree = Tree(box)
    del tree.listings[b"a"]
    trio.run(with_rescans, box, asked_for, box, box.a)
    assert b"a" not in box.table.root.children
    assert box.link.listed == [b"a", b""] * 3 + [b"a"]


def test_a_directory_of_which_an_event_says_that_it_is_back(box: Box) -> None:
    """The box lacks it once more than is believed, and the event has passed that answer."""
    tree = Tree(box)
    missing = tree.listings.pop(b"a")

    def back(path: bytes) -> None:
        if path == b"a" and box.link.listed.count(path) == ASKED_AGAIN + 1:
            box.hear(3, b"a", A)
            tree.listings[b"a"] = missing

    tree.then = back
    trio.run(with_rescans, box, asked_for, box, box.a)
    assert box.table.root.children[b"a"] is box.a
    assert box.a.children[b"x"] is box.a_x


def overflow(box: Box, number: int, path: bytes = b"") -> None:
    box.remote._take([Event(number, path, 0x4000, None, None)])


@pytest.mark.parametrize("path", [b"", b"a"])
def test_a_listing_that_an_overflow_overtakes_is_repeated(box: Box, path: bytes) -> None:
    """Its answer is from before what was lost, and the directory was not complete by then."""
    tree = Tree(box)
    box.a.complete = False
    box.a.children.clear()

    def lose(listed: bytes) -> None:
        if listed == b"a" and tree.event == 2:
            tree.listings[b"a"] = (A, [(b"x", A_X), (b"new", attributes(30))])
            tree.event = 3
            overflow(box, 3, path)

    tree.then = lose

    async def answer(asked: bytes) -> object:
        event, there = tree.event, tree.listings[asked]
        tree.then(asked)
        return event, *there

    box.link.answer = answer
    trio.run(with_rescans, box, box.listings.load, box.a)
    assert set(box.a.children) == {b"x", b"new"}
    assert box.link.listed.count(b"a") == 2
    assert not box.listings.missed


def test_an_overflow_elsewhere_repeats_no_listing(box: Box) -> None:
    Tree(box)
    box.table.log.begin()
    overflow(box, 3, b"b")
    trio.run(with_rescans, box, asked_for, box, box.a)
    assert box.link.listed.count(b"a") == 1


def test_after_an_overflow_directories_are_listed_side_by_side(box: Box) -> None:
    """One after the other would take a round trip each."""
    tree = Tree(box)
    asked: list[bytes] = []

    async def answer(path: bytes) -> object:
        asked.append(path)
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(asked) == [b"", b"a", b"b"]
        return tree.event, *tree.listings[path]

    async def lose() -> None:
        tree.event = 3
        overflow(box, tree.event)
        with trio.fail_after(5):
            while box.listings.missed:
                await box.listings.news.wait()

    box.link.answer = answer
    trio.run(with_rescans, box, lose)
    assert len(asked) == 3


def test_an_overflow_has_the_known_part_of_a_directory_listed(box: Box) -> None:
    """A name of which an event told is an answer, though the directory is not complete."""
    box.a.complete = False
    overflow(box, 3)
    assert box.a in box.rescans


@pytest.mark.parametrize("path", [b"", b"a"])
def test_a_listing_does_not_take_the_time_of_its_directory_back(box: Box, path: bytes) -> None:
    """Events tell of a directory, too, and may overtake the answer."""
    tree = Tree(box)
    directory = box.a if path else box.table.root
    newer = attributes(10 if path else 2, mode=DIRECTORY, nlink=directory.nlink, time=9)
    tree.then = lambda listed: box.hear(3, path, newer) if listed == path else None
    trio.run(with_rescans, box, asked_for, box, directory)
    assert box.link.listed == [path]
    assert directory.mtime_ns == newer.mtime_ns
