"""Contents: open, read, write, truncate, flush, fsync, release.

A file without unflushed changes is read through vfs/reader.py at the version that is shown. Changes
are overlaid: the journal (or a spool file) holds their bytes, the node's extent map says which.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from devboxfs.core.extents import BlobPiece, ExtentMap, ZeroPiece
from devboxfs.core.node import Directory, FileContent, Node
from devboxfs.core.ops import Blob, Kind, Operation, Source
from devboxfs.core.permissions import READ, WRITE, BoxUser
from devboxfs.vfs.clock import BoxClock
from devboxfs.vfs.link import BoxLink
from devboxfs.vfs.listings import Listings
from devboxfs.vfs.namespace import Namespace, Owner, oserror
from devboxfs.vfs.pending import Pending
from devboxfs.vfs.reader import Reader
from devboxfs.vfs.scratch import ScratchFile
from devboxfs.writeback.limits import INLINE_LIMIT
from devboxfs.writeback.writeback import WriteBack
from sealos_devbox import Version

__all__ = ["Content", "OpenFile"]

FILE_SIZE_MAX = (1 << 44) - 4096
"""What ext4 takes. The box's limit is not known here, and what it refuses has to fit on the disk of
this machine."""
ATTEMPTS = 5
"""How often a read starts anew because the file changed in the box meanwhile."""
INLINE_READ = 256 * 1024
"""Local bytes that are read in trio's thread: page cache, about 0.1 ms."""


@dataclass(slots=True)
class OpenFile:
    """One open file description."""

    node: Node
    readable: bool
    writable: bool
    append: bool
    errors_seen: int
    noatime: bool = False
    new_oid: int = 0
    """Identity under which the flusher was told that a new file is being written."""


@dataclass(frozen=True, slots=True)
class _BoxFile:
    """What the reader needs to know of a file (reader.FileRef)."""

    node: Node
    version: Version

    @property
    def path(self) -> bytes:
        """Where it is now."""
        return self.node.path()


