"""A session's requests: how each begins and ends, and what the helper may say meanwhile."""

from __future__ import annotations

import random

import pytest

from sealos_devbox._protocol import frames
from sealos_devbox._protocol.exchange import RemoteError
from sealos_devbox._protocol.request_queue import RESERVED_REQUESTS
from sealos_devbox._protocol.session import RequestTooLargeError
from sealos_devbox._protocol.window import MIN_WINDOW
from sealos_devbox.errors import ProtocolError, TransportError
from tests.fakes.peer import (
    ATTR,
    data,
    error,
    greeted,
    new_session,
    pack,
    reply,
    unpack,
    welcome,
    written,
)


def test_hello_comes_first_and_requests_wait_for_welcome():
    session = new_session()
    exchange = session.open("stat", b"a", False, 0, now=0.0)
    [hello] = written(session)
    assert hello.kind == frames.HELLO
    assert unpack(hello.payload) == {
        "protocol": 1,
        "client": "test",
        "window": MIN_WINDOW,
        "compress": True,
        "heartbeat_ms": 10000,
    }
    session.receive_data(welcome(), 0.0)
    request = next(frame for frame in written(session) if frame.kind == frames.REQUEST)
    assert request.id == exchange.id
    assert unpack(request.payload) == ["stat", b"a", False, 0]
    assert session.peer is not None
    assert session.peer.capabilities >= {"apply", "watch"}
    assert session.free_space == (40 * 4096, 800, 0)


@pytest.mark.parametrize("banner", [b"", b"Welcome to the box!\r\n", b"\0DBXHL", b"\0" * 65536])
def test_noise_before_the_mark(banner):
    session = new_session()
    raw = banner + welcome()
    for start in range(0, len(raw), 7):
        session.receive_data(raw[start : start + 7], 0.0)
    assert session.peer is not None
    assert session.noise == b""


def test_too_much_noise():
    session = new_session()
    session.receive_data(b"x" * (65536 + 7), 0.0)
    with pytest.raises(ProtocolError, match="no helper answers"):
        session.receive_data(welcome()[:1], 0.0)
    assert session.noise.startswith(b"xxx")


def test_the_mark_one_byte_too_late():
    session = new_session()
    with pytest.raises(ProtocolError, match="no helper answers"):
        session.receive_data(b"x" * 65537 + welcome(), 0.0)


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (frames.MAGIC + reply(1), "unexpected frame"),
        (frames.MAGIC + error(0, 93, "protocol 1 only"), "protocol 1 only"),
        (welcome(protocol=2), "speaks protocol 2"),
        (welcome(max_requests=RESERVED_REQUESTS), "too few requests"),
        (welcome(uid=None), "malformed"),
        (welcome() + welcome()[len(frames.MAGIC) :], "second WELCOME"),
        (frames.MAGIC + frames.encode(frames.HELLO, 0, b""), "unexpected frame of type 1"),
    ],
)
def test_refuses_another_greeting(raw, match):
    with pytest.raises(ProtocolError, match=match):
        new_session().receive_data(raw, 0.0)


def test_reply_and_data():
    session = greeted()
    changes = []
    exchange = session.open("read", b"a", None, 0, -1, False, now=0.0)
    exchange.on_change = lambda: changes.append(exchange.done)
    [request] = written(session)
    session.receive_data(data(request.id, b"he") + data(request.id, b"llo"), 0.0)
    assert not exchange.done
    session.receive_data(frames.encode(frames.END, request.id) + reply(request.id, ATTR, 7), 0.0)
    assert exchange.done
    assert exchange.reply == pack([7, ATTR])
    assert b"".join(payload for _, payload, _ in exchange.incoming) == b"hello"
    assert changes == [True], "a collected exchange is told once"


