"""The daemon's process: how it starts in the background, ends on signals, and is told apart.

The background is a fresh interpreter, not a fork of the command: no lock, thread or buffer of the
command lives on in it. The command and it share a socket: the command sends the configuration, the
daemon what the person who waits should know, then that the mount serves or why it does not.

Seam: `Serve` is what runs inside. It is `devboxfs.mount.serve`; a test passes its own, to
`run_here` directly, and for the background by a program of its own that calls `background_main`
and whose command line it hands to `start_in_background`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, NoReturn, Protocol

from devboxfs import logs
from devboxfs.config import ExitCode, MountConfig, MountError

if TYPE_CHECKING:
    import trio

    from devboxfs.control import ControlServer

__all__ = [
    "COMMAND",
    "Reporter",
    "Serve",
    "Silent",
    "background_main",
    "run_here",
    "start_in_background",
]

_logger = logging.getLogger(__name__)

Serve = Callable[[MountConfig, Callable[[], None], "ControlServer"], Awaitable[None]]

# -P: a module in the directory where the command was typed must not shadow one of ours.
COMMAND: Final = (sys.executable, "-P", "-m", "devboxfs", "--daemon")
GRACE: Final = 30.0
"""How much longer than the mount's own timeout a start may be silent; guessed."""


class Reporter(Protocol):
    """Hears how a start goes."""

    def say(self, text: str, passing: bool) -> None:
        """Tell the person who waits; a passing text replaces the one before."""
        ...

    def ready(self) -> None:
        """Note that the mount serves."""
        ...


class Silent:
    """Reports nothing: in the foreground the log says it all."""

    def say(self, text: str, passing: bool) -> None:
        """Leave it to the log."""

    def ready(self) -> None:
        """Leave it to the log."""


# ------------------------------------------------------------------------------ inside the daemon


def run_here(config: MountConfig, serve: Serve | None, reporter: Reporter) -> None:
    """Serve the mount in this process until it is unmounted.

    Raises:
        MountError: it could not start, or not be unmounted cleanly.
    """
    import trio

    if serve is None:
        serve = _real_serve()
    try:
        failure = trio.run(_run, config, serve, reporter)
    except KeyboardInterrupt:
        raise MountError("Interrupted.", ExitCode.INTERRUPTED) from None
    if isinstance(failure, MountError):
        raise failure
    if failure is not None:
        raise MountError(
            f"The daemon for {config.mountpoint} met a bug of its own "
            f"({type(failure).__name__}); its log has the details.",
            ExitCode.DIED,
        ) from failure


def _real_serve() -> Serve:
    try:
        from devboxfs.mount import serve
    except ImportError as error:
        _logger.exception("the daemon cannot be loaded")
        raise MountError(
            f"A part of the daemon cannot be loaded ({error}): install it again with "
            "pip install 'sealos-devbox[fuse]'.",
            ExitCode.NO_FUSE,
        ) from error
    return serve


async def _run(config: MountConfig, serve: Serve, reporter: Reporter) -> Exception | None:
    import trio

    from devboxfs.control import ControlServer

    control = ControlServer(config, reporter.say)
    try:
        control.bind()
    except MountError as error:
        return error

    def ready() -> None:
        control.serving = True
        _logger.info("%s is mounted on %s", config.name, config.mountpoint)
        reporter.ready()

    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()
        nursery.start_soon(control.listen)
        await nursery.start(_watch_signals, config, control, scope)
        with scope:
            try:
                await serve(config, ready, control)
            except MountError as error:
                failure = error
            except Exception as error:
                _logger.exception("the mount of %s ended by a bug", config.name)
                failure = error
        if scope.cancelled_caught:
            failure = MountError("The start was interrupted.", ExitCode.INTERRUPTED)
        await control.drain()
        nursery.cancel_scope.cancel()
    _logger.info("the daemon for %s ends", config.mountpoint)
    return failure


async def _watch_signals(
    config: MountConfig,
    control: ControlServer,
    scope: trio.CancelScope,
    task_status: trio.TaskStatus[None],
) -> None:
    """Unmount on the first signal; on the second end at once, the journal keeping what is left."""
    import trio

    numbers = [signal.SIGTERM, signal.SIGINT]
    if config.foreground:
        # The terminal is gone. In the background it is ignored, see _detach.
        numbers.append(signal.SIGHUP)
    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(*numbers) as received:
            task_status.started()
            stopping = False
            async for number in received:
                name = signal.Signals(number).name
                if stopping:
                    _logger.warning("%s again: ending with the journal as it is", name)
                    _leave(control)
                stopping = True
                _logger.info("%s: unmounting", name)
                nursery.start_soon(_stop, config, control, scope)


async def _stop(config: MountConfig, control: ControlServer, scope: trio.CancelScope) -> None:
    """Do what `umount` does, within bounds; a mount that is in use stays."""
    import trio

    if not control.handles("unmount"):
        scope.cancel()
        return
    with trio.move_on_after(config.timeout + GRACE):
        try:
            result = await control.invoke("unmount", {"timeout": config.timeout}, lambda _: None)
        except MountError as error:
            control.say(f"{error.text} A second signal ends the daemon; its journal stays.")
        except OSError as error:
            control.say(
                f"{config.mountpoint} cannot be unmounted ({error.strerror}). "
                "A second signal ends the daemon; its journal stays."
            )
        except Exception:
            _logger.exception("unmounting on a signal failed")
        else:
            if result.get("operations"):
                control.say(f"{result['operations']} operations stay in the journal.")
        return
    _logger.error("unmounting took too long: ending with the journal as it is")
    _leave(control)


