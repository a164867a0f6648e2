"""Watching by looking again and again: what a shell can do."""

from __future__ import annotations

import builtins
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Self

import anyio

from sealos_devbox._protocol.tree_diff import changes
from sealos_devbox.batch import Batch
from sealos_devbox.types import ApplyResult, Attributes, Event

__all__ = ["Poll"]

SHORTEST: Final = 1.0
"""Seconds between two looks, of a tree that is looked at in no time."""
SHARE: Final = 10
"""A look may take so many times less than the pause after it."""

Look = Callable[[], Awaitable[dict[bytes, Attributes]]]


class Poll:
    """A RecordStream of events."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._seen: dict[bytes, Attributes] | None = None
        self._took = 0.0
        self._next = 1

    async def receive(self) -> builtins.list[Event] | None:
        """Return the next events; nothing at first, when there is something to compare with."""
        if self._seen is None:
            self._seen = await self._timed()
            return []
        while True:
            await anyio.sleep(max(SHORTEST, self._took * SHARE))
            now = await self._timed()
            events = changes(self._seen, now, self._next)
            self._seen = now
            self._next += len(events)
            if events:
                return events

    def own(self, batch: Batch, result: ApplyResult) -> None:
        """Take note of what this side changed, which is no news."""
        if self._seen is None:
            return
        for operation, outcome in zip(batch.operations, result.outcomes, strict=True):
            path = operation[2]
            if outcome.errno or not isinstance(path, bytes):
                continue
            if outcome.attr is None:
                self._seen.pop(path, None)
            else:
                self._seen[path] = outcome.attr
            if operation[1] == "rename" and isinstance(operation[4], bytes):
                self._seen.pop(operation[4], None)

    async def _timed(self) -> dict[bytes, Attributes]:
        start = anyio.current_time()
        seen = await self._look()
        self._took = anyio.current_time() - start
        return seen

    async def __aenter__(self) -> Self:
        """Start."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing is left running."""
