"""How objects of a box are shown, across mounts: their inode numbers and change times.

What an application saw of an object stays as it was when the object has been flushed, though the
box gave it another inode and ctime; git compares both. The table is keyed by the box's inode
number, and a row counts only while the object is still in the state that our flush left.

Inode numbers of our own begin at 2^48. They are handed out in blocks: the end of a block is on disk
before its first number is given, so that a crash never gives one twice.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path

__all__ = ["FIRST_INO", "Identities", "Identity"]

_log = logging.getLogger(__name__)

FIRST_INO = 1 << 48
BLOCK = 65536
"""Numbers reserved at once: one write to disk for so many new files."""

_AFTER_DAMAGE = 1 << 52
"""Added to the counter when what it said is lost: further than any has come."""

# identity: one row per object that is shown otherwise than the box has it.
#   box_ino ... box_size   its state in the box, as our flush left it
#   shown_ino              >= 2^48 for what was made here, else a number of the box
#   shown_ctime_ns         as acknowledged
# counter: one row; every number below `next` may have been given.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS identity (
    box_ino INTEGER PRIMARY KEY,
    box_ctime_ns INTEGER NOT NULL,
    box_mtime_ns INTEGER NOT NULL,
    box_size INTEGER NOT NULL,
    shown_ino INTEGER NOT NULL,
    shown_ctime_ns INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS counter (one INTEGER PRIMARY KEY CHECK (one = 1), next INTEGER NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Identity:
    """One row."""

    box_ino: int
    box_ctime_ns: int
    box_mtime_ns: int
    box_size: int
    shown_ino: int
    shown_ctime_ns: int


class Identities:
    """The table of one box. record() and forget() may be called in a thread, one at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._next = self._end = 0

    @classmethod
    def open(cls, directory: Path) -> Identities:
        """Open `identities.sqlite` in a directory, or make it.

        A file that SQLite finds damaged is put aside: what it says is only needed so that git looks
        at fewer files, but for the counter, which then starts far above. Raises OSError.
        """
        path = directory / "identities.sqlite"
        try:
            return cls(_connect(path))
        except sqlite3.DatabaseError as exc:
            _log.error("%s is damaged and starts anew: %s", path, exc)
        for name in (path.name, path.name + "-wal", path.name + "-shm"):
            (directory / name).unlink(missing_ok=True)
        try:
            connection = _connect(path)
            # Nobody knows what was given before.
            connection.execute("INSERT INTO counter VALUES (1, ?)", (FIRST_INO + _AFTER_DAMAGE,))
        except sqlite3.DatabaseError as exc:
            raise OSError(5, "cannot be used", str(path)) from exc
        return cls(connection)

    def load(self) -> dict[int, Identity]:
        """Return all rows by the box's inode number."""
        with self._lock:
            rows = self._connection.execute("SELECT * FROM identity").fetchall()
        return {row[0]: Identity(*row) for row in rows}

    def record(self, items: Iterable[Identity]) -> None:
        """Write rows, replacing those of the same inode numbers."""
        with self._lock:
            self._connection.execute("BEGIN")
            self._connection.executemany(
                "INSERT OR REPLACE INTO identity VALUES (?, ?, ?, ?, ?, ?)",
                [astuple(item) for item in items],
            )
            self._connection.execute("COMMIT")

    def forget(self, box_inos: Iterable[int]) -> None:
        """Remove rows."""
        with self._lock:
            self._connection.execute("BEGIN")
            self._connection.executemany(
                "DELETE FROM identity WHERE box_ino = ?", [(ino,) for ino in box_inos]
            )
            self._connection.execute("COMMIT")

    def next_ino(self) -> int:
        """Return a number that was never given before. Writes to disk once in BLOCK calls."""
        if self._next == self._end:
            with self._lock:
                self._connection.execute("BEGIN IMMEDIATE")
                row = self._connection.execute("SELECT next FROM counter").fetchone()
                first = FIRST_INO if row is None else int(row[0])
                self._connection.execute(
                    "INSERT OR REPLACE INTO counter VALUES (1, ?)", (first + BLOCK,)
                )
                self._connection.execute("COMMIT")
            self._next, self._end = first, first + BLOCK
        self._next += 1
        return self._next - 1

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=5.0)
    try:
        path.chmod(0o600)
        # NORMAL: a commit in WAL mode survives the death of the process; FULL for the counter is
        # not worth its price, for without power the kernel's caches of inode numbers are gone as
        # well.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(_SCHEMA)
        connection.execute("SELECT count(*) FROM identity").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection
