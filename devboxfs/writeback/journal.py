"""The journal on the local disk: appended to inline, made durable by a ticker, read once.

``<directory>/<journal id>/`` holds ``owner`` (locked while a process owns the journal), ``meta``,
``segment-<n>`` and ``spool-<oid>-<n>``. The format of segments is in core/records.py.

* A record that `append` returned from is in the page cache: it survives the death of the process.
  `sync` makes it survive loss of power, spool files before the segments that name them.
* The part of a record that could not be written whole is cut off again; nothing was accepted then.
* A segment that cannot be cut back is left as it is: the next one says where it ends.
* Segments and spool files are removed oldest first (`release`), so that a record is never outlived
  by what was recorded before it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from devboxfs.core import records
from devboxfs.core.ops import Kind, Operation, Source
from devboxfs.core.records import BlobId, Header, RecordError
from devboxfs.writeback import faults
from devboxfs.writeback.blobs import LocalBlob
from devboxfs.writeback.limits import Limits

__all__ = ["Control", "Journal", "JournalInUseError", "find_journals", "remove_journal"]

_log = logging.getLogger(__name__)

_ID = re.compile(r"[0-9a-f]{32}")


class JournalInUseError(Exception):
    """A living process owns the journal."""


@dataclass(frozen=True, slots=True)
class Control:
    """A record of the flusher."""

    kind: int
    number: int
    payload: bytes


@dataclass(slots=True)
class _Segment:
    number: int
    blob: LocalBlob
    size: int
    last_seq: int = 0
    last_batch: int = 0


class _Spool:
    """The file that takes the large writes of one object for now."""

    def __init__(self, blob: LocalBlob, fd: int) -> None:
        self.blob = blob
        self.fd = fd
        self.size = 0
        self.last_seq = 0
        self.writers = 0
        self.dirty = True


def find_journals(directory: Path) -> list[Path]:
    """Return the journals of a box, oldest first."""
    try:
        found = [entry for entry in directory.iterdir() if _ID.fullmatch(entry.name)]
    except FileNotFoundError:
        return []
    return sorted(found, key=lambda path: (path.stat().st_ctime_ns, path.name))


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive loss of power."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


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
        self._kept: Path | None = None
        self._fd = -1
        self._position = 0
        self._segments: list[_Segment] = []
        self._spools: dict[BlobId, _Spool] = {}
        self._current_spool: dict[int, _Spool] = {}
        self._old_blobs: dict[BlobId, tuple[LocalBlob, int, int]] = {}
        self._bytes = 0
        self._appended = 0
        self._synced = 0
        self._unsynced: list[int] = []
        self._names_dirty = False
        self._broken = False
        self._only_looking = False
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
            owner = _take(temporary)
            meta: dict[str, object] = {
                "journal": ident,
                "format": records.FORMAT,
                "box_uid": box_uid,
                "box_name": box_name,
            }
            _write_meta(temporary, meta)
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
        owner = _take(path)
        try:
            meta = _read_meta(path)
            journal = cls(path, owner, meta, limits)
            found = list(journal._read())
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
            journal = cls(path, -1, _read_meta(path), Limits())
            journal._only_looking = True
            return journal, list(journal._read())
        except ValueError as exc:
            raise RecordError(f"journal cannot be read: {exc}") from exc

    def close(self, *, remove: bool = False) -> None:
        """Make everything durable and release the lock; or remove the journal."""
        if self._fd >= 0:
            if not remove:
                self.sync(self.sync_plan())
            os.close(self._fd)
            self._fd = -1
        for spool in self._spools.values():
            if spool.fd >= 0:
                os.close(spool.fd)
                spool.fd = -1
        for fd in self._unsynced:
            os.close(fd)
        self._unsynced.clear()
        if remove:
            # Renamed first: a journal that is half removed must not be read.
            doomed = self.path.with_name(f"old-{self.path.name}")
            self.path.rename(doomed)
            sync_directory(self.path.parent)
            shutil.rmtree(doomed)
        os.close(self._owner)

    # -- appending

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return self._bytes

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
        if ident is not None and ident in self._spools:
            self._spools[ident].last_seq = seq
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
        return self._synced < self._appended or self._names_dirty

    def _write(
        self, kind: int, seq: int, payload: bytes, data: bytes, *, limited: bool = True
    ) -> int:
        """Append a record; returns the offset of `data` in the segment."""
        faults.passing("append-before")
        size = records.RECORD_HEADER_SIZE + len(payload) + len(data)
        if limited and self._bytes + size > self._limits.journal_bytes:
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
        self._segments.append(_Segment(number, blob, len(header)))

    def begin_anew(self) -> None:
        """Let go of all records; nothing may need them any more. Raises OSError."""
        self._begin_segment()
        self.release(self.next_seq, self.next_batch)

    # -- spool files

    def spool_for(self, oid: int, length: int) -> tuple[_Spool, int]:
        """Reserve room in a spool file; returns it and the offset.

        The caller writes, then spooled().
        """
        if self._bytes + length > self._limits.journal_bytes:
            raise OSError(errno.ENOSPC, "the journal has reached its limit")
        spool = self._current_spool.get(oid)
        if spool is None or spool.size >= self._limits.spool_bytes:
            spool = self._begin_spool(oid)
        offset = spool.size
        spool.size += length
        spool.writers += 1
        self._bytes += length
        return spool, offset

    def _begin_spool(self, oid: int) -> _Spool:
        number = 1
        while (1, oid, number) in self._spools or (1, oid, number) in self._old_blobs:
            number += 1
        path = self.path / f"spool-{oid}-{number}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.close(fd)
        spool = _Spool(LocalBlob((1, oid, number), path, keep_open=False), -1)
        self._spools[spool.blob.ident] = self._current_spool[oid] = spool
        self._names_dirty = True
        return spool

    @staticmethod
    def write_spool(spool: _Spool, offset: int, data: bytes) -> None:
        """Write at a reserved place. For a thread."""
        fd = os.open(spool.blob.path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            done = 0
            with memoryview(data) as view:
                while done < len(data):
                    done += os.pwrite(fd, view[done:], offset + done)
        finally:
            os.close(fd)

    def spooled(self, spool: _Spool) -> None:
        """Note that a write_spool() is over, well or not."""
        spool.writers -= 1
        spool.dirty = True

    # -- durability

    def sync_plan(self) -> tuple[int, list[Path], list[int], int, bool]:
        """Return what sync() needs to know, for a thread; the state of this moment."""
        spools = [spool for spool in self._spools.values() if spool.dirty]
        for spool in spools:
            spool.dirty = False
        old, self._unsynced = self._unsynced, []
        names, self._names_dirty = self._names_dirty, False
        return self._appended, [spool.blob.path for spool in spools], old, os.dup(self._fd), names

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
        for ident, spool in list(self._spools.items()):
            if spool.writers == 0 and spool.last_seq and spool.last_seq < oldest_seq:
                self._remove_spool(ident, spool)
        for ident, (blob, size, last_seq) in list(self._old_blobs.items()):
            if last_seq < oldest_seq:
                del self._old_blobs[ident]
                self._remove_file(blob, size)
        while len(self._segments) > 1:
            oldest = self._segments[0]
            if oldest.last_seq >= oldest_seq or oldest.last_batch >= oldest_batch:
                break
            del self._segments[0]
            self._remove_file(oldest.blob, oldest.size)

    def _remove_spool(self, ident: BlobId, spool: _Spool) -> None:
        del self._spools[ident]
        if self._current_spool.get(ident[1]) is spool:
            del self._current_spool[ident[1]]
        self._remove_file(spool.blob, spool.size)

    def _remove_file(self, blob: LocalBlob, size: int) -> None:
        faults.passing("delete-before")
        try:
            blob.remove()
        except FileNotFoundError:
            _log.warning("part of the journal had been removed: %s", blob.path)
        self._bytes -= size
        faults.passing("delete-after")

    # -- reading

    def _read(self) -> Iterator[Operation | Control]:
        numbers = sorted(
            int(entry.name[8:])
            for entry in self.path.iterdir()
            if re.fullmatch(r"segment-[0-9]{1,9}", entry.name)
        )
        for entry in self.path.glob("spool-*-*"):
            _, oid, part = entry.name.split("-")
            size = entry.stat().st_size
            blob = LocalBlob((1, int(oid), int(part)), entry, keep_open=False)
            self._old_blobs[blob.ident] = (blob, size, 0)
            self._bytes += size
        headers = self._headers(numbers)
        for index, (number, header) in enumerate(headers):
            following = headers[index + 1][1] if index + 1 < len(headers) else None
            whole = yield from self._read_segment(number, header, following)
            if not whole:
                self._keep_damaged(number, [later for later, _ in headers[index + 1 :]])
                break
        if self._kept is not None:
            for ident, (blob, size, last_seq) in list(self._old_blobs.items()):
                if not last_seq:
                    del self._old_blobs[ident]
                    self._bytes -= size
                    blob.path.rename(self._kept / blob.path.name)

    def _headers(self, numbers: list[int]) -> list[tuple[int, Header]]:
        found: list[tuple[int, Header]] = []
        for index, number in enumerate(numbers):
            path = self.path / f"segment-{number}"
            with path.open("rb") as file:
                start = file.read(records.HEADER_SIZE)
            try:
                header = records.unpack_header(start)
            except RecordError:
                if index + 1 < len(numbers) or path.stat().st_size > records.HEADER_SIZE:
                    self._keep_damaged(number, numbers[index:])
                else:
                    # It was being made when its maker died: there was nothing in it.
                    if not self._only_looking:
                        path.unlink()
                break
            if header.format != records.FORMAT:
                raise RecordError(f"segment format {header.format} is not known")
            if found and number != found[-1][0] + 1:
                self._keep_damaged(found[-1][0], numbers[index:])
                break
            found.append((number, header))
        return found

    def _read_segment(
        self, number: int, header: Header, following: Header | None
    ) -> Generator[Operation | Control, None, bool]:
        path = self.path / f"segment-{number}"
        blob = LocalBlob((0, number, 0), path, keep_open=True)
        data = path.read_bytes()
        segment = _Segment(number, blob, records.HEADER_SIZE)
        self._segments.append(segment)
        self._bytes += len(data)
        self.next_seq = max(self.next_seq, header.next_seq)
        self.next_oid = max(self.next_oid, header.next_oid)
        self.next_batch = max(self.next_batch, header.next_batch)
        self.next_wire = max(self.next_wire, header.next_wire)
        self.generation = max(self.generation, header.generation)
        self.acked = max(self.acked, header.acked)
        view = memoryview(data)
        if following is not None:
            view = view[: following.previous_end]
        for record in records.scan(view):
            payload = data[record.start : record.end]
            if record.kind >= records.BATCH:
                segment.last_batch = max(segment.last_batch, record.seq)
                yield Control(record.kind, record.seq, payload)
            else:
                op = records.decode_operation(
                    record.kind, record.seq, payload, (blob, record.start), self._spool
                )
                segment.last_seq = op.seq
                self.next_seq = max(self.next_seq, op.seq + 1)
                self.next_oid = max(self.next_oid, op.oid + 1, op.replaced + 1)
                self._note_spool(op)
                yield op
            segment.size = record.end
        return following is None or segment.size == following.previous_end

    def blob(self, ident: BlobId) -> LocalBlob:
        """Return the file of that name."""
        if ident[0] == 0:
            for segment in self._segments:
                if segment.number == ident[1]:
                    return segment.blob
            return LocalBlob(ident, self.path / f"segment-{ident[1]}", keep_open=False)
        return self._spool(ident)

    def _spool(self, ident: BlobId) -> LocalBlob:
        if ident in self._spools:
            return self._spools[ident].blob
        found = self._old_blobs.get(ident)
        if found is None:
            # Its reader gets EIO; the operations around it are worth more than a refusal here.
            return LocalBlob(ident, self.path / f"spool-{ident[1]}-{ident[2]}", keep_open=False)
        return found[0]

    def _note_spool(self, op: Operation) -> None:
        if op.source is not None and isinstance(op.source.blob, LocalBlob):
            found = self._old_blobs.get(op.source.blob.ident)
            if found is not None:
                self._old_blobs[found[0].ident] = (found[0], found[1], op.seq)

    def _keep_damaged(self, number: int, later: list[int]) -> None:
        """Set aside what cannot be read. What precedes it is replayed."""
        if self._only_looking:
            self.damage = f"segment {number} is damaged; what precedes it can be read"
            return
        kept = self._kept
        if kept is None:
            kept = self._kept = self.path.parent / f"damaged-{secrets.token_hex(8)}"
            kept.mkdir(mode=0o700)
        for moved in later:
            source = self.path / f"segment-{moved}"
            if moved != number:
                source.rename(kept / source.name)
        damaged = self.path / f"segment-{number}"
        shutil.copyfile(damaged, kept / damaged.name)
        if number in later:
            damaged.unlink()
        self.damage = f"segment {number} is damaged; it and what follows it are kept in {kept}"
        _log.error("journal is damaged: segment %d; kept in %s", number, kept)


def remove_journal(path: Path) -> None:
    """Remove a journal with all that it holds; raises JournalInUseError, OSError."""
    owner = _take(path)
    try:
        doomed = path.with_name(f"old-{path.name}")
        path.rename(doomed)
        shutil.rmtree(doomed)
    finally:
        os.close(owner)


def _take(path: Path) -> int:
    owner = os.open(path / "owner", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(owner)
        raise JournalInUseError(path.name) from exc
    except BaseException:
        os.close(owner)
        raise
    return owner


def _read_meta(path: Path) -> dict[str, object]:
    meta: dict[str, object] = json.loads((path / "meta").read_bytes())
    if meta.get("format") != records.FORMAT:
        raise RecordError(f"format {meta.get('format')} is not known")
    return meta


def _write_meta(path: Path, meta: dict[str, object]) -> None:
    fd = os.open(path / "meta", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        json.dump(meta, file)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(path)
