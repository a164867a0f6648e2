from __future__ import annotations

import random
import zlib

import pytest

from sealos_devbox._protocol import frames
from sealos_devbox._protocol.frames import Frame, FrameParser
from sealos_devbox.errors import ProtocolError
from tests.fakes.vectors import load

VECTORS = load("frames")
TYPES = VECTORS["types"]


def all_frames(parser: FrameParser) -> list[Frame]:
    found = []
    while (frame := parser.next_frame()) is not None:
        found.append(frame)
    return found


def parse_three_ways(raw: bytes) -> Frame:
    """Whole, byte by byte, and with bytes after it that must be left alone."""
    whole = FrameParser()
    whole.feed(raw)
    [frame] = all_frames(whole)
    assert whole.pending == 0

    slow = FrameParser()
    for byte in raw[:-1]:
        slow.feed(bytes([byte]))
        assert slow.next_frame() is None
    slow.feed(raw[-1:])
    assert slow.next_frame() == frame

    followed = FrameParser()
    followed.feed(raw + b"\0\0\0")
    assert followed.next_frame() == frame
    assert followed.next_frame() is None
    assert followed.pending == 3
    return frame


@pytest.mark.parametrize("row", VECTORS["frames"] + VECTORS["compressed"])
def test_reads_the_vector(row):
    raw = bytes.fromhex(row["hex"])
    frame = parse_three_ways(raw)
    assert frame.kind == row["type"]
    assert frame.id == row["id"]
    assert bytes(frame.payload) == bytes.fromhex(row["payload"])
    assert frame.substream == row["flags"] >> 4
    assert frame.wire_size == len(raw) - frames.HEADER_SIZE


@pytest.mark.parametrize("row", VECTORS["frames"])
def test_writes_the_vector(row):
    raw = frames.encode(row["type"], row["id"], bytes.fromhex(row["payload"]), row["flags"])
    assert raw == bytes.fromhex(row["hex"])


@pytest.mark.parametrize("row", VECTORS["refused"], ids=lambda row: row["why"])
def test_refuses_the_vector(row):
    parser = FrameParser()
    parser.feed(bytes.fromhex(row["hex"]))
    with pytest.raises(ProtocolError):
        parser.next_frame()


def test_numbers_the_types_as_the_protocol_does():
    for name, number in TYPES.items():
        assert getattr(frames, name) == number


def test_writes_credit():
    assert frames.encode_credit(7, 65536) == frames.encode(
        frames.CREDIT, 7, (65536).to_bytes(4, "big")
    )


def test_a_good_frame_before_a_bad_one_is_given_first():
    parser = FrameParser()
    parser.feed(frames.encode(frames.DATA, 1, b"good") + frames.encode(99, 1))
    frame = parser.next_frame()
    assert frame is not None
    assert bytes(frame.payload) == b"good"
    with pytest.raises(ProtocolError, match="unknown type 99"):
        parser.next_frame()


def test_largest_frame_over_many_receives():
    payload = bytes(range(256)) * 512
    raw = frames.encode(frames.DATA, 3, payload) * 3
    parser = FrameParser()
    found = []
    for start in range(0, len(raw), 1000):
        parser.feed(raw[start : start + 1000])
        found += all_frames(parser)
    assert [bytes(frame.payload) for frame in found] == [payload] * 3


def test_compresses_only_where_it_pays():
    text = b"the same again " * 1000
    packed = frames.compress(text)
    assert packed is not None
    assert zlib.decompress(packed) == text
    assert frames.compress(random.Random(1).randbytes(10_000)) is None
    assert frames.compress(b"") is None
