"""The journal on the local disk: appended to inline, made durable by a ticker, read once.

Records are in ``segment-<n>``, in the format of core/records.py; large writes are in spool files
(spools.py). journal_directory.py has the directory around them, journal_reading.py what is read
when a journal is opened.

* A record that `append` returned from is in the page cache: it survives the death of the process.
  `sync` makes it survive loss of power, spool files before the segments that name them.
* The part of a record that could not be written whole is cut off again; nothing was accepted then.
* A segment that cannot be cut back is left as it is: the next one says where it ends.
* Segments and spool files are removed oldest first (`release`), so that a record is never outlived
  by what was recorded before it.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from devboxfs.core import records
from devboxfs.core.ops import Kind, Operation, Source
from devboxfs.core.records import BlobId, Header, RecordError
from devboxfs.writeback import faults
from devboxfs.writeback.blobs import LocalBlob
from devboxfs.writeback.journal_directory import (
    read_meta,
    remove_directory,
    sync_directory,
    take,
    write_meta,
)
from devboxfs.writeback.journal_reading import Control, JournalReader, Segment
from devboxfs.writeback.limits import Limits
from devboxfs.writeback.spools import Spool, Spools, remove_file

__all__ = ["Journal"]

_log = logging.getLogger(__name__)


class Journal:
    """One journal that this process owns. Not thread-safe, but for what says otherwise."""

    def __init__(self, path: Path, owner: int, meta: dict[str, object], limits: Limits) -> None:
        self.path = path
        self.ident = bytes.fromhex(path.name)
        self.meta = meta
        self.incarnation = secrets.token_bytes(16)
        self.damage: str | None = None
        """What could not be read, and where it is kept."""
        self.next_seq = 1
        self.next_oid = 1
        self.next_batch = 1
        self.next_wire = 1
        self.generation = 0
        self.acked = 0
        self._owner = owner
        self._limits = limits
        self._fd = -1
        self._position = 0
        self._segments: list[Segment] = []
        self._spools = Spools(path)
        self._bytes = 0
        """Of segments."""
        self._appended = 0
        self._synced = 0
        self._unsynced: list[int] = []
        self._names_dirty = False
        self._broken = False
        self.make_room: Callable[[int], bool] = lambda _bytes: False
        """Asks others for so much of a disk that is full; whether there is more now. Blocks."""

    # -- opening and closing

    @classmethod
    def create(cls, directory: Path, *, box_uid: str, box_name: str, limits: Limits) -> Journal:
        """Make a new journal; raises OSError."""
        # The name appears when it is whole: an empty directory would be taken for a journal.
        ident = secrets.token_hex(16)
        temporary = directory / f"new-{ident}"
        temporary.mkdir(mode=0o700)
        try:
            owner = take(temporary)
            meta: dict[str, object] = {
                "journal": ident,
                "format": records.FORMAT,
                "box_uid": box_uid,
                "box_name": box_name,
            }
            write_meta(temporary, meta)
            path = temporary.rename(directory / ident)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        journal = cls(path, owner, meta, limits)
        try:
            journal._begin_segment()
            sync_directory(directory)
        except BaseException:
            journal.close(remove=True)
            raise
        return journal

    @classmethod
    def adopt(cls, path: Path, limits: Limits) -> tuple[Journal, list[Operation | Control]]:
        """Take over a journal whose owner is dead, and read it.

        Raises JournalInUseError when the owner lives, RecordError for another format, OSError.
        """
        owner = take(path)
        try:
            journal = cls(path, owner, read_meta(path), limits)
            found = journal._read()
            journal._begin_segment()
        except ValueError as exc:
            os.close(owner)
            raise RecordError(f"journal cannot be read: {exc}") from exc
        except BaseException:
            os.close(owner)
            raise
        return journal, found

    @classmethod
    def look(cls, path: Path) -> tuple[Journal, list[Operation | Control]]:
        """Read a journal without taking it over or changing anything; raises as adopt() does."""
        try:
            journal = cls(path, -1, read_meta(path), Limits())
            return journal, journal._read(only_looking=True)
        except ValueError as exc:
            raise RecordError(f"journal cannot be read: {exc}") from exc

    def _read(self, *, only_looking: bool = False) -> list[Operation | Control]:
        reader = JournalReader(self.path, self._spools, only_looking)
        found = list(reader.read())
        counters = reader.counters
        self.next_seq, self.next_oid = counters.seq, counters.oid
        self.next_batch, self.next_wire = counters.batch, counters.wire
        self.generation, self.acked = counters.generation, counters.acked
        self.damage = reader.damage
        self._segments = reader.segments
        self._bytes = reader.bytes
        return found

    def close(self, *, remove: bool = False) -> None:
        """Make everything durable and release the lock; or remove the journal."""
        if self._fd >= 0:
            if not remove:
                self.sync(self.sync_plan())
            os.close(self._fd)
            self._fd = -1
        for fd in self._unsynced:
            os.close(fd)
        self._unsynced.clear()
        if remove:
            remove_directory(self.path)
        os.close(self._owner)

    # -- appending

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return self._bytes + self._spools.bytes

    def at_limit(self, more: int) -> bool:
        """Whether so many bytes more would be more than a journal may have."""
        return self.size + more > self._limits.journal_bytes

    def append(self, op: Operation) -> int:
        """Accept an operation whose bytes, if any, lie in a spool file; sets its seq."""
        blob = op.source.blob if op.source is not None else None
        ident = blob.ident if isinstance(blob, LocalBlob) else None
        payload = records.encode_operation(op, blob=ident)
        seq = self.next_seq
        self._write(op.kind, seq, payload, b"")
        op.seq = seq
        self.next_seq = seq + 1
        self._segments[-1].last_seq = seq
        self._spools.named(blob, seq)
        return seq

    def append_write(self, op: Operation, data: bytes) -> None:
        """Accept a WRITE with its bytes in the record; sets its seq, length and source."""
        op.length = len(data)
        payload = records.encode_write(op)
        seq = self.next_seq
        offset = self._write(Kind.WRITE, seq, payload, data)
        segment = self._segments[-1]
        op.source = Source(segment.blob, offset)
        op.seq = seq
        self.next_seq = seq + 1
        segment.last_seq = seq

    def append_control(self, kind: int, number: int, payload: bytes) -> int:
        """Append a record of the flusher; may pass the limit.

        Returns the position for is_durable().
        """
        self._write(kind, number, payload, b"", limited=False)
        self._segments[-1].last_batch = max(self._segments[-1].last_batch, number)
        return self._appended

    def is_durable(self, position: int) -> bool:
        """Whether what append_control() returned this position for has survived a sync."""
        return position <= self._synced

    @property
    def has_unsynced(self) -> bool:
        """Whether sync() has something to do."""
        return self._synced < self._appended or self._names_dirty or self._spools.names_changed

    def _write(
        self, kind: int, seq: int, payload: bytes, data: bytes, *, limited: bool = True
    ) -> int:
        """Append a record; returns the offset of `data` in the segment."""
        faults.passing("append-before")
        size = records.RECORD_HEADER_SIZE + len(payload) + len(data)
        if limited and self.at_limit(size):
            raise OSError(errno.ENOSPC, "the journal has reached its limit")
        head = records.frame(kind, seq, payload, data)
        try:
            offset = self._write_record(head, data)
        except OSError as exc:
            if exc.errno not in (errno.ENOSPC, errno.EDQUOT) or not self.make_room(size):
                raise
            offset = self._write_record(head, data)
        faults.passing("append-after")
        return offset

    def _write_record(self, head: bytes, data: bytes) -> int:
        """Write all of a record, or nothing."""
        size = len(head) + len(data)
        full = self._position + size > self._limits.segment_bytes
        if self._broken or (full and self._position > records.HEADER_SIZE):
            self._begin_segment()
        start = self._position
        try:
            written = os.writev(self._fd, (head, data)) if data else os.write(self._fd, head)
            if written < size:
                written += self._write_rest((head + data)[written:])
        except BaseException:
            self._cut_back(start)
            raise
        self._position = start + size
        self._bytes += size
        self._appended += size
        self._segments[-1].size = self._position
        return start + len(head)

    def _write_rest(self, rest: bytes) -> int:
        """Write what a short write left over: the next call says why it was short."""
        done = 0
        while done < len(rest):
            done += os.write(self._fd, rest[done:])
        return done

    def _cut_back(self, start: int) -> None:
        try:
            os.ftruncate(self._fd, start)
            os.lseek(self._fd, start, os.SEEK_SET)
        except OSError:
            _log.exception("journal segment cannot be cut back: %s", self._segments[-1].blob.path)
            self._broken = True

    def _begin_segment(self) -> None:
        number = self._segments[-1].number + 1 if self._segments else 1
        path = self.path / f"segment-{number}"
        header = records.pack_header(
            Header(
                number,
                self.incarnation,
                self._segments[-1].size if self._segments else 0,
                self.next_seq,
                self.next_oid,
                self.next_batch,
                self.next_wire,
                self.generation,
                self.acked,
            )
        )
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            done = 0
            while done < len(header):
                done += os.write(fd, header[done:])
            blob = LocalBlob((0, number, 0), path, keep_open=True)
        except BaseException:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise
        if self._fd >= 0:
            # Closed by the next sync(): what was written to it may not be durable yet.
            self._unsynced.append(self._fd)
        self._fd = fd
        self._position = len(header)
        self._bytes += len(header)
        self._appended += len(header)
        self._names_dirty = True
        self._broken = False
        self._segments.append(Segment(number, blob, len(header)))

    def begin_anew(self) -> None:
        """Let go of all records; nothing may need them any more. Raises OSError."""
        self._begin_segment()
        self.release(self.next_seq, self.next_batch)

    # -- spool files

    def spool_for(self, oid: int, length: int) -> tuple[Spool, int]:
        """Reserve room in a spool file; returns it and the offset.

        The caller calls write_spool(), then spooled(). Raises OSError.
        """
        if self.at_limit(length):
            raise OSError(errno.ENOSPC, "the journal has reached its limit")
        return self._spools.reserve(oid, length, self._limits.spool_bytes)

    def spooled(self, spool: Spool) -> None:
        """Note that a write_spool() is over, well or not."""
        self._spools.written(spool)

    # -- durability

    def sync_plan(self) -> tuple[int, list[Path], list[int], int, bool]:
        """Return what sync() needs to know, for a thread; the state of this moment."""
        spools = self._spools.take_dirty()
        old, self._unsynced = self._unsynced, []
        names = self._names_dirty or self._spools.names_changed
        self._names_dirty = self._spools.names_changed = False
        return self._appended, spools, old, os.dup(self._fd), names

    def sync(self, plan: tuple[int, list[Path], list[int], int, bool]) -> None:
        """Make durable what was appended before the plan was made. For a thread."""
        position, spools, old, fd, names = plan
        try:
            for path in spools:
                try:
                    spool = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                except FileNotFoundError:
                    continue
                try:
                    os.fdatasync(spool)
                finally:
                    os.close(spool)
            if names:
                sync_directory(self.path)
            for previous in (*old, fd):
                os.fdatasync(previous)
        finally:
            for previous in (*old, fd):
                os.close(previous)
        self._synced = max(self._synced, position)

    def release(self, oldest_seq: int, oldest_batch: int) -> None:
        """Remove the files that hold nothing from these numbers on."""
        self._spools.release(oldest_seq)
        while len(self._segments) > 1:
            oldest = self._segments[0]
            if oldest.last_seq >= oldest_seq or oldest.last_batch >= oldest_batch:
                break
            del self._segments[0]
            self._bytes -= oldest.size
            remove_file(oldest.blob)

    def blob(self, ident: BlobId) -> LocalBlob:
        """Return the file of that name."""
        if ident[0] != 0:
            return self._spools.blob(ident)
        for segment in self._segments:
            if segment.number == ident[1]:
                return segment.blob
        return LocalBlob(ident, self.path / f"segment-{ident[1]}", keep_open=False)
