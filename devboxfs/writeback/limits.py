"""The numbers of the durable path, in one value."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["INLINE_LIMIT", "Limits"]

INLINE_LIMIT = 256 * 1024
"""Data up to this size is written inside the record, in trio's thread: a thread hop costs more."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds. The defaults are those of DESIGN.md section 4."""

    journal_bytes: int = 4 << 30
    """Segments and spools together; an append that would pass it is ENOSPC."""
    segment_bytes: int = 16 << 20
    spool_bytes: int = 64 << 20
    """A spool file that has grown to this gets a successor, so that space comes back piecemeal."""
    batch_operations: int = 1000
    """Operations on names."""
    batch_bytes: int = 8 << 20
    file_bytes: int = 64 << 20
    """A file that was closed is published in one piece up to this size, though the batch be larger
    than `batch_bytes`."""
    batches_in_flight: int = 4
    quiet: float = 0.020
    longest_wait: float = 0.250
    open_grace: float = 2.0
    """How long a new file that is still open is kept back."""
    unsent_bytes: int = 16 << 20
    """Writers wait above this, or above `unsent_seconds` of the measured bandwidth, if that is
    more."""
    unsent_seconds: float = 5.0
    retry_first: float = 1.0
    retry_last: float = 30.0
    durable_after: float = 10.0
    """When nothing has been sent for so long, the box is asked to make durable what it has, so that
    the journal can let go of it."""
