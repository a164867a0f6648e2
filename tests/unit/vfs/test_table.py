"""The table: news from the box and changes of our own, in every order."""

from __future__ import annotations

import stat

import pytest

from devboxfs.core.node import Directory, Doubt
from devboxfs.vfs.nodes import ROOT_INO
from devboxfs.vfs.table import Table
from tests.unit.vfs.tables import (
    DIRECTORY,
    Numbers,
    Told,
    attributes,
    listing,
    local,
    replace_attributes,
    settle,
)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def table(told: Told) -> Table:
    return Table(attributes(2, mode=DIRECTORY, nlink=2), Numbers(), told)


def test_the_root_has_the_number_that_fuse_wants(table: Table) -> None:
    assert table.root.ino == ROOT_INO
    assert table.resolve(b"") is table.root


def test_a_listing_makes_a_directory_complete(table: Table) -> None:
    listing(table, table.root, {b"a": attributes(10), b"d": attributes(11, mode=DIRECTORY)})
    assert table.root.complete
    assert set(table.root.children) == {b"a", b"d"}
    assert isinstance(table.root.children[b"d"], Directory)
    assert not table.root.children[b"d"].complete


def test_the_box_inode_number_is_shown_unless_it_is_taken(table: Table) -> None:
    taken = attributes(10, time=2)
    listing(table, table.root, {b"a": attributes(10), b"b": taken, b"c": attributes(1)})
    numbers = [table.root.children[name].ino for name in (b"a", b"b", b"c")]
    assert numbers[0] == 10
    assert all(number > 1 << 48 for number in numbers[1:])
    assert len(set(numbers)) == 3


def test_hard_links_of_the_box_are_one_node(table: Table) -> None:
    listing(table, table.root, {b"a": attributes(10, nlink=2), b"b": attributes(10, nlink=2)})
    node = table.root.children[b"a"]
    assert table.root.children[b"b"] is node
    assert node.names() == [(table.root, b"a"), (table.root, b"b")]
    table.remove_remote(table.root, b"a")
    assert node.names() == [(table.root, b"b")]
    assert node.path() == b"b"


def test_an_event_changes_attributes_and_tells_the_kernel(table: Table, told: Told) -> None:
    listing(table, table.root, {b"a": attributes(10)})
    table.remote_name(table.root, b"a", attributes(10, size=5, time=2), 1)
    assert table.root.children[b"a"].size == 5
    assert told.inodes == [(10, True)]


def test_a_change_of_mode_alone_keeps_the_pages(table: Table, told: Told) -> None:
    listing(table, table.root, {b"a": attributes(10)})
    changed = replace_attributes(attributes(10), mode=stat.S_IFREG | 0o600, ctime_ns=9)
    table.remote_name(table.root, b"a", changed, 1)
    assert told.inodes == [(10, False)]


def test_a_foreign_replacement_is_a_new_node(table: Table, told: Told) -> None:
    listing(table, table.root, {b"a": attributes(10)})
    old = table.root.children[b"a"]
    old.lookups = 1
    table.remote_name(table.root, b"a", attributes(20), 1)
    assert table.root.children[b"a"] is not old
    assert old.parent is None
    assert (ROOT_INO, b"a") in told.entries


def test_a_foreign_rename_keeps_the_node(table: Table, told: Told) -> None:
    listing(table, table.root, {b"a": attributes(10), b"d": attributes(11, mode=DIRECTORY)})
    directory = table.root.children[b"d"]
    assert isinstance(directory, Directory)
    listing(table, directory, {})
    node = table.root.children[b"a"]
    assert table.remote_move(table.root, b"a", directory, b"b", attributes(10, time=1), 3)
    assert directory.children == {b"b": node}
    assert node.path() == b"d/b"
    assert {(ROOT_INO, b"a"), (11, b"b")} <= set(told.entries)


def test_a_removal_in_the_box_takes_the_tree_below_with_it(table: Table) -> None:
    listing(table, table.root, {b"d": attributes(11, mode=DIRECTORY)})
    directory = table.root.children[b"d"]
    assert isinstance(directory, Directory)
    listing(table, directory, {b"x": attributes(12)})
    table.remote_name(table.root, b"d", None, 1)
    assert table.root.children == {}
    assert set(table.nodes) == {ROOT_INO}


def test_what_the_kernel_holds_stays_known_until_it_forgets(table: Table) -> None:
    listing(table, table.root, {b"a": attributes(10)})
    node = table.root.children[b"a"]
    node.lookups = 1
    table.remote_name(table.root, b"a", None, 1)
    assert table.nodes[10] is node
    node.lookups = 0
    table.drop_if_unused(node)
    assert 10 not in table.nodes


