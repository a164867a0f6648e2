"""Local files of immutable bytes: segments of the journal and spool files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from devboxfs.core.records import BlobId

__all__ = ["LocalBlob"]


class LocalBlob:
    """See `devboxfs.core.ops.Blob`.

    Segments, of which there are a few hundred at most, keep a descriptor. Spool files, of which
    there may be more than descriptors, are opened for each read (5 us) until their name is removed.
    """

    __slots__ = ("__weakref__", "_fd", "ident", "path")

    def __init__(self, ident: BlobId, path: Path, *, keep_open: bool) -> None:
        self.ident = ident
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if keep_open else -1

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`; OSError(EIO) when they are not there.

        May be called from any thread.
        """
        if self._fd >= 0:
            return self._read(self._fd, offset, length)
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            if self._fd < 0:
                raise OSError(errno.EIO, "part of the journal is gone", str(self.path)) from None
            return self._read(self._fd, offset, length)  # remove() came between
        try:
            return self._read(fd, offset, length)
        finally:
            os.close(fd)

    def _read(self, fd: int, offset: int, length: int) -> bytes:
        data = os.pread(fd, length, offset)
        while len(data) < length:
            more = os.pread(fd, length - len(data), offset + len(data))
            if not more:
                raise OSError(errno.EIO, "journal is shorter than it was", str(self.path))
            data += more
        return data

    def remove(self) -> None:
        """Remove the name; the bytes stay readable while somebody holds this object."""
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        self.path.unlink()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            os.close(self._fd)
