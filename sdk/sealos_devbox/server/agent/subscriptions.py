"""The WebSocket of the agent: logs of processes and sessions, as they come."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio
import msgspec
from anyio.abc import TaskGroup
from starlette.websockets import WebSocket, WebSocketDisconnect

from sealos_devbox.server.agent.answers import AgentError, run
from sealos_devbox.server.agent.commands import ProcessTable
from sealos_devbox.server.agent.logs import Line, LogBuffer
from sealos_devbox.server.agent.sessions import SessionTable

__all__ = ["serve_logs"]

_LOOK_SECONDS = 0.5
_TYPED = {"exec": "Executing: ", "cd": "Changed directory to: "}
_LEVELS = ("stdout", "stderr", "system")


class _Options(msgspec.Struct):
    levels: list[str] = []
    tail: int = 0


class _Message(msgspec.Struct, rename="camel"):
    action: Literal["subscribe", "unsubscribe", "list"]
    type: Literal["process", "session"] | None = None
    target_id: str | None = None
    options: _Options | None = None


@dataclass(slots=True)
class _Subscription:
    type: str
    target: str
    levels: list[str]
    created: int
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    @property
    def key(self) -> str:
        return f"{self.type}:{self.target}"


async def serve_logs(websocket: WebSocket, processes: ProcessTable, sessions: SessionTable) -> None:
    """Serve one connection until its client is gone."""
    await websocket.accept()
    async with anyio.create_task_group() as tasks:
        connection = _Connection(websocket, tasks, processes, sessions)
        try:
            while True:
                await connection.take(await websocket.receive_text())
        except (WebSocketDisconnect, KeyError):
            pass
        finally:
            tasks.cancel_scope.cancel()


class _Connection:
    def __init__(
        self,
        websocket: WebSocket,
        tasks: TaskGroup,
        processes: ProcessTable,
        sessions: SessionTable,
    ) -> None:
        self._websocket, self._tasks = websocket, tasks
        self._processes, self._sessions = processes, sessions
        self._subscriptions: dict[str, _Subscription] = {}
        self._sending = anyio.Lock()

    async def take(self, text: str) -> None:
        """Follow one message; what is not understood is ignored, as there."""
        try:
            message = msgspec.json.decode(text, type=_Message)
        except msgspec.DecodeError:
            return
        if message.action == "list":
            await self._list()
        elif message.type is None or message.target_id is None:
            return
        elif message.action == "subscribe":
            await self._subscribe(message.type, message.target_id, message.options or _Options())
        else:
            await self._unsubscribe(message.type, message.target_id)

    async def _send(self, body: dict[str, Any]) -> None:
        async with self._sending:
            await self._websocket.send_text(msgspec.json.encode(body).decode())

    async def _subscribe(self, kind: str, target: str, options: _Options) -> None:
        try:
            found = self._processes.get(target) if kind == "process" else self._sessions.get(target)
        except AgentError:
            await self._send({"status": 1404, "message": "Target not found"})
            return
        log = found.log
        subscription = _Subscription(kind, target, options.levels, int(time.time()))
        if subscription.key in self._subscriptions:
            await self._send({"status": 1400, "message": "Subscription already exists"})
            return
        self._subscriptions[subscription.key] = subscription
        history, number = (
            log.tail(max(0, options.tail)) if options.tail > 0 else ([], log.tail(0)[1])
        )
        now = int(time.time())
        for sequence, line in enumerate(history):
            await self._line(subscription, line, sequence, now, history=True)
        levels = dict.fromkeys(options.levels or _LEVELS, True)
        await self._send(
            {
                "action": "subscribed",
                "type": kind,
                "targetId": target,
                "levels": levels,
                "timestamp": now,
            }
        )
        self._tasks.start_soon(self._follow, subscription, log, number)

    async def _follow(self, subscription: _Subscription, log: LogBuffer, number: int) -> None:
        sequence = 0
        with subscription.scope:
            while True:
                lines, number = await run(log.after, number, _LOOK_SECONDS, abandon=True)
                for line in lines:
                    if await self._line(subscription, line, sequence, line.time, history=False):
                        sequence += 1

    async def _line(
        self, subscription: _Subscription, line: Line, sequence: int, at: int, *, history: bool
    ) -> bool:
        level = "system" if line.level in _TYPED else line.level
        if subscription.levels and level not in subscription.levels:
            return False
        content = line.content
        if line.level in _TYPED:
            content = _TYPED[line.level] + content.rstrip("\n")
        await self._send(
            {
                "type": "log",
                "dataType": subscription.type,
                "targetId": subscription.target,
                "log": {
                    "level": level,
                    "content": content,
                    "timestamp": at,
                    "sequence": sequence,
                    "targetId": subscription.target,
                    "targetType": subscription.type,
                },
                "sequence": sequence,
                "isHistory": history,
            }
        )
        return True

    async def _unsubscribe(self, kind: str, target: str) -> None:
        found = self._subscriptions.pop(f"{kind}:{target}", None)
        if found is None:
            await self._send({"status": 1404, "message": "Subscription not found"})
            return
        found.scope.cancel()
        now = int(time.time())
        await self._send(
            {"action": "unsubscribed", "type": kind, "targetId": target, "timestamp": now}
        )

    async def _list(self) -> None:
        await self._send(
            {
                "type": "list",
                "subscriptions": [
                    {
                        "id": each.key,
                        "type": each.type,
                        "targetId": each.target,
                        "logLevels": each.levels,
                        "createdAt": each.created,
                        "active": True,
                    }
                    for each in self._subscriptions.values()
                ],
            }
        )
