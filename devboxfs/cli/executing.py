"""`devboxfs box exec`: a command in a box, with its streams joined to this one's.

Its exit code is the command's, or 128 and the signal that ended it. Where devboxfs itself could not
run it, that is 125, and 127 when the box has no such program, as with containers' commands.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from devboxfs.cli.boxes import box, parse_variables
from devboxfs.cli.service import ServiceChoice, box_argument, failures, service_options
from devboxfs.cli.terminal import complain
from devboxfs.config import MountError

if TYPE_CHECKING:
    from sealos_devbox import AsyncProcess

__all__ = [
    "CANNOT_RUN",
    "NO_PROGRAM",
    "OutputError",
    "exec_command",
    "join",
    "raw_terminal",
    "run_joined",
    "write_all",
]

CANNOT_RUN = 125
NO_PROGRAM = 127
_PIECE = 64 * 1024
_AFTER_INTERRUPT = 2
"""How many interrupts it takes to be rid of a command that does not end by the first."""


class OutputError(Exception):
    """The output of a command cannot be passed on; it was ended for that."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"The output cannot be written: {error.strerror}. The command was ended.")
        self._error = error

    def end(self) -> int:
        """Say so, and return the exit code.

        A reader that went away, as `head` does, is no failure: a local command would be ended by a
        signal, and say nothing.
        """
        if self._error.errno == errno.EPIPE:
            return 128 + signal.SIGPIPE
        complain(str(self))
        return CANNOT_RUN


@box.command(
    "exec",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@service_options
@click.option("--cwd", metavar="DIRECTORY", help="In the box; by default its workspace.")
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="A variable; as often as needed.")
@click.option(
    "--tty/--no-tty",
    "-t",
    default=None,
    help="Give it a terminal; by default if the input and the output are one.",
)
@click.option("--transport", metavar="WAY", help="auto, helper, agent, exec, or a plugin's name.")
@box_argument
@click.argument("command", nargs=-1, required=True)
def exec_command(
    box: str,
    command: tuple[str, ...],
    service: ServiceChoice,
    cwd: str | None,
    env: tuple[str, ...],
    tty: bool | None,
    transport: str | None,
) -> int:
    """Run COMMAND in BOX: devboxfs box exec BOX -- COMMAND ARGUMENTS.

    Input, output and signals go through. The exit code is the command's, 128 and the signal that
    ended it, 127 when the box has no such program, and 125 when devboxfs could not run it.
    """
    import trio

    if command[0] == "--":  # left there, since the name of the box ended the options
        command = command[1:]
    if not command:
        raise click.UsageError("Name the command to run.")
    given = parse_variables(env)
    if tty is None:
        tty = sys.stdin.isatty() and sys.stdout.isatty()
    try:
        with failures():
            return trio.run(run_joined, service, transport, box, command, cwd, given, tty)
    except OutputError as error:
        return error.end()
    except MountError as error:
        complain(error.text)
        return CANNOT_RUN


async def run_joined(
    service: ServiceChoice,
    transport: str | None,
    name: str,
    command: Sequence[str],
    cwd: str | None,
    env: dict[str, str],
    tty: bool,
) -> int:
    """Run a command in a box and return the exit code for it."""
    from sealos_devbox import AsyncDevbox, CommandNotFoundError

    async with AsyncDevbox(service.config(transport=transport)) as devbox:
        # The block of the box is not entered: that is for boxes that end with it.
        found = await devbox.get(name)
        size = shutil.get_terminal_size()
        terminal = (size.lines, size.columns) if tty else None
        try:
            async with found.open_process(
                command, cwd=cwd, env=env or None, terminal=terminal
            ) as process:
                with raw_terminal(wanted=tty):
                    await join(process, tty=tty)
                if process.exit_code is not None:
                    return process.exit_code
                return 128 + (process.signal or 0)
        except CommandNotFoundError as error:
            complain(str(error))
            return NO_PROGRAM
        finally:
            await found.aclose()


async def join(
    process: AsyncProcess, *, tty: bool, change: Callable[[str, bytes], bytes] | None = None
) -> None:
    """Pass output on until the command ends, and input and signals meanwhile.

    `change` is given the name of the stream and its output, and returns what to pass on of it.
    """
    import trio

    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_feed, process)
        nursery.start_soon(_pass_signals, process, tty)
        try:
            while (received := await process.receive()) is not None:
                where, data = received
                if change is not None:
                    data = change(where, data)
                await trio.to_thread.run_sync(
                    write_all, 1 if where == "stdout" else 2, data, abandon_on_cancel=True
                )
        except Exception as error:  # noqa: BLE001 - carried out of the group, which would wrap it
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _feed(process: AsyncProcess) -> None:
    import trio

    from sealos_devbox import DevboxError

    try:
        while True:
            try:
                # Not the stream that trio has for it: that makes the terminal non-blocking, also
                # for the shell that comes after this.
                await trio.lowlevel.wait_readable(0)
            except PermissionError:
                await trio.lowlevel.checkpoint()  # a plain file, which is always readable
            data = os.read(0, _PIECE)
            if not data:
                await process.send_eof()
                return
            await process.send(data)
    except OSError:
        pass  # it closed its input, or ours is closed
    except DevboxError:
        pass  # who receives the output hears of it as well


async def _pass_signals(process: AsyncProcess, tty: bool) -> None:
    import trio

    from sealos_devbox import DevboxError

    interrupts = 0
    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGWINCH)
    with trio.open_signal_receiver(*wanted) as received:
        async for number in received:
            try:
                if number == signal.SIGWINCH:
                    if tty:
                        size = shutil.get_terminal_size()
                        await process.resize(size.lines, size.columns)
                    continue
                interrupts += 1
                if interrupts > _AFTER_INTERRUPT:
                    await process.send_signal(signal.SIGKILL)
                else:
                    await process.send_signal(number)
            except DevboxError:
                pass  # it has ended, or the way to it is lost: both are noticed elsewhere


def write_all(descriptor: int, data: bytes) -> None:
    """Write to a descriptor that blocks; raises OutputError when it takes no more."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError as error:
        raise OutputError(error) from error


@contextmanager
def raw_terminal(*, wanted: bool) -> Iterator[None]:
    """Let the terminal in the box do what this one does otherwise: echo, lines, signals."""
    if not (wanted and sys.stdin.isatty()):
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(0)
    tty.setraw(0, termios.TCSADRAIN)  # what was typed already is for the command
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
