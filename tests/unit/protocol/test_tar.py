from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import pytest

from sealos_devbox._protocol import tar
from sealos_devbox.batch import ABSENT, Batch
from sealos_devbox.types import BytesContent
from tests.fakes.vectors import load, native

VECTORS = load("apply_tar")
STAMP = 1_700_000_000_123_456_789


@dataclass(frozen=True)
class Pieces:
    """A content of several chunks; `size` may lie."""

    size: int
    pieces: tuple[bytes, ...]

    def chunks(self) -> Iterator[bytes]:
        yield from self.pieces


def stream(batch: Batch, bulk: int = 1 << 30) -> bytes:
    raw = b""
    for piece in tar.stream(batch, bulk):
        raw += piece if isinstance(piece, bytes) else b"".join(piece)
    return raw


def nanoseconds(text: str) -> int:
    """Decimal seconds as nanoseconds, without a float."""
    sign = -1 if text.startswith("-") else 1
    seconds, _, fraction = text.lstrip("-").partition(".")
    return sign * (int(seconds) * 10**9 + int(fraction.ljust(9, "0")))


def read(raw: bytes) -> list[tuple[str, int, int, bytes]]:
    """(name, mode, mtime in nanoseconds, content) of every member, read by tarfile."""
    members = []
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            mtime_ns = nanoseconds(member.pax_headers["mtime"])
            members.append((member.name, member.mode, mtime_ns, file.read()))
    return members


@pytest.mark.parametrize("row", VECTORS["tars"], ids=lambda row: row["name"])
def test_says_what_the_vector_says(row):
    operations = native(row["manifest"][0])
    batch = Batch(operations=[tuple(op) for op in operations], sync=native(row["manifest"][1]))
    by_number = sorted(row["members"], key=lambda member: int(member["name"]))
    for member in by_number:
        content = BytesContent(bytes.fromhex(member["content"]))
        batch.add_content(content, member["mode"], member["mtime_ns"])
    raw = stream(batch)
    expected = read(bytes.fromhex(row["hex"]))
    ours = read(raw)
    assert ours[0] == expected[0]
    assert ours[1:] == sorted(expected[1:], key=lambda member: int(member[0]))
    assert msgspec.msgpack.decode(ours[0][3]) == native(row["manifest"])
    assert raw.endswith(bytes(1024))
    assert len(raw) % 512 == 0


@pytest.mark.parametrize("bulk", [0, 600, 1 << 30])
def test_contents_large_and_small(bulk):
    batch = Batch()
    contents = [b"", b"x", b"y" * 511, b"z" * 512, b"w" * 513, bytes(range(256)) * 1000]
    for content in contents:
        batch.add_content(Pieces(len(content), (content[:100], content[100:])), 0o6755, STAMP)
    members = read(stream(batch, bulk))
    assert [member[3] for member in members[1:]] == contents
    assert {member[1] for member in members[1:]} == {0o6755}
    assert {member[2] for member in members[1:]} == {STAMP}


@pytest.mark.parametrize("mtime_ns", [0, 1, -1, -1_500_000_000, 10**9, 2**63 - 1, -(2**63)])
def test_times_to_the_nanosecond(mtime_ns):
    batch = Batch()
    batch.add_content(BytesContent(b"a"), 0o644, mtime_ns)
    assert read(stream(batch))[1][2] == mtime_ns


@pytest.mark.parametrize("size", [8**11 - 1, 8**11, 5 * 10**12])
def test_sizes_beyond_ustar(size):
    raw = tar.member_header("0", 0o644, size, STAMP)
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        info = archive.next()
    assert info is not None
    assert info.size == size


def test_records_count_their_own_length():
    # 7 characters of key and value: 3 more and one digit make 9 + 1 = 10, which has two digits.
    for length in (*range(1, 120), 990, 9990):
        record = tar._record("k", "v" * length)
        number, rest = record.split(" ", 1)
        assert int(number) == len(record)
        assert rest == "k=" + "v" * length + "\n"


def test_pieces_are_neither_tiny_nor_huge():
    batch = Batch()
    for _ in range(1000):
        batch.add_content(BytesContent(b"x" * 1000), 0o644, STAMP)
    pieces = list(tar.stream(batch, 1 << 18))
    assert all(isinstance(piece, bytes) for piece in pieces)
    assert 20 < len(pieces) < 60


@pytest.mark.parametrize("pieces", [(b"abc",), (b"abcd", b"ef"), ()])
@pytest.mark.parametrize("bulk", [0, 1 << 20])
def test_a_content_of_another_size(pieces, bulk):
    batch = Batch()
    number = batch.add_content(Pieces(5, pieces), 0o644, STAMP)
    batch.put(1, b"a", ABSENT, number)
    with pytest.raises(tar.ContentSizeError, match="content 0"):
        stream(batch, bulk)
