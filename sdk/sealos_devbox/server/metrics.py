"""What boxes used over time: sampled from their processes, kept on disk, bounded.

::

    <data>/engine/metrics/<uid>     records of 16 bytes, little-endian, oldest first:
                                    time (float64, epoch), CPU (float32), memory (float32)

CPU and memory are percent of the box's limits. A file that holds twice as many records as are kept
is cut to the newest; a record that a crash left incomplete is cut off before the next is written.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sealos_devbox.server.processes import Processes, Usage
from sealos_devbox.server.settings import EngineSettings

if TYPE_CHECKING:
    from sealos_devbox.server.engine import Box

__all__ = ["Metrics", "Sample"]

_RECORD = struct.Struct("<dff")


@dataclass(frozen=True, slots=True)
class Sample:
    """Use at one moment, in percent of the limits."""

    time: float
    cpu: float
    memory: float


class Metrics:
    """Samples of every box. Every method blocks."""

    def __init__(
        self,
        directory: Path,
        processes: Processes,
        settings: EngineSettings,
        clock: Callable[[], float],
    ) -> None:
        self._directory = directory / "metrics"
        self._processes = processes
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._last: dict[str, tuple[float, float]] = {}  # uid -> (time, CPU seconds)
        self._sampled = float("-inf")

    def sample(self, boxes: list[Box], *, if_older_than: float = 0.0) -> None:
        """Take a sample of the running boxes, unless one was taken so many seconds ago."""
        with self._lock:
            now = self._clock()
            if now - self._sampled < if_older_than:
                return
            self._sampled = now
            usage = self._processes.usage()
            for box in boxes:
                if box.running:
                    self._append(box, now, usage.get(box.uid, Usage(0.0, 0, 0)))
                else:
                    self._last.pop(box.uid, None)

    def series(self, uid: str, start: float, end: float) -> list[Sample]:
        """Return the samples of a box between two times, both included."""
        try:
            raw = (self._directory / uid).read_bytes()
        except FileNotFoundError:
            return []
        whole = raw[: len(raw) // _RECORD.size * _RECORD.size]
        return [
            Sample(*values) for values in _RECORD.iter_unpack(whole) if start <= values[0] <= end
        ]

    def forget(self, uid: str) -> None:
        """Remove what is kept of a box."""
        (self._directory / uid).unlink(missing_ok=True)
        self._last.pop(uid, None)

    def _append(self, box: Box, now: float, usage: Usage) -> None:
        before = self._last.get(box.uid)
        self._last[box.uid] = (now, usage.cpu_seconds)
        cpu = 0.0
        if before is not None and now > before[0]:
            # Processes that ended took their times with them: never below zero.
            used = max(0.0, usage.cpu_seconds - before[1])
            cpu = 100.0 * used / (now - before[0]) / (box.record.cpu_millis / 1000)
        memory = 100.0 * usage.memory_bytes / (box.record.memory_mib * 2**20)
        self._directory.mkdir(mode=0o700, exist_ok=True)
        path = self._directory / box.uid
        with path.open("ab") as file:
            torn = file.tell() % _RECORD.size
            if torn:
                file.truncate(file.tell() - torn)
            file.write(_RECORD.pack(now, cpu, memory))
            size = file.tell()
        if size >= 2 * self._settings.kept_samples * _RECORD.size:
            kept = path.read_bytes()[-self._settings.kept_samples * _RECORD.size :]
            fresh = path.with_suffix(".new")
            fresh.write_bytes(kept)
            os.replace(fresh, path)
