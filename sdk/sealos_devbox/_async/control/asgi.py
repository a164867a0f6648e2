"""An application in this process in place of a service elsewhere: its life, and requests to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import anyio
from anyio.abc import TaskStatus

from sealos_devbox.errors import ConnectError

__all__ = ["ASGIApp", "Lifespan"]

Message = MutableMapping[str, Any]
ASGIApp = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]

_STOP_TIMEOUT = 10.0


class Lifespan:
    """Starts an application as its server would, and ends it (ASGI's lifespan protocol)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._stop = anyio.Event()
        self._stopped = anyio.Event()
        self._asked = False
        self._failure = ""

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Run the application until `stop`; has started when the application says so."""
        started = anyio.Event()

        async def receive() -> Message:
            if not self._asked:
                self._asked = True
                return {"type": "lifespan.startup"}
            await self._stop.wait()
            return {"type": "lifespan.shutdown"}

        async def send(message: Message) -> None:
            if message["type"].endswith(".failed"):
                self._failure = str(message.get("message") or "it did not say why")
            if message["type"].startswith("lifespan.startup"):
                started.set()
            elif message["type"].startswith("lifespan.shutdown"):
                self._stopped.set()

        async def serve() -> None:
            try:
                await self._app(
                    {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send
                )
            except Exception as error:  # noqa: BLE001 - whatever an application raises
                if not started.is_set():
                    self._failure = f"{type(error).__name__}: {error}"
            finally:
                started.set()
                self._stopped.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve)
            await started.wait()
            if not self._failure:
                task_status.started()
                await self._stopped.wait()
            tasks.cancel_scope.cancel()
        if self._failure:
            raise ConnectError(f"The engine could not be started: {self._failure}.", hop="local")

    async def stop(self) -> None:
        """End the application, and wait until it has ended."""
        self._stop.set()
        with anyio.move_on_after(_STOP_TIMEOUT, shield=True):
            await self._stopped.wait()
