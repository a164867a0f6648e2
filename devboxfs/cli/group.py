"""The command that all others belong to, and what they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from devboxfs.config import EXIT_CODES

if TYPE_CHECKING:
    from devboxfs.daemon import Serve

__all__ = ["CODES", "Seams", "commands"]


@dataclass(frozen=True, slots=True)
class Seams:
    """What a test replaces, see daemon.py; None is the real thing."""

    serve: Serve | None = None
    command: Sequence[str] | None = None


CODES = "\b\nExit codes:\n" + "\n".join(
    f"  {int(code):>3}  {meaning}" for code, meaning in EXIT_CODES.items()
)


@click.group(epilog=CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sealos-devbox", prog_name="devboxfs")
def commands() -> None:
    """Mount a Sealos Devbox as a local directory."""
