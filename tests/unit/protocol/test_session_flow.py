"""How much either side of a session may send, and whose turn it is."""

from __future__ import annotations

import pytest

from sealos_devbox._protocol import frames
from sealos_devbox._protocol.outbox import DATA_SIZE, WRITE_SIZE
from sealos_devbox._protocol.session import ClientSession, Exchange
from sealos_devbox._protocol.window import MIN_WINDOW
from sealos_devbox.errors import ProtocolError
from tests.fakes.peer import data, error, greeted, parse, reply, unpack, written


def full() -> tuple[ClientSession, Exchange]:
    """A session of whose exchange as much has arrived as was granted, and nothing is taken."""
    session = greeted()
    exchange = session.open("snapshot", b"", 0, now=0.0, collect=False)
    written(session)
    for _ in range(2):
        session.receive_data(data(exchange.id, bytes(131072)), 0.0)
    return session, exchange


def test_more_data_than_was_granted():
    session, exchange = full()
    with pytest.raises(ProtocolError, match="more data than was granted"):
        session.receive_data(data(exchange.id, b"x"), 0.0)


def test_taking_grants_more():
    session, exchange = full()
    assert not written(session), "nothing is granted for what nobody has taken"
    assert len(session.take(exchange, 131072, 0.0)) == 1
    [credit] = written(session)
    assert credit.kind == frames.CREDIT
    assert int.from_bytes(credit.payload, "big") >= 131072


def test_a_known_length_is_never_granted_twice():
    session = greeted()
    exchange = session.open("pread", 1, 0, MIN_WINDOW, now=0.0, expected=MIN_WINDOW, bulk=True)
    [request] = written(session)
    assert request.kind == frames.REQUEST
    for _ in range(2):
        session.receive_data(data(exchange.id, bytes(131072)), 0.0)
    session.receive_data(reply(exchange.id), 0.0)
    assert not written(session)
    assert session.window.outstanding == 0
    assert session.window.streams == 0


def test_large_reads_wait_for_room_and_small_ones_do_not():
    session = greeted()
    large = [
        session.open("pread", 1, 0, 1 << 20, now=0.0, expected=1 << 20, bulk=True)
        for _ in range(20)
    ]
    small = session.open("pread", 1, 0, 4096, now=0.0, expected=4096, bulk=True)
    sent = {frame.id for frame in written(session) if frame.kind == frames.REQUEST}
    assert small.id in sent
    assert 1 <= len(sent) - 1 < len(large)
    assert session.window.outstanding <= session.window.limit
    first = large[0]
    session.receive_data(data(first.id, bytes(131072)) + reply(first.id), 0.0)
    later = {frame.id for frame in written(session) if frame.kind == frames.REQUEST}
    assert later
    assert not later & sent


def test_data_stops_at_the_helpers_window_and_goes_on_with_credit():
    session = greeted(window=1000)
    exchange = session.open("exec", [b"cat"], None, {}, None, 0, now=0.0, collect=False)
    session.send_data(exchange, b"a" * 600)
    session.send_data(exchange, b"b" * 600)
    session.send_end(exchange)
    sent = written(session)
    assert [frame.kind for frame in sent] == [frames.REQUEST, frames.DATA, frames.DATA]
    assert b"".join(frame.payload for frame in sent[1:]) == b"a" * 600 + b"b" * 400
    assert not session.wants_write
    session.receive_data(frames.encode_credit(exchange.id, 199), 0.0)
    assert [bytes(frame.payload) for frame in written(session)] == [b"b" * 199]
    session.receive_data(frames.encode_credit(exchange.id, 1000), 0.0)
    assert [(frame.kind, bytes(frame.payload)) for frame in written(session)] == [
        (frames.DATA, b"b"),
        (frames.END, b""),
    ]


def test_a_compressed_frame_is_never_split():
    packed = frames.compress(b"the same again " * 1000)
    assert packed is not None
    session = greeted(window=len(packed) - 1)
    exchange = session.open("apply", now=0.0, ordered=True)
    session.send_data(exchange, packed, compressed=True)
    assert [frame.kind for frame in written(session)] == [frames.REQUEST]
    session.receive_data(frames.encode_credit(exchange.id, 1), 0.0)
    [frame] = written(session)
    assert bytes(frame.payload) == b"the same again " * 1000
    assert frame.wire_size == len(packed)


