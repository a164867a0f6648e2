"""The database of contents on disk, and the directory that several processes share.

A process holds a shared lock on the directory. The one that comes while nobody else is there tidies
up: it removes what no row speaks of. A database that is damaged is thrown away by whoever notices.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["ContentDatabase", "transaction"]

_logger = logging.getLogger(__name__)

FORMAT = 1

BUSY_TIMEOUT = 5.0
"""Seconds to wait for another process's transaction; what cannot be written then is dropped."""

_SCHEMA = (
    # One content; `stored` bytes of it are here, `whole` when that is all of it. `sha` is empty
    # for a version without digest; `used` is tally.tick when it was last written or loaded;
    # `file` is its name below files/, NULL for one in `body`.
    """CREATE TABLE entry(
        id INTEGER PRIMARY KEY,
        ino INTEGER NOT NULL, ctime INTEGER NOT NULL, mtime INTEGER NOT NULL,
        size INTEGER NOT NULL, sha BLOB NOT NULL,
        used INTEGER NOT NULL, stored INTEGER NOT NULL, whole INTEGER NOT NULL, file TEXT,
        UNIQUE(ino, ctime, mtime, size, sha))""",
    "CREATE INDEX entry_used ON entry(used)",
    "CREATE TABLE body(id INTEGER PRIMARY KEY, crc INTEGER NOT NULL, data BLOB NOT NULL)",
    """CREATE TABLE block(
        id INTEGER NOT NULL, number INTEGER NOT NULL, crc INTEGER NOT NULL,
        PRIMARY KEY(id, number)) WITHOUT ROWID""",
    # One row: sums over `entry`, and the clock of `used`.
    "CREATE TABLE tally(bytes INTEGER NOT NULL, entries INTEGER NOT NULL, tick INTEGER NOT NULL)",
    "INSERT INTO tally VALUES(0, 0, 1)",
)

_PASSING = frozenset(
    [
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
    ]
)
"""What is no damage of the database."""


class ContentDatabase:
    """The directory of one cache. Connections may be used in any thread, each in one at a time."""

    def __init__(self, directory: Path, lock: int) -> None:
        """Use `open()`."""
        self._directory = directory
        self.files = directory / "files"
        """Where the files are that rows speak of."""
        self._lock = lock
        self._mutex = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._closed = False

    @classmethod
    def open(cls, directory: Path) -> ContentDatabase:
        """Open what is in `directory`, made if need be."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        place = directory / f"content-{FORMAT}"
        place.mkdir(mode=0o700, exist_ok=True)
        (place / "files").mkdir(mode=0o700, exist_ok=True)
        lock = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            database = cls(place, lock)
            database._begin()
        except BaseException:
            os.close(lock)
            raise
        return database

    def _begin(self) -> None:
        """Check the database and tidy up, if no other process is here."""
        alone = True
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            alone = False
            fcntl.flock(self._lock, fcntl.LOCK_SH)
        try:
            with self.connection() as connection:
                connection.execute("SELECT bytes FROM tally").fetchone()
                if alone:
                    self._tidy(connection)
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF in _PASSING:
                raise
            _logger.warning("the content cache in %s is damaged and begun anew", self._directory)
            self.discard()
            with self.connection() as connection:
                connection.execute("SELECT bytes FROM tally").fetchone()
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_SH)

    def discard(self) -> None:
        """Throw everything away; another process goes on with what it has open."""
        with self._mutex:
            for connection in self._idle:
                connection.close()
            self._idle.clear()
        for entry in list(os.scandir(self._directory)):
            if entry.name != "lock":
                _remove(entry)
        self.files.mkdir(mode=0o700, exist_ok=True)

    def close(self) -> None:
        """Close what is idle; what a thread still uses is closed when it is done."""
        with self._mutex:
            if self._closed:
                return
            self._closed = True
            for connection in self._idle:
                connection.close()
            self._idle.clear()
        os.close(self._lock)

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection: an idle one, or a new one. One that was used in vain is closed."""
        with self._mutex:
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            connection = self._connect()
        keep = False
        try:
            yield connection
            keep = True
        finally:
            with self._mutex:
                keep = keep and not self._closed
                if keep:
                    self._idle.append(connection)
            if not keep:
                connection.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._directory / "index.sqlite",
            timeout=BUSY_TIMEOUT,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA cache_size = -2000")
            connection.execute("PRAGMA journal_size_limit = 8388608")
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
                with transaction(connection):
                    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
                        for statement in _SCHEMA:
                            connection.execute(statement)
        except BaseException:
            connection.close()
            raise
        return connection

    def _tidy(self, connection: sqlite3.Connection) -> None:
        """Remove what no row speaks of."""
        known = {"index.sqlite", "index.sqlite-wal", "index.sqlite-shm", "files", "lock"}
        for entry in list(os.scandir(self._directory)):
            if entry.name not in known:
                _remove(entry)
        names = {
            name for (name,) in connection.execute("SELECT file FROM entry WHERE file NOT NULL")
        }
        for entry in list(os.scandir(self.files)):
            if entry.name not in names or not entry.is_file(follow_symlinks=False):
                _remove(entry)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Begin at once for writing: a transaction that becomes one later can fail without waiting."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.rollback()
        raise
    connection.commit()


def _remove(entry: os.DirEntry[str]) -> None:
    if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(entry.path, ignore_errors=True)
    else:
        with suppress(OSError):
            os.unlink(entry.path)
