"""What a batch carries, read from the journal when it is sent."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from devboxfs.core.batch_records import ImageRecord
from devboxfs.core.extents import BlobPiece, ExtentMap
from devboxfs.core.ops import Blob
from devboxfs.core.records import BlobId
from devboxfs.writeback.blobs import LocalBlob

__all__ = ["ImageContent", "image_from_record", "image_to_record", "store_image"]

CHUNK = 256 * 1024


class ImageContent:
    """A range of an image that lies wholly in blobs and holes. See `sealos_devbox.Content`."""

    __slots__ = ("_image", "_offset", "size")

    def __init__(self, image: ExtentMap, offset: int, length: int) -> None:
        self._image = image
        self._offset = offset
        self.size = length

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes. Raises OSError when the journal cannot be read."""
        for piece in self._image.pieces(self._offset, self.size):
            position = 0
            while position < piece.length:
                length = min(CHUNK, piece.length - position)
                if isinstance(piece, BlobPiece):
                    yield piece.blob.read(piece.blob_offset + position, length)
                else:
                    yield bytes(length)
                position += length


def image_to_record(oid: int, image: ExtentMap) -> ImageRecord:
    """Return what the journal keeps of an image."""
    extents = []
    for extent in image.extents():
        blob = extent.blob
        if not isinstance(blob, LocalBlob):
            raise TypeError("bytes that are not in the journal")
        extents.append((extent.offset, extent.length, *blob.ident, extent.blob_offset))
    return ImageRecord(oid, image.base_size, image.size, extents)


def image_from_record(record: ImageRecord, find: Callable[[BlobId], Blob]) -> ExtentMap:
    """Return the image that a record describes."""
    image = ExtentMap(record.base_size)
    for offset, length, kind, number, part, blob_offset in record.extents:
        image.write(offset, length, find((kind, number, part)), blob_offset)
    image.size = record.size
    return image


def store_image(image: ExtentMap, fd: int) -> None:
    """Write what is known of an image into an empty file; the rest stays a hole."""
    for extent in image.extents():
        position = 0
        while position < extent.length:
            length = min(CHUNK, extent.length - position)
            data = extent.blob.read(extent.blob_offset + position, length)
            os.pwrite(fd, data, extent.offset + position)
            position += length
    if image.size < 1 << 62:
        os.ftruncate(fd, image.size)
