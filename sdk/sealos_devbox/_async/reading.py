"""Reading contents: small ones in one round trip, large ones in pieces, several at once."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio

from sealos_devbox._async.connection import Link
from sealos_devbox._async.deadline import deadline, run_all
from sealos_devbox._transport.base import RecordStream
from sealos_devbox.errors import BoxFileError, TransportError, file_error
from sealos_devbox.types import Attributes, Version

__all__ = ["read_all", "read_pinned"]

# What one round trip brings at most: at 20 ms and 50 MB/s the link is then busy for as long as the
# round trip takes, and a file of this size costs one instead of three.
FIRST_READ = 1 << 20
# Pieces of a larger file, and how many are asked for at once: 4 MiB are under way, the
# bandwidth-delay product of 200 MB/s at 20 ms.
PIECE = 512 * 1024
PIECES_AT_ONCE = 8

# Before a file that is being changed is taken as an error.
ATTEMPTS = 3

Sink = Callable[[int, bytes], Awaitable[None]]
"""Takes (offset from the first byte that was asked for, content). Called by several tasks."""


async def read_all(
    link: Link,
    path: bytes,
    *,
    offset: int,
    length: int | None,
    version: Version | None,
    idle_timeout: float | None,
) -> bytes:
    """Return the content, of one version: the one given, or whichever there is."""
    transport = link.transport
    first = FIRST_READ if length is None else min(length, FIRST_READ)
    with deadline(idle_timeout, "Reading a part of the file"):
        attr, content = await transport.read(
            path, version=version, offset=offset, length=first, follow=True
        )
    rest = max(0, attr.size - offset)
    if len(content) >= (rest if length is None else min(length, rest)):
        return content
    buffer = bytearray()

    async def begin(_: Attributes, size: int) -> None:
        del buffer[:]
        buffer.extend(bytes(size))

    async def sink(at: int, piece: bytes) -> None:
        buffer[at : at + len(piece)] = piece

    await read_pinned(
        link,
        path,
        begin,
        sink,
        offset=offset,
        length=length,
        version=version,
        idle_timeout=idle_timeout,
    )
    return bytes(buffer)


async def read_pinned(
    link: Link,
    path: bytes,
    begin: Callable[[Attributes, int], Awaitable[None]],
    sink: Sink,
    *,
    offset: int = 0,
    length: int | None = None,
    version: Version | None = None,
    idle_timeout: float | None,
) -> Attributes:
    """Read through a handle, which pins the file though it be replaced meanwhile.

    `begin` is told the attributes and the number of bytes before the first piece, and again for
    every new attempt: a file that is changed in place while it is read is read again. One that only
    grows (a log) is taken, after some attempts, as far as it was when the last of them began; for
    any other change the error is ESTALE.
    """
    transport = link.transport
    for attempt in range(ATTEMPTS):
        with deadline(idle_timeout, "Opening the file"):
            handle, before = await transport.open(path, version=version, follow=True)
        try:
            size = max(0, before.size - offset)
            if length is not None:
                size = min(size, length)
            await begin(before, size)
            after = await _read_pieces(link, handle, offset, size, sink, idle_timeout)
        finally:
            await _close(link, handle)
        if after is None or before.version.matches(after.version):
            return before
        if version is not None:
            break
        if attempt == ATTEMPTS - 1 and after.size >= before.size:
            return before
    raise file_error(errno.ESTALE, path, conflict=version is not None)


async def _read_pieces(
    link: Link, handle: int, offset: int, size: int, sink: Sink, idle_timeout: float | None
) -> Attributes | None:
    """Read so many bytes; return the attributes that came with the last answer.

    Ends early, without the missing bytes, when the file has become shorter: its version differs.
    """
    if size > FIRST_READ and (stream := link.transport.stream(handle, offset, size)) is not None:
        return await _read_stream(stream, offset, size, sink, idle_timeout)
    last: Attributes | None = None

    async def read_piece(at: int) -> None:
        nonlocal last
        wanted = min(PIECE, size - at)
        while wanted > 0:
            with deadline(idle_timeout, "Reading a part of the file"):
                last, piece = await link.transport.pread(handle, offset + at, wanted)
            if not piece:
                return
            await sink(at, piece)
            at += len(piece)
            wanted -= len(piece)

    def piece_at(at: int) -> Callable[[], Awaitable[None]]:
        return lambda: read_piece(at)

    await run_all([piece_at(at) for at in range(0, size, PIECE)], PIECES_AT_ONCE)
    return last


async def _read_stream(
    stream: RecordStream[bytes | Attributes],
    offset: int,
    size: int,
    sink: Sink,
    idle_timeout: float | None,
) -> Attributes:
    at = 0
    async with stream:
        while True:
            with deadline(idle_timeout, "Reading a part of the file"):
                records = await stream.receive()
            for record in records or ():
                if not isinstance(record, bytes):
                    if at != size and record.size >= offset + size:
                        raise TransportError("a part of the file did not arrive")
                    return record
                await sink(at, record)
                at += len(record)
            if records is None:
                raise TransportError("the file's contents have no end")


async def _close(link: Link, handle: int) -> None:
    """Release a handle, even when the call is being cancelled: the helper has only so many."""
    with anyio.move_on_after(5, shield=True):
        # EBADF: it is gone, which is what was wanted.
        with suppress(BoxFileError, TransportError):
            await link.transport.close(handle)