def test_error():
    session = greeted()
    exchange = session.open("stat", b"a", False, 0, now=0.0)
    written(session)
    session.receive_data(error(exchange.id, 2, "no such file"), 0.0)
    assert exchange.done
    assert exchange.error == RemoteError(2, "no such file")


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (reply(99), "unknown request 99"),
        (error(99, 2), "unknown request 99"),
        (data(99, b"x"), "unknown request 99"),
        (frames.encode(frames.END, 99), "unknown request 99"),
        (frames.encode_credit(99, 1), "unknown request 99"),
        (frames.encode(frames.EVENTS, 99, pack([])), "unknown request 99"),
        (frames.encode(frames.EVENTS, 1, pack([])), "no watch"),
        (reply(1) + reply(1), "unknown request 1"),
        (reply(1) + data(1, b"x"), "unknown request 1"),
        (frames.encode(frames.END, 1) * 2, "second end"),
        (frames.encode(frames.END, 1) + data(1, b"x"), "after its end"),
        (frames.encode(frames.END, 1, flags=0x10) + data(1, b"x", 1), "after its end"),
        (frames.encode(frames.REQUEST, 1, pack(["sync"])), "unexpected frame of type 3"),
        (frames.encode(frames.CANCEL, 1), "unexpected frame of type 9"),
        (frames.encode(frames.CONTROL, 1, pack([])), "unexpected frame of type 13"),
        (frames.encode(frames.ERROR, 1, b"\xc0"), "malformed"),
        (frames.encode(frames.PONG, 0, b"\xc0"), "malformed"),
        (error(0, 5, "out of memory"), "out of memory"),
    ],
)
def test_refuses_what_the_helper_never_sends(raw, match):
    session = greeted()
    exchange = session.open("exec", [b"true"], None, {}, None, 0, now=0.0, collect=False)
    assert exchange.id == 1
    written(session)
    with pytest.raises(ProtocolError, match=match):
        session.receive_data(raw, 0.0)


def test_a_request_that_does_not_fit():
    session = greeted()
    with pytest.raises(RequestTooLargeError):
        session.open("stat", b"x" * 131072, False, 0, now=0.0)
    assert not written(session)


def test_ids_in_use_are_skipped():
    session = greeted()
    session._ids = iter((0xFFFFFFFF, 0x100000000, 0xFFFFFFFF, 1))
    one = session.open("stat", b"", False, 0, now=0.0)
    other = session.open("stat", b"", False, 0, now=0.0)
    assert (one.id, other.id) == (0xFFFFFFFF, 1)


def test_cancel_before_it_was_sent():
    session = new_session()
    for options in ({}, {"bulk": True}, {"ordered": True}):
        session.cancel(session.open("stat", b"", False, 0, now=0.0, **options))
    session.receive_data(welcome(), 0.0)
    assert [frame.kind for frame in written(session)] == [frames.HELLO, frames.PING]
    assert session.requests_sent == 0


def test_cancel_while_it_runs():
    session = greeted()
    exchange = session.open("snapshot", b"", 0, now=0.0, collect=False)
    exchange.on_change = lambda: pytest.fail("the caller has gone")
    written(session)
    session.cancel(exchange)
    session.cancel(exchange)
    assert [(frame.kind, frame.id) for frame in written(session)] == [(frames.CANCEL, exchange.id)]
    for _ in range(8):
        session.receive_data(data(exchange.id, bytes(131072)), 0.0)
    assert not exchange.incoming
    assert exchange.id not in {session.open("stat", b"", False, 0, now=0.0).id}
    session.receive_data(error(exchange.id, 125), 0.0)
    with pytest.raises(ProtocolError):
        session.receive_data(reply(exchange.id), 0.0)


def test_a_late_reply_reaches_who_asked_for_it():
    session = greeted()
    late: list[bytes] = []
    exchange = session.open("open", b"a", None, False, now=0.0)
    exchange.on_late_reply = late.append
    written(session)
    session.cancel(exchange)
    session.receive_data(reply(exchange.id, [5, ATTR]), 0.0)
    assert late == [pack([0, [5, ATTR]])]


def test_what_cannot_be_cancelled_is_sent_all_the_same():
    session = greeted()
    session.cancel(session.open("close", 5, now=0.0, cancellable=False))
    [request] = written(session)
    assert unpack(request.payload) == ["close", 5]
    session.receive_data(reply(request.id), 0.0)


