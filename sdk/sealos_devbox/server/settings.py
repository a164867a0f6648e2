"""What the engine can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["EngineSettings"]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Everything the engine has to know, with the times of a fast region as defaults."""

    data_dir: Path
    """Boxes are in `boxes` below it, what belongs to the engine itself in `engine`."""
    token: str | None = None
    """The credential of every client; None: kept in the data directory, made on first use."""
    lineage: Literal["M", "R"] = "M"
    """Which of the two control planes in production is spoken: M is the current one."""
    namespace: str = "ns-devbox"
    domain: str = "localhost"
    """The region's domain: public addresses and the SSH host are made of it."""
    start_seconds: float = 0.2
    """How long a box is Pending before it runs."""
    commit_seconds: float = 0.5
    """How long stopping takes: the commit of the box's file system."""
    restart_seconds: float = 30.0
    """How long restart tries to start the box again; past it the box stays stopped."""
    sample_seconds: float = 5.0
    """Between two looks at the processes of the boxes."""
    kept_samples: int = 17_280
    """For each box; a day at the default interval."""
    exec_protocols: tuple[str, ...] = ("v5.channel.k8s.io", "v4.channel.k8s.io")
    """Of `pods/exec`, the preferred first; a container runtime that is reached directly has v4."""
    max_file_size: int = 104_857_600
    """The largest file that a box's agent takes."""
    public_routes: bool = False
    """True: templates and the agent's health need no credential, as in production."""
    admin: bool = False
    """True: faults can be injected through `/_engine/faults`."""

    def __post_init__(self) -> None:
        for name in ("start_seconds", "commit_seconds", "restart_seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} cannot be negative")
        if self.sample_seconds <= 0 or self.kept_samples < 1:
            raise ValueError("sample_seconds and kept_samples must be positive")
        if self.token is not None and len(self.token) < 8:
            raise ValueError("the token must have at least 8 characters")
