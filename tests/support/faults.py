"""A TCP proxy that misbehaves on purpose: it stands for a bad path between client and server.

    with FaultProxy(("127.0.0.1", port)) as proxy:
        proxy.delay = 0.05                                  # seconds, each way, from now on
        proxy.plan(Fault("reset", "down", after=100_000))   # what the next connection meets
        ...                                                 # connect to proxy.address
        proxy.inflict("black-hole")                         # all open connections, now
        proxy.heal()

Bytes pass unchanged, TLS too. It runs in a thread of its own; settings may be changed at any time
and from any thread. A fault strikes after exactly `after` bytes of its direction.
"""

import asyncio
import collections
import contextlib
import fcntl
import socket
import struct
import termios
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar

T = TypeVar("T")

Kind = Literal["cut", "reset", "black-hole"]
Direction = Literal["up", "down"]

CHUNK = 65_536
IN_FLIGHT = 16 << 20
"""Bytes that a delayed direction holds at most; a sender then waits, as at a full link."""


@dataclass(frozen=True)
class Fault:
    """What happens to a connection once `after` bytes have gone `up` (to the server) or `down`.

    `cut` ends both directions in order (FIN), `reset` breaks both (RST). `black-hole` lets both
    directions stand still without a word, or with `one_way` only its own, until `heal`.
    """

    kind: Kind
    direction: Direction = "up"
    after: int = 0
    one_way: bool = False


class Connection:
    """One client's connection through the proxy; `up` and `down` count the bytes passed on."""

    def __init__(self, client: socket.socket, server: socket.socket, fault: Fault | None) -> None:
        self.up = 0
        self.down = 0
        self.is_open = True
        self.fault = fault
        self._ends = {"up": (client, server), "down": (server, client)}
        self._flowing = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._tasks: list[asyncio.Task[None]] = []
        self._ending: Kind | None = None
        self._closed = asyncio.Event()
        for event in self._flowing.values():
            event.set()

    async def run(self, proxy: "FaultProxy") -> None:
        """Pass bytes until both directions have ended, or a fault ends them."""
        ends = self._ends["up"]
        try:
            if not self._ending:
                async with asyncio.TaskGroup() as group:
                    self._tasks = [
                        group.create_task(_Pipe(self, "up", proxy).run()),
                        group.create_task(_Pipe(self, "down", proxy).run()),
                    ]
            if self._ending == "cut":
                for end in ends:
                    with contextlib.suppress(OSError):
                        end.shutdown(socket.SHUT_WR)
                self._has_ended()
                await asyncio.gather(*map(_drained, ends))
            elif self._ending == "reset":
                await asyncio.gather(*map(_sent, ends))
        finally:
            for end in ends:
                if self._ending == "reset":
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.close()
            self._has_ended()

    def _has_ended(self) -> None:
        self.is_open = False
        self._closed.set()

    async def strike(self, kind: Kind, direction: Direction, *, one_way: bool) -> None:
        """Let the fault happen now."""
        if kind == "black-hole":
            for name in [direction] if one_way else ["up", "down"]:
                self._flowing[name].clear()
            return
        # `run` does it, when nobody else uses the sockets any more.
        self._ending = kind
        for task in self._tasks:
            task.cancel()

    async def wait_closed(self) -> None:
        await self._closed.wait()

    def heal(self) -> None:
        for event in self._flowing.values():
            event.set()


