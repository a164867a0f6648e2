"""ExtentMap against a bytearray."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from devboxfs.core.extents import BasePiece, BlobPiece, ExtentMap

BASE = b"0123456789abcdef"


class Blob:
    def __init__(self) -> None:
        self.data = bytearray()

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.data[offset : offset + length])


step = st.tuples(
    st.sampled_from(["write", "write", "write", "append", "truncate", "copy"]),
    st.integers(0, 40),
    st.integers(1, 12),
    st.integers(0, 1),
)


def content(image: ExtentMap, offset: int, length: int) -> bytes:
    found = b""
    for piece in image.pieces(offset, length):
        assert piece.offset == offset + len(found)
        assert piece.length > 0
        if isinstance(piece, BlobPiece):
            found += piece.blob.read(piece.blob_offset, piece.length)
        elif isinstance(piece, BasePiece):
            found += BASE[piece.offset : piece.offset + piece.length]
        else:
            found += bytes(piece.length)
    return found


@given(st.integers(0, 16), st.lists(step, max_size=25), st.integers(0, 50), st.integers(0, 50))
def test_reads_are_those_of_a_file(
    base: int, steps: list[tuple[str, int, int, int]], offset: int, length: int
) -> None:
    image, model, blobs = ExtentMap(base), bytearray(BASE[:base]), [Blob(), Blob()]
    kept: list[tuple[ExtentMap, bytes]] = []
    for kind, at, size, which in steps:
        if kind == "truncate":
            image.truncate(at)
            del model[at:]
            model.extend(bytes(at - len(model)))
        elif kind == "copy":
            kept.append((image.copy(), bytes(model)))
        else:
            if kind == "append":
                at = len(model)
            blob = blobs[which]
            data = bytes([65 + (len(blob.data) + i) % 26 for i in range(size)])
            image.write(at, size, blob, len(blob.data))
            blob.data += data
            model.extend(bytes(max(0, at - len(model))))
            model[at : at + size] = data
        assert image.size == len(model)
        starts = [(extent.offset, extent.offset + extent.length) for extent in image.extents()]
        assert all(one[1] <= two[0] for one, two in pairwise(starts))
        assert image.dirty_bytes == sum(end - start for start, end in starts)
    assert content(image, offset, length) == bytes(model[offset : offset + length])
    assert content(image, 0, 1000) == bytes(model)
    for copy, before in kept:
        assert content(copy, 0, 1000) == before
