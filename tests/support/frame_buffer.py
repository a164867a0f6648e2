"""One direction of a link to a helper, cut into frames (sdk/PROTOCOL.md) by nothing but lengths."""

from __future__ import annotations

HEADER = 10
MAGIC = 8
"""Bytes that a helper says before its first frame."""


class FrameBuffer:
    """What arrived and was not taken."""

    def __init__(self, *, magic: bool) -> None:
        """`magic`: the helper's side, which begins with it."""
        self._data = b""
        self._magic = MAGIC if magic else 0

    def feed(self, data: bytes) -> None:
        self._data += data

    def take_magic(self) -> bytes:
        """The magic, once; empty while it is not there."""
        if not self._magic or len(self._data) < self._magic:
            return b""
        magic, self._data = self._data[: self._magic], self._data[self._magic :]
        self._magic = 0
        return magic

    def first(self) -> bytes:
        """The next frame, which stays; empty while it is not whole."""
        if self._magic or len(self._data) < HEADER:
            return b""
        size = HEADER + int.from_bytes(self._data[:4], "big")
        return self._data[:size] if len(self._data) >= size else b""

    def drop(self, frame: bytes) -> None:
        """Take the frame that first() gave."""
        self._data = self._data[len(frame) :]
