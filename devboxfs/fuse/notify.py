"""Tells the kernel what to forget.

The table has changed already when a notice is queued. One task takes everything that is queued into
a thread, because the calls wait for requests under way in the same directory, which this process
has to answer meanwhile. For each change `invalidate_entry` comes before `invalidate_inode`: the
first waits for replies in flight, so only then does ENOENT from the second mean that the kernel
really does not know the inode.
"""

from __future__ import annotations

import errno
import logging
from collections import deque
from dataclasses import dataclass

import pyfuse3
import trio

from devboxfs.core.node import Node
from devboxfs.fuse.echo_tokens import Token, Tokens

__all__ = ["Notifier"]

log = logging.getLogger(__name__)

AT_ONCE = 256
"""Notices per thread call."""


@dataclass(frozen=True, slots=True)
class _Entry:
    parent: int
    name: bytes
    replaced: int = 0
    """The inode that it stood for, if that is gone."""


@dataclass(frozen=True, slots=True)
class _Inode:
    ino: int
    content: bool


class Notifier:
    """The queue and its task; a vfs.observers.Kernel."""

    def __init__(self) -> None:
        self._queue: deque[_Entry | _Inode | Token] = deque()
        self.tokens = Tokens(self._put, self.entry)
        """Changes for which local watchers wait; each follows the notices that came before it."""
        self._wanted = trio.Event()
        self.sent = 0
        self._queued = 0
        self._delivered = 0
        self._delivery = trio.Event()

    def entry(self, directory: Node, name: bytes) -> None:
        """Forget a name, or that it is absent.

        The kernel holds neither for directories that it does not know.
        """
        if directory.lookups > 0 or directory.ino == pyfuse3.ROOT_INODE:
            self._put(_Entry(directory.ino, name))

    def replaced(self, directory: Node, name: bytes, node: Node) -> None:
        """Tell who watches an inode, as editors and compilers do with files, that it is gone.

        Not of an open file, as on a local disk; and its lock, which the kernel takes for this, may
        be held by a write or an fsync that waits for the box.
        """
        if node.lookups > 0 and not node.opens:
            self._put(_Entry(directory.ino, name, node.ino))

    def inode(self, node: Node, *, content: bool) -> None:
        """Forget attributes, and pages with `content`."""
        if node.lookups > 0 or node.ino == pyfuse3.ROOT_INODE:
            self._put(_Inode(node.ino, content))

    def _put(self, notice: _Entry | _Inode | Token) -> None:
        self._queue.append(notice)
        self._queued += 1
        self._wanted.set()

    async def delivered(self) -> None:
        """Wait until the kernel was told of everything that has changed until now.

        Names whose change is still to be repeated for watchers, too.
        """
        self.tokens.show()
        wanted = self._queued
        while self._delivered < wanted:
            await self._delivery.wait()

    async def run(self) -> None:
        """Deliver notices until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            while self._queue:
                count = min(AT_ONCE, len(self._queue))
                taken = [self._queue.popleft() for _ in range(count)]
                notices = [notice for notice in taken if not isinstance(notice, Token)]
                # Names first, see above; the order among names, and among inodes, does not matter.
                notices.sort(key=lambda notice: isinstance(notice, _Inode))
                if notices:
                    await trio.to_thread.run_sync(
                        _deliver, list(dict.fromkeys(notices)), abandon_on_cancel=True
                    )
                for token in taken:
                    if isinstance(token, Token):
                        self.tokens.submit(token)
                self.sent += len(notices)
                self._delivered += count
                delivery, self._delivery = self._delivery, trio.Event()
                delivery.set()


def _deliver(notices: list[_Entry | _Inode]) -> None:
    for notice in notices:
        try:
            if isinstance(notice, _Entry):
                pyfuse3.invalidate_entry(
                    pyfuse3.InodeT(notice.parent),
                    pyfuse3.FileNameT(notice.name),
                    pyfuse3.InodeT(notice.replaced),
                )
            else:
                pyfuse3.invalidate_inode(pyfuse3.InodeT(notice.ino), attr_only=not notice.content)
        except OSError as exc:
            if exc.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EBADF):
                log.warning("the kernel refused to forget %r: %s", notice, exc)
