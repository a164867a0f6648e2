"""Bringing a box into a state, and waiting until it is there.

The service's calls only ask for a state and return. What they promise besides is not relied on: its
own restart does not wait for the commit of the file system, fails then, and leaves the box stopped;
so a restart here pauses, waits, and starts. While a box is being committed every change of state is
refused, and is asked for again until the caller's deadline, of which each call has one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio

from sealos_devbox._async.service import BoxDetail, BoxRecord, ControlPlane
from sealos_devbox.errors import (
    BoxNotFoundError,
    BoxStateError,
    CapabilityError,
    DeadlineExceededError,
    DevboxError,
)
from sealos_devbox.models import BoxHealth, BoxInfo, BoxState

__all__ = ["Lifecycle"]

_FIRST_POLL = 0.2
_LONGEST_POLL = 5.0
_ERROR_GRACE = 20.0
"""Seconds for which an error state is taken for one that passes: a pod that is being replaced."""
_LAG = 10.0
"""Seconds for which a state is taken for the one from before the request (a guess)."""


class Lifecycle:
    """The life of one box."""

    def __init__(
        self,
        record: BoxRecord,
        control: ControlPlane,
        try_connection: Callable[[], Awaitable[None]],
    ) -> None:
        self._record = record
        self._control = control
        self._try_connection = try_connection

    async def start(self, *, wait: bool, timeout: float) -> None:
        """Have it run."""
        async with self._deadline("Starting", timeout):
            await self._start(wait=wait)

    async def pause(self, *, wait: bool, timeout: float) -> None:
        """Have it stop, its file system kept."""
        async with self._deadline("Pausing", timeout):
            await self._stop(self._control.pause, BoxState.STOPPED, wait=wait)

    async def shutdown(self, *, wait: bool, timeout: float) -> None:
        """Have it stop and give its network up."""
        async with self._deadline("Shutting down", timeout):
            await self._stop(self._control.shutdown, BoxState.SHUTDOWN, wait=wait)

    async def restart(self, *, timeout: float) -> None:
        """Have it stop, wait for that, and have it run again."""
        async with self._deadline("Restarting", timeout):
            state = (await self._look()).state
            if state not in (BoxState.STOPPED, BoxState.SHUTDOWN, BoxState.SHUTTING):
                await self._stop(self._control.pause, BoxState.STOPPED, wait=True)
            await self._start(wait=True)

    async def wait_until_gone(self, *, timeout: float) -> None:
        """Wait until the service does not know it any more."""
        async with self._deadline("Deleting", timeout):
            for pause in _polls():
                try:
                    await self._control.detail(self._record.name)
                except BoxNotFoundError:
                    return
                except DevboxError as error:
                    _unless_passing(error)
                await anyio.sleep(pause)

    async def wait_until_ready(self, *, timeout: float) -> BoxInfo:
        """Wait until it runs and something in it answers."""
        async with self._deadline("Waiting for", timeout):
            info = await self._wait_for(
                BoxState.RUNNING, not_for=(BoxState.STOPPED, BoxState.SHUTDOWN, BoxState.PAUSED)
            )
            since = anyio.current_time()
            connects, expected = True, self._control.has_agents
            for pause in _polls():
                if info.agent_url and await self._agent_problem() is None:
                    return info
                if connects:
                    try:
                        await self._try_connection()
                    except CapabilityError:
                        connects = False
                    except DevboxError as error:
                        _unless_passing(error)
                    else:
                        return info
                waited = anyio.current_time() - since
                if not connects and not info.agent_url and (not expected or waited > _LAG):
                    return info  # that it runs is all that can be known of it
                await anyio.sleep(pause)
                with _passing():
                    info = await self._look()
        raise AssertionError("unreachable")

    async def health(self) -> BoxHealth:
        """Look at it once."""
        info = await self._look()
        if info.state is not BoxState.RUNNING:
            return BoxHealth(False, info.state, "none", f"The box is {info.state}.")
        if info.agent_url is None:
            return BoxHealth(True, info.state, "none")
        problem = await self._agent_problem()
        if problem is None:
            return BoxHealth(True, info.state, "ok")
        failing = problem.startswith("it says")
        return BoxHealth(
            False, info.state, "failing" if failing else "unreachable", f"Its agent: {problem}."
        )

    # -- parts, under the deadline of the caller ---------------------------------------------------

    async def _start(self, *, wait: bool) -> None:
        await self._ask(self._control.start)
        if wait:
            await self._wait_for(BoxState.RUNNING)

    async def _stop(
        self, ask: Callable[[str], Awaitable[None]], wanted: BoxState, *, wait: bool
    ) -> None:
        state = (await self._look()).state
        if state is wanted:
            return
        if wanted is BoxState.STOPPED and state in (BoxState.SHUTDOWN, BoxState.SHUTTING):
            # The service accepts it, and never carries it out.
            raise BoxStateError(
                f"The box {self._record.name!r} is shut down, and cannot be paused.",
                hint="Start it first.",
                retryable=False,
            )
        await self._ask(ask)
        if wait:
            await self._wait_for(wanted)

    async def _ask(self, ask: Callable[[str], Awaitable[None]]) -> None:
        """Ask for a state, again while the box is being committed."""
        for pause in _polls():
            try:
                await ask(self._record.name)
            except BoxStateError as error:
                if not error.retryable:
                    raise
            else:
                return
            await anyio.sleep(pause)

    async def _wait_for(self, wanted: BoxState, *, not_for: tuple[BoxState, ...] = ()) -> BoxInfo:
        """Wait for a state. A state of `not_for` that lasts is none that leads there."""
        bad_since: float | None = None
        for pause in _polls():
            state = BoxState.UNKNOWN
            with _passing():
                info = await self._look()
                if info.state is wanted:
                    return info
                state = info.state
            now = anyio.current_time()
            if state is BoxState.ERROR or state in not_for:
                bad_since = now if bad_since is None else bad_since
                if now - bad_since > (_ERROR_GRACE if state is BoxState.ERROR else _LAG):
                    raise BoxStateError(
                        f"The box {self._record.name!r} is in the state {state!s}, "
                        f"and does not get {wanted!s}.",
                        hop="control-plane",
                        retryable=False,
                        hint="Start it." if state in not_for else "Look at its pods.",
                    )
            else:
                bad_since = None
            await anyio.sleep(pause)
        raise AssertionError("unreachable")

    async def _agent_problem(self) -> str | None:
        detail = self._record.detail
        return "not looked at" if detail is None else await self._control.agent_health(detail)

    async def _look(self) -> BoxInfo:
        detail = await self._control.detail(self._record.name)
        before = self._record.detail
        if before is not None and before.info.created_at and not detail.info.created_at:
            detail = _with_creation(detail, before)
        self._record.detail = detail
        return detail.info

    @asynccontextmanager
    async def _deadline(self, doing: str, timeout: float) -> AsyncIterator[None]:
        with anyio.move_on_after(timeout) as scope:
            yield
        if scope.cancelled_caught:
            state = self._record.detail.info.state if self._record.detail else BoxState.UNKNOWN
            raise DeadlineExceededError(
                f"{doing} the box {self._record.name!r} took longer than {timeout:g} s; "
                f"when last seen it was {state!s}.",
                hop="control-plane",
                hint="What was asked for may still happen: refresh() tells.",
            )


def _with_creation(detail: BoxDetail, before: BoxDetail) -> BoxDetail:
    """Keep when it was made, which not every route says."""
    info = dataclasses.replace(detail.info, created_at=before.info.created_at)
    return BoxDetail(info, detail.agent_token)


def _polls() -> Iterator[float]:
    """Yield the waits between two looks, without end: the deadline ends it."""
    pause = _FIRST_POLL
    while True:
        yield pause
        pause = min(pause * 1.5, _LONGEST_POLL)


@contextmanager
def _passing() -> Iterator[None]:
    """Leave out errors that the next look may not meet; the deadline ends those that stay."""
    try:
        yield
    except DevboxError as error:
        _unless_passing(error)


def _unless_passing(error: DevboxError) -> None:
    if not error.retryable:
        raise error
