"""The command `devboxfs`: arguments, texts, exit codes.

====  ====================================================================
  0   done; after umount and sync: everything is in the box
  1   it failed for a reason that has no number of its own
  2   wrong arguments
  3   the mount point cannot be used
  4   this machine, or this user, cannot mount with FUSE
  5   the mount point is mounted already, or its mount is in use
  6   there is no such box, or it cannot be used
  7   changes are not in the box yet; the journal keeps them
  8   no box is mounted there
  9   no answer in time
 10   the daemon ended unexpectedly
130   interrupted from the keyboard
====  ====================================================================

The table is `config.EXIT_CODES`, which `--help` shows. Nothing heavy is imported before it is
needed: `status` starts without trio.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from devboxfs.config import (
    DEFAULT_CACHE_SIZE,
    DEFAULT_JOURNAL_LIMIT,
    DEFAULT_TIMEOUT,
    EXIT_CODES,
    ExitCode,
    MountConfig,
    MountError,
    Places,
    parse_size,
)

if TYPE_CHECKING:
    from devboxfs.daemon import Serve

__all__ = ["main"]


@dataclass(frozen=True, slots=True)
class _Seams:
    """What a test replaces, see daemon.py; None is the real thing."""

    serve: Serve | None = None
    command: Sequence[str] | None = None


def main(
    argv: Sequence[str] | None = None,
    *,
    serve: Serve | None = None,
    daemon_command: Sequence[str] | None = None,
) -> NoReturn:
    """Run the command and exit."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    sys.exit(_run(arguments, _Seams(serve, daemon_command)))


