"""How the box tells the table of its state: the snapshot, and pushed events.

The watch is started first, then the snapshot streams in; a directory that is asked for before the
snapshot reached it is listed at once (vfs/listings.py).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial

import trio

from devboxfs.core.node import Directory, Node
from devboxfs.vfs.link import BoxLink, LinkState
from devboxfs.vfs.listings import ABSENT, SLICE, Listings
from devboxfs.vfs.pending import Pending
from devboxfs.vfs.table import Table
from devboxfs.vfs.visibility import Visibility
from sealos_devbox import (
    Attributes,
    BoxFileError,
    DirectoryRecord,
    Event,
    FileTransport,
    RecordStream,
    TransportError,
)

__all__ = ["Remote", "RemoteStatistics"]

log = logging.getLogger(__name__)

Entries = list[tuple[bytes, Attributes]]
OVERFLOW = 0x4000
UNMOUNTED = 0x2000


@dataclass(frozen=True, slots=True)
class RemoteStatistics:
    """Figures over the life of the mount."""

    events: int
    listings: int
    snapshot_complete: bool
    snapshot_entries: int


class Remote:
    """Keeps the table true."""

    def __init__(
        self, table: Table, link: BoxLink, pending: Pending, visibility: Visibility
    ) -> None:
        self.table = table
        self.listings = Listings(table, link, pending)
        self.visibility = visibility
        self.link = link
        self.pending = pending
        self.snapshot_complete = False
        self._snapshot_entries = 0
        self._events = 0
        self._heard: int | None = None
        """Number of the last event that was worked in; None while nothing is watched."""

    def statistics(self) -> RemoteStatistics:
        """Return a frozen snapshot."""
        return RemoteStatistics(
            self._events, self.listings.count, self.snapshot_complete, self._snapshot_entries
        )

    async def session(self, transport: FileTransport) -> None:
        """Watch and snapshot on one connection; ends by an error of the connection."""
        self._heard, self.snapshot_complete = None, False
        self.listings.forget_overflows()
        self.table.heard(None)
        async with transport.watch(b"", prune=self.visibility.prune) as events:
            first = await events.receive()
            if first is None:
                raise TransportError("the watch ended before it began")
            self._take(first)
            self.pending.watch_session += 1
            self._told(first[-1].number if first else 0)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(self._snapshot, transport, repeated=True))
                while True:
                    batch = await events.receive()
                    if batch is None:
                        raise TransportError("the watch ended")
                    start = 0
                    while start < len(batch):
                        end = start + SLICE
                        if end < len(batch) and batch[end].moved_from is not None:
                            end += 1  # the two halves of a rename stay together
                        self._take(batch[start:end])
                        self._told(batch[start:end][-1].number)
                        start = end
                        await trio.lowlevel.checkpoint()

    def _told(self, number: int | None = None) -> None:
        if number is not None:
            self._heard = number
            self.table.heard(number)
        self.listings.tell()

    async def wait_heard(self, number: int, session: int) -> None:
        """Wait until the table is as true as event `number` of a connection makes it.

        0, and an event of a connection that is gone: until the snapshot of this one is complete.
        """
        while True:
            if number and session == self.pending.watch_session:
                enough = self._heard is not None and self._heard >= number
            else:
                enough = self._heard is not None and self.snapshot_complete
            if enough and not self.listings.missed:
                return
            await self.listings.news.wait()

    async def catch_up(self) -> None:
        """Bring the table up to what the box has now: events may still be on their way."""
        transport = await self.link.wait_transport()
        number = await transport.caught_up()
        if number:
            await self.wait_heard(number, self.pending.watch_session)
        else:
            await self._snapshot(transport, repeated=False)

    async def _snapshot(self, transport: FileTransport, *, repeated: bool) -> None:
        """Bring the whole table up to date. `repeated`: if it does not end, there will be another.

        The next one is to find elsewhere what this one has not.
        """
        self.snapshot_complete = False
        table = self.table
        later: list[tuple[bytes, Entries, int]] = []
        entries = 0
        table.log.begin()
        self.listings.merging.begin()
        try:
            await self.pending.wait_moves()
            self.pending.moved_names.clear()
            async with transport.snapshot(table.root.name, prune=self.visibility.prune) as stream:
                async for path, whole, event in _listings(stream):
                    entries += len(whole)
                    if not await self._merge(path, whole, event, last=False):
                        later.append((path, whole, event))
            for path, whole, event in later:
                await self._merge(path, whole, event, last=True)
            await self._remove_vanished()
            self._snapshot_entries = entries
            self.snapshot_complete = True
            self.listings.root_is(gone=False)
            self._told()
        except BoxFileError as exc:
            await self._remove_vanished()
            if exc.errno in ABSENT:
                self.listings.root_is(gone=True)
            log.warning("the snapshot of box %s failed: %s", self.link.box.name, exc)
        finally:
            left = self.listings.merging.end()
            if not repeated:
                for directory in left:
                    self.listings.request_rescan(directory)
            table.log.end()

    async def _merge(self, path: bytes, entries: Entries, event: int, *, last: bool) -> bool:
        """Work in one directory of a snapshot; False if that has to wait for the others.

        What is new in it may be what another one lacks; so what is below may be known, too.
        """
        directory = self.table.resolve(path)
        if self._was_moved(path):
            self.listings.rescan_all(directory)
        elif not isinstance(directory, Directory):
            return last
        else:
            names = {name for name, _attr in entries}
            if not last and self.listings.merging.may_come_from_elsewhere(
                directory, entries, names
            ):
                return False
            await self.listings.merge(directory, entries, event)
            self.listings.doubt_if_old(directory, path, event)
        return True

    async def _remove_vanished(self) -> None:
        while self.listings.merging.remove_vanished(SLICE):
            await trio.lowlevel.checkpoint()

    def _take(self, events: list[Event]) -> None:
        """Work in events.

        Renames arrive as a removal followed at once by an appearance that names its origin. (By
        that only are they known: frames are joined on the way here, so the same name may have been
        removed for good in another of these events.)
        """
        table = self.table
        for index, event in enumerate(events):
            self._events += 1
            table.watchers.mask = event.mask
            if event.mask & UNMOUNTED:
                log.error("the workspace of box %s is gone", self.link.box.name)
            if event.mask & OVERFLOW:
                self.listings.overflowed(event.path, event.number)
                continue
            if event.path == table.root.name:
                if event.attr is not None:
                    table.update(table.root, event.attr, event.number)
                    table.log.note(table.root.ino, b"", event.number)
                self.listings.root_is(gone=event.attr is None)
                continue
            if table.root.name.startswith(event.path + b"/"):
                # What is mounted went with a directory above it, or may have come back with it.
                if event.attr is None or table.root_gone:
                    self.listings.request_rescan(table.root)
                continue
            parent_path, _, name = event.path.rpartition(b"/")
            after = events[index + 1] if index + 1 < len(events) else None
            if event.attr is None and after is not None and after.moved_from == event.path:
                continue
            origin = event.moved_from
            directory = table.resolve(parent_path)
            if self.pending.moving and (
                self._is_ambiguous(event.path, event.number)
                or (origin is not None and self._is_ambiguous(origin, event.number))
            ):
                self._rescan_moved()
                self.listings.rescan_all(directory)
                if origin is not None:
                    self.listings.rescan_all(table.resolve(origin.rpartition(b"/")[0]))
                continue
            if origin is not None and not self._moved(origin, directory, name, event):
                self._gone(origin, event.number)
                origin = None
            if origin is None:
                if isinstance(directory, Directory):
                    table.remote_name(directory, name, event.attr, event.number)
                elif self.pending.moving:
                    self._rescan_moved()
        table.watchers.mask = None

    def _moved(self, origin: bytes, target: Node | None, name: bytes, event: Event) -> bool:
        old_parent, _, old = origin.rpartition(b"/")
        source = self.table.resolve(old_parent)
        return (
            isinstance(source, Directory)
            and isinstance(target, Directory)
            and event.attr is not None
            and self.table.remote_move(source, old, target, name, event.attr, event.number)
        )

    def _gone(self, path: bytes, number: int) -> None:
        parent, _, name = path.rpartition(b"/")
        directory = self.table.resolve(parent)
        if isinstance(directory, Directory):
            self.table.remote_name(directory, name, None, number)

    def _is_ambiguous(self, path: bytes, number: int) -> bool:
        """Whether a directory above has got or lost its name by us, and the box did not know yet.

        Another directory may have that name here: what the event says is not about its entry.
        """
        return any(
            directory.held(name) or self.table.overtaken(directory, name, number)
            for directory, name in self._names_above(path)
        )

    def _was_moved(self, path: bytes) -> bool:
        """Whether a directory of that path has another name since the snapshot began."""
        moved = self.pending.moved_names
        return bool(moved) and any(one in moved for one in self._names_above(path + b"/"))

    def _names_above(self, path: bytes) -> Iterator[tuple[Directory, bytes]]:
        node: Node | None = self.table.root
        base = self.table.root.name
        rest = path[len(base) + 1 :] if base else path
        for part in rest.split(b"/")[:-1]:
            if not isinstance(node, Directory):
                return
            yield node, part
            node = node.children.get(part)

    def _rescan_moved(self) -> None:
        """News of a path that may be the box's of a directory that we have renamed meanwhile.

        Listings wait until renames of directories are settled.
        """
        for directory in self.pending.moved():
            self.listings.rescan_all(directory)

    @property
    def degraded(self) -> bool:
        """Whether the table may be behind the box."""
        return self.link.state is not LinkState.ONLINE or not self.snapshot_complete


async def _listings(
    stream: RecordStream[DirectoryRecord],
) -> AsyncIterator[tuple[bytes, Entries, int]]:
    """Join the records of each directory: its path, all entries, and how old the oldest are."""
    parts: dict[bytes, tuple[Entries, int]] = {}
    while (records := await stream.receive()) is not None:
        for record in records:
            if record.entries is None:
                continue
            whole, event = parts.pop(record.path, ([], record.event))
            whole += record.entries
            event = min(event, record.event)
            if record.last:
                yield record.path, whole, event
            else:
                parts[record.path] = whole, event
        await trio.lowlevel.checkpoint()
