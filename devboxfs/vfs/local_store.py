"""Where the trees are that live on this machine (`--local`).

One directory per tree below the box's state, named by a digest of the tree's path in the workspace:
`<digest>/path` holds that path, `<digest>/tree` is the tree. So a tree is found by one look at the
disk, whoever made it, and several mounts of the box share what is there. A tree that the workspace
has no directory for stays; removing `<digest>` removes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LocalStore", "TreeSize"]


@dataclass(frozen=True, slots=True)
class TreeSize:
    """What one tree holds."""

    path: bytes
    """In the workspace."""
    stored_at: Path
    bytes: int
    """Disk space."""
    files: int
    complete: bool
    """Whether all of it was counted in time."""


class LocalStore:
    """The trees of one box; paths are those of the workspace."""

    def __init__(self, directory: Path) -> None:
        self._directory = os.fsencode(directory)
        self._paths: dict[bytes, bytes] = {}
        """Path by digest, as of `_read_at`."""
        self._read_at = -1

    def _holder(self, path: bytes) -> bytes:
        digest = hashlib.blake2s(path, digest_size=16).hexdigest().encode()
        return self._directory + b"/" + digest

    def place(self, path: bytes) -> bytes:
        """Return where the tree with this path is, or would be."""
        return self._holder(path) + b"/tree"

    def exists(self, path: bytes) -> bool:
        """Whether there is such a tree."""
        return os.path.isdir(self.place(path))

    def prepare(self, path: bytes) -> bytes:
        """Make the place for a tree, without the tree; returns where that is to be made."""
        holder = self._holder(path)
        os.makedirs(holder, mode=0o700, exist_ok=True)
        with open(holder + b"/path", "wb") as file:
            file.write(path)
        self._read_at = -1
        return holder + b"/tree"

    def dispose(self, path: bytes) -> None:
        """Take the place of a tree away if there is no tree in it."""
        holder = self._holder(path)
        with contextlib.suppress(OSError):
            if not os.path.lexists(holder + b"/tree"):
                os.unlink(holder + b"/path")
                os.rmdir(holder)
        self._read_at = -1

    def paths(self) -> list[bytes]:
        """List the paths of all trees."""
        try:
            changed = os.stat(self._directory).st_mtime_ns
        except OSError:
            return []
        if changed != self._read_at or time.time_ns() - changed < 1_000_000_000:
            # Within a tick of the clock another change leaves the same time.
            paths = {}
            for digest in os.listdir(self._directory):
                with contextlib.suppress(OSError), open(self._path_file(digest), "rb") as file:
                    paths[digest] = file.read()
            self._paths, self._read_at = paths, changed
        return [path for path in self._paths.values() if self.exists(path)]

    def _path_file(self, digest: bytes) -> bytes:
        return self._directory + b"/" + digest + b"/path"

    def below(self, path: bytes) -> list[bytes]:
        """List the paths of the trees below a directory, at any depth."""
        prefix = path + b"/" if path else b""
        return [found for found in self.paths() if found.startswith(prefix)]

    def names(self, path: bytes) -> list[bytes]:
        """List the names of the trees whose parent is this directory."""
        start = len(path) + 1 if path else 0
        return [rest for found in self.below(path) if b"/" not in (rest := found[start:])]

    def moved(self, old: bytes, new: bytes) -> None:
        """Have the trees below a directory follow it, over what was left there by an earlier one.

        What was left is kept aside, under a path that no directory can have.
        """
        for path in self.below(old):
            there = new + path[len(old) :]
            if self.exists(there):
                self._set_aside(there)
            self.dispose(there)
            place = self.prepare(there)
            os.rename(self.place(path), place)
            self.dispose(path)

    def _set_aside(self, path: bytes) -> None:
        aside = b"/".join((b"", path, str(time.time_ns()).encode()))
        os.rename(self.place(path), self.prepare(aside))

    def sizes(self, seconds: float) -> list[TreeSize]:
        """Measure the trees, for as long as is given in all; blocks."""
        until = time.monotonic() + seconds
        return [self._size(path, until) for path in sorted(self.paths())]

    def _size(self, path: bytes, until: float) -> TreeSize:
        place = self.place(path)
        used = files = 0
        complete = True
        waiting = [place]
        while waiting:
            if time.monotonic() > until:
                complete = False
                break
            with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):
                        info = entry.stat(follow_symlinks=False)
                        used += info.st_blocks * 512 // max(1, info.st_nlink)
                        files += 1
                        if entry.is_dir(follow_symlinks=False):
                            used += info.st_blocks * 512 - info.st_blocks * 512 // info.st_nlink
                            waiting.append(entry.path)
        return TreeSize(path, Path(os.fsdecode(place)), used, files, complete)
