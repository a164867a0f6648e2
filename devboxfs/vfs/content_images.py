"""Images: the contents of files that were flushed, put together from what was written.

What the box has got from here need not be fetched from there.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

import trio

from devboxfs.core.chunks import RANGE, ContentKey
from devboxfs.core.extents import BasePiece, BlobPiece, ExtentMap, Piece
from devboxfs.vfs.content_disk import ContentDisk

__all__ = ["ImageKeeper"]

INLINE_IMAGE = 256 * 1024
"""Images up to this size are read from the journal at once: it is in the page cache."""

IMAGES = 64
"""Large images that wait to be read; each holds its journal's blobs open."""


class Contents(Protocol):
    """The cache that images are put into, and that has what lies below them."""

    def has(self, key: ContentKey) -> bool:
        """See ContentCache."""

    def get(self, key: ContentKey, offset: int, length: int) -> bytes | None:
        """See ContentCache."""

    async def load(self, key: ContentKey, offset: int, length: int) -> bytes | None:
        """See ContentCache."""

    def put(self, key: ContentKey, offset: int, data: bytes, size: int) -> None:
        """See ContentCache."""


@dataclass(frozen=True, slots=True)
class _Image:
    key: ContentKey
    image: ExtentMap
    base: ContentKey | None


class ImageKeeper:
    """Images that are kept at once, and those that wait to be read."""

    def __init__(self, contents: Contents, disk: ContentDisk) -> None:
        self._contents = contents
        self._disk = disk
        self._images: deque[_Image] = deque()
        self._wake = trio.Event()

    def put(self, key: ContentKey, image: ExtentMap, *, base: ContentKey | None = None) -> None:
        """Keep an image, now or later, or drop it; see ContentCache.put_image()."""
        if image.size != key.size or key.size == 0:
            return
        pieces = image.pieces(0, image.size)
        needs_base = any(isinstance(piece, BasePiece) for piece in pieces)
        if needs_base and (base is None or not self._contents.has(base)):
            return
        if key.size > INLINE_IMAGE:
            if len(self._images) < IMAGES:
                self._images.append(_Image(key, image, base))
                self._wake.set()
            return
        parts: list[bytes] = []
        for piece in pieces:
            part = self._small_piece(piece, base)
            if part is None:
                return
            parts.append(part)
        self._contents.put(key, 0, b"".join(parts), key.size)

    def _small_piece(self, piece: Piece, base: ContentKey | None) -> bytes | None:
        if isinstance(piece, BasePiece):
            found = None if base is None else self._contents.get(base, piece.offset, piece.length)
            return found if found is not None and len(found) == piece.length else None
        return _read_piece(piece)

    async def run(self) -> None:
        """Read what waits, until cancelled."""
        while True:
            await self._wake.wait()
            await self.keep_waiting()
            self._wake = trio.Event()

    async def keep_waiting(self) -> None:
        """Read what waits."""
        while self._images:
            await self._keep(self._images.popleft())

    async def _keep(self, image: _Image) -> None:
        size = image.key.size
        for offset in range(0, size, RANGE):
            parts: list[bytes] = []
            for piece in image.image.pieces(offset, RANGE):
                part = await self._large_piece(piece, image.base)
                if part is None or len(part) != piece.length:
                    return
                parts.append(part)
            # Slower than the disk is fine here: nobody waits, and what is dropped is fetched again.
            await self._disk.wait_room(RANGE)
            self._contents.put(image.key, offset, b"".join(parts), size)

    async def _large_piece(self, piece: Piece, base: ContentKey | None) -> bytes | None:
        if isinstance(piece, BasePiece):
            return (
                None
                if base is None
                else await self._contents.load(base, piece.offset, piece.length)
            )
        return await trio.to_thread.run_sync(_read_piece, piece, limiter=self._disk.threads)


def _read_piece(piece: Piece) -> bytes | None:
    """Read a piece that is no base; None when its blob cannot be read."""
    if isinstance(piece, BlobPiece):
        try:
            return piece.blob.read(piece.blob_offset, piece.length)
        except OSError:
            return None
    return bytes(piece.length)
