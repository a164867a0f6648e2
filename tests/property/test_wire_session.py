"""A session against a model of the helper: requests, data, credit, cancels, the end, in any order.

The model keeps its own books of what each side may send, from the frames that it sees, and never
sends what it may not. Whatever the order: no ProtocolError, nothing sent beyond a window, every
exchange ends with what the model said, and nothing is left over.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from sealos_devbox._protocol import frames
from sealos_devbox._protocol.exchange import Exchange
from sealos_devbox._protocol.outbox import WRITE_SIZE
from sealos_devbox._protocol.request_queue import RESERVED_REQUESTS
from sealos_devbox._protocol.session import ClientSession
from sealos_devbox._protocol.window import MIN_WINDOW
from sealos_devbox.errors import ProtocolError, TransportError
from tests.fakes.peer import data, error, pack, parse, reply, unpack, welcome

HELPER_WINDOW = 50_000
MAX_REQUESTS = RESERVED_REQUESTS + 4
BYTES = bytes(range(256)) * 1024


def pattern(offset: int, size: int) -> bytes:
    """So many bytes, of which each says where it belongs."""
    return BYTES[offset % 256 :][:size]


@dataclass
class Asked:
    """What the caller knows of an exchange, and what it should see."""

    exchange: Exchange
    kind: str
    to_send: bytes = b""
    sent_end: bool = False
    cancelled: bool = False
    taken: bytes = b""


@dataclass
class Seen:
    """What the helper knows of a request."""

    op: str
    may_send: int = MIN_WINDOW
    may_receive: int = HELPER_WINDOW
    said: bytes = b""
    heard: bytes = b""
    ended: bool = False
    cancelled: bool = False
    result: bytes | None = None
    log: list[str] = field(default_factory=list)


class SessionMachine(RuleBasedStateMachine):
    asked = Bundle("asked")

    @initialize()
    def connect(self) -> None:
        self.now = 0.0
        self.session = ClientSession(client="t", compress=False, heartbeat=10.0, now=0.0)
        self.mine: dict[int, Asked] = {}
        self.seen: dict[int, Seen] = {}
        self.over: dict[int, Seen] = {}
        self.order: list[int] = []
        self.sent_order: list[int] = []
        self.hello = False
        self.failed = False
        self.session.receive_data(welcome(window=HELPER_WINDOW, max_requests=MAX_REQUESTS), 0.0)

    @rule(target=asked, kind=st.sampled_from(["call", "stream", "bulk", "batch", "command"]))
    def ask(self, kind):
        options: dict[str, object] = {
            "call": {},
            "stream": {"collect": False},
            "bulk": {"expected": 1 << 20, "bulk": True},
            "batch": {"ordered": True},
            "command": {"collect": False, "endless": True},
        }[kind]
        exchange = self.session.open(kind, now=self.now, **options)  # type: ignore[arg-type]
        mine = Asked(exchange, kind)
        if not self.failed:
            self.mine[exchange.id] = mine
            if kind == "batch":
                self.order.append(exchange.id)
        return mine

    @rule(mine=asked, size=st.sampled_from([1, 100, 20_000, 200_000]))
    def send(self, mine, size):
        if mine.kind in ("batch", "command") and not mine.sent_end and not mine.cancelled:
            content = pattern(len(mine.to_send), size)
            if not mine.exchange.done:
                mine.to_send += content
            self.session.send_data(mine.exchange, content)

    @rule(mine=asked)
    def end(self, mine):
        if mine.kind in ("batch", "command") and not mine.sent_end:
            mine.sent_end = True
            self.session.send_end(mine.exchange)

    @rule(mine=asked, limit=st.sampled_from([0, 1000, 1 << 20]))
    def take(self, mine, limit):
        if not mine.exchange.collect and not mine.cancelled:
            for _, payload in self.session.take(mine.exchange, limit, self.now):
                mine.taken += payload

    @rule(mine=asked)
    def cancel(self, mine):
        if mine.exchange.done:
            return
        mine.cancelled = True
        if not mine.exchange.sent:
            del self.mine[mine.exchange.id]
            if mine.exchange.id in self.order:
                self.order.remove(mine.exchange.id)
        self.session.cancel(mine.exchange)

    @rule()
    def transmit(self):
        raw = self.session.next_write(self.now)
        assert len(raw) <= WRITE_SIZE + frames.HEADER_SIZE
        for frame in parse(raw):
            self.hear(frame)

    def hear(self, frame: frames.Frame) -> None:
        if frame.kind == frames.HELLO:
            assert not self.hello
            self.hello = True
            return
        assert self.hello
        if frame.kind == frames.PING:
            self.tell(frames.encode(frames.PONG, 0, pack([bytes(frame.payload), 1, 2, 3, 4, 5])))
            return
        if frame.kind == frames.REQUEST:
            assert frame.id not in self.seen
            op = unpack(frame.payload)[0]
            self.seen[frame.id] = Seen(op)
            assert len(self.seen) <= MAX_REQUESTS
            if op == "batch":
                self.sent_order.append(frame.id)
            return
        if frame.id in self.over:
            # It was on its way when the answer was.
            return
        seen = self.seen[frame.id]
        if frame.kind == frames.DATA:
            assert not seen.ended
            assert not seen.cancelled
            seen.may_receive -= frame.wire_size
            assert seen.may_receive >= 0, "more than the helper's window"
            seen.heard += frame.payload
        elif frame.kind == frames.END:
            assert not seen.ended
            seen.ended = True
        elif frame.kind == frames.CREDIT:
            seen.may_send += int.from_bytes(frame.payload, "big")
        else:
            assert frame.kind == frames.CANCEL
            seen.cancelled = True

    def tell(self, raw: bytes) -> None:
        if not self.failed:
            self.session.receive_data(raw, self.now)

    @precondition(lambda self: self.seen and not self.failed)
    @rule(pick=st.integers(0, 99), size=st.sampled_from([0, 1, 5000, 131072]))
    def say(self, pick, size):
        id = sorted(self.seen)[pick % len(self.seen)]
        seen = self.seen[id]
        size = min(size, seen.may_send)
        if seen.op == "bulk":
            size = min(size, (1 << 20) - len(seen.said))
        content = pattern(len(seen.said), size)
        seen.said += content
        seen.may_send -= size
        self.tell(data(id, content))

    @precondition(lambda self: self.seen and not self.failed)
    @rule(pick=st.integers(0, 99), amount=st.sampled_from([1, 1000, 100_000]))
    def credit(self, pick, amount):
        id = sorted(self.seen)[pick % len(self.seen)]
        self.seen[id].may_receive += amount
        self.tell(frames.encode_credit(id, amount))

    @precondition(lambda self: self.seen and not self.failed)
    @rule(pick=st.integers(0, 99), good=st.booleans())
    def answer(self, pick, good):
        id = sorted(self.seen)[pick % len(self.seen)]
        seen = self.seen.pop(id)
        self.over[id] = seen
        if good:
            seen.result = pack([0, id])
        self.tell(reply(id, id) if good else error(id, 5))
        mine = self.mine.pop(id)
        assert mine.exchange.done
        if mine.cancelled:
            return
        assert mine.exchange.reply == seen.result
        assert (mine.exchange.error is None) == good
        if mine.exchange.collect:
            got = b"".join(payload for _, payload, _ in mine.exchange.incoming)
        else:
            while taken := self.session.take(mine.exchange, 1 << 20, self.now):
                mine.taken += b"".join(payload for _, payload in taken)
            got = mine.taken
        assert got == seen.said
        assert mine.to_send.startswith(seen.heard)

    @precondition(lambda self: not self.failed and len(self.over) > 3)
    @rule()
    def eof(self):
        self.failed = True
        self.session.fail(TransportError("gone"))
        for mine in self.mine.values():
            assert mine.exchange.done
            if not mine.cancelled:
                assert mine.exchange.failure is not None
        self.mine.clear()
        self.seen.clear()

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds):
        self.now += seconds
        if not self.failed:
            self.session._heartbeat.received(self.now)
            self.session.tick(self.now)

    @invariant()
    def books_agree(self):
        if self.failed:
            assert not self.session.wants_write
            return
        assert set(self.session._exchanges) == set(self.mine)
        bulk = [e for e in self.session._exchanges.values() if e.bulk and e.sent]
        assert self.session.window.streams == len(bulk)
        assert self.session.window.outstanding == sum(e.reserved for e in bulk)
        for exchange in self.session._exchanges.values():
            assert exchange.received <= exchange.granted
            assert exchange.consumed <= exchange.received
            assert exchange.credit >= 0
            assert exchange.out_bytes == sum(len(content) for content, _ in exchange.out)
            assert exchange.reserved >= 0

    @invariant()
    def batches_are_in_order(self):
        assert self.order[: len(self.sent_order)] == self.sent_order

    def teardown(self) -> None:
        """Once everybody does their part, everything ends."""
        if self.failed:
            return
        for _ in range(10_000):
            for mine in list(self.mine.values()):
                self.end(mine)
            self.transmit()
            if not self.seen:
                if not self.session.wants_write and not self.mine:
                    break
                continue
            for id, seen in list(self.seen.items()):
                if seen.may_receive < 1000:
                    seen.may_receive += 1 << 20
                    self.tell(frames.encode_credit(id, 1 << 20))
            ready = [id for id, seen in self.seen.items() if seen.ended or seen.op != "batch"]
            cancelled = [id for id, seen in self.seen.items() if seen.cancelled]
            for id in ready or cancelled:
                self.answer(sorted(self.seen).index(id), True)
        stuck = [(m.kind, m.exchange.sent, m.exchange.out_bytes) for m in self.mine.values()]
        assert not stuck
        assert not self.session._exchanges
        assert self.session.window.outstanding == 0


SessionMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestSession = pytest.mark.slow(SessionMachine.TestCase)


def test_the_model_would_notice():
    """The books are worth something: a helper that sends too much is refused."""
    machine = SessionMachine()
    machine.connect()
    mine = machine.ask("stream")
    machine.transmit()
    machine.seen[mine.exchange.id].may_send += 1
    machine.say(0, 131072)
    machine.say(0, 131072)
    with pytest.raises(ProtocolError):
        machine.say(0, 1)