def _leave(control: ControlServer) -> NoReturn:
    """End without unwinding. The mount stays, dead, rather than become an empty directory."""
    control.remove_socket()
    logging.shutdown()
    os._exit(ExitCode.PENDING)


class _ToCommand:
    """Reports through the socket to the command that started this daemon."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection: socket.socket | None = connection

    def send(self, **message: object) -> None:
        if self._connection is None:
            return
        try:
            self._connection.send(json.dumps(message).encode() + b"\n", socket.MSG_DONTWAIT)
        except BlockingIOError:
            # A command that is stopped: it will miss a passing text. Its end is all it needs.
            return
        except OSError:
            self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def say(self, text: str, passing: bool) -> None:
        self.send(say=text, passing=passing)

    def ready(self) -> None:
        self.send(ready=True)
        self.close()


def background_main(descriptor: int, serve: Serve | None = None) -> NoReturn:
    """Be the daemon that `start_in_background` started; `descriptor` is its socket."""
    connection = socket.socket(fileno=descriptor)
    connection.set_inheritable(False)
    reporter = _ToCommand(connection)
    with connection.makefile("r", encoding="utf-8") as lines:
        config = MountConfig.from_json(lines.readline())
        _detach()
        reporter.send(pid=os.getpid())
        if not lines.readline():
            # The command has given up already, before it could know whom to tell.
            sys.exit(ExitCode.INTERRUPTED)
    code = ExitCode.OK
    try:
        logs.configure(
            file=config.log_file or config.default_log_file, stream=None, debug=config.debug
        )
        run_here(config, serve, reporter)
    except MountError as error:
        _logger.log(
            logging.INFO if error.exit_code == ExitCode.INTERRUPTED else logging.ERROR,
            "%s",
            error.text,
        )
        reporter.send(failed=error.text, exit_code=error.exit_code)
        code = ExitCode(error.exit_code)
    sys.exit(code)


def _detach() -> None:
    """Leave the command's session and process tree. Before any thread and before trio."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


# ------------------------------------------------------------------------- inside the command


def start_in_background(
    config: MountConfig,
    say: Callable[[str, bool], None],
    *,
    command: Sequence[str] = COMMAND,
    grace: float = GRACE,
    tick: Callable[[float], None] = lambda _seconds: None,
) -> int:
    """Start the daemon and wait until the mount serves; returns the daemon's process id.

    `tick` is called about once a second with the time that has passed.

    Raises:
        MountError: it could not start; the text is the daemon's own, and so is the code.
    """
    log = config.log_file or config.default_log_file
    output = logs.open_log(log)
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            # Name and mount point are for `ps`; what counts goes through the socket.
            arguments = [str(theirs.fileno()), config.name, os.fspath(config.mountpoint)]
            try:
                starter = subprocess.Popen(
                    [*command, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=[theirs.fileno()],
                )
            finally:
                os.close(output)
        with contextlib.suppress(BrokenPipeError):
            ours.sendall(config.to_json().encode() + b"\n")
        waiting = _Waiting(ours, patience=config.timeout + grace, say=say, tick=tick)
        try:
            pid = waiting.until_ready()
        except (EOFError, ConnectionError):
            raise MountError(
                f"The daemon ended before {config.mountpoint} was mounted; see its log {log}.",
                ExitCode.DIED,
            ) from None
        except TimeoutError:
            waiting.give_up()
            raise MountError(
                f"{config.mountpoint} was not mounted: the daemon said nothing for "
                f"{config.timeout + grace:.0f} s; see its log {log}.",
                ExitCode.NO_ANSWER,
            ) from None
        except KeyboardInterrupt:
            waiting.give_up()
            raise
        finally:
            # It forks and ends at once; a failed start ends too.
            starter.wait()
        return pid


class _Waiting:
    """The command's view of a start."""

    def __init__(
        self,
        connection: socket.socket,
        *,
        patience: float,
        say: Callable[[str, bool], None],
        tick: Callable[[float], None],
    ) -> None:
        self._connection = connection
        self._patience = patience
        self._say = say
        self._tick = tick
        self._buffer = b""
        self._pidfd = -1

    def until_ready(self) -> int:
        """Return the daemon's pid; raises MountError, EOFError or TimeoutError."""
        pid = 0
        while True:
            message = json.loads(self._line())
            if "pid" in message:
                pid = int(message["pid"])
                with contextlib.suppress(OSError):
                    self._pidfd = os.pidfd_open(pid)
                self._connection.sendall(b"go\n")
            elif "say" in message:
                self._say(message["say"], message["passing"])
            elif "failed" in message:
                raise MountError(message["failed"], message["exit_code"])
            elif "ready" in message:
                return pid

    def _line(self) -> bytes:
        started = time.monotonic()
        self._connection.settimeout(1.0)
        while b"\n" not in self._buffer:
            try:
                data = self._connection.recv(65536)
            except TimeoutError:
                passed = time.monotonic() - started
                self._tick(passed)
                if passed > self._patience:
                    raise
                continue
            if not data:
                raise EOFError
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def give_up(self) -> None:
        """Ask the daemon to end; it had not served anything yet."""
        if self._pidfd >= 0:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)
