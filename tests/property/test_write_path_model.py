"""The write path's rules: together they keep every promise, and none of them can be left out."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from devboxfs.core.deferral import split
from devboxfs.core.ops import Kind, Operation
from tests.property.write_path import RULES, Machine, explore

LONG = os.environ.get("DEVBOX_TEST_LONG") == "1"

TOGETHER: list[tuple[str, ...]] = [
    ("daemon",),
    ("link", "helper"),
    ("link", "link"),
    ("helper", "foreign"),
    ("link", "foreign"),
    ("same", "helper"),
    ("local power",),
    ("box power",),
]
if LONG:
    TOGETHER += [
        ("daemon", "foreign"),
        ("daemon", "helper"),
        ("daemon", "link"),
        ("box power", "daemon"),
        ("local power", "daemon"),
        ("daemon", "daemon", "foreign"),
        ("link", "helper", "foreign"),
    ]

ALONE: dict[str, tuple[str, ...]] = {
    "journal-first": ("daemon",),
    "batch-record": ("daemon",),
    "whole": ("link",),
    "outcome-log": ("link",),
    "doubt": ("helper",),
    "doubt-verify": ("helper", "foreign"),
    "lock": ("link",),
    "generation": ("link",),
    "precondition": ("foreign",),
    "verify": ("foreign",),
    "result-durable": ("local power",),
    "floor": ("link",),
    "equal": ("same",),
    "cancel": ("foreign",),
    "follow": ("foreign",),
    "incarnation": ("local power",),
    "watermark": ("box power",),
    "distrust": ("box power",),
}
"""What has to go wrong for the rule to matter."""
NOT_COMPARABLE = {"doubt", "result-durable"}
"""Rules that matter for changes which, other than contents, cannot be compared."""


@pytest.mark.slow
@pytest.mark.timeout(3000 if LONG else 120)
@pytest.mark.parametrize("faults", TOGETHER, ids=" and ".join)
def test_the_rules_keep_every_promise(faults: tuple[str, ...]) -> None:
    found = explore(Machine(faults=faults))
    assert (found.violation, found.trace) == ("", [])
    assert found.states > 200


@pytest.mark.slow
@pytest.mark.parametrize("faults", [("link", "helper"), ("local power",)], ids=" and ".join)
def test_the_rules_keep_every_promise_for_renames(faults: tuple[str, ...]) -> None:
    found = explore(Machine(faults=faults, comparable=False))
    assert (found.violation, found.trace) == ("", [])


@pytest.mark.slow
@pytest.mark.parametrize("rule", sorted(RULES))
def test_no_rule_can_be_left_out(rule: str) -> None:
    machine = Machine(without=rule, faults=ALONE[rule], comparable=rule not in NOT_COMPARABLE)
    assert explore(machine).violation


# -- what may overtake a new file that is still open


NAMES = (b"a", b"b", b"c", b"d", b"d/a")
DEPENDENCIES = ("object", "name", "below", "above")


class Tree:
    """Names and the objects that they are of."""

    def __init__(self) -> None:
        self.names: dict[bytes, int] = {b"b": 1, b"c": 1}
        self.directories: set[int] = set()
        self.order: dict[int, list[int]] = {}
        """What was done to each object, in order: preconditions build on that."""

    def holds(self, path: bytes) -> bool:
        above = path.rpartition(b"/")[0]
        return not above or self.names.get(above) in self.directories

    def below(self, path: bytes) -> list[bytes]:
        return [name for name in self.names if name.startswith(path + b"/")]

    def do(self, op: Operation) -> bool:
        """Whether it could be done."""
        names = self.names
        if not self.holds(op.path):
            return False
        self.order.setdefault(op.oid, []).append(op.time_ns)
        if op.kind is Kind.LINK:
            if op.path in names or names.get(op.other) != op.oid:
                return False
            names[op.path] = op.oid
        elif op.kind in (Kind.CREATE, Kind.MKDIR):
            if op.path in names:
                return False
            names[op.path] = op.oid
            if op.kind is Kind.MKDIR:
                self.directories.add(op.oid)
        elif op.kind is Kind.RENAME:
            if names.get(op.other) != op.oid or names.get(op.path, 0) != op.replaced:
                return False
            if op.path.startswith(op.other + b"/"):
                return False
            moved = {name: names.pop(name) for name in [op.other, *self.below(op.other)]}
            for name, oid in moved.items():
                names[op.path + name[len(op.other) :]] = oid
        elif names.get(op.path) != op.oid:
            return False
        elif op.kind is Kind.UNLINK:
            del names[op.path]
        elif op.kind is Kind.RMDIR:
            if self.below(op.path):
                return False
            del names[op.path]
        return True


def possible(tree: Tree, number: int) -> Iterator[Operation]:
    """Everything that a user may do next."""
    oid = 10 + number
    for path in NAMES:
        if path not in tree.names:
            yield Operation(Kind.CREATE, oid, path, number)
            yield Operation(Kind.MKDIR, oid, path, number, is_dir=True)
            continue
        there = tree.names[path]
        is_dir = there in tree.directories
        yield Operation(Kind.RMDIR if is_dir else Kind.UNLINK, there, path, number, is_dir=is_dir)
        if not is_dir:
            yield Operation(Kind.WRITE, there, path, number)
        for target in NAMES:
            over = tree.names.get(target, 0)
            if not is_dir and not over:
                yield Operation(Kind.LINK, there, target, number, other=path)
            if target != path and not is_dir and over not in {there, *tree.directories}:
                yield Operation(Kind.RENAME, there, target, number, other=path, replaced=over)
            elif target != path and is_dir and not over:
                yield Operation(Kind.RENAME, there, target, number, other=path, is_dir=True)


def done(operations: list[Operation]) -> Tree | None:
    tree = Tree()
    return tree if all(tree.do(op) for op in operations) else None


def histories(length: int) -> Iterator[list[Operation]]:
    def grow(history: list[Operation]) -> Iterator[list[Operation]]:
        yield history
        if len(history) < length:
            tree = done(history)
            assert tree is not None
            for op in possible(tree, len(history) + 1):
                if done([*history, op]) is not None:
                    yield from grow([*history, op])

    return grow([])


def separated(
    operations: list[Operation], kept: set[int], without: str
) -> tuple[list[Operation], list[Operation]]:
    """core/deferral.py in other words, with one kind of dependency left out."""
    oids, names = set(kept), set[bytes]()
    go, stay = [], []
    for op in operations:
        paths = [op.path, op.other] if op.kind in (Kind.RENAME, Kind.LINK) else [op.path]
        reasons = {
            "object": op.oid in oids or op.replaced in oids,
            "name": any(path in names for path in paths),
            "below": any(path.startswith(name + b"/") for path in paths for name in names),
            "above": any(name.startswith(path + b"/") for path in paths for name in names),
        }
        if op.oid in kept or any(holds for why, holds in reasons.items() if why != without):
            stay.append(op)
            oids |= {op.oid, op.replaced} - {0}
            names.update(paths)
        else:
            go.append(op)
    return go, stay


def wrong(operations: list[Operation], without: str) -> bool:
    """Whether something fails, or comes out otherwise, when what may go first does."""
    expected = done(operations)
    assert expected is not None
    for kept in (op.oid for op in operations if op.kind is Kind.CREATE):
        go, stay = separated(operations, {kept}, without)
        if not without:
            assert split(operations, {kept}) == (go, stay)
        found = done([*go, *stay])
        if found is None or (found.names, found.order) != (expected.names, expected.order):
            return True
    return False


@pytest.mark.slow
def test_what_overtakes_an_open_file_changes_nothing() -> None:
    count = 0
    for history in histories(4 if LONG else 3):
        count += 1
        assert not wrong(history, ""), history
    assert count > 1000


@pytest.mark.slow
@pytest.mark.parametrize("reason", DEPENDENCIES)
def test_every_dependency_matters(reason: str) -> None:
    assert any(wrong(history, reason) for history in histories(4))
