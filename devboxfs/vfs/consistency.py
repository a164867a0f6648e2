"""When a change is over for the one who made it: here, or in the box.

Relaxed, a change is acknowledged once it is journalled. Strict, whoever changes a name, sets
attributes by path or closes a changed file waits until the box has it. EIO says that it does not
have it yet (or has refused it): the change stays in the journal, and is shown, all the same.
"""

from __future__ import annotations

import errno
import os

import trio

from devboxfs.core.node import Node
from devboxfs.vfs.link import BoxLink
from devboxfs.vfs.listings import NAMESPACE_TIMEOUT
from devboxfs.writeback.writeback import WriteBack

__all__ = ["Consistency"]


class Consistency:
    """The rule of one mount."""

    def __init__(self, writeback: WriteBack, link: BoxLink, *, strict: bool) -> None:
        self.strict = strict
        self._writeback = writeback
        self._link = link

    async def changed(self, *paths: bytes) -> None:
        """Names were changed just now. The caller holds their directories."""
        if self.strict:
            await self._wait(list(paths), self._writeback.last_seq, brief=not self._link.online)

    async def closed(self, node: Node) -> None:
        """A file is closed, or its attributes were changed by its path."""
        if self.strict and node.pending and not node.stays_here:
            await self._wait([node.path()], node.last_seq, brief=False)

    async def _wait(self, paths: list[bytes], upto: int, *, brief: bool) -> None:
        deadline = self._link.deadline()
        if brief:
            deadline = min(deadline, trio.current_time() + NAMESPACE_TIMEOUT)
        number = errno.EIO
        with trio.move_on_at(deadline):
            number = await self._writeback.sync(paths, upto, sync_box=False)
        if number:
            raise OSError(number, os.strerror(number))