def _run(arguments: list[str], seams: _Seams) -> int:
    try:
        outcome = commands.main(arguments, prog_name="devboxfs", standalone_mode=False, obj=seams)
    except click.ClickException as error:
        error.show()
        return int(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _complain("Interrupted.")
        return ExitCode.INTERRUPTED
    except MountError as error:
        _complain(error.text)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output is gone; what is still buffered must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    return int(outcome or 0)


# ------------------------------------------------------------------------------------- terminal


def _printable(text: str) -> str:
    """Make text safe to print: names of files may hold any byte, control characters among them."""
    kept = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return kept.encode("utf-8", "backslashreplace").decode()


def _tell(text: str) -> None:
    click.echo(_printable(text))


def _complain(text: str) -> None:
    click.echo(f"devboxfs: {_printable(text)}", err=True)


class _Waiter:
    """Texts while something goes on: lasting ones as lines, passing ones in place on a terminal."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._terminal = sys.stderr.isatty()
        self._shown = False

    def say(self, text: str, passing: bool) -> None:
        """Show a text of the daemon."""
        if not passing:
            self.clear()
            _tell(text)
        elif self._terminal:
            self._show(text)

    def tick(self, seconds: float) -> None:
        """Show that time passes."""
        if self._terminal and not self._shown:
            self._show(f"{self._what} ({seconds:.0f} s)")
            self._shown = False

    def progress(self, left: dict[str, Any]) -> None:
        """Show what is left to be sent."""
        from devboxfs.overview import plural, size

        if self._terminal and "operations" in left:
            count, held = int(left["operations"]), int(left.get("bytes") or 0)
            self._show(f"{self._what}: {plural(count, 'operation')}, {size(held)} left")

    def _show(self, text: str) -> None:
        click.echo(f"\r\x1b[K{_printable(text)}", err=True, nl=False)
        self._shown = True

    def clear(self) -> None:
        """Take a passing text away."""
        if self._terminal:
            click.echo("\r\x1b[K", err=True, nl=False)
        self._shown = False


class _Size(click.ParamType[int]):
    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_size(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


# ------------------------------------------------------------------------------------- commands

# Mount points are plain text to click: its type for paths looks at them, which may hang.

_CODES = "\b\nExit codes:\n" + "\n".join(
    f"  {int(code):>3}  {meaning}" for code, meaning in EXIT_CODES.items()
)


@click.group(epilog=_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sealos-devbox", prog_name="devboxfs")
def commands() -> None:
    """Mount a Sealos Devbox as a local directory."""


@commands.command(epilog=_CODES)
@click.argument("name")
@click.argument("mountpoint")
@click.option("--foreground", "-f", is_flag=True, help="Stay; log to standard error.")
@click.option("--embedded", is_flag=True, help="Use the embedded engine, whatever is configured.")
@click.option("--mkdir", is_flag=True, help="Make the mount point if it does not exist.")
@click.option("--allow-other", is_flag=True, help="Let other users of this machine in.")
@click.option("--read-only", is_flag=True, help="Refuse all changes.")
@click.option(
    "--timeout",
    type=float,
    default=DEFAULT_TIMEOUT,
    show_default=True,
    metavar="SECONDS",
    help="How long an operation may wait for the box.",
)
@click.option(
    "--cache-size",
    type=_Size(),
    default=DEFAULT_CACHE_SIZE,
    show_default="4G",
    help="Disk space for contents of files.",
)
@click.option(
    "--journal-limit",
    type=_Size(),
    default=DEFAULT_JOURNAL_LIMIT,
    show_default="8G",
    help="Disk space for changes that are not in the box yet.",
)
@click.option("--log-file", metavar="PATH", help="Where to log; a size-limited file.")
@click.option("--debug", is_flag=True, help="Log every operation.")
@click.pass_obj
def mount(
    seams: _Seams,
    /,
    name: str,
    mountpoint: str,
    **options: Any,  # noqa: ANN401 - MountConfig declares and checks them
) -> None:
    """Mount the box NAME on the directory MOUNTPOINT.

    Returns when the mount serves; a daemon goes on in the background.
    """
    from devboxfs import daemon, preflight

    places = Places.from_environment()
    make, log_file = options.pop("mkdir"), options.pop("log_file")
    lexical = Path(os.path.abspath(mountpoint))
    config = MountConfig(
        name=name,
        mountpoint=lexical,
        state_dir=places.state,
        cache_dir=places.cache,
        data_dir=places.data,
        runtime_dirs=places.runtime,
        log_file=Path(os.path.abspath(log_file)) if log_file else None,
        **options,
    )
    config = dataclasses.replace(
        config, mountpoint=preflight.real_mountpoint(mountpoint, make=make)
    )
    preflight.check(config, _tell)
    if config.foreground:
        from devboxfs import logs

        logs.configure(file=config.log_file, stream=sys.stderr, debug=config.debug)
        # Nothing that the user may want to unmount is kept busy.
        os.chdir("/")
        daemon.run_here(config, seams.serve, daemon.Silent())
        return
    waiter = _Waiter(f"mounting {name}")
    try:
        daemon.start_in_background(
            config, waiter.say, command=seams.command or daemon.COMMAND, tick=waiter.tick
        )
    finally:
        waiter.clear()
    _tell(f"{name} is mounted on {config.mountpoint}.")


@commands.command(epilog=_CODES)
@click.argument("mountpoint")
@click.option("--force", is_flag=True, help="Detach it even if it is in use or does not answer.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1),
    metavar="SECONDS",
    help="How long flushing may take; what is left stays in the journal.",
)
def umount(mountpoint: str, force: bool, timeout: float | None) -> None:
    """Bring everything into the box, then unmount MOUNTPOINT."""
    from devboxfs import overview, unmounting

    places = Places.from_environment()
    mounted = overview.require_mount(mountpoint)
    waiter = _Waiter("flushing")
    leave = unmounting.detach if force else unmounting.umount
    try:
        told = leave(mounted, places, timeout=timeout, on_progress=waiter.progress)
    finally:
        waiter.clear()
    _tell(told)


@commands.command(epilog=_CODES)
@click.argument("mountpoint")
def sync(mountpoint: str) -> None:
    """Return when everything pending in MOUNTPOINT is on the box's disk."""
    from devboxfs import overview, unmounting

    waiter = _Waiter("syncing")
    mounted = overview.require_mount(mountpoint)
    try:
        told = unmounting.sync(mounted, Places.from_environment(), on_progress=waiter.progress)
    finally:
        waiter.clear()
    _tell(told)


@commands.command(epilog=_CODES)
@click.argument("mountpoint", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(mountpoint: str | None, as_json: bool) -> None:
    """Show mounts, what is pending in them, and journals that wait for a mount."""
    from devboxfs import overview

    only = None if mountpoint is None else overview.require_mount(mountpoint).path
    found = overview.collect(Places.from_environment(), only=only)
    if only is not None and not found.mounts:
        raise MountError(f"{only} was unmounted meanwhile.", ExitCode.NOT_MOUNTED)
    if as_json:
        import json

        click.echo(json.dumps(found.to_json(), indent=2))
        return
    for line in overview.render(found):
        _tell(line)
