"""Which conflicts of a box nobody has resolved yet: a line of JSON each, kept across mounts.

Read by commands too, so it needs nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Conflict", "ConflictLog"]

_FILE = "conflicts.jsonl"


@dataclass(frozen=True, slots=True)
class Conflict:
    """Ours and the box's version of something."""

    ident: str
    path: str
    """Where the box's version is; as os.fsdecode() has it."""
    kept_as: str | None
    """The name of our copy in the box."""
    stored_at: str | None
    """The local file with our copy."""
    errno: int
    time_ns: int
    kind: str
    """`conflict`, or `refused` for what the box does not take at all (a name too long)."""


class ConflictLog:
    """`conflicts.jsonl` in the directory of a box's mounts; several processes may use it."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / _FILE

    def add(
        self,
        path: bytes,
        *,
        kept_as: bytes | None,
        stored_at: str | None,
        errno: int,
        time_ns: int,
        kind: str = "conflict",
    ) -> Conflict:
        """Write one down; raises OSError."""
        conflict = Conflict(
            secrets.token_hex(4),
            os.fsdecode(path),
            None if kept_as is None else os.fsdecode(kept_as),
            stored_at,
            errno,
            time_ns,
            kind,
        )
        with self._locked() as fd:
            os.lseek(fd, 0, os.SEEK_END)
            os.write(fd, json.dumps(asdict(conflict)).encode() + b"\n")
        return conflict

    def list(self) -> list[Conflict]:
        """Return them, oldest first."""
        try:
            return _parse(self._path.read_bytes())
        except FileNotFoundError:
            return []

    def remove(self, idents: Collection[str]) -> None:
        """Forget what has been resolved; raises OSError."""
        with self._locked() as fd:
            left = [one for one in _parse(os.pread(fd, 1 << 30, 0)) if one.ident not in idents]
            temporary = self._path.with_name(f"new-{_FILE}")
            text = "".join(json.dumps(asdict(one)) + "\n" for one in left)
            with temporary.open("w", encoding="ascii") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            if left:
                temporary.rename(self._path)
            else:
                temporary.unlink()
                self._path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """Hold the file that has the name, not one that was replaced meanwhile."""
        while True:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(fd), self._path.stat()):
                        yield fd
                        return
            finally:
                os.close(fd)


def _parse(data: bytes) -> list[Conflict]:
    found = []
    for line in data.splitlines():
        with contextlib.suppress(ValueError, TypeError):
            found.append(Conflict(**json.loads(line)))
    return found
