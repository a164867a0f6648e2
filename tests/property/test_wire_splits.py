"""Any sequence of frames, cut anywhere, is the same sequence; a flipped bit is never a surprise."""

from __future__ import annotations

import contextlib
import itertools
import zlib

from hypothesis import given
from hypothesis import strategies as st

from sealos_devbox._protocol import frames
from sealos_devbox._protocol.frames import Frame, FrameParser
from sealos_devbox.errors import ProtocolError
from tests.fakes.peer import ATTR, data, error, new_session, pack, reply, welcome

ids = st.integers(1, 2**32 - 1)
payloads = st.binary(max_size=300) | st.builds(lambda n: bytes(n), st.integers(0, 131072))


def build(kind: int, id: int, payload: bytes, substream: int, packed: bool) -> tuple[bytes, Frame]:
    if kind in (frames.END, frames.CANCEL):
        payload = b""
        packed = False
    elif kind == frames.CREDIT:
        payload = b"\0\0\1\0"
        packed = False
    elif kind == frames.PING:
        payload = payload[:64]
    if kind in (frames.HELLO, frames.WELCOME, frames.PING, frames.PONG):
        id = 0
    if kind not in (frames.DATA, frames.END):
        substream = 0
    wire = zlib.compress(payload) if packed else payload
    if len(wire) > frames.MAX_PAYLOAD:
        wire, packed = payload, False
    raw = frames.encode(kind, id, wire, substream << 4 | (frames.COMPRESSED if packed else 0))
    return raw, Frame(kind, id, payload, substream, len(wire))


any_frame = st.builds(
    build,
    st.integers(frames.HELLO, frames.CONTROL),
    ids,
    payloads,
    st.integers(0, 15),
    st.booleans(),
)


def parse_pieces(pieces: list[bytes]) -> list[Frame]:
    parser = FrameParser()
    found = []
    for piece in pieces:
        parser.feed(piece)
        while (frame := parser.next_frame()) is not None:
            found.append(frame._replace(payload=bytes(frame.payload)))
    return found


def cut(raw: bytes, places: list[int]) -> list[bytes]:
    marks = sorted({0, len(raw), *(place % (len(raw) + 1) for place in places)})
    return [raw[start:end] for start, end in itertools.pairwise(marks)]


@given(st.lists(any_frame, max_size=8), st.lists(st.integers(0, 1 << 20), max_size=20))
def test_any_split(built, places):
    raw = b"".join(part for part, _ in built)
    assert parse_pieces(cut(raw, places)) == [frame for _, frame in built]


@given(any_frame, st.binary(max_size=frames.HEADER_SIZE - 1))
def test_the_beginning_of_another_frame_is_left_alone(built, rest):
    parser = FrameParser()
    parser.feed(built[0] + rest)
    assert parser.next_frame() is not None
    assert parser.next_frame() is None
    assert parser.pending == len(rest)


@given(st.lists(any_frame, min_size=1, max_size=4), st.integers(0, 1 << 24))
def test_one_flipped_bit(built, place):
    """What comes before it is untouched; it gives a frame, waits for more, or is refused."""
    raw = bytearray(b"".join(part for part, _ in built))
    bit = place % (len(raw) * 8)
    raw[bit // 8] ^= 1 << bit % 8
    whole = 0
    end = 0
    for part, _ in built:
        end += len(part)
        if end > bit // 8:
            break
        whole += 1
    parser = FrameParser()
    parser.feed(bytes(raw))
    for _, frame in built[:whole]:
        found = parser.next_frame()
        assert found is not None
        assert found._replace(payload=bytes(found.payload)) == frame
    try:
        while parser.next_frame() is not None:
            pass
    except ProtocolError:
        pass


conversation = b"".join(
    [
        welcome(),
        reply(1, ATTR, 3),
        error(2, 2, "no such file"),
        data(3, b"some output"),
        data(3, b"some errors", 1),
        frames.encode_credit(3, 1000),
        frames.encode(frames.EVENTS, 4, pack([[1, b"a", 2, ATTR, None]])),
        frames.encode(frames.PING, 0, b"hello"),
        frames.encode(frames.PONG, 0, pack([bytes(8), 1, 2, 3, 4, 5])),
        frames.encode(frames.END, 3),
        reply(3, [0, None]),
    ]
)


def converse(pieces: list[bytes]) -> list[object]:
    session = new_session()
    exchanges = [
        session.open("stat", b"a", False, 0, now=0.0),
        session.open("stat", b"b", False, 0, now=0.0),
        session.open("exec", [b"a"], None, {}, None, 0, now=0.0, collect=False, endless=True),
        session.open("watch", b"", False, now=0.0, collect=False, endless=True),
    ]
    for piece in pieces:
        session.receive_data(piece, 0.0)
    return [
        (e.done, e.reply, e.error, e.credit, [(s, bytes(p), n) for s, p, n in e.incoming])
        for e in exchanges
    ]


@given(st.lists(st.integers(0, len(conversation)), max_size=30))
def test_a_conversation_in_any_pieces(places):
    assert converse(cut(conversation, places)) == converse([conversation])


def test_a_conversation_byte_by_byte():
    pieces = [bytes([byte]) for byte in conversation]
    assert converse(pieces) == converse([conversation])


@given(st.integers(0, len(conversation) * 8 - 1))
def test_a_conversation_with_one_flipped_bit(bit):
    raw = bytearray(conversation)
    raw[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(ProtocolError):
        converse([bytes(raw)])
