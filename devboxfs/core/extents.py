"""Unflushed content of one file: which bytes come from where.

The image of a file is its base (the content in the box, valid below `base_size`), overlaid by
extents over immutable blobs; what is covered by neither reads as zeros. An ExtentMap never reads
anything; it says what to read.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

from devboxfs.core.ops import Blob

__all__ = ["BasePiece", "BlobPiece", "ExtentMap", "Piece", "ZeroPiece"]


@dataclass(frozen=True, slots=True)
class BlobPiece:
    """`length` bytes at `blob_offset` of `blob`, for file offset `offset`."""

    offset: int
    length: int
    blob: Blob
    blob_offset: int


@dataclass(frozen=True, slots=True)
class BasePiece:
    """`length` bytes of the base at the same offset."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class ZeroPiece:
    """A hole."""

    offset: int
    length: int


Piece = BlobPiece | BasePiece | ZeroPiece


class ExtentMap:
    """Extents in ascending order, never overlapping, neighbours in the same blob merged."""

    __slots__ = ("_blobs", "_offsets", "_ends", "_starts", "base_size", "size")

    def __init__(self, base_size: int) -> None:
        self.size = base_size
        """Size of the image."""
        self.base_size = base_size
        """Below it, what no extent covers is the base; above, zeros."""
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._blobs: list[Blob] = []
        self._offsets: list[int] = []

    def __len__(self) -> int:
        """Return the number of extents."""
        return len(self._starts)

    @property
    def dirty_bytes(self) -> int:
        """Bytes covered by extents."""
        return sum(self._ends) - sum(self._starts)

    def copy(self) -> ExtentMap:
        """Return an independent map: the image as it is now."""
        twin = ExtentMap(self.base_size)
        twin.size = self.size
        twin._starts, twin._ends = self._starts.copy(), self._ends.copy()
        twin._blobs, twin._offsets = self._blobs.copy(), self._offsets.copy()
        return twin

    def write(self, offset: int, length: int, blob: Blob, blob_offset: int) -> None:
        """Overlay `length` bytes at `offset`."""
        if length <= 0:
            return
        end = offset + length
        starts, ends = self._starts, self._ends
        # The common case of sequential writing: the last extent grows when the bytes are adjacent
        # in the blob too.
        if (
            starts
            and ends[-1] == offset
            and self._blobs[-1] is blob
            and self._offsets[-1] + (offset - starts[-1]) == blob_offset
        ):
            ends[-1] = end
            self.size = max(self.size, end)
            return
        self._cut(offset, end)
        at = bisect_left(starts, offset)
        starts.insert(at, offset)
        ends.insert(at, end)
        self._blobs.insert(at, blob)
        self._offsets.insert(at, blob_offset)
        self.size = max(self.size, end)

    def truncate(self, size: int) -> None:
        """Set the size: what is cut off is gone for good, what is added reads as zeros."""
        if size < self.size:
            self._cut(size, self.size)
            self.base_size = min(self.base_size, size)
        self.size = size

    def pieces(self, offset: int, length: int) -> list[Piece]:
        """Return what makes up [offset, offset + length), in order and without gaps.

        It is cut at the end of the image.
        """
        end = min(offset + length, self.size)
        found: list[Piece] = []
        position = offset
        starts, ends = self._starts, self._ends
        at = bisect_right(ends, position)
        while position < end:
            if at < len(starts) and starts[at] <= position:
                stop = min(ends[at], end)
                found.append(
                    BlobPiece(
                        position,
                        stop - position,
                        self._blobs[at],
                        self._offsets[at] + position - starts[at],
                    )
                )
                at += 1
            else:
                stop = min(starts[at], end) if at < len(starts) else end
                if position < self.base_size:
                    stop = min(stop, self.base_size)
                    found.append(BasePiece(position, stop - position))
                else:
                    found.append(ZeroPiece(position, stop - position))
            position = stop
        return found

    def extents(self) -> list[BlobPiece]:
        """Return the extents in order."""
        return [
            BlobPiece(start, end - start, blob, blob_offset)
            for start, end, blob, blob_offset in zip(
                self._starts, self._ends, self._blobs, self._offsets, strict=True
            )
        ]

    def _cut(self, start: int, end: int) -> None:
        """Remove [start, end) from the extents."""
        starts, ends = self._starts, self._ends
        first = bisect_right(ends, start)
        last = bisect_left(starts, end)
        if first >= last:
            return
        keep: list[tuple[int, int, Blob, int]] = []
        if starts[first] < start:
            keep.append((starts[first], start, self._blobs[first], self._offsets[first]))
        if ends[last - 1] > end:
            skipped = end - starts[last - 1]
            keep.append(
                (end, ends[last - 1], self._blobs[last - 1], self._offsets[last - 1] + skipped)
            )
        starts[first:last] = [k[0] for k in keep]
        ends[first:last] = [k[1] for k in keep]
        self._blobs[first:last] = [k[2] for k in keep]
        self._offsets[first:last] = [k[3] for k in keep]
