"""`devboxfs journal`, `conflicts` and `resolve`: what is not in the box, or there twice."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from devboxfs.cli.group import CODES, commands
from devboxfs.cli.terminal import tell
from devboxfs.config import ExitCode, MountError, Places

__all__ = ["conflicts", "journal", "resolve"]


@commands.group(epilog=CODES)
def journal() -> None:
    """Show and manage changes that are not in their box yet."""


@journal.command("list", epilog=CODES)
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_journals(name: str | None, as_json: bool) -> None:
    """List what waits, of all boxes or of NAME: a box, a mount point or a journal."""
    from devboxfs import journal_commands

    found = journal_commands.find(Places.from_environment(), name)
    if as_json:
        click.echo(json.dumps([one.to_json() for one in found], indent=2))
        return
    for line in journal_commands.render(found):
        tell(line)


@journal.command(epilog=CODES)
@click.argument("name", required=False)
def retry(name: str | None) -> None:
    """Send what waits again now, also what the box has refused."""
    from devboxfs import journal_commands

    for line in journal_commands.retry(Places.from_environment(), name):
        tell(line)


@journal.command(epilog=CODES)
@click.argument("name")
@click.argument("directory")
def export(name: str, directory: str) -> None:
    """Write the files that wait in journal NAME into DIRECTORY, with a list of all changes."""
    from devboxfs import journal_commands

    target = Path(os.path.abspath(directory))
    tell(journal_commands.export(Places.from_environment(), name, target))


@journal.command(epilog=CODES)
@click.argument("name")
@click.argument("paths", nargs=-1)
@click.option("--yes", is_flag=True, help="Do not ask.")
def discard(name: str, paths: tuple[str, ...], yes: bool) -> None:
    """Give up what waits in journal NAME; it is lost.

    Of a journal that a mount owns, only what the box refuses is given up: all of it, or what
    concerns PATHS.
    """
    from devboxfs import journal_commands

    places = Places.from_environment()
    found = journal_commands.find(places, name)
    if not yes:
        if not sys.stdin.isatty():
            raise MountError("Nothing is given up without --yes.", ExitCode.USAGE)
        for line in journal_commands.render(found):
            tell(line)
        click.confirm("Give that up for good?", abort=True)
    tell(journal_commands.discard(places, found, list(paths)))


@commands.command(epilog=CODES)
@click.argument("mountpoint", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def conflicts(mountpoint: str | None, as_json: bool) -> None:
    """List what was changed here and in the box, of all mounts or of MOUNTPOINT."""
    from devboxfs import conflict_commands, overview

    only = None if mountpoint is None else overview.require_mount(mountpoint).path
    found = conflict_commands.find(Places.from_environment(), only)
    if as_json:
        click.echo(json.dumps(conflict_commands.to_json(found), indent=2))
        return
    for line in conflict_commands.render(found):
        tell(line)


@commands.command(epilog=CODES)
@click.argument("arguments", nargs=-1, required=True, metavar="[MOUNTPOINT] PATH")
@click.option(
    "--keep",
    type=click.Choice(["mine", "theirs", "both"]),
    help="Which version gets the name; the other is removed, unless both are kept.",
)
@click.option("--diff", "show", is_flag=True, help="Only show how our version differs.")
def resolve(arguments: tuple[str, ...], keep: str | None, show: bool) -> None:
    """Settle a conflict: PATH is that of either version, in the mount or relative to MOUNTPOINT.

    Without --keep it shows the difference and asks.
    """
    from devboxfs import conflict_commands, overview

    if len(arguments) > 2:
        raise click.UsageError("Give one PATH, and before it perhaps the MOUNTPOINT.")
    path = arguments[-1]
    mount = overview.require_mount(arguments[0])
    one, conflict = conflict_commands.pick(Places.from_environment(), mount, path)
    if show or keep is None:
        click.echo(conflict_commands.diff(one, conflict), nl=False)
        if show:
            return
        if not sys.stdin.isatty():
            raise MountError("Say which to keep: --keep mine, theirs or both.", ExitCode.USAGE)
        keep = click.prompt("Keep", type=click.Choice(["mine", "theirs", "both"]), default="both")
    tell(conflict_commands.resolve(one, conflict, str(keep)))
