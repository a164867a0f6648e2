"""The client's side of one connection to a helper, without any IO (sdk/PROTOCOL.md).

`ClientSession` takes received bytes and gives bytes to send. Time comes in as an argument: seconds
of any monotonic clock. One `Exchange` is one request with everything that belongs to it; its owner
is told by two callbacks that there is something to look at, and looks with `take()`, `done`,
`reply` and `error`.

Invariants:

* An exchange is in the table from the moment its REQUEST is queued until its REPLY or ERROR
  arrived, cancelled or not: an id that is in use is never used again, and a frame for an id that is
  not in the table is a ProtocolError.
* `received <= granted` for every exchange; `credit >= 0` for what goes out.
* After `fail()` nothing changes any more: every exchange is done, and every later one is born done.

request_queue.py has the requests that wait and outbox.py the frames, heartbeat.py the signs of
life, window.py how much may be on its way to here. What is left is one file although it is long:
every frame that is received touches the same table.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from typing import Final

from sealos_devbox._protocol import frames, messages
from sealos_devbox._protocol.exchange import Exchange, RemoteError
from sealos_devbox._protocol.heartbeat import Heartbeat
from sealos_devbox._protocol.outbox import Outbox
from sealos_devbox._protocol.request_queue import RESERVED_REQUESTS, RequestQueue, first_grant
from sealos_devbox._protocol.window import MIN_WINDOW, ReceiveWindow
from sealos_devbox.errors import DevboxError, ProtocolError
from sealos_devbox.types import PeerInfo

__all__ = ["ClientSession", "RequestTooLargeError"]

SMALL_READ: Final = 131072
"""Reads up to this size do not wait for room: fewer bytes than one frame never are the bulk that
others wait for."""
EVENTS_KEPT: Final = 16 * 1024 * 1024
IN_Q_OVERFLOW: Final = 0x4000


class RequestTooLargeError(ValueError):
    """A request does not fit into one frame."""


class ClientSession:
    """The state of one connection."""

    def __init__(self, *, client: str, compress: bool, heartbeat: float, now: float) -> None:
        self.peer: PeerInfo | None = None
        self.failure: DevboxError | None = None
        self.window = ReceiveWindow()
        self.requests_sent = 0
        self.free_space = (0, 0, 0)
        self.durable = 0

        self._heartbeat = Heartbeat(heartbeat, now)
        self._outbox = Outbox(self._leave_order)
        self._compress = compress
        self._parser = frames.FrameParser()
        self._preamble: frames.Preamble | None = frames.Preamble()
        self._ids = itertools.count(1)
        self._newest_id = 0
        self._exchanges: dict[int, Exchange] = {}
        self._queue = RequestQueue()
        self._send_window = 0

        hello = messages.Hello(
            protocol=messages.PROTOCOL_VERSION,
            client=client,
            window=MIN_WINDOW,
            compress=compress,
            heartbeat_ms=max(1, round(heartbeat * 1000)),
        )
        self._outbox.queue(frames.HELLO, 0, messages.encode(hello))

    def open(
        self,
        op: str,
        *args: object,
        now: float,
        collect: bool = True,
        expected: int | None = None,
        bulk: bool = False,
        endless: bool = False,
        ordered: bool = False,
        cancellable: bool = True,
    ) -> Exchange:
        """Queue a request.

        collect: the answer is wanted whole; `on_change` is called once, at the end. Otherwise what
        arrives waits, and is not credited, until `take()`. expected: at most so many bytes of DATA
        are answered. bulk: waits while too much is on its way. endless: may pause as long as it
        likes. ordered: one after another. Raises RequestTooLargeError when it does not fit into a
        frame.
        """
        request = messages.encode((op, *args))
        if len(request) > frames.MAX_PAYLOAD:
            raise RequestTooLargeError(f"request of {len(request)} bytes")
        exchange = Exchange(self._next_id(), op, request)
        exchange.collect = collect
        exchange.expected = expected
        exchange.bulk = bulk and (expected is None or expected > SMALL_READ)
        exchange.endless = endless
        exchange.ordered = ordered
        exchange.cancellable = cancellable
        if self.failure is not None:
            exchange.failure = self.failure
            exchange.done = True
            return exchange
        self._exchanges[exchange.id] = exchange
        self._queue.add(exchange)
        self._start_requests(now)
        return exchange

    def send_data(
        self, exchange: Exchange, data: bytes | memoryview, *, compressed: bool = False
    ) -> None:
        """Queue DATA. Compressed data is one frame's zlib stream; other data is split as needed."""
        if exchange.done or exchange.abandoned or not data:
            return
        exchange.out.append((data, frames.COMPRESSED if compressed else 0))
        exchange.out_bytes += len(data)
        self._outbox.make_ready(exchange)

    def send_end(self, exchange: Exchange) -> None:
        """Queue END: the caller's DATA is over."""
        if exchange.done or exchange.abandoned:
            return
        exchange.out_end = True
        self._outbox.make_ready(exchange)

    def control(self, exchange: Exchange, *args: object) -> None:
        """Queue CONTROL for a request; nothing when it has ended."""
        if exchange.done or exchange.abandoned:
            return
        frame = frames.encode(frames.CONTROL, exchange.id, messages.encode(args))
        if exchange.sent:
            self._outbox.extend([frame])
        else:
            exchange.early.append(frame)

    def take(
        self, exchange: Exchange, limit: int, now: float
    ) -> list[tuple[int, bytes | memoryview]]:
        """Return (substream, payload) of what was received.

        As much as fits the limit, but one at least; credits it.
        """
        taken: list[tuple[int, bytes | memoryview]] = []
        size = 0
        consumed = exchange.consumed
        incoming = exchange.incoming
        while incoming and (not taken or size + len(incoming[0][1]) <= limit):
            substream, payload, wire_size = incoming.popleft()
            taken.append((substream, payload))
            size += len(payload)
            exchange.queued_wire -= wire_size
            exchange.consumed += wire_size
        exchange.queued_bytes -= size
        if exchange.consumed > consumed and not exchange.done:
            self._grant(exchange, now)
        return taken

    def cancel(self, exchange: Exchange) -> None:
        """Say that the caller no longer wants the answer. What was not sent yet never is."""
        if exchange.done or exchange.abandoned:
            return
        exchange.abandoned = True
        exchange.on_change = exchange.on_room = None
        exchange.incoming.clear()
        exchange.consumed += exchange.queued_wire
        exchange.queued_bytes = exchange.queued_wire = 0
        if not exchange.cancellable:
            return
        exchange.out.clear()
        exchange.out_bytes = 0
        if not exchange.sent:
            self._queue.withdraw(exchange)
            exchange.done = True
            del self._exchanges[exchange.id]
            return
        self._outbox.queue(frames.CANCEL, exchange.id)
        self._leave_order(exchange)

    def fail(self, failure: DevboxError) -> None:
        """End the session: every exchange is done, with this failure."""
        if self.failure is not None:
            return
        self.failure = failure
        exchanges = list(self._exchanges.values())
        self._exchanges.clear()
        self._queue.clear()
        self._outbox.clear()
        for exchange in exchanges:
            exchange.failure = failure
            exchange.done = True
            exchange.out.clear()
            exchange.out_bytes = 0
            if exchange.on_change is not None:
                exchange.on_change()
            if exchange.on_room is not None:
                exchange.on_room()

    @property
    def wants_write(self) -> bool:
        """Whether next_write() would return something."""
        return bool(self._outbox)

    def next_write(self, now: float) -> bytes:
        """Return the next bytes for the channel, at most WRITE_SIZE or one frame.

        Empty when there is nothing to send.
        """
        data = self._outbox.next_write()
        if data:
            self._heartbeat.sent(now)
        return data

    def _leave_order(self, exchange: Exchange) -> None:
        """Let the next ordered exchange be sent, when this one has nothing more to send."""
        self._outbox.withdraw(exchange)
        if self._queue.leave_order(exchange):
            following = self._queue.next_ordered()
            if following is not None:
                self._start(following)

    def _next_id(self) -> int:
        id = next(self._ids) & 0xFFFFFFFF
        while id == 0 or id in self._exchanges:
            id = next(self._ids) & 0xFFFFFFFF
        self._newest_id = id
        return id

    def _start_requests(self, now: float) -> None:
        """Send the requests that may be sent now."""
        while (exchange := self._queue.next(self.window)) is not None:
            self._start(exchange)
            if exchange.bulk:
                self._count(exchange, first_grant(exchange), now)
                self._grant(exchange, now)

    def _start(self, exchange: Exchange) -> None:
        exchange.sent = True
        exchange.granted = MIN_WINDOW
        exchange.credit = self._send_window
        self.requests_sent += 1
        self._outbox.queue(frames.REQUEST, exchange.id, exchange.request)
        exchange.request = b""
        self._outbox.extend(exchange.early)
        self._outbox.make_ready(exchange)

    def _count(self, exchange: Exchange, outstanding: int, now: float) -> None:
        exchange.bulk = True
        exchange.reserved = outstanding
        self.window.streams += 1
        self.window.reserve(outstanding, now)

    def _grant(self, exchange: Exchange, now: float) -> None:
        """Grant what the policy allows, once that is a quarter of it.

        CREDIT frames are not free either.
        """
        share = self.window.share
        target = share
        if exchange.expected is not None:
            target = min(share, exchange.expected - exchange.consumed)
        missing = target - (exchange.granted - exchange.consumed)
        last = exchange.expected is not None and exchange.granted + missing >= exchange.expected
        if missing <= 0 or (missing < share // 4 and not last):
            return
        exchange.granted += missing
        self._outbox.extend([frames.encode_credit(exchange.id, missing)])
        if exchange.bulk:
            exchange.reserved += missing
            self.window.reserve(missing, now)

    @property
    def noise(self) -> bytes:
        """What came before the magic; empty once it was found."""
        return b"" if self._preamble is None else self._preamble.noise

    def receive_data(self, data: bytes, now: float) -> None:
        """Take received bytes.

        Raises ProtocolError when the helper broke the protocol, after which fail() is due.
        """
        self._heartbeat.received(now)
        if self._preamble is not None:
            rest = self._preamble.feed(data)
            if rest is None:
                return
            data, self._preamble = rest, None
        self._parser.feed(data)
        handlers = self._HANDLERS
        while (frame := self._parser.next_frame()) is not None:
            handler = handlers.get(frame.kind)
            if handler is None or (self.peer is None and frame.kind not in _BEFORE_WELCOME):
                raise ProtocolError(f"unexpected frame of type {frame.kind}")
            handler(self, frame, now)
        if self.window.streams and self._heartbeat.may_probe(now):
            self._probe_rtt(now)

    def _find(self, frame: frames.Frame) -> Exchange:
        exchange = self._exchanges.get(frame.id)
        if exchange is None or not exchange.sent:
            raise ProtocolError(f"frame of type {frame.kind} for unknown request {frame.id}")
        return exchange

    def _on_welcome(self, frame: frames.Frame, now: float) -> None:
        if self.peer is not None:
            raise ProtocolError("second WELCOME")
        peer = messages.decode(messages.WELCOME, frame.payload)
        if peer.protocol != messages.PROTOCOL_VERSION:
            raise ProtocolError(f"the helper speaks protocol {peer.protocol}")
        if peer.max_requests <= RESERVED_REQUESTS or peer.window < 1:
            raise ProtocolError("the helper takes too few requests or no data")
        self.peer = peer
        self._queue.allow(peer.max_requests)
        self._send_window = peer.window
        usage = peer.statvfs
        self.free_space = (usage.bavail * usage.frsize, usage.favail, usage.flag)
        self._probe_rtt(now)
        self._start_requests(now)

    def _on_data(self, frame: frames.Frame, now: float) -> None:
        exchange = self._find(frame)
        size = frame.wire_size
        exchange.received += size
        if exchange.received > exchange.granted:
            raise ProtocolError(f"request {frame.id}: more data than was granted")
        if exchange.ended >> frame.substream & 1:
            raise ProtocolError(f"request {frame.id}: data after its end")
        if exchange.bulk:
            exchange.reserved -= size
            self.window.release(size)
            self.window.delivered(size, now)
        elif exchange.received > SMALL_READ and not exchange.endless:
            self._count(exchange, exchange.granted - exchange.received, now)
        if exchange.collect or exchange.abandoned:
            if not exchange.abandoned:
                exchange.incoming.append((frame.substream, frame.payload, size))
            exchange.consumed += size
            self._grant(exchange, now)
        else:
            self._hand_over(exchange, frame, size)
        if self._queue.has_bulk:
            self._start_requests(now)

    def _hand_over(self, exchange: Exchange, frame: frames.Frame, wire_size: int) -> None:
        exchange.incoming.append((frame.substream, frame.payload, wire_size))
        exchange.queued_bytes += len(frame.payload)
        exchange.queued_wire += wire_size
        if exchange.on_change is not None:
            exchange.on_change()

    def _on_end(self, frame: frames.Frame, now: float) -> None:
        exchange = self._find(frame)
        if exchange.ended >> frame.substream & 1:
            raise ProtocolError(f"request {frame.id}: second end")
        exchange.ended |= 1 << frame.substream

    def _on_reply(self, frame: frames.Frame, now: float) -> None:
        exchange = self._find(frame)
        exchange.reply = bytes(frame.payload)
        self._finish(exchange, now)
        if exchange.abandoned and exchange.on_late_reply is not None:
            exchange.on_late_reply(exchange.reply)

    def _on_error(self, frame: frames.Frame, now: float) -> None:
        error = messages.decode(messages.ERROR, frame.payload)
        if frame.id == 0:
            raise ProtocolError(f"the helper refuses: {error.message} (errno {error.errno})")
        exchange = self._find(frame)
        exchange.error = RemoteError(error.errno, error.message)
        self._finish(exchange, now)

    def _finish(self, exchange: Exchange, now: float) -> None:
        del self._exchanges[exchange.id]
        self._queue.ended()
        exchange.done = True
        exchange.out.clear()
        exchange.out_bytes = 0
        if exchange.bulk:
            self.window.streams -= 1
            self.window.release(exchange.reserved)
            exchange.reserved = 0
        self._leave_order(exchange)
        if exchange.on_change is not None:
            exchange.on_change()
        if exchange.on_room is not None:
            exchange.on_room()
        self._start_requests(now)

    def _on_credit(self, frame: frames.Frame, now: float) -> None:
        if frame.id not in self._exchanges and 0 < frame.id <= self._newest_id:
            return  # it crossed the end of its request
        exchange = self._find(frame)
        exchange.credit += _CREDIT.unpack(frame.payload)[0]
        self._outbox.make_ready(exchange)

    def _on_events(self, frame: frames.Frame, now: float) -> None:
        exchange = self._find(frame)
        if exchange.op != "watch":
            raise ProtocolError(f"events for request {frame.id}, which is no watch")
        if exchange.abandoned:
            return
        payload: bytes | memoryview = frame.payload
        if exchange.queued_bytes + len(payload) > EVENTS_KEPT:
            payload = self._collapse(exchange, payload)
        # Events need no credit, so they count for nothing on the wire.
        self._hand_over(exchange, frame._replace(payload=payload), 0)

    def _collapse(self, exchange: Exchange, payload: bytes | memoryview) -> bytes:
        """Replace the events that nobody takes by one that says so.

        The caller lists the tree again.
        """
        last = 0
        for waiting in (*(entry[1] for entry in exchange.incoming), payload):
            for event in messages.decode(messages.EVENTS, waiting):
                last = max(last, event.number)
        exchange.incoming.clear()
        exchange.queued_bytes = 0
        return messages.encode([(last, b"", IN_Q_OVERFLOW, None, None)])

    def _on_ping(self, frame: frames.Frame, now: float) -> None:
        self._outbox.queue(frames.PONG, 0, messages.encode((bytes(frame.payload),)))

    def _on_pong(self, frame: frames.Frame, now: float) -> None:
        pong = messages.decode(messages.PONG, frame.payload)
        if pong.free_bytes >= 0:
            self.free_space = (pong.free_bytes, pong.free_inodes, pong.fs_flags)
            self.durable = max(self.durable, pong.durable)
        rtt = self._heartbeat.pong(pong.echo, now)
        if rtt is not None:
            self.window.measured_rtt(rtt, now)

    _HANDLERS: Final[dict[int, Callable[[ClientSession, frames.Frame, float], None]]] = {
        frames.WELCOME: _on_welcome,
        frames.DATA: _on_data,
        frames.END: _on_end,
        frames.REPLY: _on_reply,
        frames.ERROR: _on_error,
        frames.CREDIT: _on_credit,
        frames.EVENTS: _on_events,
        frames.PING: _on_ping,
        frames.PONG: _on_pong,
    }

    def next_tick(self) -> float:
        """When tick() is due."""
        return self._heartbeat.next_tick()

    def tick(self, now: float) -> None:
        """Queue a PING when nothing was sent for a while.

        Raises TransportError when nothing was received for long.
        """
        if self._heartbeat.is_due(now):
            self._probe_rtt(now)

    def _probe_rtt(self, now: float) -> None:
        self._outbox.queue(frames.PING, 0, self._heartbeat.ping(now))


_CREDIT: Final = struct.Struct(">I")
_BEFORE_WELCOME: Final = frozenset((frames.WELCOME, frames.ERROR))
