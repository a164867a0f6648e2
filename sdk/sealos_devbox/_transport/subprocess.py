"""A byte channel over the standard streams of a local process.

The pipes are read and written directly, without the runtimes' stream layers: those copy everything
once more and read 64 KiB at a time. No task runs here: whoever waits for output also takes the
standard error that came meanwhile, so that a process which complains at length is never stopped by
a full pipe.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final, Self

import anyio
import anyio.abc
import anyio.lowlevel

from sealos_devbox.errors import ConnectError

__all__ = ["SubprocessChannel"]

PIPE_SIZE: Final = 1024 * 1024
"""The kernel's default limit for one pipe of an ordinary user (pipe(7), pipe-max-size)."""
SMALL_READ: Final = 64 * 1024
LARGE_READ: Final = 1024 * 1024
STDERR_KEPT: Final = 8192
KILL_WAIT: Final = 5.0
EXIT_WAIT: Final = 0.5


class SubprocessChannel:
    """Bytes to a process's standard input and from its standard output.

    The process gets a session of its own: Ctrl-C in the terminal is for the program that uses the
    channel, which may still have something to say to the box.
    """

    can_half_close = True

    def __init__(
        self, process: anyio.abc.Process, stdin: int, stdout: int, stderr: int, grace: float
    ) -> None:
        self._process = process
        self._stdin: int | None = stdin
        self._stdout: int | None = stdout
        self._stderr: int | None = stderr
        self._grace = grace
        self._read_size = SMALL_READ
        self._closed = False
        self._gone: anyio.Event | None = None
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._selector = selectors.DefaultSelector()
        self._selector.register(stdout, selectors.EVENT_READ)
        self._selector.register(stderr, selectors.EVENT_READ)

    @classmethod
    async def open(
        cls,
        argv: Sequence[str | bytes | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        grace: float = 5.0,
    ) -> Self:
        """Start a process. `grace`: seconds it has to end by itself once its input was closed.

        Raises ConnectError when it cannot be started.
        """
        descriptors: list[int] = []
        try:
            for _ in range(3):
                descriptors += os.pipe()
            in_read, in_write, out_read, out_write, err_read, err_write = descriptors
            for ours in (in_write, out_read, err_read):
                os.set_blocking(ours, False)
            for pipe in (in_write, out_read):
                _enlarge(pipe)
            # Shielded: starting is short, and a process that nobody has got hold of is not ended.
            with anyio.CancelScope(shield=True):
                process = await anyio.open_process(
                    [os.fsdecode(argument) for argument in argv],
                    stdin=in_read,
                    stdout=out_write,
                    stderr=err_write,
                    env=env,
                    cwd=cwd,
                    start_new_session=True,
                )
        except BaseException as error:
            for descriptor in descriptors:
                os.close(descriptor)
            if isinstance(error, OSError):
                raise ConnectError(f"cannot start {os.fsdecode(argv[0])}: {error}") from error
            raise
        for theirs in (in_read, out_write, err_write):
            os.close(theirs)
        return cls(process, in_write, out_read, err_read, grace)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Of the process, negative for a signal; None while it runs."""
        return self._process.returncode

    async def send(self, data: bytes) -> None:
        """Send all of data."""
        await anyio.lowlevel.checkpoint()
        view = memoryview(data)
        while view:
            if self._stdin is None:
                raise anyio.ClosedResourceError
            try:
                view = view[os.write(self._stdin, view) :]
            except BlockingIOError:
                await anyio.wait_writable(self._stdin)
            except OSError as error:
                raise anyio.BrokenResourceError from error

    async def receive(self) -> bytes:
        """Return at least one byte, as soon as there is any."""
        await anyio.lowlevel.checkpoint()
        while True:
            if self._stdout is None:
                raise anyio.ClosedResourceError
            try:
                data = os.read(self._stdout, self._read_size)
            except BlockingIOError:
                self._take_stderr()
                await anyio.wait_readable(self._selector.fileno())
                continue
            except OSError as error:
                raise anyio.BrokenResourceError from error
            if not data:
                break
            # A large buffer is only worth its allocation while it gets filled.
            self._read_size = LARGE_READ if len(data) >= SMALL_READ else SMALL_READ
            return data
        with anyio.move_on_after(EXIT_WAIT):
            # What it said last, and its exit status, belong to the reason of the end.
            await self._process.wait()
        self._take_stderr()
        raise anyio.EndOfStream

    async def send_eof(self) -> None:
        """Close the process's standard input."""
        await anyio.lowlevel.checkpoint()
        self._close_stdin()

    async def aclose(self) -> None:
        """Close the process's input, wait for its end, kill it when it does not come.

        Always reaps it.
        """
        if self._gone is not None:
            await self._gone.wait()
            return
        self._gone = anyio.Event()
        try:
            self._close_stdin()
            with anyio.CancelScope(shield=True):
                await self._end()
        finally:
            self._take_stderr()
            self._close_outputs()
            self._gone.set()

    def diagnostics(self) -> str:
        """Return the end of what the process wrote to its standard error, and how it ended."""
        self._take_stderr()
        text = b"".join(self._tail)[-STDERR_KEPT:].decode(errors="backslashreplace").strip()
        code = self._process.returncode
        if code is None:
            return text
        ending = f"exit status {code}" if code >= 0 else f"killed by signal {-code}"
        return f"{text}\n({ending})" if text else ending

    async def _end(self) -> None:
        # Its output is not read any more, but not closed either: a helper in the middle of a batch
        # that writes its answer into a closed pipe would be killed by SIGPIPE before the batch is
        # finished.
        with anyio.move_on_after(self._grace):
            await self._process.wait()
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with anyio.move_on_after(KILL_WAIT):
            await self._process.wait()

    def _close_stdin(self) -> None:
        descriptor, self._stdin = self._stdin, None
        if descriptor is not None:
            anyio.notify_closing(descriptor)
            os.close(descriptor)

    def _close_outputs(self) -> None:
        if self._stdout is None:
            return
        anyio.notify_closing(self._selector.fileno())
        self._selector.close()
        os.close(self._stdout)
        self._stdout = None
        if self._stderr is not None:
            os.close(self._stderr)
            self._stderr = None

    def _take_stderr(self) -> None:
        while self._stderr is not None:
            try:
                data = os.read(self._stderr, SMALL_READ)
            except BlockingIOError:
                return
            if not data:
                self._selector.unregister(self._stderr)
                os.close(self._stderr)
                self._stderr = None
                return
            self._tail.append(data)
            self._tail_size += len(data)
            while self._tail_size - len(self._tail[0]) >= STDERR_KEPT:
                self._tail_size -= len(self._tail.popleft())


def _enlarge(pipe: int) -> None:
    if sys.platform == "linux":
        import fcntl

        # EPERM: the user has used up what is allowed to all of their pipes; a small one works too.
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
