"""The times that a run of operations gives to directories. Pure.

The box sets them when it applies the changes, so they are told what they are last.
"""

from __future__ import annotations

from collections.abc import Mapping

from devboxfs.core.ops import Kind, Operation
from devboxfs.core.path_tables import move, swap
from sealos_devbox import RENAME_EXCHANGE

__all__ = ["DirectoryTimes"]


class DirectoryTimes:
    """Which directories were changed, and when; by the names that they have by now."""

    def __init__(self, owed: Mapping[bytes, int]) -> None:
        """`owed`: times that directories still have to be given."""
        self._times = {path: (time_ns, False) for path, time_ns in owed.items()}
        """By path: the time, and whether it was set explicitly."""

    def __contains__(self, path: bytes) -> bool:
        return path in self._times

    def result(self, floors: Mapping[bytes, int]) -> dict[bytes, int]:
        """Return the time for each directory; one that nobody set never goes below its floor."""
        return {
            path: time_ns if explicit else max(time_ns, floors.get(path, time_ns))
            for path, (time_ns, explicit) in self._times.items()
        }

    def note(self, op: Operation) -> None:
        """Note which directories the operation changes, and follow them to their new names."""
        kind = op.kind
        if kind is Kind.WRITE or kind is Kind.TRUNCATE or kind is Kind.SETXATTR:
            return
        times = self._times
        if kind is Kind.SETATTR:
            if op.is_dir and op.mtime_ns is not None and op.path in times:
                times[op.path] = (op.mtime_ns, True)
            return
        times[op.path.rpartition(b"/")[0]] = (op.time_ns, False)
        if kind is Kind.RENAME:
            times[op.other.rpartition(b"/")[0]] = (op.time_ns, False)
            if op.flags & RENAME_EXCHANGE:
                if op.is_dir or op.replaced_is_dir:
                    swap(times, op.other, op.path)
            elif op.is_dir:
                times.pop(op.path, None)
                move(times, op.other, op.path)
        elif kind is Kind.MKDIR:
            times[op.path] = (op.time_ns, False)
        elif kind is Kind.RMDIR:
            times.pop(op.path, None)