def test_an_answer_older_than_an_event_is_discarded(table: Table) -> None:
    listing(table, table.root, {b"a": attributes(10)})
    table.log.begin()
    table.remote_name(table.root, b"a", attributes(10, size=7, time=7), 5)
    table.remote_name(table.root, b"b", attributes(20), 6)
    table.remote_name(table.root, b"c", None, 7)
    listing(table, table.root, {b"a": attributes(10), b"c": attributes(30)}, event=4)
    table.log.end()
    assert table.root.children[b"a"].size == 7
    assert set(table.root.children) == {b"a", b"b"}


def test_a_name_that_an_event_told_of_before_the_first_listing_arrived_is_there(
    table: Table,
) -> None:
    """The listing has it too, but is too old for it."""
    listing(table, table.root, {b"d": attributes(5, mode=DIRECTORY, nlink=2)})
    directory = table.root.children[b"d"]
    assert isinstance(directory, Directory)
    table.log.begin()
    table.remote_name(directory, b"new", attributes(10, size=3), 8)
    table.remote_name(directory, b"below", attributes(11, mode=DIRECTORY, nlink=2), 9)
    old = attributes(10)
    listing(table, directory, {b"new": old, b"other": attributes(12)}, event=7)
    table.log.end()
    assert set(directory.children) == {b"new", b"below", b"other"}
    assert directory.children[b"new"].size == 3
    assert directory.nlink == 3


def test_an_answer_as_new_as_the_event_is_taken(table: Table) -> None:
    listing(table, table.root, {b"a": attributes(10)})
    table.log.begin()
    table.remote_name(table.root, b"a", attributes(10, size=7, time=7), 5)
    listing(table, table.root, {b"a": attributes(10, size=9, time=9)}, event=5)
    table.log.end()
    assert table.root.children[b"a"].size == 9


def test_a_name_of_ours_survives_a_listing_that_does_not_have_it(table: Table) -> None:
    listing(table, table.root, {})
    node = local(table, table.root, b"mine")
    listing(table, table.root, {}, event=1)
    assert table.root.children[b"mine"] is node


def test_a_name_removed_here_does_not_come_back_by_a_listing(table: Table) -> None:
    listing(table, table.root, {b"a": attributes(10)})
    table.root.hold(b"a")
    table.detach(table.root, b"a")
    listing(table, table.root, {b"a": attributes(10)}, event=1)
    assert b"a" not in table.root.children


def test_a_listing_under_way_while_ours_settled_does_not_remove_it(table: Table) -> None:
    listing(table, table.root, {})
    node = local(table, table.root, b"mine")
    table.log.begin()
    settle(table, table.root, b"mine", node, attributes(50), event=3)
    listing(table, table.root, {}, event=2)
    table.log.end()
    assert table.root.children[b"mine"] is node
    listing(table, table.root, {b"mine": attributes(50)}, event=3)
    assert table.root.children[b"mine"] is node


def test_a_foreign_change_heard_while_pending_is_shown_when_it_is_newer_than_the_outcome(
    table: Table,
) -> None:
    listing(table, table.root, {})
    node = local(table, table.root, b"mine")
    table.remote_name(table.root, b"mine", None, 9)
    assert table.root.children[b"mine"] is node
    settle(table, table.root, b"mine", node, attributes(50), event=4)
    assert b"mine" not in table.root.children


def test_a_foreign_change_older_than_the_outcome_is_dropped(table: Table) -> None:
    listing(table, table.root, {})
    node = local(table, table.root, b"mine")
    table.remote_name(table.root, b"mine", None, 3)
    settle(table, table.root, b"mine", node, attributes(50), event=4)
    assert table.root.children[b"mine"] is node


def test_an_object_with_pending_content_keeps_what_is_shown(table: Table, told: Told) -> None:
    listing(table, table.root, {b"a": attributes(10)})
    node = table.root.children[b"a"]
    node.pending, node.size = 1, 100
    table.remote_name(table.root, b"a", attributes(10, size=3, time=3), 8)
    assert node.size == 100
    node.pending, node.box = 0, attributes(10, size=100, time=4)
    table.object_settled(node, 7)
    assert node.size == 3
    assert told.inodes == [(10, True)]


def test_a_directory_keeps_its_times_when_only_ours_moved_them_in_the_box(
    table: Table, told: Told
) -> None:
    listing(table, table.root, {b"d": attributes(11, mode=DIRECTORY)})
    directory = table.root.children[b"d"]
    ctime = directory.ctime_ns
    table.update(directory, replace_attributes(attributes(11, mode=DIRECTORY), ctime_ns=77), 1)
    assert directory.ctime_ns == ctime
    assert told.inodes == []


