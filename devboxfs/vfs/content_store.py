"""Contents on disk: one SQLite database and one directory of sparse files, shared by processes.

Everything here blocks and is called in threads. Contents of one block are rows; larger ones are
sparse files with a row for each block that is there. Every block carries a checksum over its key,
number and bytes: what does not match is not there. Durability does not matter (a cache), so the
database runs without fsync, and a damaged one is thrown away.

Raises sqlite3.Error and OSError, which `ContentCache` turns into misses.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from devboxfs.core.chunks import BLOCK, ContentKey, block_count, block_length, blocks_of
from devboxfs.vfs.content_database import ContentDatabase, transaction

__all__ = ["ContentStore", "Piece", "Row", "Written", "row_of"]

ENTRIES = 400_000
"""Contents kept at most: each costs about 60 bytes of the daemon's memory for the index."""

ASIDE = 4 * 1024 * 1024
"""Bytes that are laid aside, to be given back at once when somebody finds the disk full."""

Row = tuple[int, int, int, int, bytes]
"""A key as the database has it."""

_FIND = (
    "SELECT id, file, stored FROM entry"
    " WHERE ino = ? AND ctime = ? AND mtime = ? AND size = ? AND sha = ?"
)


@dataclass(frozen=True, slots=True)
class Piece:
    """One block of a content."""

    key: ContentKey
    block: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Written:
    """What a write, and the eviction that it made necessary, changed."""

    whole: list[Row]
    """Now wholly here; with those of other processes."""
    partial: list[Row]
    removed: list[Row]
    bytes: int
    entries: int


def row_of(key: ContentKey) -> Row:
    """Return the key as the database has it: inode numbers are unsigned, its integers are not."""
    ino = key.ino - (1 << 64) if key.ino >= 1 << 63 else key.ino
    return (ino, key.ctime_ns, key.mtime_ns, key.size, key.sha256 or b"")


def _crc(row: Row, block: int, data: bytes | memoryview) -> int:
    return zlib.crc32(data, zlib.crc32(repr((row, block)).encode()))