class Content:
    """Operations on open files."""

    def __init__(
        self,
        namespace: Namespace,
        listings: Listings,
        reader: Reader,
        pending: Pending,
        writeback: WriteBack,
        link: BoxLink,
        user: BoxUser,
        clock: BoxClock,
        writable: Callable[[bool], None],
        scratch_directory: Path,
        *,
        journal_suffices: bool = False,
    ) -> None:
        self._journal_suffices = journal_suffices
        """When the box cannot be reached, fsync takes the disk of this machine for good enough."""
        self.namespace = namespace
        self.listings = listings
        self.reader = reader
        self.pending = pending
        self.writeback = writeback
        self.link = link
        self.user = user
        self.clock = clock
        self._check_writable = writable
        self._scratch_directory = scratch_directory

    # -- opening -----------------------------------------------------------------------------------

    async def create(
        self, directory: Directory, name: bytes, mode: int, flags: int, owner: Owner | None
    ) -> OpenFile:
        """Create and open a regular file; an existing one is opened unless O_EXCL is given."""
        there = await self.namespace.child(directory, name)
        if there is not None and not flags & os.O_EXCL:
            return self.open(there, flags)
        node = await self.namespace.make(directory, name, mode, owner=owner)
        return self._opened(node, flags)

    def open(self, node: Node, flags: int) -> OpenFile:
        """Open a regular file. O_TRUNC arrives here, not as a setattr."""
        if node.is_dir:
            raise oserror(errno.EISDIR)
        accmode = flags & os.O_ACCMODE
        wanted = {os.O_RDONLY: READ, os.O_WRONLY: WRITE}.get(accmode, READ | WRITE)
        if not self.user.may(node, wanted):
            raise oserror(errno.EACCES)
        if accmode != os.O_RDONLY:
            self._check_writable(False)
        if flags & os.O_TRUNC:  # with O_RDONLY too, as on every Linux file system
            if not self.user.may(node, WRITE):
                raise oserror(errno.EACCES)
            self.truncate(node, 0)
        return self._opened(node, flags)

    async def secure(self, node: Node) -> None:
        """Before a file that the box may replace at any moment is opened: have its content.

        A process that has mapped it would be killed (SIGBUS) if the content were gone by the time
        that it looks. ESTALE makes the kernel look the name up again.
        """
        for _attempt in range(ATTEMPTS):
            if not node.is_file or node.content is not None or node.box is None or not node.size:
                return
            version = node.box.version
            if node.parent is None:
                if node.opens or self.reader.holds(version):
                    return
                break
            try:
                await self.reader.secure(_BoxFile(node, version))
            except OSError as exc:
                if exc.errno not in (errno.ESTALE, errno.ENOENT):
                    raise
            else:
                if node.box.version == version:
                    return
                continue
            await self.listings.refresh(node)
            if node.parent is None:
                break
        raise oserror(errno.ESTALE)

    def _opened(self, node: Node, flags: int) -> OpenFile:
        accmode = flags & os.O_ACCMODE
        file = OpenFile(
            node,
            accmode != os.O_WRONLY,
            accmode != os.O_RDONLY,
            bool(flags & os.O_APPEND),
            node.error_count,
            bool(flags & os.O_NOATIME),
        )
        node.opens += 1
        if file.writable and node.box is None and node.oid:
            file.new_oid = node.oid
            self.writeback.file_opened(node.oid)
        return file

    def release(self, file: OpenFile) -> None:
        """Close an open file description."""
        node = file.node
        node.opens -= 1
        if file.new_oid:
            self.writeback.file_closed(file.new_oid)
        if node.opens == 0:
            if node.box is not None:
                self.reader.release(node.box.version)
            self.namespace.table.drop_if_unused(node)

    # -- reading -----------------------------------------------------------------------------------

    async def read(self, file: OpenFile, offset: int, length: int) -> bytes:
        """Return up to `length` bytes; short only at the end of the file."""
        node = file.node
        for _attempt in range(ATTEMPTS):
            content = node.content
            try:
                if content is not None:
                    return await self._read_overlaid(node, content, offset, length)
                if node.box is None or offset >= node.size:
                    return b""
                return await self.reader.read(
                    _BoxFile(node, node.box.version), offset, min(length, node.size - offset)
                )
            except OSError as exc:
                if exc.errno not in (errno.ESTALE, errno.ENOENT):
                    raise
            # The box has another version, or the file elsewhere, than the table: find out, then
            # read that.
            await self.listings.refresh(node)
        raise oserror(errno.ESTALE)

    async def _read_overlaid(
        self, node: Node, content: FileContent, offset: int, length: int
    ) -> bytes:
        pieces = content.extents.pieces(offset, length)
        if (
            len(pieces) == 1
            and isinstance(pieces[0], BlobPiece)
            and pieces[0].length <= INLINE_READ
        ):
            return pieces[0].blob.read(pieces[0].blob_offset, pieces[0].length)
        base = content.base
        parts: list[bytes] = []
        for piece in pieces:
            if isinstance(piece, BlobPiece):
                if piece.length <= INLINE_READ:
                    parts.append(piece.blob.read(piece.blob_offset, piece.length))
                else:
                    parts.append(
                        await trio.to_thread.run_sync(
                            piece.blob.read, piece.blob_offset, piece.length
                        )
                    )
            elif isinstance(piece, ZeroPiece) or base is None:
                parts.append(bytes(piece.length))
            else:
                data = await self.reader.read(_BoxFile(node, base), piece.offset, piece.length)
                if len(data) != piece.length:
                    raise oserror(errno.ESTALE)
                parts.append(data)
        return b"".join(parts)

    async def pin(self, node: Node) -> None:
        """Before an open file loses its last name: make sure that its content stays readable."""
        if node.opens and node.is_file and node.nlink == 1 and node.box is not None and node.size:
            content = node.content
            if content is not None and all(
                isinstance(p, BlobPiece | ZeroPiece) for p in content.extents.pieces(0, node.size)
            ):
                return
            version = content.base if content is not None else node.box.version
            if version is None:
                return
            try:
                with trio.move_on_at(self.link.deadline()):
                    await self.reader.pin(_BoxFile(node, version))
            except OSError:
                return  # changed or gone in the box: the open files here get ESTALE, as on NFS

    # -- writing -----------------------------------------------------------------------------------

    async def write(self, file: OpenFile, offset: int, data: bytes) -> int:
        """Write all of data, journalled before it is acknowledged."""
        node = file.node
        self._check_writable(True)
        await self._reserve(len(data))
        if file.append:
            offset = node.size
        end = offset + len(data)
        if end > FILE_SIZE_MAX:
            raise oserror(errno.EFBIG)
        now = self.clock.now()
        source: Source
        if node.stays_here:
            source = self._scratch(node, data)
        else:
            operation = Operation(
                Kind.WRITE,
                self.pending.oid(node),
                node.path(),
                now,
                base=self.pending.base(node),
                mode=node.mode & 0o7777,
                offset=offset,
                length=len(data),
                in_place=self._in_place(node),
            )
            if len(data) <= INLINE_LIMIT:
                self.writeback.append_write(operation, data)
            else:
                # Held while it waits for the disk, so that no outcome takes the object for settled
                # in between.
                node.pending += 1
                try:
                    await self.writeback.append_large_write(operation, data)
                finally:
                    node.pending -= 1
            self.pending.hold(operation.seq, (node,))
            if operation.source is None:
                raise RuntimeError("a journalled write has a source")
            source = operation.source
        content = self._own(node)
        content.extents.write(offset, len(data), source.blob, source.offset)
        self._changed(node, content.extents.size, now)
        return len(data)

    def truncate(self, node: Node, size: int) -> None:
        """Set the size."""
        if node.is_dir:
            raise oserror(errno.EISDIR)
        if not node.is_file:
            raise oserror(errno.EINVAL)
        if size > FILE_SIZE_MAX:
            raise oserror(errno.EFBIG)
        self._check_writable(size > node.size)
        now = self.clock.now()
        if not node.stays_here:
            operation = Operation(
                Kind.TRUNCATE,
                self.pending.oid(node),
                node.path(),
                now,
                base=self.pending.base(node),
                mode=node.mode & 0o7777,
                size=size,
                in_place=self._in_place(node),
            )
            self.pending.append(operation, (node,))
        content = self._own(node)
        content.extents.truncate(size)
        if size == 0:
            content.base = None
        self._changed(node, size, now)

    def _own(self, node: Node) -> FileContent:
        """Return the overlay, made when there is none."""
        if node.content is None:
            base = node.box.version if node.box is not None and node.size else None
            node.content = FileContent(ExtentMap(node.size), base)
        return node.content

    def _changed(self, node: Node, size: int, now: int) -> None:
        node.size = size
        node.mtime_ns = node.ctime_ns = now

    def _in_place(self, node: Node) -> bool:
        """Whether the object must not be replaced, or cannot be.

        That would cut it off from other names, change its owner, or need the right to write to its
        directory.
        """
        if node.nlink > 1 or node.lock is not None:
            return True
        if node.box is None:
            return False
        group, parent = self.user.gid, node.parent
        if parent is not None and parent.mode & stat.S_ISGID:
            group = parent.gid
        if (node.uid, node.gid) != (self.user.uid, group):
            return True
        return parent is not None and not self.user.may(parent, WRITE)

    def _scratch(self, node: Node, data: bytes) -> Source:
        blob: Blob | None = None
        if node.content is not None:
            for extent in node.content.extents.extents():
                if isinstance(extent.blob, ScratchFile):
                    blob = extent.blob
        if not isinstance(blob, ScratchFile):
            blob = ScratchFile(self._scratch_directory)
        return Source(blob, blob.append(data))

    async def _reserve(self, count: int) -> None:
        """Wait while too much is waiting to be sent."""
        try:
            with trio.fail_at(self.link.deadline()):
                await self.writeback.reserve(count)
        except trio.TooSlowError:
            raise oserror(errno.EIO) from None

    # -- durability --------------------------------------------------------------------------------

    async def close(self, file: OpenFile) -> None:
        """close(2): with strict consistency the box has the file."""
        if file.writable:
            await self.namespace.consistency.closed(file.node)
        self.flush(file)

    def flush(self, file: OpenFile) -> None:
        """close(2), fsync(2).

        Report, once per open file, that a flush of this file failed in the background.
        """
        node = file.node
        if node.error_count != file.errors_seen:
            file.errors_seen = node.error_count
            raise oserror(node.error)

    async def fsync(self, file: OpenFile) -> None:
        """Return when the box has fsynced the file; raises what prevents it."""
        node = file.node
        if not node.stays_here and (node.unsynced or node.pending):
            try:
                await self._sync([node.path()], node.last_seq)
            except OSError:
                # Said now, and not once more by close().
                file.errors_seen = node.error_count
                raise
            if not node.pending:
                node.unsynced = False
        self.flush(file)

    async def fsync_directory(self, directory: Directory) -> None:
        """Return when the box has every entry of the directory on stable storage."""
        await self._sync([directory.path()], self.writeback.last_seq)

    async def _sync(self, paths: list[bytes], upto_seq: int) -> None:
        number = errno.EIO
        with trio.move_on_at(self.link.deadline()) as scope:
            number = await self.writeback.sync(paths, upto_seq)
        if scope.cancelled_caught and self._journal_suffices:
            await self.writeback.sync_journal()
            number = 0
        if number:
            raise oserror(number)
