"""Extended attributes (xattr(7)): asked of the box, and kept until an object changes."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, suppress
from typing import TypeVar

import trio

from devboxfs.core.node import Directory, Node
from devboxfs.core.ops import Kind, Operation
from devboxfs.core.permissions import WRITE, BoxUser
from devboxfs.vfs.clock import BoxClock
from devboxfs.vfs.link import BoxLink
from devboxfs.vfs.namespace import oserror
from devboxfs.vfs.pending import Pending
from sealos_devbox import BoxFileError, DevboxError, FileTransport, TransportError

__all__ = ["XATTR_AHEAD", "ExtendedAttributes"]

T = TypeVar("T")

XATTR_NAME_MAX = 255
XATTR_SIZE_MAX = 65536
SELINUX = b"security.selinux"
XATTR_AHEAD = 64
"""Objects whose names of extended attributes are asked for at the same time."""
XATTR_SURE = 2048
"""Bytes of names and values that any file system takes for one object. ext4 has 4 KiB for all."""
XATTR_CREATE = 1
XATTR_REPLACE = 2


class ExtendedAttributes:
    """Operations on extended attributes."""

    def __init__(
        self,
        link: BoxLink,
        pending: Pending,
        user: BoxUser,
        clock: BoxClock,
        writable: Callable[[bool], None],
    ) -> None:
        self.link = link
        self.pending = pending
        self.user = user
        self.clock = clock
        self._check_writable = writable
        self._listed_in: Directory | None = None
        """Where the names of the last object that was asked about were fetched,"""
        self._listed_ahead = 0
        """and of how many of its entries besides."""

    async def get(self, node: Node, name: bytes) -> bytes:
        """Return a value.

        `security.*` and `system.*` are answered here: every write asks for one of them. `ls -l`
        asks for SELinux's label of every file, unless a file system says that it has none.
        """
        if not name.startswith((b"user.", b"trusted.")):
            unset = name.startswith(b"security.") and name != SELINUX
            raise oserror(errno.ENODATA if unset else errno.EOPNOTSUPP)
        if node.xattrs is not None and name in node.xattrs:
            value = node.xattrs[name]
            if value is None:
                raise oserror(errno.ENODATA)
            return value
        if node.box is None or (node.parent is None and node.ino != 1):
            raise oserror(errno.ENODATA)

        async def ask(transport: FileTransport, path: bytes) -> bytes:
            if "xattr" not in transport.peer.capabilities:
                raise oserror(errno.EOPNOTSUPP)
            return await transport.getxattr(path, name)

        value = None
        try:
            with self._deadline():
                value = await self._ask(node, ask)
        except BoxFileError as exc:
            if exc.errno != errno.ENODATA:
                raise
        if node.xattrs is None:
            node.xattrs = {}
        node.xattrs.setdefault(name, value)
        if value is None:
            raise oserror(errno.ENODATA)
        return value

    async def names(self, node: Node) -> list[bytes]:
        """Return the names.

        They are kept until the object changes. Who asks for those of one entry after the other, as
        ls and cp do, has those of more and more of the next ones asked for at the same time.
        """
        names: set[bytes] = set()
        if node.box is not None and (node.parent is not None or node.ino == 1):
            found = node.xattr_names
            if found is None:
                with self._deadline():
                    found = await self._fetch_names_with_next(node)
            names.update(found)
        for name, value in (node.xattrs or {}).items():
            if value is None:
                names.discard(name)
            else:
                names.add(name)
        return sorted(n for n in names if n.startswith((b"user.", b"trusted.")))

    async def _fetch_names_with_next(self, node: Node) -> tuple[bytes, ...]:
        found: tuple[bytes, ...] = ()
        error: Exception | None = None
        async with trio.open_nursery() as nursery:
            for other in self._next_asked(node):
                nursery.start_soon(self._fetch_names_of_next, other)
            try:
                found = await self._fetch_names(node)
            except (OSError, DevboxError) as exc:
                error = exc
                nursery.cancel_scope.cancel()
        if error is not None:
            raise error
        return found

    async def _fetch_names_of_next(self, node: Node) -> None:
        with suppress(OSError, DevboxError):  # whoever asks for it will hear
            await self._fetch_names(node)

    async def _fetch_names(self, node: Node) -> tuple[bytes, ...]:
        before = node.box
        found = await self._ask(node, lambda transport, path: transport.listxattr(path))
        names = tuple(found)
        if node.box is before and (node.parent is not None or node.ino == 1):
            node.xattr_names = names
        return names

    def _next_asked(self, node: Node) -> list[Node]:
        """Return the entries behind one in its directory that are likely to be asked for next."""
        parent = node.parent
        if parent is None or parent is not self._listed_in:
            self._listed_in, self._listed_ahead = parent, 0
            return []
        self._listed_ahead = min(2 * self._listed_ahead + 1, XATTR_AHEAD)
        behind = itertools.dropwhile(lambda other: other is not node, parent.children.values())
        unknown = (
            other
            for other in itertools.islice(behind, 1, None)
            if other.xattr_names is None and other.box is not None and not other.pending
        )
        return list(itertools.islice(unknown, self._listed_ahead))

    async def set(self, node: Node, name: bytes, value: bytes | None, flags: int = 0) -> None:
        """Set a value, None removes it. Flags as setxattr(2).

        Whether there is room for much is asked of the box, while it can be: it depends on its file
        system.
        """
        if not name.startswith((b"user.", b"trusted.")):
            raise oserror(errno.EOPNOTSUPP)
        if len(name) > XATTR_NAME_MAX:
            raise oserror(errno.ERANGE)
        if name.endswith(b".") and name.count(b".") == 1:
            raise oserror(errno.EINVAL)
        if value is not None and len(value) > XATTR_SIZE_MAX:
            raise oserror(errno.E2BIG)
        if name.startswith(b"user.") and not (node.is_dir or node.is_file):
            raise oserror(errno.EPERM)
        there = True
        if value is None or flags:
            try:
                await self.get(node, name)
            except OSError as exc:
                if exc.errno != errno.ENODATA:
                    raise
                there = False
        # No await until the return.
        if (value is None and not there) or (flags & XATTR_REPLACE and not there):
            raise oserror(errno.ENODATA)
        if flags & XATTR_CREATE and there:
            raise oserror(errno.EEXIST)
        if not self.user.may(node, WRITE):
            raise oserror(errno.EACCES)
        self._check_writable(True)
        if value is not None and node.xattrs is not None and node.xattrs.get(name) == value:
            return  # as ext4, which does not even move ctime
        now = self.clock.now()
        if not node.stays_here:
            operation = Operation(
                Kind.SETXATTR,
                self.pending.oid(node),
                node.path(),
                now,
                base=self.pending.base(node),
                name=name,
                data=value,
                is_dir=node.is_dir,
            )
            self.pending.append(operation, (node,))
        if node.xattrs is None:
            node.xattrs = {}
        node.xattrs[name] = value
        node.ctime_ns = now
        much = sum(len(key) + len(kept or b"") for key, kept in node.xattrs.items()) > XATTR_SURE
        if value is not None and much and not node.stays_here and self.link.online:
            await self._make_sure(node, name)

    async def _make_sure(self, node: Node, name: bytes) -> None:
        """Return when the box has taken the value; it is forgotten if it has not."""
        failures = node.error_count
        with self._deadline():
            number = await self.pending.writeback.sync([node.path()], node.last_seq, sync_box=False)
        if not number:
            return
        if node.xattrs is not None:
            node.xattrs.pop(name, None)
        if node.error_count == failures + 1:
            node.error_count = failures  # who has the file open need not hear of it again
        raise oserror(errno.ENOSPC if number == errno.E2BIG else number)

    async def _ask(self, node: Node, request: Callable[[FileTransport, bytes], Awaitable[T]]) -> T:
        """Ask for extended attributes, again on the next connection when one breaks.

        It is asked once the box has the object under the name that is shown. Raises OSError.
        """
        previous: FileTransport | None = None
        while True:
            if node.pending:
                await self.pending.settle(node)
            await self.pending.wait_moves()
            transport = await self.link.wait_transport(previous)
            try:
                return await request(transport, node.path())
            except TransportError:
                previous = transport

    def _deadline(self) -> AbstractContextManager[trio.CancelScope]:
        """Raise trio.TooSlowError at the link's deadline."""
        return trio.fail_at(self.link.deadline())
