"""Shown inode numbers and change times that outlive a mount: git never re-hashes because of us."""

from __future__ import annotations

from pathlib import Path

import trio

from devboxfs.writeback.identities import Identities, Identity
from sealos_devbox import Attributes

__all__ = ["Numbers"]

WRITE_EVERY = 1.0
"""Seconds between two writes.

What is lost with the daemon costs git a second look, nothing else.
"""


class Numbers:
    """A vfs.table.InodeNumbers over writeback.identities."""

    def __init__(self, identities: Identities) -> None:
        self._identities = identities
        self._known = identities.load()
        self._unsaved: dict[int, Identity] = {}

    @classmethod
    def open(cls, directory: Path) -> Numbers:
        """Open the table of one box."""
        return cls(Identities.open(directory))

    def shown(self, attr: Attributes) -> tuple[int, int] | None:
        """Return (shown ino, shown ctime_ns) of what a flush of ours left in this state."""
        known = self._known.get(attr.ino)
        if known is None:
            return None
        if (known.box_ctime_ns, known.box_mtime_ns, known.box_size) != (
            attr.ctime_ns,
            attr.mtime_ns,
            attr.size,
        ):
            return None
        return known.shown_ino, known.shown_ctime_ns

    def next_ino(self) -> int:
        """Return a number that was never given before."""
        return self._identities.next_ino()

    def record(self, attr: Attributes, shown_ino: int, shown_ctime_ns: int) -> None:
        """Remember how an object is shown; written behind."""
        identity = Identity(
            attr.ino, attr.ctime_ns, attr.mtime_ns, attr.size, shown_ino, shown_ctime_ns
        )
        self._known[attr.ino] = self._unsaved[attr.ino] = identity

    async def run(self) -> None:
        """Write behind until cancelled."""
        while True:
            await trio.sleep(WRITE_EVERY)
            if self._unsaved:
                unsaved, self._unsaved = self._unsaved, {}
                await trio.to_thread.run_sync(self._identities.record, list(unsaved.values()))

    def close(self) -> None:
        """Write what is left and close."""
        if self._unsaved:
            self._identities.record(list(self._unsaved.values()))
            self._unsaved = {}
        self._identities.close()
