"""The journal's format: every field there and back, and no byte that may be wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devboxfs.core import records
from devboxfs.core.ops import Kind, Operation, Source
from devboxfs.core.records import Header, RecordError
from sealos_devbox import Version


class Nowhere:
    def read(self, offset: int, length: int) -> bytes:
        raise AssertionError


HERE = Nowhere()
SPOOL = Nowhere()
u64, u32, i64 = (
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(-(2**63), 2**63 - 1),
)
maybe = lambda values: st.none() | values  # noqa: E731
versions = st.builds(Version, u64, i64, i64, u64, maybe(st.binary(min_size=32, max_size=32)))
operations = st.builds(
    Operation,
    st.sampled_from(Kind),
    u64,
    st.binary(max_size=200),
    i64,
    u64,
    base=maybe(versions),
    other=st.binary(max_size=50),
    mode=maybe(u32),
    uid=maybe(u32),
    gid=maybe(u32),
    atime_ns=maybe(i64),
    mtime_ns=maybe(i64),
    offset=u64,
    length=st.integers(1, 100),
    size=u64,
    data=maybe(st.binary(max_size=50)),
    name=st.binary(max_size=20),
    flags=u32,
    replaced=u64,
    replaced_base=maybe(versions),
    in_place=st.booleans(),
    is_dir=st.booleans(),
    replaced_is_dir=st.booleans(),
)


@given(operations)
def test_there_and_back(op: Operation) -> None:
    op.source = Source(SPOOL, 77)
    payload = records.encode_operation(op, blob=(1, 5, 9))

    def blob(ident: records.BlobId) -> Nowhere:
        assert ident == (1, 5, 9)
        return SPOOL

    assert records.decode_operation(op.kind, op.seq, payload, (HERE, 0), blob) == op
    for cut in range(len(payload)):
        with pytest.raises(RecordError):
            records.decode_operation(op.kind, op.seq, payload[:cut], (HERE, 0), blob)
    with pytest.raises(RecordError):
        records.decode_operation(op.kind, op.seq, payload + b"x", (HERE, 0), blob)


@given(operations, st.booleans(), st.booleans())
def test_inline_bytes_are_the_end_of_the_record(op: Operation, base: bool, mode: bool) -> None:
    write = Operation(Kind.WRITE, op.oid, op.path, op.time_ns, 3)
    write.offset, write.length, write.in_place = op.offset, op.length, op.in_place
    write.base = op.base if base else None
    write.mode = op.mode if mode else None
    payload = records.encode_write(write)
    data = bytes(write.length)
    write.source = Source(HERE, 1000 + len(payload))
    found = records.decode_operation(Kind.WRITE, 3, payload + data, (HERE, 1000), lambda _: SPOOL)
    assert found == write


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(RecordError):
        records.decode_operation(31, 1, b"", (HERE, 0), lambda _: SPOOL)


@given(st.builds(Header, u32, st.binary(min_size=16, max_size=16), *[u64] * 7))
def test_headers(header: Header) -> None:
    data = records.pack_header(header)
    assert len(data) == records.HEADER_SIZE
    assert records.unpack_header(data + b"more") == header
    for cut in range(len(data)):
        with pytest.raises(RecordError):
            records.unpack_header(data[:cut])
    for bit in range(0, len(data) * 8, 5):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RecordError):
            records.unpack_header(bytes(flipped))


@given(st.lists(st.tuples(st.integers(1, 40), u64, st.binary(max_size=40)), max_size=6), st.data())
def test_scanning_stops_at_the_first_bad_byte(
    written: list[tuple[int, int, bytes]], data: st.DataObject
) -> None:
    ends = [records.HEADER_SIZE]
    segment = bytes(records.HEADER_SIZE)
    for kind, seq, payload in written:
        segment += records.frame(kind, seq, payload)
        ends.append(len(segment))
    whole = [(r.kind, r.seq, segment[r.start : r.end]) for r in records.scan(segment)]
    assert whole == written
    if not written:
        return
    at = data.draw(st.integers(records.HEADER_SIZE, len(segment) - 1))
    intact = sum(1 for end in ends[1:] if end <= at)
    assert len(list(records.scan(segment[:at]))) == intact
    flipped = bytearray(segment)
    flipped[at] ^= 1 << data.draw(st.integers(0, 7))
    found = [(r.kind, r.seq, bytes(flipped[r.start : r.end])) for r in records.scan(flipped)]
    assert found == written[:intact]
