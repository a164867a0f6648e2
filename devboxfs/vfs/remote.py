"""How the box's state reaches the table: listings on demand, the snapshot, and pushed events.

The watch is started first, then the root is listed, then the snapshot streams in; a directory that
is asked for before the snapshot reached it is listed at once, by one request however many ask.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass

import trio

from devboxfs.core.node import Directory, Node
from devboxfs.vfs.link import BoxLink, LinkState
from devboxfs.vfs.pending import Pending
from devboxfs.vfs.table import Table
from devboxfs.vfs.visibility import Visibility
from sealos_devbox import Attributes, BoxFileError, Event, FileTransport, TransportError

__all__ = ["Remote", "RemoteStatistics"]

log = logging.getLogger(__name__)

OVERFLOW = 0x4000
UNMOUNTED = 0x2000
_ABSENT = (errno.ENOENT, errno.ENOTDIR)
SLICE = 256
"""Entries merged between two checkpoints: about a millisecond."""
ASKED_AGAIN = 3
"""Listings of the directory above before one that the box lacks is taken for gone: it may be that
what was told of it meanwhile is younger than each of them, or that the one above cannot be read."""
NAMESPACE_TIMEOUT = 2.0
"""While the link is down, handlers under a directory lock of the kernel answer within this."""


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
        self.visibility = visibility
        self.link = link
        self.pending = pending
        self.snapshot_complete = False
        self._snapshot_entries = 0
        self._events = 0
        self._listings = 0
        self._loading: dict[int, trio.Event] = {}
        self._failures: dict[int, OSError] = {}
        self._rescans: dict[int, Directory] = {}
        self._rescan_wanted = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._heard: int | None = None
        """Number of the last event that was worked in; None while nothing is watched."""
        self._news = trio.Event()
        self._missed: set[int] = set()
        """Directories of which something was missed, and that have not been listed again."""
        self._overflows: dict[bytes, int] = {}
        """Paths below which events were lost: an answer older than that number knows no better."""
        self._absences: dict[int, int] = {}
        """How often in a row the box lacked a directory that was to be listed again."""
        table.rescan = self.request_rescan

    def statistics(self) -> RemoteStatistics:
        """Return a frozen snapshot."""
        return RemoteStatistics(
            self._events, self._listings, self.snapshot_complete, self._snapshot_entries
        )

    def request_rescan(self, directory: Directory) -> None:
        """List a directory again soon."""
        self._rescans[directory.ino] = directory
        self._rescan_wanted.set()

    # -- on demand ---------------------------------------------------------------------------------

    async def load(self, directory: Directory) -> None:
        """Make a directory complete; one request however many wait. Raises OSError."""
        if directory.complete:
            return
        ino = directory.ino
        deadline = self.link.deadline()
        if not self.link.online:
            deadline = min(deadline, trio.current_time() + NAMESPACE_TIMEOUT)
        with trio.move_on_at(deadline):
            while not directory.complete:
                loading = self._loading.get(ino)
                if loading is None:
                    if self._nursery is None:
                        raise OSError(errno.EIO, os.strerror(errno.EIO))
                    loading = self._loading[ino] = trio.Event()
                    self._failures.pop(ino, None)
                    # The request belongs to the mount, not to the caller who happened to be first
                    # and may be cancelled.
                    self._nursery.start_soon(self._load_task, directory, loading)
                await loading.wait()
                failure = self._failures.pop(ino, None)
                if failure is not None:
                    raise OSError(failure.errno, failure.strerror)
            return
        raise OSError(
            errno.EIO if not self.link.online else errno.ETIMEDOUT, "the box did not answer in time"
        )

    async def _load_task(self, directory: Directory, done: trio.Event) -> None:
        try:
            with trio.move_on_after(self.link.timeout) as scope:
                await self._list(directory)
            if scope.cancelled_caught:
                self._failures[directory.ino] = TimeoutError(
                    errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)
                )
        except BoxFileError as exc:
            self._failures[directory.ino] = exc
        finally:
            self._loading.pop(directory.ino, None)
            done.set()

    async def _list(self, directory: Directory) -> None:
        """List a directory and merge it; repeats over reconnects."""
        transport = await self.link.wait_transport()
        while True:
            await self.pending.wait_moves()
            if directory.parent is None and directory is not self.table.root:
                directory.complete = True  # it is gone, and was empty by then
                return
            path = directory.path()
            self.table.log.begin()
            try:
                try:
                    event, attr, entries = await transport.list(path)
                except BoxFileError:
                    if directory.path() == path:
                        raise
                self._listings += 1
                if directory.path() != path:
                    continue  # renamed here meanwhile: the answer may be about another one
                await self._merge(directory, entries, event)
                if directory is self.table.root or directory.parent is not None:
                    self.table.update(directory, attr, event)
                self._doubt_if_old(directory, path, event)
                return
            except TransportError:
                transport = await self.link.wait_transport(transport)
            finally:
                self.table.log.end()

    async def _merge(
        self, directory: Directory, entries: list[tuple[bytes, Attributes]], event: int
    ) -> None:
        # Listed in the order of inode numbers, which is the order in which cp reads a directory (it
        # sorts), and as good as any for the others: what is fetched ahead is then what comes next.
        entries.sort(key=_ino)
        for start in range(0, len(entries), SLICE):
            self.table.merge(directory, entries[start : start + SLICE], event)
            if start + SLICE < len(entries):
                await trio.lowlevel.checkpoint()
        self.table.finish_merge(directory, {name for name, _attr in entries}, event)

    async def refresh(self, node: Node) -> None:
        """Bring one object up to date after the box said ESTALE or ENOENT of what is shown.

        Raises OSError: ESTALE when it has lost its name.
        """
        if node.pending:
            with trio.move_on_at(self.link.deadline()) as scope:
                await self.pending.settle(node)
            if scope.cancelled_caught:
                raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
            return
        if node.parent is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        path, there = await self._look_at(node)
        if there:
            return
        # Any directory above may be what is missing, and be back by now: a listing says which.
        if (parent := node.parent) is not None and node.path() == path:
            self._miss(parent)
            with trio.move_on_at(self.link.deadline()):
                while parent.ino in self._missed:
                    await self._news.wait()
        if node.parent is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def _miss(self, directory: Directory) -> None:
        """List a directory again; until then nobody is told that the table is true."""
        self._missed.add(directory.ino)
        self.request_rescan(directory)

    def _doubt_if_old(self, directory: Directory, path: bytes, event: int) -> None:
        """List a directory again if events of it were lost since it was looked at, at `event`."""
        while self._overflows:
            if self._overflows.get(path, 0) > event:
                self._miss(directory)
                return
            if not path:
                return
            path = path.rpartition(b"/")[0]

    def _is_gone(self, directory: Directory, above: Directory) -> bool:
        """The box has said ENOENT of a directory's path: whether that is certain of this one.

        The box may be renaming one above, and bring it back: what is below is not told again then.
        So the parent's listing decides, and then this one's if it is there. Called while the answer
        counts as under way.
        """
        asked = self._absences.get(directory.ino, 0)
        if asked == ASKED_AGAIN:
            del self._absences[directory.ino]
            if self._absent(above, directory.name):
                return True
        else:
            self._absences[directory.ino] = asked + 1
        self._miss(above)
        self._miss(directory)
        return False

    def _absent(self, directory: Directory, name: bytes) -> bool:
        """The box has said ENOENT of a name, but not since when: whether it is still gone.

        Called while that answer counts as under way: an event that has overtaken it knows better.
        """
        if self.table.log.is_stale(directory.ino, name, 0):
            return False
        self.table.remote_name(directory, name, None, 0)
        return True

    async def _look_at(self, node: Node) -> tuple[bytes, bool]:
        """Ask for an object by its path, again on the next connection when one breaks.

        Returns the path, and False if the box says that nothing is there.
        """
        previous: FileTransport | None = None
        while True:
            transport = await self._transport_in_time(previous)
            path = node.path()
            self.table.log.begin()
            try:
                event, attr = await transport.stat(path)
                parent, name = node.parent if node.path() == path else None, node.name
                if parent is not None and not self.table.log.is_stale(parent.ino, name, event):
                    self.table.remote_name(parent, name, attr, event)
            except TransportError:
                previous = transport
            except BoxFileError as exc:
                if exc.errno not in _ABSENT:
                    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) from exc
                return path, False
            else:
                return path, True
            finally:
                self.table.log.end()

    async def _transport_in_time(self, previous: FileTransport | None) -> FileTransport:
        with trio.move_on_at(self.link.deadline()):
            transport = await self.link.wait_transport(previous)
            await self.pending.wait_moves()  # until then paths differ between here and the box
            return transport
        raise OSError(errno.EIO, "the box cannot be reached")

    # -- pushed ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Own the listings on demand and the rescans; runs as long as the mount."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                while True:
                    await self._rescan_wanted.wait()
                    self._rescan_wanted = trio.Event()
                    wanted, self._rescans = self._rescans, {}
                    for directory in wanted.values():
                        if directory.parent is None and directory is not self.table.root:
                            self._missed.discard(directory.ino)
                            self._absences.pop(directory.ino, None)
                            continue
                        settled = True
                        self.table.log.begin()
                        try:
                            await self._list(directory)
                            self._absences.pop(directory.ino, None)
                            if directory is self.table.root:
                                self._root_is(gone=False)
                        except BoxFileError as exc:
                            if directory is self.table.root and exc.errno in _ABSENT:
                                self._root_is(gone=True)
                            elif exc.errno in _ABSENT and directory.parent is not None:
                                settled = self._is_gone(directory, directory.parent)
                            else:
                                log.warning("listing %r again failed: %s", directory.path(), exc)
                        finally:
                            self.table.log.end()
                            if settled and directory.ino not in self._rescans:
                                self._missed.discard(directory.ino)
                    self._told()
            finally:
                self._nursery = None

    async def session(self, transport: FileTransport) -> None:
        """Watch and snapshot on one connection; ends by an error of the connection."""
        self._heard, self.snapshot_complete = None, False
        self._overflows.clear()
        self.table.heard(None)
        async with transport.watch(b"", prune=self.visibility.prune) as events:
            first = await events.receive()
            if first is None:
                raise TransportError("the watch ended before it began")
            self._take(first)
            self.pending.watch_session += 1
            self._told(first[-1].number if first else 0)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._snapshot, transport)
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
        news, self._news = self._news, trio.Event()
        news.set()

    async def wait_heard(self, number: int, session: int) -> None:
        """Wait until the table is as true as event `number` of a connection makes it.

        0, and an event of a connection that is gone: until the snapshot of this one is complete.
        """
        while True:
            if number and session == self.pending.watch_session:
                enough = self._heard is not None and self._heard >= number
            else:
                enough = self._heard is not None and self.snapshot_complete
            if enough and not self._missed:
                return
            await self._news.wait()

    async def catch_up(self) -> None:
        """Bring the table up to what the box has now: events may still be on their way."""
        transport = await self.link.wait_transport()
        number = await transport.caught_up()
        if number:
            await self.wait_heard(number, self.pending.watch_session)
        else:
            await self._snapshot(transport)

    async def _snapshot(self, transport: FileTransport) -> None:
        """Bring the whole table up to date."""
        self.snapshot_complete = False
        table = self.table
        parts: dict[bytes, list[tuple[bytes, Attributes]]] = {}
        oldest: dict[bytes, int] = {}
        entries = 0
        table.log.begin()
        try:
            await self.pending.wait_moves()
            self.pending.moved_names.clear()
            async with transport.snapshot(table.root.name, prune=self.visibility.prune) as stream:
                while (records := await stream.receive()) is not None:
                    for record in records:
                        if record.entries is None:
                            continue
                        event = min(oldest.get(record.path, record.event), record.event)
                        if not record.last:
                            parts.setdefault(record.path, []).extend(record.entries)
                            oldest[record.path] = event
                            continue
                        whole = record.entries
                        if record.path in parts:
                            whole = parts.pop(record.path) + whole
                            oldest.pop(record.path, None)
                        entries += len(whole)
                        directory = table.resolve(record.path)
                        if self._was_moved(record.path):
                            self.rescan_all(directory)
                        elif isinstance(directory, Directory):
                            await self._merge(directory, whole, event)
                            self._doubt_if_old(directory, record.path, event)
                    await trio.lowlevel.checkpoint()
            self._snapshot_entries = entries
            self.snapshot_complete = True
            self._root_is(gone=False)
            self._told()
        except BoxFileError as exc:
            if exc.errno in _ABSENT:
                self._root_is(gone=True)
            log.warning("the snapshot of box %s failed: %s", self.link.box.name, exc)
        finally:
            table.log.end()

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
                if not table.log.under_way:
                    self._overflows.clear()  # what is asked from now on is younger
                self._overflows[event.path] = event.number
                self._rescan_below(event.path)
                continue
            if event.path == table.root.name:
                if event.attr is not None:
                    table.update(table.root, event.attr, event.number)
                self._root_is(gone=event.attr is None)
                continue
            if table.root.name.startswith(event.path + b"/"):
                # What is mounted went with a directory above it, or may have come back with it.
                if event.attr is None or table.root_gone:
                    self.request_rescan(table.root)
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
                self.rescan_all(directory)
                if origin is not None:
                    self.rescan_all(table.resolve(origin.rpartition(b"/")[0]))
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

    def _root_is(self, *, gone: bool) -> None:
        """Take note of whether the directory that is mounted is still there."""
        before, self.table.root_gone = self.table.root_gone, gone
        if gone and not before:
            log.error("the directory that is mounted was removed in the box")
        elif before and not gone:
            log.info("the directory that is mounted is in the box again")
            self._rescan_below(self.table.root.name)

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

    def _rescan_below(self, path: bytes) -> None:
        """Something below was missed: list every known directory there again."""
        top = self.table.resolve(path)
        if not path or self.table.root.name.startswith(path + b"/"):
            top = self.table.root
        self.rescan_all(top)

    def rescan_all(self, top: Node | None) -> None:
        """List every known directory from `top` on again."""
        waiting = [top] if isinstance(top, Directory) else []
        while waiting:
            directory = waiting.pop()
            if directory.complete or directory.children:
                self._miss(directory)
            waiting.extend(
                child for child in directory.children.values() if isinstance(child, Directory)
            )

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
            self.rescan_all(directory)

    @property
    def degraded(self) -> bool:
        """Whether the table may be behind the box."""
        return self.link.state is not LinkState.ONLINE or not self.snapshot_complete


def _ino(entry: tuple[bytes, Attributes]) -> int:
    return entry[1].ino
