"""Where the synchronous API runs the asynchronous one: a thread with an event loop.

One portal serves one client object. Its thread starts with the first call and ends with close(), or
when the client is garbage or the program ends. Written by hand; the modules beside it are generated.
"""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager, suppress
from typing import Generic, ParamSpec, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

__all__ = ["Entered", "Portal"]

ResultT = TypeVar("ResultT")
P = ParamSpec("P")

# How long Ctrl-C may take: what is cancelled may have to kill something first (a guess).
_ABANDON_TIMEOUT = 5.0


class _Loop:
    """The thread. Holds no reference to the Portal, whose end is its own."""

    def __init__(self, owner: AbstractAsyncContextManager[object]) -> None:
        self._owner = owner
        self._pid = os.getpid()
        self._started: Future[BlockingPortal] = Future()
        # A daemon: a thread that is waited for at exit would never be told to end. The portal is
        # made here and not by anyio.from_thread.start_blocking_portal(), whose generator waits for
        # the thread when it is collected: for ever, in a forked child.
        self._thread = threading.Thread(target=self._run, name="sealos-devbox", daemon=True)
        self._thread.start()
        self.portal = self._started.result()

    def _run(self) -> None:
        try:
            anyio.run(self._serve)
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _serve(self) -> None:
        async with BlockingPortal() as portal, self._owner:
            self._started.set_result(portal)
            await portal.sleep_until_stopped()

    def stop(self) -> None:
        """Cancel what runs, and end the thread; does nothing in a forked child."""
        if os.getpid() != self._pid or not self._thread.is_alive():
            return
        if threading.current_thread() is self._thread:
            # The client became garbage while this thread was collecting it.
            threading.Thread(target=self.stop, daemon=True).start()
            return
        with suppress(RuntimeError):  # it is ending already
            self.portal.start_task_soon(self.portal.stop, True)
        self._thread.join()


class Portal:
    """Runs coroutines for one client, from any thread."""

    def __init__(self, owner: AbstractAsyncContextManager[object]) -> None:
        self._owner = owner
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._loop: _Loop | None = None
        self._stop: weakref.finalize[[], Portal] | None = None
        self._closed = False

    def open(self) -> BlockingPortal:
        """Start the thread unless it runs; RuntimeError when closed, or in a forked child."""
        if os.getpid() != self._pid:
            raise RuntimeError(
                "this client was made before os.fork(), which copies no threads: "
                "make another one in the child process"
            )
        with self._lock:
            if self._closed:
                raise RuntimeError("the client is closed")
            if self._loop is None:
                self._loop = _Loop(self._owner)
                self._stop = weakref.finalize(self, self._loop.stop)
            return self._loop.portal

    def close(self) -> None:
        """End the thread. Calls under way in other threads raise RuntimeError."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._closed = True
            stop = self._stop
        if stop is not None:
            stop()

    def call(
        self, function: Callable[P, Awaitable[ResultT]], /, *args: P.args, **kwargs: P.kwargs
    ) -> ResultT:
        """Run a coroutine function to its end. Ctrl-C here cancels it there."""
        portal = self.open()
        call = _Call(functools.partial(function, *args, **kwargs))
        try:
            return portal.start_task_soon(call.run).result()
        except CancelledError:
            raise RuntimeError("the client was closed while a call was under way") from None
        except BaseException:
            call.abandon(portal)
            raise

    def enter(self, context: AbstractAsyncContextManager[object]) -> Entered:
        """Enter a context in a task that also leaves it."""
        return Entered(self.open(), context)


class _Call(Generic[ResultT]):
    """One coroutine, and a way to be rid of it.

    An exception may reach the waiting thread at any point, before there is a future to cancel too.
    """

    def __init__(self, function: Callable[[], Awaitable[ResultT]]) -> None:
        self._function = function
        self._scope: anyio.CancelScope | None = None
        self._ended = threading.Event()

    async def run(self) -> ResultT:
        """Run the coroutine."""
        try:
            with anyio.CancelScope() as self._scope:
                return await self._function()
            raise RuntimeError("cancelled")  # nobody is waiting any more
        finally:
            self._ended.set()

    def abandon(self, portal: BlockingPortal) -> None:
        """Cancel the coroutine and wait until it has ended, so that the next call finds order.

        Does nothing when it has ended already.
        """
        if not self._ended.is_set():
            with suppress(RuntimeError):  # the portal is closed
                portal.start_task_soon(self._cancel)
                self._ended.wait(_ABANDON_TIMEOUT)

    async def _cancel(self) -> None:
        # Runs after run() has begun, if that was asked for at all: the loop keeps the order.
        if self._scope is None:
            self._ended.set()
        else:
            self._scope.cancel()


class Entered:
    """A context that a task holds open."""

    def __init__(
        self, portal: BlockingPortal, context: AbstractAsyncContextManager[object]
    ) -> None:
        self._portal = portal
        self._context = context
        self._entered: Future[anyio.Event] = Future()
        self._left = portal.start_task_soon(self._hold)
        try:
            self._leave_event = self._entered.result()
        except BaseException:
            self._left.cancel()
            raise

    async def _hold(self) -> None:
        leave = anyio.Event()
        try:
            await self._context.__aenter__()
        except BaseException as error:
            if not self._entered.done():
                self._entered.set_exception(error)
            raise
        self._entered.set_result(leave)
        try:
            await leave.wait()
        finally:
            await self._context.__aexit__(None, None, None)

    def leave(self) -> None:
        """Leave the context, and wait until that has been done; closing the client has done it."""
        if self._left.done():
            return
        self._portal.start_task_soon(self._leave_event.set)
        with suppress(CancelledError):  # closed meanwhile
            self._left.result()
