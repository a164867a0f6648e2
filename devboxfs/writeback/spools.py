"""Spool files: the bytes of large writes, outside the journal's segments.

``spool-<oid>-<n>`` takes the large writes of one object until it is full. Room is reserved first,
written by a thread, and then named by a record. A file is removed when no record that is needed
names it.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from devboxfs.core.records import BlobId
from devboxfs.writeback import faults
from devboxfs.writeback.blobs import LocalBlob

__all__ = ["Spool", "Spools", "remove_file", "write_spool"]

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Spool:
    """One file."""

    blob: LocalBlob
    size: int = 0
    last_seq: int = 0
    """The last record that names it; 0: none does yet."""
    writers: int = 0
    dirty: bool = True


class Spools:
    """The spool files of a journal. Not thread-safe."""

    def __init__(self, path: Path) -> None:
        self.bytes = 0
        """Of all of them, reserved room included."""
        self.names_changed = False
        """A file was made since this was last set to False: the directory is to be synced."""
        self._path = path
        self._new: dict[BlobId, Spool] = {}
        self._current: dict[int, Spool] = {}
        """By oid: the one that takes its writes."""
        self._found: dict[BlobId, Spool] = {}
        """Those that were there when the journal was opened: nothing is added to them."""

    def load(self) -> None:
        """Find the files that are there."""
        for entry in self._path.glob("spool-*-*"):
            _, oid, part = entry.name.split("-")
            blob = LocalBlob((1, int(oid), int(part)), entry, keep_open=False)
            self._found[blob.ident] = Spool(blob, entry.stat().st_size)
            self.bytes += entry.stat().st_size

    def reserve(self, oid: int, length: int, full: int) -> tuple[Spool, int]:
        """Reserve room for an object's bytes; returns the file and the offset in it.

        The caller writes, then says written(). A file that holds `full` bytes gets a successor.
        Raises OSError.
        """
        spool = self._current.get(oid)
        if spool is None or spool.size >= full:
            spool = self._begin(oid)
        offset = spool.size
        spool.size += length
        spool.writers += 1
        self.bytes += length
        return spool, offset

    def _begin(self, oid: int) -> Spool:
        number = 1
        while (1, oid, number) in self._new or (1, oid, number) in self._found:
            number += 1
        path = self._path / f"spool-{oid}-{number}"
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        spool = Spool(LocalBlob((1, oid, number), path, keep_open=False))
        self._new[spool.blob.ident] = self._current[oid] = spool
        self.names_changed = True
        return spool

    def written(self, spool: Spool) -> None:
        """Note that a write_spool() is over, well or not."""
        spool.writers -= 1
        spool.dirty = True

    def named(self, blob: object, seq: int) -> None:
        """Note that a record names a file, if it is one of these."""
        if isinstance(blob, LocalBlob):
            spool = self._new.get(blob.ident) or self._found.get(blob.ident)
            if spool is not None:
                spool.last_seq = seq

    def take_dirty(self) -> list[Path]:
        """Return what is to be synced, for once."""
        dirty = [spool for spool in self._new.values() if spool.dirty]
        for spool in dirty:
            spool.dirty = False
        return [spool.blob.path for spool in dirty]

    def blob(self, ident: BlobId) -> LocalBlob:
        """Return the file of that name."""
        spool = self._new.get(ident) or self._found.get(ident)
        if spool is None:
            # Its reader gets EIO; the operations around it are worth more than a refusal here.
            return LocalBlob(ident, self._path / f"spool-{ident[1]}-{ident[2]}", keep_open=False)
        return spool.blob

    def release(self, oldest_seq: int) -> None:
        """Remove the files that no record from this number on names."""
        for ident, spool in list(self._new.items()):
            if spool.writers == 0 and 0 < spool.last_seq < oldest_seq:
                del self._new[ident]
                if self._current.get(ident[1]) is spool:
                    del self._current[ident[1]]
                self._remove(spool)
        for ident, spool in list(self._found.items()):
            if spool.last_seq < oldest_seq:
                del self._found[ident]
                self._remove(spool)

    def _remove(self, spool: Spool) -> None:
        self.bytes -= spool.size
        remove_file(spool.blob)

    def move_unnamed(self, directory: Path) -> None:
        """Put aside what no record names: a record that is damaged may have."""
        for ident, spool in list(self._found.items()):
            if not spool.last_seq:
                del self._found[ident]
                self.bytes -= spool.size
                spool.blob.path.rename(directory / spool.blob.path.name)


def write_spool(spool: Spool, offset: int, data: bytes) -> None:
    """Write at a reserved place. For a thread. Raises OSError."""
    fd = os.open(spool.blob.path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        done = 0
        with memoryview(data) as view:
            while done < len(data):
                done += os.pwrite(fd, view[done:], offset + done)
    finally:
        os.close(fd)


def remove_file(blob: LocalBlob) -> None:
    """Remove a file of the journal; who holds the blob can still read it."""
    faults.passing("delete-before")
    try:
        blob.remove()
    except FileNotFoundError:
        _log.warning("part of the journal had been removed: %s", blob.path)
    faults.passing("delete-after")
