"""Which operations may go to the box now, and which must wait for others. Pure.

A new file that is still being written is kept back, and with it whatever could not be applied, or
would be applied to something else, if that file were not there.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Sequence

from devboxfs.core.ops import Kind, Operation

__all__ = ["Blocked", "bypassing", "git_directory", "split", "stuck"]

_NAMED_TWICE = frozenset({Kind.LINK, Kind.RENAME})


class Blocked:
    """Objects and names that operations which stay behind are about.

    An operation that meets one of them stays behind too: it is about such an object; one of its
    names is such a name or lies below one; or such a name lies below its own (a directory that is
    renamed, removed, or made inaccessible).
    """

    __slots__ = ("_above", "_names", "_oids")

    def __init__(self, oids: Collection[int] = ()) -> None:
        self._oids = set(oids)
        self._names: set[bytes] = set()
        self._above: set[bytes] = set()

    def meets(self, op: Operation) -> bool:
        """Whether the operation depends on what is blocked."""
        if op.oid in self._oids or (op.replaced and op.replaced in self._oids):
            return True
        return self._name(op.path) or (op.kind in _NAMED_TWICE and self._name(op.other))

    def _name(self, path: bytes) -> bool:
        names = self._names
        if path in names or path in self._above:
            return True
        slash = path.rfind(b"/")
        while slash > 0:
            if path[:slash] in names:
                return True
            slash = path.rfind(b"/", 0, slash)
        return False

    def add(self, op: Operation) -> None:
        """Block what the operation is about."""
        self._oids.add(op.oid)
        if op.replaced:
            self._oids.add(op.replaced)
        self.add_name(op.path)
        if op.kind in _NAMED_TWICE:
            self.add_name(op.other)

    def add_name(self, path: bytes) -> None:
        """Block a name, and what is below it."""
        self._names.add(path)
        above = self._above
        slash = path.rfind(b"/")
        while slash > 0 and path[:slash] not in above:
            above.add(path[:slash])
            slash = path.rfind(b"/", 0, slash)
        above.add(b"")


def git_directory(path: bytes) -> bytes | None:
    """Return the git directory that holds a path: what is in it makes sense as a whole only."""
    parts = path.split(b"/")
    for index, part in enumerate(parts[:-1]):
        if part.endswith(b".git"):
            return b"/".join(parts[: index + 1])
    return None


def stuck(operations: Sequence[Operation], refused: Container[int]) -> Blocked:
    """Return what waits for operations (by seq) that the box does not take for now.

    A reference must not go where its objects cannot, so the git directory waits as a whole.
    """
    blocked = Blocked()
    for op in operations:
        if op.seq in refused or blocked.meets(op):
            blocked.add(op)
            inside = git_directory(op.path)
            if inside is not None:
                blocked.add_name(inside)
    return blocked


def split(
    operations: Sequence[Operation], kept_back: Collection[int]
) -> tuple[list[Operation], list[Operation]]:
    """Return (what may go, what stays), both in order.

    `kept_back` are oids of new files that are still open.
    """
    if not kept_back:
        return list(operations), []
    blocked = Blocked(kept_back)
    go: list[Operation] = []
    stay: list[Operation] = []
    for op in operations:
        if blocked.meets(op):
            blocked.add(op)
            stay.append(op)
        else:
            go.append(op)
    return go, stay


def bypassing(operations: Sequence[Operation]) -> list[Operation]:
    """Return the unlinks and truncations that depend on nothing before them.

    They make room in a full box. An object with anything else pending is left alone.
    """
    blocked = Blocked()
    found: list[Operation] = []
    for op in operations:
        frees = op.kind is Kind.UNLINK or (
            op.kind is Kind.TRUNCATE and op.size == 0 and op.in_place
        )
        if frees and op.base is not None and not blocked.meets(op):
            found.append(op)
        else:
            blocked.add(op)
    return found