def test_events_wait_for_who_watches():
    session = greeted()
    watch = session.open("watch", b"", False, now=0.0, collect=False, endless=True)
    [request] = written(session)
    session.receive_data(frames.encode(frames.EVENTS, request.id, pack([])), 0.0)
    session.receive_data(frames.encode(frames.EVENTS, request.id, pack([[1, b"a", 2, None]])), 0.0)
    taken = session.take(watch, 1 << 20, 0.0)
    assert [unpack(payload) for _, payload in taken] == [[], [[1, b"a", 2, None]]]
    assert not written(session), "events need no credit"


def test_events_that_nobody_takes_become_an_overflow():
    session = greeted()
    watch = session.open("watch", b"", False, now=0.0, collect=False, endless=True)
    [request] = written(session)
    for number in range(1, 201):
        event = [number, b"d" * 120000, 0x100, None, None]
        session.receive_data(frames.encode(frames.EVENTS, request.id, pack([event])), 0.0)
    assert watch.queued_bytes < 17 << 20
    taken = session.take(watch, 1 << 30, 0.0)
    [[last, path, mask, attr, source]] = unpack(taken[0][1])
    assert (path, mask, attr, source) == (b"", 0x4000, None, None)
    following = [unpack(payload)[0][0] for _, payload in taken[1:]]
    assert following == list(range(last + 1, 201))
    assert watch.queued_bytes == 0


def test_answers_a_ping_and_learns_from_a_pong():
    session = greeted()
    session.receive_data(frames.encode(frames.PING, 0, b"echo"), 0.0)
    [pong] = written(session)
    assert pong.kind == frames.PONG
    assert unpack(pong.payload) == [b"echo"]
    echo = (1).to_bytes(8, "big")
    pong_frame = frames.encode(frames.PONG, 0, pack([echo, 1, 111, 22, 1, 9]))
    session.receive_data(pong_frame, 0.25)
    assert session.window.min_rtt == 0.25
    assert session.free_space == (111, 22, 1)
    assert session.durable == 9


def test_silence_is_broken_by_a_ping_once():
    session = greeted()
    assert session.next_tick() == 10.0
    session.tick(9.9)
    assert not session.wants_write
    session.tick(10.0)
    session.tick(11.0)
    assert session.next_tick() == 30.0, "the ping is waiting to be sent"
    assert [frame.kind for frame in written(session, 12.0)] == [frames.PING]
    assert session.next_tick() == 22.0


def test_a_helper_that_says_nothing_is_dead():
    session = greeted()
    session.tick(29.9)
    with pytest.raises(TransportError, match="nothing heard from the helper for 30 s"):
        session.tick(30.0)


def test_whatever_arrives_is_a_sign_of_life():
    session = greeted()
    session.receive_data(b"\0", 25.0)
    session.tick(54.0)


def test_a_failure_reaches_every_exchange_now_and_later():
    session = greeted()
    told = []
    running = session.open("stat", b"", False, 0, now=0.0)
    waiting = session.open("apply", now=0.0, ordered=True)
    session.open("apply", now=0.0, ordered=True)
    for exchange in (running, waiting):
        exchange.on_change = lambda: told.append(1)
    waiting.on_room = lambda: told.append(1)
    failure = TransportError("gone")
    session.fail(failure)
    session.fail(TransportError("later"))
    assert len(told) == 3
    late = session.open("stat", b"", False, 0, now=0.0)
    for exchange in (running, waiting, late):
        assert exchange.done
        assert exchange.failure is failure
    session.send_data(waiting, b"x")
    session.send_end(waiting)
    session.control(waiting, "signal", 9)
    session.cancel(running)
    assert not session.wants_write
    assert session.next_write(0.0) == b""


def test_two_thousand_requests_of_every_order():
    """Replies in any order, with the table empty at the end."""
    chance = random.Random(7)
    session = greeted()
    exchanges = [session.open("stat", b"%d" % n, False, 0, now=0.0) for n in range(2000)]
    open_ids: list[int] = []
    while True:
        open_ids += [frame.id for frame in written(session) if frame.kind == frames.REQUEST]
        if not open_ids:
            break
        assert len(open_ids) <= 256 - RESERVED_REQUESTS
        chance.shuffle(open_ids)
        session.receive_data(b"".join(reply(id, id) for id in open_ids[:50]), 0.0)
        del open_ids[:50]
    assert [unpack(exchange.reply or b"")[1] for exchange in exchanges] == [e.id for e in exchanges]
    assert not session._exchanges
