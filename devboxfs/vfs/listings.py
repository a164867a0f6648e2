"""Directories of the box, listed on demand and again: what is not known, and what is in doubt.

A directory that is asked for is listed by one request, however many ask. One of which something was
missed is listed again by a task of its own; until then nobody is told that the table is true.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator

import trio

from devboxfs.core.node import Directory, Node
from devboxfs.vfs.link import BoxLink
from devboxfs.vfs.merging import Merging
from devboxfs.vfs.pending import Pending
from devboxfs.vfs.table import Table
from sealos_devbox import Attributes, BoxFileError, FileTransport, TransportError

__all__ = ["ABSENT", "ASKED_AGAIN", "NAMESPACE_TIMEOUT", "SLICE", "Listings"]

log = logging.getLogger(__name__)

ABSENT = (errno.ENOENT, errno.ENOTDIR)
SLICE = 256
"""Entries merged between two checkpoints: about a millisecond."""
AT_ONCE = 32
"""Listings under way while many directories are listed again: after an overflow that is all."""
ASKED_AGAIN = 3
"""Listings of the directory above before one that the box lacks is taken for gone: it may be that
what was told of it meanwhile is younger than each of them, or that the one above cannot be read."""
NAMESPACE_TIMEOUT = 2.0
"""While the link is down, handlers under a directory lock of the kernel answer within this."""


class Listings:
    """Completes directories of the table."""

    def __init__(self, table: Table, link: BoxLink, pending: Pending) -> None:
        self.table = table
        self.merging = Merging(table)
        self.link = link
        self.pending = pending
        self.count = 0
        """Over the life of the mount."""
        self.missed: set[int] = set()
        """Directories of which something was missed, and that have not been listed again."""
        self.news = trio.Event()
        """Is set, and replaced, when something was learned."""
        self._loading: dict[int, trio.Event] = {}
        self._failures: dict[int, OSError] = {}
        self._rescans: dict[int, Directory] = {}
        self._rescan_wanted = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._overflows: dict[bytes, int] = {}
        """Paths below which events were lost: an answer older than that number knows no better."""
        self._absences: dict[int, int] = {}
        """How often in a row the box lacked a directory that was to be listed again."""
        table.rescan = self.request_rescan

    def tell(self) -> None:
        """Let those who wait for news look again."""
        news, self.news = self.news, trio.Event()
        news.set()

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
                self.count += 1
                if directory.path() != path:
                    continue  # renamed here meanwhile: the answer may be about another one
                await self.merge(directory, entries, event)
                above = directory.parent
                if directory is self.table.root or (
                    above is not None
                    and not self.table.log.is_stale(above.ino, directory.name, event)
                ):
                    self.table.update(directory, attr, event)
                self.doubt_if_old(directory, path, event)
                return
            except TransportError:
                transport = await self.link.wait_transport(transport)
            finally:
                self.table.log.end()

    async def merge(
        self, directory: Directory, entries: list[tuple[bytes, Attributes]], event: int
    ) -> None:
        """Work in all entries of a directory, as old as `event`."""
        # Listed in the order of inode numbers, which is the order in which cp reads a directory (it
        # sorts), and as good as any for the others: what is fetched ahead is then what comes next.
        entries.sort(key=_ino)
        names = {name for name, _attr in entries}
        for start in range(0, len(entries), SLICE):
            self.merging.merge(directory, entries[start : start + SLICE], event, names)
            if start + SLICE < len(entries):
                await trio.lowlevel.checkpoint()
        self.merging.finish(directory, names, event)

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
                while parent.ino in self.missed:
                    await self.news.wait()
        if node.parent is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

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
                if exc.errno not in ABSENT:
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

    # -- again -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Own the listings on demand and the rescans; runs as long as the mount."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                while True:
                    await self._rescan_wanted.wait()
                    self._rescan_wanted = trio.Event()
                    wanted, self._rescans = self._rescans, {}
                    directories = iter(wanted.values())
                    # One that the box lacks is asked for after the one above, not beside it.
                    count = 1 if self._absences else min(AT_ONCE, len(wanted))
                    async with trio.open_nursery() as workers:
                        for _ in range(count):
                            workers.start_soon(self._list_all_again, directories)
                    self.tell()
            finally:
                self._nursery = None

    async def _list_all_again(self, directories: Iterator[Directory]) -> None:
        """List directories of which something was missed; several tasks share the iterator."""
        for directory in directories:
            if directory.parent is None and directory is not self.table.root:
                self.missed.discard(directory.ino)
                self._absences.pop(directory.ino, None)
                continue
            settled = True
            self.table.log.begin()
            try:
                await self._list(directory)
                self._absences.pop(directory.ino, None)
                if directory is self.table.root:
                    self.root_is(gone=False)
            except BoxFileError as exc:
                if directory is self.table.root and exc.errno in ABSENT:
                    self.root_is(gone=True)
                elif exc.errno in ABSENT and directory.parent is not None:
                    settled = self._is_gone(directory, directory.parent)
                else:
                    log.warning("listing %r again failed: %s", directory.path(), exc)
            finally:
                self.table.log.end()
                if settled and directory.ino not in self._rescans:
                    self.missed.discard(directory.ino)

    def forget_overflows(self) -> None:
        """Events are numbered anew."""
        self._overflows.clear()

    def overflowed(self, path: bytes, number: int) -> None:
        """Events below a path were lost: list every known directory there again."""
        if not self.table.log.under_way:
            self._overflows.clear()  # what is asked from now on is younger
        self._overflows[path] = number
        self._rescan_below(path)

    def request_rescan(self, directory: Directory) -> None:
        """List a directory again soon."""
        self._rescans[directory.ino] = directory
        self._rescan_wanted.set()

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

    def _rescan_below(self, path: bytes) -> None:
        """Something below was missed: list every known directory there again."""
        top = self.table.resolve(path)
        if not path or self.table.root.name.startswith(path + b"/"):
            top = self.table.root
        self.rescan_all(top)

    def _miss(self, directory: Directory) -> None:
        """List a directory again; until then nobody is told that the table is true."""
        self.missed.add(directory.ino)
        self.request_rescan(directory)

    def doubt_if_old(self, directory: Directory, path: bytes, event: int) -> None:
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

    def root_is(self, *, gone: bool) -> None:
        """Take note of whether the directory that is mounted is still there."""
        before, self.table.root_gone = self.table.root_gone, gone
        if gone and not before:
            log.error("the directory that is mounted was removed in the box")
        elif before and not gone:
            log.info("the directory that is mounted is in the box again")
            self.rescan_all(self.table.root)


def _ino(entry: tuple[bytes, Attributes]) -> int:
    return entry[1].ino
