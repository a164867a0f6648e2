"""The directories that journals are: found, owned, described, removed.

``<directory>/<journal id>/`` holds ``owner`` (locked while a process owns the journal) and ``meta``
beside the journal's own files.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from pathlib import Path

from devboxfs.core import records
from devboxfs.core.records import RecordError

__all__ = [
    "JournalInUseError",
    "find_journals",
    "read_meta",
    "remove_directory",
    "remove_doomed",
    "remove_journal",
    "sync_directory",
    "take",
    "write_meta",
]

_ID = re.compile(r"[0-9a-f]{32}")


class JournalInUseError(Exception):
    """A living process owns the journal."""


def find_journals(directory: Path) -> list[Path]:
    """Return the journals of a box, oldest first."""
    try:
        found = [entry for entry in directory.iterdir() if _ID.fullmatch(entry.name)]
    except FileNotFoundError:
        return []
    return sorted(found, key=lambda path: (path.stat().st_ctime_ns, path.name))


def take(path: Path) -> int:
    """Own a journal: returns the descriptor that holds the lock. Raises JournalInUseError."""
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


def read_meta(path: Path) -> dict[str, object]:
    """Return what a journal is about; raises ValueError, and RecordError for another format."""
    meta: dict[str, object] = json.loads((path / "meta").read_bytes())
    if meta.get("format") != records.FORMAT:
        raise RecordError(f"its format {meta.get('format')} is not known to this version")
    return meta


def write_meta(path: Path, meta: dict[str, object]) -> None:
    """Say, for good, what a journal is about."""
    fd = os.open(path / "meta", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        json.dump(meta, file)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(path)


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive loss of power."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_directory(path: Path) -> None:
    """Remove a journal that this process owns."""
    # Renamed first: a journal that is half removed must not be read.
    doomed = path.with_name(f"old-{path.name}")
    path.rename(doomed)
    sync_directory(path.parent)
    shutil.rmtree(doomed, ignore_errors=True)  # what stays is for remove_doomed()


def remove_doomed(directory: Path) -> None:
    """Remove what is left of journals whose removal was cut short.

    They are none any more, so it does not matter whether somebody is removing them just now.
    """
    for path in directory.glob("old-*"):
        if _ID.fullmatch(path.name.removeprefix("old-")):
            shutil.rmtree(path, ignore_errors=True)


def remove_journal(path: Path) -> None:
    """Remove a journal with all that it holds; raises JournalInUseError, OSError."""
    owner = take(path)
    try:
        remove_directory(path)
    finally:
        os.close(owner)
