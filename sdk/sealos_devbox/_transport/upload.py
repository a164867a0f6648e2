"""Sends the contents of a batch.

The tar stream of `apply`, without holding up the event loop or the memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import anyio.lowlevel
import anyio.to_thread

from sealos_devbox._protocol import frames, tar
from sealos_devbox._protocol.exchange import Exchange
from sealos_devbox._transport.connection import HelperConnection
from sealos_devbox.batch import Batch

__all__ = ["send_batch"]

BULK: Final = 256 * 1024
"""Contents larger than this are read in a thread."""
READ_AT_ONCE: Final = 512 * 1024
"""What one visit to the thread brings: less, and the visits cost more than the reading."""
ROOM: Final = 512 * 1024
"""What waits to be sent before more is read."""
COMPRESSED_AT_ONCE: Final = 64 * 1024
"""What zlib packs in a millisecond, and what always finds room in a write (a compressed frame
is never split)."""
SKIPPED: Final = 7
"""Pieces sent as they are after one that did not compress: most likely the rest of that content
does not either."""

_Piece = tuple[bytes | memoryview, bool]


async def send_batch(
    connection: HelperConnection, exchange: Exchange, batch: Batch, *, compress: bool
) -> None:
    """Send the batch's stream and its end; returns early when the exchange ends meanwhile."""
    packer = _Packer(compress)
    for piece in tar.stream(batch, BULK):
        if isinstance(piece, bytes):
            for part in packer.pack(piece):
                await _send(connection, exchange, part)
        else:
            while parts := await anyio.to_thread.run_sync(
                _read, piece, packer, abandon_on_cancel=True
            ):
                for part in parts:
                    await _send(connection, exchange, part)
        if exchange.done:
            return
    connection.session.send_end(exchange)
    connection.kick()


async def _send(connection: HelperConnection, exchange: Exchange, piece: _Piece) -> None:
    connection.session.send_data(exchange, piece[0], compressed=piece[1])
    connection.kick()
    if exchange.out_bytes < ROOM:
        await anyio.lowlevel.checkpoint()
    while exchange.out_bytes >= ROOM and not exchange.done:
        await connection.wait_room(exchange)


def _read(chunks: Iterator[bytes], packer: _Packer) -> list[_Piece]:
    """Return the next pieces, empty at the end."""
    parts: list[bytes] = []
    size = 0
    for chunk in chunks:
        parts.append(chunk)
        size += len(chunk)
        if size >= READ_AT_ONCE:
            break
    return packer.pack(parts[0] if len(parts) == 1 else b"".join(parts))


class _Packer:
    """Turns bytes into DATA payloads, compressed where that pays."""

    def __init__(self, compress: bool) -> None:
        self._compress = compress
        self._skip = 0

    def pack(self, data: bytes) -> list[_Piece]:
        """Return the payloads for the data; as it is when nothing compresses it."""
        if not data:
            return []
        if not self._compress:
            return [(data, False)]
        pieces: list[_Piece] = []
        view = memoryview(data)
        for start in range(0, len(data), COMPRESSED_AT_ONCE):
            piece = view[start : start + COMPRESSED_AT_ONCE]
            packed = None
            if self._skip:
                self._skip -= 1
            else:
                packed = frames.compress(piece)
                if packed is None:
                    self._skip = SKIPPED
            pieces.append((piece, False) if packed is None else (packed, True))
        return pieces
