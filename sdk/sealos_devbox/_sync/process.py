# Generated from _async/process.py by sdk/tools/generate_sync.py (make generate).
"""Running commands in a box."""

from __future__ import annotations

from types import TracebackType
from typing import Literal, Self

from sealos_devbox._async.process import AsyncProcess
from sealos_devbox._sync._portal import Portal

__all__ = ["Process"]


class Process:
    """A command in a box, running from when the ``with`` block is entered.

    Leaving the block kills it, with every process of its group that is still there. Its output has
    to be received: it waits when nobody does.
    """

    def __init__(self, portal: Portal, asynchronous: AsyncProcess) -> None:
        self._portal = portal
        self._async = asynchronous

    @property
    def exit_code(self) -> int | None:
        """The exit code after `receive` returned None; None when a signal ended the command."""
        return self._async.exit_code

    @property
    def signal(self) -> int | None:
        """The signal that ended the command, after `receive` returned None."""
        return self._async.signal

    def receive(self) -> tuple[Literal["stdout", "stderr"], bytes] | None:
        """Return the next output, as soon as there is any; None when the command has ended.

        Raises CommandNotFoundError when the box has no such program.
        """
        return self._portal.call(self._async.receive)

    def send(self, data: str | bytes) -> None:
        """Write to the command's standard input."""
        self._portal.call(self._async.send, data)

    def send_eof(self) -> None:
        """Close the command's standard input."""
        self._portal.call(self._async.send_eof)

    def send_signal(self, number: int) -> None:
        """Send a signal to the command's process group."""
        self._portal.call(self._async.send_signal, number)

    def resize(self, rows: int, columns: int) -> None:
        """Tell the command's terminal its size."""
        self._portal.call(self._async.resize, rows, columns)

    def __enter__(self) -> Self:
        self._entered = self._portal.enter(self._async)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._entered.leave()
