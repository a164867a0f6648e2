"""The command that all others belong to, and what they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Final

import click

from devboxfs.config import EXIT_CODES

if TYPE_CHECKING:
    from devboxfs.daemon import Serve

__all__ = ["CODES", "MODULES", "Seams", "commands"]

MODULES: Final = {
    "autostart": "settings",
    "box": "executing",
    "completion": "completion",
    "conflicts": "trouble",
    "doctor": "examining",
    "env": "settings",
    "journal": "trouble",
    "login": "login",
    "logout": "login",
    "metrics": "monitoring",
    "mount": "mounting",
    "pods": "monitoring",
    "ports": "settings",
    "profiles": "login",
    "release": "releases",
    "resolve": "trouble",
    "run": "running",
    "runtimes": "region",
    "serve": "serving",
    "status": "mounting",
    "sync": "mounting",
    "templates": "region",
    "umount": "mounting",
}
"""Which module of this package has a command, with all that is below it, once it is imported."""


@dataclass(frozen=True, slots=True)
class Seams:
    """What a test replaces, see daemon.py; None is the real thing."""

    serve: Serve | None = None
    command: Sequence[str] | None = None


CODES = "\b\nExit codes:\n" + "\n".join(
    f"  {int(code):>3}  {meaning}" for code, meaning in EXIT_CODES.items()
)


class Commands(click.Group):
    """Imports the module of a command when that is asked for: the others cost a third more."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in MODULES:
            import_module(f"devboxfs.cli.{MODULES[cmd_name]}")  # it adds its commands here
        return super().get_command(ctx, cmd_name)


@click.group(cls=Commands, epilog=CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sealos-devbox", prog_name="devboxfs")
def commands() -> None:
    """Mount a Sealos Devbox as a local directory."""