def test_control_frames_before_data_and_no_write_too_large():
    session = greeted()
    command = session.open("exec", [b"cat"], None, {}, None, 0, now=0.0, collect=False)
    session.send_data(command, bytes(1 << 20))
    sizes = []
    kinds = []
    for number in range(8):
        session.open("stat", b"a", False, 0, now=0.0)
        raw = session.next_write(0.0)
        sizes.append(len(raw))
        kinds.append([frame.kind for frame in parse(raw)])
        assert kinds[-1][0] == frames.REQUEST, number
        assert frames.DATA in kinds[-1], "data is not starved by a steady flow of requests"
    assert max(sizes) <= WRITE_SIZE


def test_data_of_several_requests_takes_turns():
    session = greeted()
    commands = [
        session.open("exec", [b"cat"], None, {}, None, 0, now=0.0, collect=False) for _ in range(3)
    ]
    for command in commands:
        session.send_data(command, bytes(4 * DATA_SIZE))
    turns = [frame.id for frame in written(session) if frame.kind == frames.DATA]
    for start in range(0, 12, 3):
        assert sorted(turns[start : start + 3]) == [1, 2, 3]


def test_batches_are_sent_whole_and_in_order():
    session = greeted()
    first = session.open("apply", now=0.0, ordered=True)
    second = session.open("apply", now=0.0, ordered=True)
    session.send_data(second, b"second")
    session.send_end(second)
    assert [(frame.kind, frame.id) for frame in written(session)] == [(frames.REQUEST, first.id)]
    session.send_data(first, b"first")
    session.send_end(first)
    assert [(frame.kind, frame.id) for frame in written(session)] == [
        (frames.DATA, first.id),
        (frames.END, first.id),
        (frames.REQUEST, second.id),
        (frames.DATA, second.id),
        (frames.END, second.id),
    ]


@pytest.mark.parametrize("ending", ["error", "cancel"])
def test_a_batch_that_ends_early_makes_way(ending):
    session = greeted()
    first = session.open("apply", now=0.0, ordered=True)
    session.send_data(first, bytes(8 << 20))
    second = session.open("apply", now=0.0, ordered=True)
    session.send_end(second)
    written(session)
    if ending == "error":
        session.receive_data(error(first.id, 28), 0.0)
    else:
        session.cancel(first)
    sent = written(session)
    assert {frame.id for frame in sent if frame.kind in (frames.REQUEST, frames.END)} == {second.id}
    assert not [frame for frame in sent if frame.kind == frames.DATA]


def test_room_is_kept_for_batches():
    session = greeted(max_requests=20)
    reads = [session.open("stat", b"a", False, 9, now=0.0) for _ in range(10)]
    batch = session.open("apply", now=0.0, ordered=True)
    session.send_end(batch)
    sent = [frame.id for frame in written(session) if frame.kind == frames.REQUEST]
    assert sent == [read.id for read in reads[:4]] + [batch.id]
    assert session.requests_sent == 5
    session.receive_data(reply(reads[0].id) + reply(batch.id), 0.0)
    assert [frame.id for frame in written(session)] == [reads[4].id]


def test_controls_wait_for_their_request():
    session = greeted(max_requests=17)
    first = session.open("stat", b"a", False, 0, now=0.0)
    command = session.open("exec", [b"cat"], None, {}, None, 0, now=0.0, collect=False)
    session.control(command, "signal", 15)
    assert [frame.id for frame in written(session)] == [first.id]
    session.receive_data(reply(first.id), 0.0)
    request, control = written(session)
    assert (request.kind, control.kind) == (frames.REQUEST, frames.CONTROL)
    assert unpack(control.payload) == ["signal", 15]


def test_credit_that_crossed_the_end_of_its_request_is_ignored() -> None:
    session = greeted()
    exchange = session.open("stat", b"a", False, 0, now=0.0)
    written(session)
    session.receive_data(reply(exchange.id) + frames.encode_credit(exchange.id, 1), 0.0)
    assert exchange.done
    session.receive_data(frames.encode_credit(exchange.id, 1), 0.0)
