"""Deadlines of public calls, and idle timeouts of transfers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import anyio

from sealos_devbox.errors import DeadlineExceededError

__all__ = ["IDLE_TIMEOUT", "TIMEOUT", "Progress", "deadline", "run_all", "run_while_advancing"]

TIMEOUT = 30.0
"""Seconds for a call that moves little data: what a person waits before giving up (a guess)."""
IDLE_TIMEOUT = 60.0
"""Seconds without any progress after which a transfer is given up (a guess)."""

ResultT = TypeVar("ResultT")


@contextmanager
def deadline(timeout: float | None, what: str) -> Iterator[None]:
    """Raise DeadlineExceededError when the block takes longer; None for no limit."""
    if timeout is None:
        yield
        return
    with anyio.move_on_after(timeout) as scope:
        yield
    if scope.cancelled_caught:
        raise DeadlineExceededError(f"{what} took longer than {timeout:g} s.")


class Progress:
    """Counts what has been moved. May be advanced from a thread."""

    def __init__(self) -> None:
        self.count = 0

    def advance(self, amount: int) -> None:
        """Note that so many bytes were moved."""
        self.count += amount


async def run_while_advancing(
    call: Callable[[], Awaitable[ResultT]],
    progress: Progress,
    idle_timeout: float | None,
    what: str,
) -> ResultT:
    """Await the call; cancel it, and raise DeadlineExceededError, when progress stands still.

    Looks once in `idle_timeout` seconds: a call may stand still for up to twice as long.
    """
    if idle_timeout is None:
        return await call()
    every = idle_timeout
    results: list[ResultT] = []
    failure: Exception | None = None

    async def guard() -> None:
        seen = -1
        while seen != progress.count:
            seen = progress.count
            await anyio.sleep(every)
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(guard)
        try:
            results.append(await call())
        except Exception as error:  # noqa: BLE001 - carried out of the group, which would wrap it
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if not results:
        raise DeadlineExceededError(f"{what} made no progress for {idle_timeout:g} s.")
    return results[0]


async def run_all(calls: Sequence[Callable[[], Awaitable[None]]], limit: int) -> None:
    """Run the calls, at most `limit` at once; the first failure cancels the rest and is raised."""
    failure: Exception | None = None
    pending = iter(calls)

    async def worker() -> None:
        nonlocal failure
        for call in pending:
            try:
                await call()
            except Exception as error:  # noqa: BLE001 - as above
                if failure is None:
                    failure = error
                tasks.cancel_scope.cancel()
                return

    async with anyio.create_task_group() as tasks:
        for _ in range(min(limit, len(calls))):
            tasks.start_soon(worker)
    if failure is not None:
        raise failure
