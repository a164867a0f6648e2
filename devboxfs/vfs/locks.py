"""git here and git in the box exclude each other by the lock files that both of them make.

A lock that is made here counts only once the box has made it, and what its holder reads after that
must be no older. So making one waits for the box's answer and for every event before it; only
``index.lock`` goes its way without anybody waiting, and is waited for when it is renamed. A lock
that the box refuses was never there: it stays on this side until its maker gives it up.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Container
from dataclasses import dataclass

import trio

from devboxfs.core.git_paths import INDEX, LockKind, is_lock_name, lock_kind
from devboxfs.core.node import Directory, Lock, Node
from devboxfs.vfs.link import BoxLink, LinkState
from devboxfs.vfs.listings import NAMESPACE_TIMEOUT
from devboxfs.vfs.pending import Pending
from devboxfs.vfs.remote import Remote
from devboxfs.vfs.table import Table

__all__ = ["GitLocks", "LockStatistics"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LockStatistics:
    """Counters over the life of the mount."""

    made: int
    refused: int
    waits: int
    """How often somebody waited for the box because of a lock: a round trip each."""


class GitLocks:
    """Locks that are made through this mount."""

    def __init__(self, table: Table, remote: Remote, pending: Pending, link: BoxLink) -> None:
        self.table = table
        self.remote = remote
        self.pending = pending
        self.link = link
        self._held: dict[int, tuple[Node, Directory, bytes]] = {}
        """By id of the node: locks that have not been given up here."""
        self._made = self._refused = self._waits = 0
        pending.writeback.on_locks(self.paths)

    def statistics(self) -> LockStatistics:
        """Return a frozen snapshot."""
        return LockStatistics(self._made, self._refused, self._waits)

    def paths(self) -> list[bytes]:
        """Return the paths of the locks that are held here, for a connection that is new."""
        return [
            directory.child_path(name)
            for node, directory, name in self._held.values()
            if node.lock is not None and not node.lock.refused and node.parent is not None
        ]

    # -- making ------------------------------------------------------------------------------------

    async def kind(self, directory: Directory, name: bytes) -> LockKind | None:
        """Return how a new regular file is to be made; raises EIO for a lock without the box."""
        if not is_lock_name(name):
            return None
        holders: list[Container[bytes]] = []
        above: Directory | None = directory
        while above is not None:
            await self.remote.listings.load(above)
            holders.append(above.children)
            above = above.parent
        kind = lock_kind(name, holders, directory.name)
        if kind is None or "locks" not in await self._capabilities():
            return None
        return kind

    async def _capabilities(self) -> frozenset[str]:
        """Wait a moment for the box: a lock cannot be made without it."""
        if self.link.state is not LinkState.OFFLINE:
            with trio.move_on_after(min(NAMESPACE_TIMEOUT, self.link.timeout)):
                return (await self.link.wait_transport()).peer.capabilities
        raise OSError(errno.EIO, "a git lock cannot be made while the box is offline")

    def made(self, node: Node, directory: Directory, name: bytes, kind: LockKind, seq: int) -> None:
        """Note that a lock was journalled. No await, so that nothing is missed of its outcome."""
        index = directory.children.get(INDEX) if kind is LockKind.INDEX else None
        node.lock = Lock(kind, seq, _look(index))
        self._held[id(node)] = (node, directory, name)
        self._made += 1

    async def confirm(self, node: Node) -> None:
        """Return when the box has made the lock, and all that is older than it is known here.

        EEXIST: somebody else has it. EIO: that could not be found out.
        """
        lock = node.lock
        if lock is None:
            return
        number = errno.EIO
        with trio.move_on_at(self.link.deadline()):
            if not lock.answered and not lock.refused:
                self._waits += 1
                said = await self.pending.writeback.sync([], lock.seq, sync_box=False)
                if said and not lock.answered and not lock.refused:
                    raise OSError(said, "the box does not take the lock")
            if lock.answered and not lock.refused:
                await self.remote.wait_heard(lock.seen, lock.session)
                number = 0
        if lock.refused:
            self._refused += 1
            raise OSError(lock.refused, "the lock is held in the box")
        if number:
            raise OSError(number, "the box did not answer in time")

    # -- using -------------------------------------------------------------------------------------

    async def before_rename(
        self, source: Directory, old: bytes, target: Directory, new: bytes
    ) -> None:
        """Let a lock take the place of what it protects only if it is one."""
        node = source.children.get(old)
        if node is None:
            if any((source, old) == (where, name) for _, where, name in self._held.values()):
                # It was here: the box has removed it because this side was gone for too long.
                self._forget(source, old)
                raise OSError(errno.ESTALE, "the lock has expired")
            return
        lock = node.lock
        if lock is None or not (lock.refused or lock.kind is LockKind.INDEX):
            return
        await self.confirm(node)
        if new == INDEX and _look(target.children.get(new)) != lock.index:
            # It was changed in the box before that knew of the lock: ours is made from the old one.
            raise OSError(errno.ESTALE, "the index was changed in the box")

    def given_up(self, node: Node) -> None:
        """A lock was renamed or removed here."""
        if node.lock is not None:
            self._held.pop(id(node), None)
            if not node.lock.refused:
                node.lock = None

    def drop(self, directory: Directory, name: bytes, node: Node) -> None:
        """Take away a lock that the box had refused: there, it was never ours."""
        self.given_up(node)
        self.table.detach(directory, name)
        self.table.by_oid.pop(node.oid, None)
        self.table.name_settled(directory, name, 0)
        self.table.rescan(directory)

    def _forget(self, directory: Directory, name: bytes) -> None:
        for key, (_node, where, there) in list(self._held.items()):
            if (where, there) == (directory, name):
                del self._held[key]


def _look(node: Node | None) -> tuple[object, ...] | None:
    """What tells that a file is still the same: not changed by being flushed."""
    if node is None:
        return None
    return (node.ino, node.ctime_ns, node.mtime_ns, node.size)
