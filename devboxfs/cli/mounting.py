"""`devboxfs mount`, `umount`, `sync` and `status`."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import click

from devboxfs.cli.group import CODES, Seams, commands
from devboxfs.cli.terminal import Octal, Size, Waiter, tell
from devboxfs.config import (
    CONSISTENCIES,
    DEFAULT_CACHE_SIZE,
    DEFAULT_JOURNAL_LIMIT,
    DEFAULT_TIMEOUT,
    OFFLINE_FSYNCS,
    ExitCode,
    MountConfig,
    MountError,
    Places,
)

__all__ = ["mount", "status", "sync", "umount"]

# Mount points are plain text to click: its type for paths looks at them, which may hang.


@commands.command(epilog=CODES)
@click.argument("name")
@click.argument("mountpoint")
@click.option("--foreground", "-f", is_flag=True, help="Stay; log to standard error.")
@click.option("--embedded", is_flag=True, help="Use the embedded engine, whatever is configured.")
@click.option("--profile", metavar="NAME", help="A profile of the configuration file.")
@click.option("--endpoint", metavar="URL", help="The address of the control plane.")
@click.option("--kubeconfig", metavar="PATH", help="The credential.")
@click.option("--context", metavar="NAME", help="A context of the kubeconfig.")
@click.option("--namespace", metavar="NAME", help="The workspace's, if not the context's.")
@click.option(
    "--transport",
    metavar="RUNG",
    help="The way to the box: helper, agent, exec; by default the best that opens.",
)
@click.option(
    "--allow-weak",
    is_flag=True,
    help="Write also by a way without the helper: changes are then neither atomic nor certain.",
)
@click.option("--mkdir", is_flag=True, help="Make the mount point if it does not exist.")
@click.option("--allow-other", is_flag=True, help="Let other users of this machine in.")
@click.option("--read-only", is_flag=True, help="Refuse all changes.")
@click.option(
    "--local",
    multiple=True,
    metavar="PATTERN",
    help="Directories that live on this machine and never cross the link: node_modules, .venv. As "
    "often as needed.",
)
@click.option(
    "--exclude",
    multiple=True,
    metavar="PATTERN",
    help="Names that do not exist in the mount. As often as needed; patterns are those of "
    ".gitignore, without !.",
)
@click.option("--subpath", metavar="DIR", help="Mount this directory of the workspace.")
@click.option("--uid", type=int, metavar="NUMBER", help="Show everything as this user's.")
@click.option("--gid", type=int, metavar="NUMBER", help="Show everything as this group's.")
@click.option(
    "--umask", type=Octal(), default=0, metavar="OCTAL", help="Permission bits not to show."
)
@click.option(
    "--transform-symlinks",
    is_flag=True,
    help="Let absolute symbolic links into the workspace work here: show them relative.",
)
@click.option(
    "--offline-fsync",
    type=click.Choice(OFFLINE_FSYNCS),
    default="fail",
    show_default=True,
    help="fsync while the box cannot be reached: EIO, or the journal on this machine will do.",
)
@click.option(
    "--consistency",
    type=click.Choice(CONSISTENCIES),
    default="relaxed",
    show_default=True,
    help="strict: changes of names, and closing a changed file, wait for the box.",
)
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
    type=Size(),
    default=DEFAULT_CACHE_SIZE,
    show_default="4G",
    help="Disk space for contents of files.",
)
@click.option(
    "--journal-limit",
    type=Size(),
    default=DEFAULT_JOURNAL_LIMIT,
    show_default="8G",
    help="Disk space for changes that are not in the box yet.",
)
@click.option("--log-file", metavar="PATH", help="Where to log; a size-limited file.")
@click.option("--debug", is_flag=True, help="Log every operation.")
@click.pass_obj
def mount(
    seams: Seams,
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
    kubeconfig = options.pop("kubeconfig")
    _make_paths_absolute()
    options["subpath"] = _subpath(options["subpath"])
    lexical = Path(os.path.abspath(mountpoint))
    config = MountConfig(
        name=name,
        mountpoint=lexical,
        state_dir=places.state,
        cache_dir=places.cache,
        data_dir=places.data,
        runtime_dirs=places.runtime,
        log_file=Path(os.path.abspath(log_file)) if log_file else None,
        kubeconfig=Path(os.path.abspath(os.path.expanduser(kubeconfig))) if kubeconfig else None,
        **options,
    )
    config = dataclasses.replace(
        config, mountpoint=preflight.real_mountpoint(mountpoint, make=make)
    )
    preflight.check(config, tell)
    if config.foreground:
        from devboxfs import logs

        logs.configure(file=config.log_file, stream=sys.stderr, debug=config.debug)
        # Nothing that the user may want to unmount is kept busy.
        os.chdir("/")
        daemon.run_here(config, seams.serve, daemon.Silent())
        return
    waiter = Waiter(f"mounting {name}")
    try:
        daemon.start_in_background(
            config, waiter.say, command=seams.command or daemon.COMMAND, tick=waiter.tick
        )
    finally:
        waiter.clear()
    tell(f"{name} is mounted on {config.mountpoint}.")


def _subpath(given: str | None) -> str:
    """Return the directory to mount; "" means all of the workspace, which is never what is given.

    A variable that is not set would give that.
    """
    if given == "":
        raise MountError("--subpath names no directory; leave it out to mount all.", ExitCode.USAGE)
    return "" if given is None else given.rstrip("/") or given


def _make_paths_absolute() -> None:
    """Let paths of the environment mean the same in the daemon, whose directory is another."""
    for name in ("KUBECONFIG", "DEVBOX_KUBECONFIG", "DEVBOX_API_KEY_FILE", "DEVBOX_CONFIG"):
        if value := os.environ.get(name):
            parts = (
                part and os.path.abspath(os.path.expanduser(part)) for part in value.split(":")
            )
            os.environ[name] = ":".join(parts)


@commands.command(epilog=CODES)
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
    waiter = Waiter("flushing")
    leave = unmounting.detach if force else unmounting.umount
    try:
        told = leave(mounted, places, timeout=timeout, on_progress=waiter.progress)
    finally:
        waiter.clear()
    tell(told)


@commands.command(epilog=CODES)
@click.argument("mountpoint")
def sync(mountpoint: str) -> None:
    """Return when everything pending in MOUNTPOINT is on the box's disk."""
    from devboxfs import overview, unmounting

    waiter = Waiter("syncing")
    mounted = overview.require_mount(mountpoint)
    try:
        told = unmounting.sync(mounted, Places.from_environment(), on_progress=waiter.progress)
    finally:
        waiter.clear()
    tell(told)


@commands.command(epilog=CODES)
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
        tell(line)
