"""`devboxfs run`: a command in the box, in the directory that the current one shows.

What was changed here is in the box before it starts, and what it changed there is visible here when
this returns. Exit codes are those of `devboxfs box exec`, and 126 as in shells.
"""

from __future__ import annotations

import os
import posixpath
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from devboxfs import control_client, mountpoint
from devboxfs.cli.boxes import parse_variables
from devboxfs.cli.executing import (
    CANNOT_RUN,
    NO_PROGRAM,
    OutputError,
    join,
    raw_terminal,
    write_all,
)
from devboxfs.cli.group import commands
from devboxfs.cli.service import failures
from devboxfs.cli.terminal import Waiter, complain
from devboxfs.config import ExitCode, MountConfig, MountError, Places
from devboxfs.control_client import ControlClient
from devboxfs.core.path_mapping import PathMapper

__all__ = ["run"]

NOT_EXECUTABLE = 126


@dataclass(frozen=True, slots=True)
class _Where:
    """The current directory, on both sides."""

    config: MountConfig
    box_uid: str
    top: str
    """The box's path of what is mounted."""
    directory: str
    """The box's path of the current directory."""


@commands.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="A variable; as often as needed.")
@click.option(
    "--tty/--no-tty",
    "-t",
    default=None,
    help="Give it a terminal; by default if the input and the output are one.",
)
@click.option(
    "--raw", is_flag=True, help="Leave the box's paths in the output instead of the mount's."
)
@click.argument("command", nargs=-1, required=True)
def run(command: tuple[str, ...], env: tuple[str, ...], tty: bool | None, raw: bool) -> int:
    """Run COMMAND in the box, in the directory that the current one shows: devboxfs run -- make.

    What is pending is brought into the box first; what the command changed is visible in the mount
    afterwards. Input, output and signals go through. The exit code is the command's, 128 and the
    signal that ended it, 127 when the box has no such program, 126 when its user may not execute
    it, and 125 when devboxfs could not run it.
    """
    import trio

    given = parse_variables(env)
    if tty is None:
        tty = sys.stdin.isatty() and sys.stdout.isatty()
    try:
        here, mount = _current_mount()
        with _daemon(mount) as client:
            where = _translate(client, here, mount)
            _bring_over(client, mount)
            try:
                with failures():
                    code = trio.run(_run, where, command, given, tty, raw)
            except OutputError as error:
                code = error.end()
            _catch_up(client)
            return code
    except MountError as error:
        complain(error.text)
        return CANNOT_RUN
    except OSError as error:
        complain(f"The command was not run: {error.strerror or error}.")
        return CANNOT_RUN


def _current_mount() -> tuple[Path, mountpoint.Mount]:
    from devboxfs import overview

    try:
        here = Path.cwd()
    except OSError as error:
        raise MountError(
            f"The current directory cannot be used: {error.strerror}.", ExitCode.NOT_MOUNTED
        ) from None
    try:
        return here, overview.require_mount(here)
    except MountError as error:
        raise MountError(
            f"{error.text} Change into the mount of the box that is to run it, or use "
            "devboxfs box exec.",
            ExitCode.NOT_MOUNTED,
        ) from None


def _daemon(mount: mountpoint.Mount) -> ControlClient:
    client = control_client.connect_mount(mount.path, Places.from_environment().runtime)
    if client is None:
        raise MountError(
            f"The daemon of {mount.path} cannot be asked: see devboxfs status.",
            ExitCode.NO_ANSWER,
        )
    return client


def _translate(client: ControlClient, here: Path, mount: mountpoint.Mount) -> _Where:
    from devboxfs.vfs.local_nodes import LOCAL_INO

    said: dict[str, Any] = client.call("configuration")
    config = MountConfig.from_json(said["config"])
    if here.stat().st_ino >= LOCAL_INO:
        raise MountError(
            f"{here} is a directory of this machine (--local), which the box does not have.",
            ExitCode.MOUNT_POINT,
        )
    top = posixpath.normpath(posixpath.join(said["root"], config.subpath))
    directory = posixpath.normpath(posixpath.join(top, here.relative_to(mount.path).as_posix()))
    return _Where(config, str(said["box_uid"]), top, directory)


def _bring_over(client: ControlClient, mount: mountpoint.Mount) -> None:
    waiter = Waiter("flushing")
    try:
        client.call("sync", on_progress=waiter.progress, silence=30)
    except OSError as error:
        raise MountError(
            f"What is pending in {mount.path} does not get into the box "
            f"({error.strerror}), so the command was not run: see devboxfs status.",
            ExitCode.PENDING,
        ) from None
    finally:
        waiter.clear()


def _catch_up(client: ControlClient) -> None:
    try:
        told = client.call("catch-up", silence=30)["caught_up"]
    except (MountError, OSError):
        told = False
    if not told:
        complain("The box does not answer: the mount may not show yet what the command did.")


async def _run(
    where: _Where, command: Sequence[str], env: dict[str, str], tty: bool, raw: bool
) -> int:
    from devboxfs.mount import service_of
    from sealos_devbox import AsyncDevbox, BoxPermissionError, CommandNotFoundError

    async with AsyncDevbox(service_of(where.config)) as devbox:
        # The block of the box is not entered: that is for boxes that end with it.
        found = await devbox.get(where.config.name)
        try:
            if found.uid != where.box_uid:
                raise MountError(
                    f"The box {found.name} that is found from here is another one than is "
                    "mounted: is another service configured?",
                    ExitCode.NO_BOX,
                )
            size = shutil.get_terminal_size()
            async with found.open_process(
                command,
                cwd=where.directory,
                env={**_place(where.directory), **env},
                terminal=(size.lines, size.columns) if tty else None,
            ) as process:
                mapping = None if raw else _Mapping(where, tty=tty)
                with raw_terminal(wanted=tty):
                    await join(process, tty=tty, change=None if mapping is None else mapping.change)
                    if mapping is not None:
                        mapping.finish()
                if process.exit_code is not None:
                    return process.exit_code
                return 128 + (process.signal or 0)
        except CommandNotFoundError as error:
            complain(str(error))
            return NO_PROGRAM
        except BoxPermissionError as error:
            complain(f"The box's user may not execute {command[0]}: {error.strerror}.")
            return NOT_EXECUTABLE
        finally:
            await found.aclose()


def _place(directory: str) -> dict[str, str]:
    """Return the variable that names it; none for a name that is no text, as variables are."""
    try:
        directory.encode()
    except UnicodeEncodeError:
        return {}
    return {"PWD": directory}


class _Mapping:
    """Writes the box's paths in the output as the mount's."""

    def __init__(self, where: _Where, *, tty: bool) -> None:
        there, here = os.fsencode(where.top), os.fsencode(where.config.mountpoint)
        self._mappers = {
            name: PathMapper(there, here, wait=not tty) for name in ("stdout", "stderr")
        }

    def change(self, name: str, data: bytes) -> bytes:
        """Return what to pass on of a stream's output."""
        return self._mappers[name].feed(data)

    def finish(self) -> None:
        """Pass on what was kept."""
        for number, mapper in enumerate(self._mappers.values(), 1):
            write_all(number, mapper.finish())