class ContentStore:
    """The contents in one directory."""

    def __init__(self, database: ContentDatabase, limit: int) -> None:
        """Use `open()`."""
        self._database = database
        self._files = database.files
        self._aside = database.files / f"aside-{secrets.token_hex(8)}"
        self._limit = limit
        self._touched: set[int] = set()
        self._seen = 0
        """The newest row that was told of."""

    @classmethod
    def open(cls, directory: Path, limit: int) -> ContentStore:
        """Open what is in `directory`, made if need be; removes what does not belong there."""
        return cls(ContentDatabase.open(directory), limit)

    def discard(self) -> None:
        """Throw everything away; another process goes on with what it has open."""
        self._database.discard()
        self._seen = 0

    def close(self) -> None:
        """Close what is idle; what a thread still uses is closed when it is done."""
        self.give_aside()
        self._database.close()

    def rows(self) -> tuple[list[Row], list[Row]]:
        """Return what is here, wholly and partly, and was not told of yet."""
        whole: list[Row] = []
        partial: list[Row] = []
        with self._database.connection() as connection:
            self._collect(connection, whole, partial)
        return whole, partial

    def totals(self) -> tuple[int, int]:
        """Return how many bytes, and how many contents, are here."""
        with self._database.connection() as connection:
            found = connection.execute("SELECT bytes, entries FROM tally").fetchone()
            return int(found[0]), int(found[1])

    def _collect(
        self, connection: sqlite3.Connection, whole: list[Row], partial: list[Row]
    ) -> None:
        for number, *fields, is_whole in connection.execute(
            "SELECT id, ino, ctime, mtime, size, sha, whole FROM entry WHERE id > ?", (self._seen,)
        ):
            (whole if is_whole else partial).append((*fields,))
            self._seen = max(self._seen, number)

    def load(self, key: ContentKey, offset: int, length: int) -> bytes | None:
        """Return that part of a content, None when it is not here or not intact."""
        row = row_of(key)
        with self._database.connection() as connection:
            found = connection.execute(_FIND, row).fetchone()
            if found is None:
                return None
            number, name, _ = found
            if name is None:
                body = self._body(connection, number, row)
                return None if body is None else body[offset : offset + length]
            blocks = blocks_of(offset, min(length, key.size - offset))
            checks = dict(
                connection.execute(
                    "SELECT number, crc FROM block WHERE id = ? AND number BETWEEN ? AND ?",
                    (number, blocks.start, blocks.stop - 1),
                )
            )
        if len(checks) < len(blocks):
            return None
        data = self._read(name, row, key.size, blocks, checks)
        if data is None:
            with self._database.connection() as connection:
                self._drop(connection, row)
            return None
        self._touched.add(number)
        start = offset - blocks.start * BLOCK
        return data if start == 0 and length >= len(data) else data[start : start + length]

    def load_many(self, keys: list[ContentKey]) -> dict[ContentKey, bytes]:
        """Return those contents of one block that are here."""
        found: dict[ContentKey, bytes] = {}
        with self._database.connection() as connection:
            for key in keys:
                row = row_of(key)
                entry = connection.execute(_FIND, row).fetchone()
                if entry is not None:
                    body = self._body(connection, entry[0], row)
                    if body is not None:
                        found[key] = body
        return found

    def _body(self, connection: sqlite3.Connection, number: int, row: Row) -> bytes | None:
        found = connection.execute("SELECT crc, data FROM body WHERE id = ?", (number,)).fetchone()
        if found is None:
            return None
        crc, data = found
        if not isinstance(data, bytes) or len(data) != row[3] or _crc(row, 0, data) != crc:
            self._drop(connection, row)
            return None
        self._touched.add(number)
        return data

    def _read(
        self, name: str, row: Row, size: int, blocks: range, checks: dict[int, int]
    ) -> bytes | None:
        start = blocks.start * BLOCK
        length = min(size, blocks.stop * BLOCK) - start
        try:
            descriptor = os.open(self._files / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            data = os.pread(descriptor, length, start)
        finally:
            os.close(descriptor)
        if len(data) != length:
            return None
        view = memoryview(data)
        for block in blocks:
            at = (block - blocks.start) * BLOCK
            if _crc(row, block, view[at : at + BLOCK]) != checks[block]:
                return None
        return data

    def write(self, pieces: list[Piece], forgotten: list[ContentKey]) -> Written:
        """Keep the pieces, drop what is forgotten, then what is too much, oldest use first."""
        groups: dict[ContentKey, list[Piece]] = {}
        for piece in pieces:
            groups.setdefault(piece.key, []).append(piece)
        whole: list[Row] = []
        partial: list[Row] = []
        with self._database.connection() as connection:
            with transaction(connection):
                removed = self._forget(connection, forgotten)
                self._touch(connection)
                for key, group in groups.items():
                    target = whole if self._keep(connection, key, group) else partial
                    target.append(row_of(key))
            self._collect(connection, whole, partial)
            total, entries, evicted = self._evict(connection)
        gone = set(evicted)
        return Written(
            [row for row in whole if row not in gone],
            [row for row in partial if row not in gone],
            removed + evicted,
            total,
            entries,
        )

    def _touch(self, connection: sqlite3.Connection) -> None:
        touched, self._touched = self._touched, set()
        connection.execute("UPDATE tally SET tick = tick + 1")
        connection.executemany(
            "UPDATE entry SET used = (SELECT tick FROM tally) WHERE id = ?",
            [(number,) for number in touched],
        )

    def _keep(self, connection: sqlite3.Connection, key: ContentKey, group: list[Piece]) -> bool:
        """Keep pieces of one content; returns whether it is whole now."""
        row = row_of(key)
        found = connection.execute(_FIND, row).fetchone()
        single = block_count(key.size) == 1
        if found is None:
            name = None if single else secrets.token_hex(12)
            cursor = connection.execute(
                "INSERT INTO entry(ino, ctime, mtime, size, sha, used, stored, whole, file)"
                " VALUES(?, ?, ?, ?, ?, (SELECT tick FROM tally), 0, 0, ?)",
                (*row, name),
            )
            number, stored = int(cursor.lastrowid or 0), 0
            connection.execute("UPDATE tally SET entries = entries + 1")
        else:
            number, name, stored = found
        if name is None:
            data = group[-1].data
            connection.execute(
                "INSERT OR REPLACE INTO body VALUES(?, ?, ?)", (number, _crc(row, 0, data), data)
            )
            added = len(data) - stored
        else:
            added = self._keep_blocks(connection, key, number, name, group)
        is_whole = stored + added == key.size
        connection.execute(
            "UPDATE entry SET stored = stored + ?, whole = ? WHERE id = ?",
            (added, is_whole, number),
        )
        connection.execute("UPDATE tally SET bytes = bytes + ?", (added,))
        return is_whole

    def _keep_blocks(
        self,
        connection: sqlite3.Connection,
        key: ContentKey,
        number: int,
        name: str,
        group: list[Piece],
    ) -> int:
        """Write blocks into the content's file; returns how many bytes were not there before."""
        row = row_of(key)
        known = {
            block
            for (block,) in connection.execute("SELECT number FROM block WHERE id = ?", (number,))
        }
        fresh = {piece.block: piece.data for piece in group if piece.block not in known}
        descriptor = os.open(
            self._files / name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            for start, run in _runs(fresh):
                _write_all(descriptor, run, start * BLOCK)
        finally:
            os.close(descriptor)
        connection.executemany(
            "INSERT INTO block VALUES(?, ?, ?)",
            [(number, block, _crc(row, block, data)) for block, data in fresh.items()],
        )
        return sum(block_length(key.size, block) for block in fresh)

    def _forget(self, connection: sqlite3.Connection, forgotten: list[ContentKey]) -> list[Row]:
        rows = [row_of(key) for key in forgotten]
        for row in rows:
            self._delete(connection, self._entries(connection, row))
        return rows

    def _drop(self, connection: sqlite3.Connection, row: Row) -> None:
        with transaction(connection):
            self._delete(connection, self._entries(connection, row))

    @staticmethod
    def _entries(connection: sqlite3.Connection, row: Row) -> list[tuple[int, str | None, int]]:
        return connection.execute(_FIND, row).fetchall()

    def _delete(
        self, connection: sqlite3.Connection, entries: list[tuple[int, str | None, int]]
    ) -> None:
        """Delete inside a transaction. A file goes first: rows without it are misses, not leaks."""
        for number, name, stored in entries:
            if name is not None:
                with suppress(FileNotFoundError):
                    os.unlink(self._files / name)
                connection.execute("DELETE FROM block WHERE id = ?", (number,))
            else:
                connection.execute("DELETE FROM body WHERE id = ?", (number,))
            connection.execute("DELETE FROM entry WHERE id = ?", (number,))
            connection.execute(
                "UPDATE tally SET bytes = bytes - ?, entries = entries - 1", (stored,)
            )

    def _evict(self, connection: sqlite3.Connection) -> tuple[int, int, list[Row]]:
        """Delete the least recently used until nine tenths of the limits are kept."""
        removed: list[Row] = []
        total, entries = connection.execute("SELECT bytes, entries FROM tally").fetchone()
        if total <= self._limit and entries <= ENTRIES:
            return total, entries, removed
        goal, most = self._limit * 9 // 10, ENTRIES * 9 // 10
        while total > goal or entries > most:
            with transaction(connection):
                oldest = connection.execute(
                    "SELECT id, file, stored, ino, ctime, mtime, size, sha FROM entry"
                    " ORDER BY used, id LIMIT 64"
                ).fetchall()
                for number, name, stored, *fields in oldest:
                    if total <= goal and entries <= most:
                        break
                    self._delete(connection, [(number, name, stored)])
                    removed.append((*fields,))
                    total, entries = total - stored, entries - 1
                if not oldest:
                    break
            total, entries = connection.execute("SELECT bytes, entries FROM tally").fetchone()
        connection.execute("PRAGMA incremental_vacuum").fetchall()
        return total, entries, removed

    def shrink(self) -> list[Row]:
        """Give back half of what is used: the disk is full, and others need it more."""
        with self._database.connection() as connection:
            total = connection.execute("SELECT bytes FROM tally").fetchone()[0]
            self._limit = min(self._limit, total // 2)
            removed = self._evict(connection)[2]
            # What was freed is the disk's again only when the log has been worked in.
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return removed

    def lay_aside(self) -> bool:
        """Keep some room that can be given back at once, unless the disk is full.

        Whether it is there.
        """
        if self._aside.exists():
            return True
        try:
            if self.free() < 4 * ASIDE:
                return False
            descriptor = os.open(self._aside, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, ASIDE)
            finally:
                os.close(descriptor)
        except OSError:
            self.give_aside()
            return False
        return True

    def give_aside(self) -> bool:
        """Give back what lay_aside() keeps; whether it was there. Never waits for anybody."""
        try:
            self._aside.unlink()
        except OSError:
            return False
        return True

    def free(self) -> int:
        """Return how many bytes of the disk are free."""
        found = os.statvfs(self._files)
        return found.f_bfree * found.f_frsize


def _runs(blocks: dict[int, bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """Yield neighbouring blocks together: (first block, their bytes)."""
    start, run = -1, list[bytes]()
    for block in sorted(blocks):
        if run and block == start + len(run) and len(run) < 64:
            run.append(blocks[block])
            continue
        if run:
            yield start, run
        start, run = block, [blocks[block]]
    if run:
        yield start, run


def _write_all(descriptor: int, run: list[bytes], offset: int) -> None:
    written = os.pwritev(descriptor, run, offset)
    if written < sum(map(len, run)):
        data = memoryview(b"".join(run))
        while written < len(data):
            written += os.pwrite(descriptor, data[written:], offset + written)
