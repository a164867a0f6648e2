"""Those who wait until what they changed is in the box."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import trio

from devboxfs.core.ops import Operation
from devboxfs.writeback.outcomes import Decision

__all__ = ["SyncRequest", "SyncRequests"]


@dataclass(slots=True, eq=False)
class SyncRequest:
    """Somebody waits for everything up to `upto`."""

    upto: int
    paths: list[bytes] | None
    """To fsync in the box; None: the whole file system."""
    oids: frozenset[int]
    sync_box: bool
    done: trio.Event = field(default_factory=trio.Event)
    errno: int = 0
    batch: int = 0
    """The batch that carries the sync; 0: it is still to be cut."""
    asked: int = 0
    """What `upto` was before copies that conflicts made were added to it."""

    def __post_init__(self) -> None:
        self.asked = self.upto

    @property
    def waits_for_conflicts(self) -> bool:
        """Whether what a conflict moved aside has to be in the box too: that is for all or none.

        Who syncs a file hears of the conflict at once: the file is not what was written.
        """
        return self.paths is None

    def finish(self, number: int = 0) -> None:
        """Wake who waits."""
        self.errno = self.errno or number
        self.done.set()

    def concerns(self, op: Operation) -> bool:
        """Whether the request fails when this operation is not in the box."""
        return (
            self.paths is None
            or op.oid in self.oids
            or op.path in self.paths
            or op.path.rpartition(b"/")[0] in self.paths
        )


class SyncRequests:
    """The requests that are not answered yet."""

    def __init__(self) -> None:
        self._list: list[SyncRequest] = []

    def __iter__(self) -> Iterator[SyncRequest]:
        return iter(list(self._list))

    def __bool__(self) -> bool:
        return bool(self._list)

    def add(self, request: SyncRequest) -> None:
        """Note that somebody waits."""
        self._list.append(request)

    def discard(self, request: SyncRequest) -> None:
        """Forget a request."""
        if request in self._list:
            self._list.remove(request)

    def finish(self, request: SyncRequest, number: int = 0) -> None:
        """Answer a request."""
        self._list.remove(request)
        request.finish(number)

    def finish_all(self, number: int) -> None:
        """Answer everybody."""
        for request in self:
            self.finish(request, number)

    @property
    def uncut(self) -> list[SyncRequest]:
        """Those for which no batch has been cut."""
        return [request for request in self._list if not request.batch]

    def wanted(self) -> list[bytes] | bool | None:
        """Return what the next batch makes durable: paths, everything, or nothing."""
        paths: dict[bytes, None] = {}
        for request in self.uncut:
            if not request.sync_box:
                continue
            if request.paths is None:
                return True
            paths.update(dict.fromkeys(request.paths))
        return list(paths) or None

    def note(self, decision: Decision) -> None:
        """Note what went wrong with what they wait for, and what is to come of it."""
        for request in self._list:
            if request.waits_for_conflicts:
                # Of what was asked for only: copies make no further copies, so this has an end.
                copies = [last for seq, last in decision.copies if seq <= request.asked]
                request.upto = max(request.upto, *copies) if copies else request.upto
            for oid, number in decision.hurt.items():
                if request.paths is None or oid in request.oids:
                    request.errno = request.errno or number
            for path in request.paths or ():
                request.errno = request.errno or decision.hurt_paths.get(path, 0)

    def note_refused(
        self,
        waiting: Collection[Operation],
        refused: Mapping[int, int],
        requests: list[SyncRequest],
    ) -> None:
        """Note operations (seq -> errno) that the box does not take for now."""
        for op in waiting:
            number = refused.get(op.seq)
            if number is not None:
                for request in requests:
                    if op.seq <= request.upto and request.concerns(op):
                        request.errno = request.errno or number
