"""The planner against a model: a history executed directly, and its batches executed in a box.

Random operations over a small tree are cut at random points, with new files kept back at random and
up to three batches planned before the first is applied. After each batch the box holds exactly what
the operations that went so far had made; in the end it holds what all of them made.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devboxfs.core.deferral import split
from devboxfs.core.ops import Kind, Operation, Source
from devboxfs.core.plan import plan
from devboxfs.core.planned import Left, Plan
from sealos_devbox import Version
from tests.support.long import LONG
from tests.unit.writeback.model_box import BOX_USER, EXCHANGE, History, ModelBox, Node

NAMES = [b"a", b"b", b"c"]


class Bytes:
    def __init__(self) -> None:
        self.data = bytearray()

    def add(self, data: bytes) -> Source:
        offset = len(self.data)
        self.data += data
        return Source(self, offset)

    def read(self, offset: int, length: int) -> bytes:
        assert offset + length <= len(self.data)
        return bytes(self.data[offset : offset + length])


@dataclass
class Sent:
    planned: Plan
    operations: list[Operation]
    number: int


class World:
    """A user, a journal, a box."""

    def __init__(self) -> None:
        self.blob = Bytes()
        self.table = History()
        self.went = History()
        """What the operations that were applied have made, in the order in which they were."""
        self.box = ModelBox()
        self.shadow: dict[int, Version] = {}
        self.pending: dict[int, int] = {}
        self.waiting: list[Operation] = []
        self.sent: list[Sent] = []
        self.flying: dict[int, tuple[int, Left]] = {}
        self.settled: dict[int, Left] = {}
        self.next_oid = 1
        self.seq = 0
        self.wire = 1
        self.number = 0
        self.clock = 1000
        self.deferred = False
        self.floors: dict[bytes, int] = {}
        for path, kind in [
            (b"a", "dir"),
            (b"a/a", "file"),
            (b"a/b", "dir"),
            (b"a/b/c", "file"),
            (b"b", "file"),
            (b"c", "dir"),
            (b"a/c", "other"),
            (b"c/a", "link"),
        ]:
            self._start_with(path, kind)
        self._hard_link(b"b", b"c/b")

    def _start_with(self, path: bytes, kind: str) -> None:
        oid = self.oid()
        for tree in (self.table, self.went, self.box):
            node = Node("file" if kind == "other" else kind, mtime=500)
            node.mode = 0o755 if kind == "dir" else 0o644
            if kind in ("file", "other"):
                node.content += b"base of " + path
            if kind == "other":
                node.uid = 0
            if kind == "link":
                node.target, node.mode = b"somewhere", 0o777
            if isinstance(tree, History):
                tree.add(path, node, oid)
            else:
                node.ino, node.ctime = tree.next_ino, tree.tick()
                tree.next_ino += 1
                parent, name = tree.parent(path)
                parent.children[name] = node

    def _hard_link(self, old: bytes, new: bytes) -> None:
        for tree in (self.table, self.went, self.box):
            node = tree.find(old)
            assert node is not None
            parent, name = tree.parent(new)
            parent.children[name] = node
            node.nlink += 1

    def oid(self) -> int:
        self.next_oid += 1
        return self.next_oid - 1

    # -- the user

    def paths(self) -> list[tuple[bytes, Node]]:
        found: list[tuple[bytes, Node]] = []

        def walk(path: bytes, node: Node) -> None:
            for name, child in sorted(node.children.items()):
                below = path + b"/" + name if path else name
                found.append((below, child))
                walk(below, child)

        walk(b"", self.table.root)
        return found

    def free_path(self, a: int, b: int) -> bytes | None:
        directories = [b""] + [path for path, node in self.paths() if node.kind == "dir"]
        parent = directories[a % len(directories)]
        if parent.count(b"/") >= 2:
            return None
        path = parent + b"/" + NAMES[b % 3] if parent else NAMES[b % 3]
        return None if self.table.find(path) else path

    def existing(self, a: int, *kinds: str) -> tuple[bytes, Node] | None:
        found = [(path, node) for path, node in self.paths() if not kinds or node.kind in kinds]
        return found[a % len(found)] if found else None

    def base(self, node: Node) -> Version | None:
        """The version of an object on which nothing is pending, as the file system knows it."""
        if self.pending.get(node.oid):
            return None
        path = next(path for path, other in self.paths() if other is node)
        there = self.box.find(path)
        # Nothing is pending on the object, but perhaps on a directory above it.
        if there is None or self.known(node.oid) is None or there.ino != self.known(node.oid):
            there = self.by_ino(self.known(node.oid))
        assert there is not None
        return Version(*there.version)

    def known(self, oid: int) -> int | None:
        if not hasattr(self, "_inos"):
            self._inos: dict[int, int] = {}
            for path, node in self.paths():
                there = self.box.find(path)
                assert there is not None
                self._inos[node.oid] = there.ino
        return self._inos.get(oid)

    def by_ino(self, ino: int | None) -> Node | None:
        def walk(node: Node) -> Node | None:
            if node.ino == ino:
                return node
            for child in node.children.values():
                if found := walk(child):
                    return found
            return None

        return walk(self.box.root)

    def do(self, op: Operation) -> None:
        self.seq += 1
        op.seq = self.seq
        self.table.do(op)
        self.waiting.append(op)
        for oid in {op.oid, op.replaced} - {0}:
            self.pending[oid] = self.pending.get(oid, 0) + 1

    def act(self, choice: int, a: int, b: int, c: int) -> None:
        self.known(0)
        self.clock += 7
        when = self.clock
        kinds = list(Kind)
        kind = [
            *kinds,
            Kind.WRITE,
            Kind.WRITE,
            Kind.TRUNCATE,
            Kind.RENAME,
            Kind.RENAME,
            Kind.CREATE,
        ][choice % (len(kinds) + 6)]
        if kind in (Kind.CREATE, Kind.MKDIR, Kind.SYMLINK, Kind.MKNOD):
            path = self.free_path(a, b)
            if path is None:
                return
            op = Operation(kind, self.oid(), path, when, mode=(0o600, 0o644, 0o755)[c % 3])
            if kind is Kind.SYMLINK:
                op.mode, op.data = None, b"t%d" % (c % 4)
            if kind is Kind.MKNOD:
                op.mode = 0o010644
            self.do(op)
            return
        if kind in (Kind.WRITE, Kind.TRUNCATE):
            found = self.existing(a, "file")
            if found is None:
                return
            path, node = found
            op = Operation(kind, node.oid, path, when, base=self.base(node), mode=node.mode)
            op.in_place = node.nlink > 1 or node.uid != BOX_USER or bool(node.xattrs)
            if kind is Kind.WRITE:
                op.offset, op.length = b % 12, c % 9 + 1
                op.source = self.blob.add(bytes([65 + self.seq % 26]) * op.length)
            else:
                op.size = (0, 0, 3, 15)[b % 4]
            self.do(op)
            return
        if kind is Kind.SETATTR:
            found = self.existing(a)
            if found is None:
                return
            path, node = found
            op = Operation(
                kind, node.oid, path, when, base=self.base(node), is_dir=node.kind == "dir"
            )
            if b % 3 != 1 and node.kind != "link":
                op.mode = (0o600, 0o755, 0o440)[c % 3]
                if node.kind == "node":
                    op.mode |= 0o010000
            if b % 3 != 0 or node.kind == "link":
                op.mtime_ns, op.atime_ns = 100 + self.seq, 200 + self.seq
            if c % 7 == 0:
                op.uid = (0, BOX_USER)[b % 2]
            self.do(op)
            return
        if kind is Kind.SETXATTR:
            found = self.existing(a, "file", "dir")
            if found is None:
                return
            path, node = found
            op = Operation(
                kind, node.oid, path, when, base=self.base(node), is_dir=node.kind == "dir"
            )
            op.name, op.data = b"user.x", b"v%d" % self.seq
            if b % 3 == 0 and node.xattrs:
                op.data = None
            self.do(op)
            return
        if kind is Kind.LINK:
            found, path = self.existing(a, "file"), self.free_path(b, c)
            if found is None or path is None:
                return
            old, node = found
            self.do(Operation(kind, node.oid, path, when, base=self.base(node), other=old))
            return
        if kind is Kind.UNLINK:
            found = self.existing(a, "file", "link", "node")
            if found is not None:
                path, node = found
                self.do(Operation(kind, node.oid, path, when, base=self.base(node)))
            return
        if kind is Kind.RMDIR:
            empty = [(p, n) for p, n in self.paths() if n.kind == "dir" and not n.children]
            if empty:
                path, node = empty[a % len(empty)]
                self.do(Operation(kind, node.oid, path, when, base=self.base(node), is_dir=True))
            return
        self._rename(a, b, c, when)

    def _rename(self, a: int, b: int, c: int, when: int) -> None:
        found = self.existing(a)
        if found is None:
            return
        old, node = found
        op = Operation(Kind.RENAME, node.oid, b"", when, base=self.base(node), other=old)
        op.is_dir = node.kind == "dir"
        if c % 3:
            path = self.free_path(b, c)
        else:
            target = self.existing(b)
            assert target is not None
            path, other = target
            if other is node or path.startswith(old + b"/") or old.startswith(path + b"/"):
                return
            exchange = c % 6 == 0
            if not exchange and ((other.kind == "dir") != (node.kind == "dir") or other.children):
                return
            op.replaced, op.replaced_is_dir = other.oid, other.kind == "dir"
            op.replaced_base = self.base(other)
            op.flags = EXCHANGE if exchange else 0
        if path is None or path.startswith(old + b"/") or path.count(b"/") + depth(node) > 3:
            return
        op.path = path
        self.do(op)

    # -- the flusher

    def cut(self, count: int, keep: int) -> None:
        self.known(0)
        taken, rest = self.waiting[:count], self.waiting[count:]
        new = sorted({op.oid for op in taken if op.kind is Kind.CREATE})
        kept = {oid for index, oid in enumerate(new) if keep >> index & 1}
        go, stay = split(taken, kept)
        self.deferred = self.deferred or bool(stay)
        self.waiting = stay + rest
        if not go:
            return
        left = {**self.settled, **{oid: value for oid, (_, value) in self.flying.items()}}
        planned = plan(go, left, self.wire, self.floors)
        again = plan(go, left, self.wire, self.floors)
        assert again.operations == planned.operations
        self.floors = planned.dirtimes if self.waiting else {}
        self.wire = planned.next_wire
        self.number += 1
        owned = [seq for owner in planned.owners for seq in owner.seqs] + planned.vanished
        assert sorted(owned) == [op.seq for op in go], "every operation has one owner"
        for oid, value in planned.left.items():
            self.flying[oid] = (self.number, value)
        self.sent.append(Sent(planned, go, self.number))

    def deliver(self) -> None:
        if not self.sent:
            return
        sent = self.sent.pop(0)
        planned = sent.planned
        contents = []
        for member in planned.members:
            data = bytearray(member.length)
            image = planned.images[member.oid]
            for piece in image.pieces(member.offset, member.length):
                if hasattr(piece, "blob"):
                    at = piece.offset - member.offset
                    data[at : at + piece.length] = piece.blob.read(piece.blob_offset, piece.length)
                else:
                    assert type(piece).__name__ == "ZeroPiece", "a content has all its bytes"
            contents.append((bytes(data), member.mode, member.mtime_ns))
        outcomes = dict(self.box.apply(planned.operations, contents))
        refused = [op for op in planned.operations if outcomes[op[0]]]
        assert not refused, [(op, outcomes[op[0]]) for op in refused]
        for op in sent.operations:
            self.went.do(op)
            for oid in {op.oid, op.replaced} - {0}:
                self.pending[oid] -= 1
        times = not self.deferred
        assert self.box.picture(directory_times=times) == self.went.picture(directory_times=times)
        self._settle(sent)

    def _settle(self, sent: Sent) -> None:
        """Do what the ledger does with outcomes."""
        seen: dict[int, Node | None] = {}
        for oid in sent.planned.left:
            node = self.went.by_oid.get(oid)
            path = next((p for p, n in _walk(self.went) if n is node), None)
            seen[oid] = None if path is None else self.box.find(path)
        for oid, left in sent.planned.left.items():
            there = seen[oid]
            if there is not None:
                self._inos[oid] = there.ino
            about = {owner.wire: owner.oid for owner in sent.planned.owners}.get(left.wire)
            # The outcome of an exchange has the attributes of one object, not of the other.
            version = left_version(self.box, left) if about == oid else None
            if version is not None:
                self.settled[oid] = Left(version, version.size, ino=version.ino)
            else:
                before = self.settled.get(oid)
                self.settled[oid] = Left(
                    size=left.size, ino=self._inos.get(oid, 0) or (before.ino if before else 0)
                )
        for oid in [oid for oid, (number, _) in self.flying.items() if number <= sent.number]:
            del self.flying[oid]
        needed = {oid for op in self.waiting for oid in (op.oid, op.replaced)}
        needed |= {oid for s in self.sent for op in s.operations for oid in (op.oid, op.replaced)}
        self.settled = {oid: left for oid, left in self.settled.items() if oid in needed}


def left_version(box: ModelBox, left: Left) -> Version | None:
    """The version in the outcome of the last wire operation on an object."""
    if not left.wire:
        return None
    version, _, _ = box.left[left.wire]
    return None if version is None else Version(*version)


def depth(node: Node) -> int:
    return 1 + max((depth(child) for child in node.children.values()), default=0)


def _walk(tree: History) -> list[tuple[bytes, Node]]:
    found: list[tuple[bytes, Node]] = []

    def walk(path: bytes, node: Node) -> None:
        for name, child in node.children.items():
            below = path + b"/" + name if path else name
            found.append((below, child))
            walk(below, child)

    walk(b"", tree.root)
    return found


NUMBER = st.integers(0, 63)
STEP = st.one_of(
    st.tuples(st.just("act"), NUMBER, NUMBER, NUMBER, NUMBER),
    st.tuples(st.just("act"), NUMBER, NUMBER, NUMBER, NUMBER),
    st.tuples(st.just("act"), NUMBER, NUMBER, NUMBER, NUMBER),
    st.tuples(st.just("cut"), NUMBER, st.sampled_from([0, 0, 1, 2, 3, 5]), NUMBER, NUMBER),
    st.tuples(st.just("deliver"), NUMBER, NUMBER, NUMBER, NUMBER),
)


def check(steps: list[tuple[str, int, int, int, int]]) -> None:
    world = World()
    for name, a, b, c, d in steps:
        if name == "act":
            world.act(a, b, c, d)
        elif name == "cut" and len(world.sent) < 3:
            world.cut(len(world.waiting) if a % 2 else a % 8, b)
        elif name == "deliver":
            world.deliver()
    while world.sent:
        world.deliver()
    world.cut(len(world.waiting), 0)
    world.deliver()
    assert not world.waiting
    times = not world.deferred
    assert world.box.picture(directory_times=times) == world.table.picture(directory_times=times)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEP, max_size=40))
def test_batches_leave_what_the_history_made(steps: list[tuple[str, int, int, int, int]]) -> None:
    check(steps)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(
    max_examples=10_000 if LONG else 1_000,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.lists(STEP, min_size=5, max_size=60))
def test_batches_leave_what_the_history_made_thoroughly(
    steps: list[tuple[str, int, int, int, int]],
) -> None:
    check(steps)