def test_an_object_shown_under_another_number_before_is_shown_so_again(told: Told) -> None:
    numbers = Numbers(known={10: ((1 << 48) + 5, 4711)})
    table = Table(attributes(2, mode=DIRECTORY), numbers, told)
    listing(table, table.root, {b"a": attributes(10)})
    node = table.root.children[b"a"]
    assert (node.ino, node.ctime_ns) == ((1 << 48) + 5, 4711)


def test_settled_without_a_name_and_without_references_is_forgotten(table: Table) -> None:
    listing(table, table.root, {b"a": attributes(10)})
    node = table.root.children[b"a"]
    node.pending = 1
    table.root.hold(b"a")
    table.detach(table.root, b"a")
    assert 10 in table.nodes
    settle(table, table.root, b"a", node, None, event=1)
    assert 10 not in table.nodes


def test_the_log_is_empty_when_nothing_is_under_way(table: Table) -> None:
    table.log.begin()
    table.log.begin()
    table.remote_name(table.root, b"x", None, 5)
    table.log.end()
    assert table.log.is_stale(ROOT_INO, b"x", 4)
    table.log.end()
    assert not table.log.is_stale(ROOT_INO, b"x", 4)


def test_an_object_with_pending_content_keeps_its_name_until_its_outcome(table: Table) -> None:
    listing(table, table.root, {b"a": attributes(10)})
    node = table.root.children[b"a"]
    node.pending = 1
    table.remote_name(table.root, b"a", attributes(20, size=7), 8)
    listing(table, table.root, {b"a": attributes(20, size=7)}, event=8)
    assert table.root.children[b"a"] is node
    node.pending = 0
    table.object_settled(node, 7)
    assert table.root.children[b"a"].size == 7
    assert table.root.children[b"a"] is not node


def test_a_link_made_in_the_box_to_a_known_file_is_the_same_object(table: Table) -> None:
    listing(table, table.root, {b"a": attributes(10)})
    table.remote_name(table.root, b"b", attributes(10, nlink=2, time=2), 1)
    assert table.root.children[b"b"] is table.root.children[b"a"]
    assert table.root.children[b"a"].nlink == 2


def test_a_link_made_in_the_box_to_a_file_of_ours_is_the_same_object(table: Table) -> None:
    listing(table, table.root, {})
    node = local(table, table.root, b"mine")
    table.box_state(node, attributes(50))
    settle(table, table.root, b"mine", node, attributes(50), event=1)
    table.remote_name(table.root, b"b", attributes(50, nlink=2, time=2), 2)
    assert table.root.children[b"b"] is node


def test_a_look_at_what_is_in_doubt_does_not_move_the_time_of_access(table: Table) -> None:
    listing(table, table.root, {b"f": attributes(10, size=3, time=5)})
    node = table.root.children[b"f"]
    node.atime_ns = 77
    node.doubt = Doubt.REFUSED
    table.remote_name(table.root, b"f", replace_attributes(node.box, ctime_ns=9), 3)
    assert (node.doubt, node.atime_ns, node.ctime_ns) == (Doubt.NONE, 77, 9)
    node.doubt = Doubt.REFUSED
    table.remote_name(table.root, b"f", attributes(10, size=4, time=11), 4)
    assert (node.size, node.atime_ns) == (4, 11)


def test_a_ctime_that_our_own_change_of_another_name_moved_is_not_shown(
    table: Table, told: Told
) -> None:
    """The box's answer to unlink does not tell what the object's other names have now."""
    both = attributes(10, size=3, time=5, nlink=2)
    listing(table, table.root, {b"a": both, b"b": both})
    carried: list[tuple[int, int]] = []
    table.touched = lambda old, new: carried.append((old.ctime_ns, new.ctime_ns))
    node = table.root.children[b"a"]
    table.detach(table.root, b"b")
    node.nlink, node.ctime_ns, node.doubt = 1, 7, Doubt.TOUCHED
    found = replace_attributes(both, ctime_ns=9, nlink=1)
    table.remote_name(table.root, b"a", found, 3)
    assert (node.doubt, node.ctime_ns, node.box) == (Doubt.NONE, 7, found)
    assert carried == [(5, 9)]
    assert not told.inodes  # nothing of it is news
    assert table.numbers.recorded[-1] == (10, 10, 7)  # nor after the next mount


def test_in_doubt_another_mtime_is_somebody_elses_change(table: Table) -> None:
    listing(table, table.root, {b"a": attributes(10, size=3, time=5)})
    node = table.root.children[b"a"]
    node.doubt = Doubt.TOUCHED
    table.remote_name(table.root, b"a", attributes(10, size=3, time=9), 3)
    assert (node.mtime_ns, node.ctime_ns) == (9, 9)


