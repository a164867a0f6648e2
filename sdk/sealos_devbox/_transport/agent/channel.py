"""A byte channel to a program in a box, by the agent's HTTP interface.

The agent streams what a command prints as lines of text, and writes files: so the program answers
in lines of base64, and what is sent to it are files of a mailbox (sdk/PROTOCOL.md section 11). Each
message is one request; several are under way at once, and one whose answer was lost is written
again, under the same number.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup

from sealos_devbox._transport.agent.client import NO_LIMIT, AgentClient, RunRequest
from sealos_devbox.errors import DevboxError, ProtocolError, TransportError

__all__ = ["AgentChannel", "open_agent_channel"]

MESSAGE: Final = 256 * 1024
"""Bytes in one message: a proxy in front refuses bodies over 1 MiB unless it is told otherwise."""
UNDER_WAY: Final = 4
"""Messages sent before the first one is answered."""
ENDING: Final = b"\xff\xff\xff\xff"
TRIES: Final = (0.2, 0.5, 1.0)
"""Seconds between attempts to deliver a message."""
DELIVERY: Final = 30.0
"""Seconds after which a message that cannot be delivered ends the channel."""
GRACE: Final = 5.0
"""Seconds the program has to end by itself once it was told that its input is over."""
STDERR_KEPT: Final = 8192
WAITING: Final = 16
"""Pieces received before the agent is left to wait."""


@asynccontextmanager
async def open_agent_channel(
    client: AgentClient, request: RunRequest, mailbox: str
) -> AsyncIterator[AgentChannel]:
    """Start a program that reads the mailbox, and yield the channel to it.

    `mailbox` is an absolute path that the program makes. Raises what the agent answers when it
    cannot start a command. Leaving the block ends the channel.
    """
    request = RunRequest(request.argv, request.cwd, request.env, NO_LIMIT)
    async with client.stream(request) as events:
        tasks = anyio.create_task_group()
        await tasks.__aenter__()
        channel = AgentChannel(client, mailbox, tasks)
        tasks.start_soon(channel.read_events, events)
        try:
            yield channel
        finally:
            # The tasks raise nothing, and the caller's exception does not pass through the group:
            # it leaves as it is.
            try:
                await channel.aclose()
            finally:
                tasks.cancel_scope.cancel()
                await tasks.__aexit__(None, None, None)


class AgentChannel:
    """Bytes to a program's mailbox and from its lines."""

    can_half_close = True

    def __init__(self, client: AgentClient, mailbox: str, tasks: TaskGroup) -> None:
        self._client = client
        self._mailbox = mailbox
        self._tasks = tasks
        self._next = 0
        self._slots = anyio.Semaphore(UNDER_WAY)
        self._ended = False
        """The far end's input is over."""
        self._closed = False
        self._failure: DevboxError | None = None
        self._put, self._get = anyio.create_memory_object_stream[bytes](WAITING)
        self._finished = anyio.Event()
        self._tail: deque[str] = deque()
        self._ending = ""

    async def send(self, data: bytes) -> None:
        """Send all of data."""
        view = memoryview(data)
        await anyio.lowlevel.checkpoint()
        for start in range(0, len(view), MESSAGE):
            piece = view[start : start + MESSAGE]
            await self._send(len(piece).to_bytes(4, "big") + piece)

    async def receive(self) -> bytes:
        """Return at least one byte, as soon as there is any."""
        if self._closed:
            raise anyio.ClosedResourceError
        try:
            return await self._get.receive()
        except anyio.EndOfStream:
            if self._failure is not None:
                raise anyio.BrokenResourceError from self._failure
            raise

    async def send_eof(self) -> None:
        """Tell the program that its input is over."""
        if not self._ended:
            self._ended = True
            await self._send(ENDING)

    async def aclose(self) -> None:
        """End the program's input and wait a moment for its end. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(GRACE):
                if self._failure is None and not self._finished.is_set():
                    with contextlib.suppress(anyio.BrokenResourceError):
                        await self.send_eof()
                    # What it still says is nobody's any more, but must not hold it up.
                    async for _ in self._get:
                        pass
        self._get.close()

    def diagnostics(self) -> str:
        """Return the end of what the program wrote to its standard error, and how it ended."""
        text = "".join(self._tail)[-STDERR_KEPT:].strip()
        if self._failure is not None:
            text = f"{text}\n{self._failure}".strip()
        return f"{text}\n({self._ending})".strip() if self._ending else text

    async def read_events(self, events: AsyncIterator[tuple[str, dict[str, Any]]]) -> None:
        """Take what the program says until it ends."""
        try:
            async for name, value in events:
                if name == "stdout":
                    await self._put.send(_decoded(value["output"]))
                elif name == "stderr":
                    self._keep(str(value["output"]))
                elif name == "complete":
                    # More output may follow: the end of the stream is the end.
                    code = value.get("exitCode")
                    self._ending = "killed by a signal" if code is None else f"exit status {code}"
                elif name == "error":
                    self._keep(str(value.get("error")))
        except anyio.BrokenResourceError:
            pass  # closed meanwhile
        except DevboxError as error:
            self._failure = self._failure or error
        finally:
            self._finished.set()
            self._put.close()

    def _keep(self, line: str) -> None:
        self._tail.append(line)
        while len(self._tail) > 1 and sum(map(len, self._tail)) > 2 * STDERR_KEPT:
            self._tail.popleft()

    async def _send(self, message: bytes) -> None:
        if self._closed and message is not ENDING:
            raise anyio.ClosedResourceError
        if self._failure is not None or self._finished.is_set():
            raise anyio.BrokenResourceError from self._failure
        await self._slots.acquire()
        number = self._next
        self._next += 1
        self._tasks.start_soon(self._deliver, number, message)

    async def _deliver(self, number: int, message: bytes) -> None:
        try:
            with anyio.fail_after(DELIVERY):
                for pause in (*TRIES, None):
                    try:
                        await self._client.write(f"{self._mailbox}/{number}", message)
                        break
                    except TransportError as error:
                        if pause is None or not error.retryable:
                            raise
                        await anyio.sleep(pause)
        except (DevboxError, TimeoutError) as error:
            if self._failure is None and not self._finished.is_set():
                self._failure = (
                    error
                    if isinstance(error, DevboxError)
                    else TransportError("a message could not be delivered in time")
                )
            # Whoever waits for an answer to what was not delivered would wait in vain.
            self._put.close()
        finally:
            self._slots.release()


def _decoded(line: object) -> bytes:
    try:
        return base64.b64decode(str(line).strip(), validate=True)
    except binascii.Error as error:
        raise ProtocolError(f"the program in the box said: {str(line)[:200]!r}") from error