class _Pipe:
    """One direction of a connection: a reader and a writer with the bytes in flight between."""

    def __init__(self, connection: Connection, direction: Direction, proxy: "FaultProxy") -> None:
        self._connection = connection
        self._direction = direction
        self._proxy = proxy
        self._source, self._target = connection._ends[direction]
        self._flowing = connection._flowing[direction]
        self._queue: collections.deque[tuple[float, bytes]] = collections.deque()
        self._held = 0
        self._changed = asyncio.Condition()
        self._free_at = 0.0

    async def run(self) -> None:
        reader = asyncio.ensure_future(self._read())
        try:
            await self._write()
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reader

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            rate = self._proxy.rate
            size = max(1, min(CHUNK, int(rate / 20))) if rate else CHUNK
            await self._flowing.wait()
            try:
                data = await loop.sock_recv(self._source, size)
            except OSError:
                data = b""  # a reset by one side ends the other in order
            async with self._changed:
                self._queue.append((loop.time() + self._proxy.delay, data))
                self._held += len(data)
                self._changed.notify_all()
                if not data:
                    return
                await self._changed.wait_for(lambda: self._held < IN_FLIGHT)

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: bool(self._queue))
                due, data = self._queue.popleft()
                self._held -= len(data)
                self._changed.notify_all()
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            if not data:
                with contextlib.suppress(OSError):
                    self._target.shutdown(socket.SHUT_WR)
                return
            await self._pass_on(data)

    async def _pass_on(self, data: bytes) -> None:
        """Write the bytes, with the connection's fault at its place among them."""
        connection, fault = self._connection, self._connection.fault
        if fault and fault.direction == self._direction:
            passed: int = getattr(connection, self._direction)
            if passed + len(data) >= fault.after:
                before = data[: fault.after - passed]
                await self._send(before)
                connection.fault = None
                await connection.strike(fault.kind, fault.direction, one_way=fault.one_way)
                await asyncio.sleep(0)  # where a cancelled task ends
                data = data[len(before) :]
        if data:
            await self._send(data)

    async def _send(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        await self._flowing.wait()
        rate = self._proxy.rate
        if rate:
            self._free_at = max(self._free_at, loop.time()) + len(data) / rate
            await asyncio.sleep(self._free_at - loop.time())
        try:
            await loop.sock_sendall(self._target, data)
        except OSError:
            return  # nobody is there to take it
        passed = getattr(self._connection, self._direction) + len(data)
        setattr(self._connection, self._direction, passed)


class FaultProxy:
    """The proxy; a context manager. `address` is where clients connect to.

    `delay` is the seconds that a byte takes each way (so twice that is the round trip's addition),
    `rate` the bytes per second each way, or None. `connections` lists all so far.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.delay = 0.0
        self.rate: float | None = None
        self.connections: list[Connection] = []
        self._target = target
        self._planned: collections.deque[Fault | None] = collections.deque()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy")
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self.address = ("127.0.0.1", 0)

    def __enter__(self) -> Self:
        self._thread.start()
        self.accept()
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    @property
    def port(self) -> int:
        return self.address[1]

    @property
    def open_connections(self) -> list[Connection]:
        return [it for it in self.connections if it.is_open]

    def plan(self, *faults: Fault | None) -> None:
        """Give the next connections, in order, a fault each; None is none."""
        self._planned.extend(faults)

    def inflict(self, kind: Kind, direction: Direction = "up", *, one_way: bool = False) -> None:
        """Let a fault happen to all open connections now."""

        async def strike_all() -> None:
            for connection in self.open_connections:
                await connection.strike(kind, direction, one_way=one_way)
                if kind != "black-hole":
                    await connection.wait_closed()

        self._call(strike_all)

    def heal(self) -> None:
        """End all black holes: what was held back arrives, as after a route has come back."""

        async def heal_all() -> None:
            for connection in self.connections:
                connection.heal()

        self._call(heal_all)

    def refuse(self) -> None:
        """Refuse new connections, as a machine does on which nothing listens."""
        self._call(self._stop_listening)

    def accept(self) -> None:
        """Take connections again, on the same port."""
        self._call(self._listen)

    async def _listen(self) -> None:
        if self._listener:
            return
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(self.address)
        listener.listen(128)
        listener.setblocking(False)
        self.address = listener.getsockname()
        self._listener = listener
        self._accepting = asyncio.ensure_future(self._accept(listener))

    async def _stop_listening(self) -> None:
        if self._listener and self._accepting:
            self._accepting.cancel()
            await asyncio.wait([self._accepting])
            self._listener.close()
            self._listener = None

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(listener)
            task = asyncio.ensure_future(self._serve(client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: socket.socket) -> None:
        fault = self._planned.popleft() if self._planned else None
        server = socket.socket()
        server.setblocking(False)
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await asyncio.get_running_loop().sock_connect(server, self._target)
        except OSError:
            client.close()
            server.close()
            return
        connection = Connection(client, server, fault)
        self.connections.append(connection)
        if fault and fault.after == 0:
            connection.fault = None
            await connection.strike(fault.kind, fault.direction, one_way=fault.one_way)
        with contextlib.suppress(asyncio.CancelledError):
            await connection.run(self)

    async def _close(self) -> None:
        await self._stop_listening()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _call(self, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return asyncio.run_coroutine_threadsafe(function(), self._loop).result(30)


async def _sent(end: socket.socket) -> None:
    """Wait until the other side has what was passed on: a reset takes back what is on its way."""
    with contextlib.suppress(OSError):
        for _ in range(100):
            if not struct.unpack("i", fcntl.ioctl(end, termios.TIOCOUTQ, b"\0" * 4))[0]:
                return
            await asyncio.sleep(0.01)


async def _drained(end: socket.socket) -> None:
    """Take what still comes after FIN was sent: closing with bytes unread would send RST."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(5):
            while await loop.sock_recv(end, CHUNK):
                pass