def test_a_removed_name_of_several_has_the_others_looked_at(table: Table, told: Told) -> None:
    """Whether what was told of them counts the removed one is not known."""
    both = attributes(10, nlink=2)
    listing(table, table.root, {b"a": both, b"b": both})
    wanted: list[Directory] = []
    table.rescan = wanted.append
    after = attributes(10, nlink=2, time=2)  # of a and c: b had gone already
    table.remote_name(table.root, b"a", after, 1)
    table.remote_name(table.root, b"b", None, 2)
    assert wanted == [table.root]
    assert (10, False) in told.inodes
    listing(table, table.root, {b"a": after}, event=3)
    assert table.root.children[b"a"].nlink == 2


def test_a_further_name_that_is_not_shown_is_counted(table: Table) -> None:
    listing(table, table.root, {b"a": attributes(10), b"d": attributes(11, mode=DIRECTORY)})
    unknown = table.root.children[b"d"]
    assert isinstance(unknown, Directory)
    table.remote_name(unknown, b"b", attributes(10, nlink=2, time=2), 1)
    assert table.root.children[b"a"].nlink == 2


@pytest.mark.parametrize("last", [b"a", b"b"])
def test_two_nodes_that_turn_out_to_be_one_object_become_one(table: Table, last: bytes) -> None:
    """`b` was told of in the moment in which it was the only name."""
    listing(table, table.root, {b"a": attributes(10)})
    table.remote_name(table.root, b"b", attributes(10, time=2), 1)
    assert table.root.children[b"a"] is not table.root.children[b"b"]
    table.remote_name(table.root, last, attributes(10, nlink=2, time=3), 2)
    node = table.root.children[b"a"]
    assert table.root.children[b"b"] is node
    assert {name for _, name in node.names()} == {b"a", b"b"}
    assert node.nlink == 2


def test_an_event_that_an_answer_has_passed_says_nothing(table: Table) -> None:
    """The box decided "gone" before it made ours; sent later, it would take ours away."""
    listing(table, table.root, {})
    ours = local(table, table.root, b"index.lock")
    settle(table, table.root, b"index.lock", ours, attributes(70), event=9)
    table.remote_name(table.root, b"index.lock", None, 8)
    assert table.root.children[b"index.lock"] is ours
    table.remote_name(table.root, b"index.lock", attributes(60), 9)
    assert table.root.children[b"index.lock"] is ours
    table.heard(9)
    table.remote_name(table.root, b"index.lock", None, 10)
    assert b"index.lock" not in table.root.children

    other = local(table, table.root, b"other")
    settle(table, table.root, b"other", other, attributes(71), event=20)
    table.heard(None)  # another connection, which begins to count again
    table.remote_name(table.root, b"other", None, 3)
    assert b"other" not in table.root.children


def test_late_news_of_a_directory_does_not_take_its_time_back(table: Table) -> None:
    """The box tells of a directory behind its entries: by then we may have changed it again."""
    directory = attributes(10, mode=DIRECTORY, time=5, nlink=2)
    listing(table, table.root, {b"d": directory})
    node = table.root.children[b"d"]
    assert isinstance(node, Directory)
    ours = local(table, node, b"ours")
    node.mtime_ns = node.ctime_ns = 8  # as vfs/namespace.py does
    late = attributes(10, mode=DIRECTORY, time=6, nlink=2)
    table.remote_name(table.root, b"d", late, 20)  # held
    assert node.mtime_ns == 8
    table.log.begin()
    settle(table, node, b"ours", ours, attributes(70), event=30)
    table.times_settled(node, 31)
    table.remote_name(table.root, b"d", late, 31)
    assert node.mtime_ns == 8
    table.remote_name(
        table.root, b"d", replace_attributes(late, mode=stat.S_IFDIR | 0o700, ctime_ns=7), 30
    )
    assert (node.mode, node.mtime_ns) == (stat.S_IFDIR | 0o700, 8), "a chmod is not ours"
    table.heard(31)
    table.update(node, late, 31)  # an answer that was under way
    assert node.mtime_ns == 8
    table.remote_name(table.root, b"d", attributes(10, mode=DIRECTORY, time=9, nlink=2), 32)
    assert node.mtime_ns == 9, "somebody else's change, while the answer is still under way"
    table.log.end()


def test_a_directory_that_a_listing_finds_again_counts_as_a_link(table: Table) -> None:
    sub = attributes(10, mode=DIRECTORY, nlink=2)
    listing(table, table.root, {b"sub": sub})
    links = table.root.nlink
    listing(table, table.root, {})
    assert table.root.nlink == links - 1
    listing(table, table.root, {b"sub": sub})
    assert table.root.nlink == links
