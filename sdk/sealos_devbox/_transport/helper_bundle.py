"""Where the built helpers are: one static executable per processor, carried by the package."""

from __future__ import annotations

import os
import platform
import stat
from pathlib import Path

from sealos_devbox.errors import CapabilityError

__all__ = ["HELPER_DIRECTORY", "architecture_of", "find_helper"]

HELPER_DIRECTORY = Path(__file__).resolve().parent.parent / "_helper"

# What `uname -m` says, by the name that Go uses.
_MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


def architecture_of(machine: str) -> str:
    """Return Go's name for what `uname -m` says; CapabilityError for one without a helper."""
    try:
        return _MACHINES[machine.lower()]
    except KeyError:
        raise CapabilityError(
            f"There is no box helper for the processor {machine!r}; "
            "there are helpers for x86_64 and aarch64."
        ) from None


def find_helper(architecture: str | None = None, *, directory: Path = HELPER_DIRECTORY) -> Path:
    """Return the helper's executable for an architecture (Go's name), by default this machine's.

    Raises CapabilityError, saying how to build it, when the package carries none.
    """
    if architecture is None:
        if platform.system() != "Linux":
            raise CapabilityError(
                f"Boxes run on Linux: the embedded engine does not work on {platform.system()}."
            )
        architecture = architecture_of(platform.machine())
    helper = directory / f"devbox-helper-linux-{architecture}"
    try:
        mode = helper.stat().st_mode
    except FileNotFoundError:
        raise CapabilityError(
            f"The box helper is missing: {helper} does not exist.",
            hint="In a checkout, `make build` builds it; an installed package that lacks it is "
            "broken and has to be installed again.",
        ) from None
    if not stat.S_ISREG(mode):
        raise CapabilityError(f"The box helper {helper} is not a file.")
    if not os.access(helper, os.X_OK):
        raise CapabilityError(
            f"The box helper {helper} is not executable.",
            hint=f"chmod +x {helper}",
        )
    return helper
