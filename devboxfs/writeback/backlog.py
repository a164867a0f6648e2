"""The journals of mounts that died: found, brought to the box, or left for later."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from pathlib import Path

from devboxfs.core.records import RecordError
from devboxfs.writeback.journal_directory import (
    JournalInUseError,
    find_journals,
    remove_doomed,
)
from devboxfs.writeback.limits import Limits
from devboxfs.writeback.one_journal import OneJournal
from devboxfs.writeback.seams import ConflictReport, Link, Listener, Settled
from sealos_devbox import Version

__all__ = ["Backlog", "Collector"]

_log = logging.getLogger(__name__)


class Backlog:
    """Of one box, beside the journal that a mount uses."""

    def __init__(self, directory: Path, limits: Limits, monotonic: Callable[[], float]) -> None:
        self.journals: list[OneJournal] = []
        """Oldest first; this process owns them."""
        self.unreadable: list[tuple[Path, str]] = []
        """Those that this version cannot read, and why: they are left as they are."""
        self.set_aside: list[tuple[Path, int]] = []
        """Those that the box does not take (errno): they stay, and are tried at the next mount, or
        when somebody asks for it."""
        self.damage: list[str] = []
        """What of journals could not be read, and where it is kept."""
        self._directory = directory
        self._limits = limits
        self._monotonic = monotonic

    def find(self, but: Path | None = None) -> None:
        """Adopt what is there and has no owner, `but` one that is in use by this process."""
        self.unreadable.clear()
        remove_doomed(self._directory)
        for path in find_journals(self._directory):
            if path == but:
                continue
            try:
                one = OneJournal.adopt(path, self._limits, self._monotonic)
            except JournalInUseError:
                continue
            except RecordError as error:
                _log.error("journal %s is left alone: %s", path, error)
                self.unreadable.append((path, str(error)))
                continue
            self.journals.append(one)
            if one.journal.damage is not None:
                self.damage.append(one.journal.damage)

    async def bring_in(self, link: Link, listener: Listener) -> None:
        """Bring each to the box and finish it, or set it aside."""
        for one in list(self.journals):
            try:
                await one.flush_with(link, listener, drain=True)
            except OSError as error:
                self.set_aside.append((one.journal.path, error.errno or errno.EIO))
            finally:
                one.close()
                self.journals.remove(one)

    def close(self) -> None:
        """Let go of those that were not brought in."""
        for one in self.journals:
            one.close()


class Collector:
    """Hears what became of operations before there is a file system to hear it."""

    def __init__(self) -> None:
        self.conflicts: list[ConflictReport] = []

    def settled(self, batch: Settled) -> None:
        """Keep the conflicts."""
        self.conflicts += batch.conflicts

    async def base_content(self, version: Version, size: int) -> bytes | None:
        """Know nothing: there is no cache yet."""
        return None

    def trouble(self, errno: int, oids: set[int]) -> None:
        """Do nothing: recovery raises it."""
