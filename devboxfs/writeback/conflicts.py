"""Where our version goes when the box's keeps the name."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from devboxfs.core.extents import ExtentMap
from devboxfs.core.planned import UNKNOWN_SIZE
from devboxfs.writeback.contents import store_image

__all__ = ["ConflictStore", "conflict_name", "is_conflict_name"]

_NAME_MAX = 255
_MARK = b".conflict-"


def is_conflict_name(path: bytes) -> bool:
    """Whether conflict_name() made the name: another conflict there is not given a further one."""
    return _MARK in path.rpartition(b"/")[2]


def conflict_name(path: bytes, time_ns: int, number: int) -> bytes | None:
    """Return the path for our copy of what is at `path`; None when it belongs in the store.

    `number` tells apart what happens in the same second. In a git directory the copy would be a ref
    or an object; a name that is too long cannot be made.
    """
    parent, _, name = path.rpartition(b"/")
    if any(part == b".git" or part.endswith(b".git") for part in parent.split(b"/")):
        return None
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:64] or "local"
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time_ns // 1_000_000_000))
    suffix = f"-{number}" if number else ""
    kept = name + _MARK + f"{host}-{moment}{suffix}".encode()
    if len(kept) > _NAME_MAX or len(parent) + 1 + len(kept) > 4095:
        return None
    return parent + b"/" + kept if parent else kept


class ConflictStore:
    """`conflicts/` of a box.

    Contents that could not be kept in the box, each with what is known of it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def keep(self, path: bytes, image: ExtentMap, *, errno: int, time_ns: int, seq: int) -> Path:
        """Write an image down and return the file; raises OSError.

        Beside it, in a file ending in ``.json``, is which path it was and which ranges are ours
        when only parts of the file are.
        """
        self._directory.mkdir(mode=0o700, exist_ok=True)
        name = os.fsdecode(path.rpartition(b"/")[2][:80])  # a name here is bytes, too
        target = self._directory / f"{seq}-{name}"
        extents = [(extent.offset, extent.length) for extent in image.extents()]
        facts = {
            "path": os.fsdecode(path),
            "errno": errno,
            "time_ns": time_ns,
            "size": image.size if image.size < UNKNOWN_SIZE else None,
            "whole": image.base_size == 0,
            "ranges": extents,
        }
        temporary = target.with_name(f"new-{seq}")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            store_image(image, fd)
            os.fsync(fd)
        finally:
            os.close(fd)
        sidecar = target.with_name(target.name + ".json")
        sidecar.write_text(json.dumps(facts), encoding="utf-8", errors="surrogateescape")
        temporary.rename(target)
        return target

    def list(self) -> Iterable[Path]:
        """Return the files that are kept."""
        if not self._directory.is_dir():
            return []
        return sorted(
            path
            for path in self._directory.iterdir()
            if path.suffix != ".json" and not path.name.startswith("new-")
        )
