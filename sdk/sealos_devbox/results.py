"""What a command in a box came to."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["CommandResult"]


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a command came to."""

    stdout_bytes: bytes = field(repr=False)
    stderr_bytes: bytes = field(repr=False)
    exit_code: int | None
    """None when a signal ended it."""
    signal: int | None
    """The signal that ended it, if one did."""
    duration: float
    """Seconds, as seen from here."""

    @property
    def stdout(self) -> str:
        """Output as text; bytes that are not UTF-8 are kept by surrogateescape."""
        return self.stdout_bytes.decode("utf-8", "surrogateescape")

    @property
    def stderr(self) -> str:
        """Error output as text; bytes that are not UTF-8 are kept by surrogateescape."""
        return self.stderr_bytes.decode("utf-8", "surrogateescape")

    @property
    def ok(self) -> bool:
        """Whether the exit code is 0."""
        return self.exit_code == 0
