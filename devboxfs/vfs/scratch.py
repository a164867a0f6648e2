"""Where the bytes of files without a name go.

Nothing of them has to survive, and nothing of them reaches the box.
"""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

__all__ = ["ScratchFile"]


class ScratchFile:
    """An anonymous local file; a core.ops.Blob. It is gone with its last reference."""

    def __init__(self, directory: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115  # lives as long as this object
        self._size = 0

    def append(self, data: bytes) -> int:
        """Write at the end; returns the offset."""
        offset = self._size
        written = 0
        while written < len(data):
            written += os.pwrite(self._file.fileno(), data[written:], offset + written)
        self._size += written
        return offset

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes."""
        data = os.pread(self._file.fileno(), length, offset)
        if len(data) != length:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return data
