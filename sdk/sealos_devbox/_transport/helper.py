"""The best way to a box: the helper that runs in it, over any byte channel (sdk/PROTOCOL.md).

One file although it is long: FileTransport asks for a method for each operation, and each says no
more than how that one travels. What several need is in connection.py, streams.py and upload.py.
"""

from __future__ import annotations

import builtins
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import anyio
import anyio.lowlevel
from msgspec.msgpack import Decoder

from sealos_devbox._protocol import messages
from sealos_devbox._protocol.exchange import Exchange
from sealos_devbox._protocol.lists import parts_of, place
from sealos_devbox._transport.base import ByteChannel, CommandStream, RecordStream
from sealos_devbox._transport.connection import HelperConnection
from sealos_devbox._transport.streams import Command, Records
from sealos_devbox._transport.upload import send_batch
from sealos_devbox.batch import Batch
from sealos_devbox.errors import BoxFileError, CapabilityError, ProtocolError
from sealos_devbox.patterns import Prune
from sealos_devbox.types import (
    ApplyResult,
    Attributes,
    DirectoryRecord,
    Event,
    FileSystemUsage,
    ManyRecord,
    Outcome,
    PeerInfo,
    Version,
)

__all__ = ["HelperTransport", "open_helper_transport"]

DECODED_AT_ONCE: Final = 131072
"""Bytes decoded before the event loop gets its turn: about a millisecond."""

T = TypeVar("T")


@asynccontextmanager
async def open_helper_transport(
    channel: ByteChannel,
    *,
    compress: bool,
    heartbeat: float = 10.0,
    connect_timeout: float = 30.0,
) -> AsyncIterator[HelperTransport]:
    """Yield a transport to the helper at the other end of the channel.

    Leaving the block closes the channel. compress: whether the link is slow enough for zlib to pay.
    heartbeat: seconds of silence after which a sign of life is sent; three of them without one from
    the helper end the connection. Raises ConnectError when no helper answers.
    """
    connection = HelperConnection(channel, compress=compress, heartbeat=heartbeat)
    tasks = anyio.create_task_group()
    await tasks.__aenter__()
    # Not start(): cancelled in it, anyio waits for the task, which is shielded.
    tasks.start_soon(connection.serve)
    try:
        await connection.greet(connect_timeout)
        yield HelperTransport(connection, compress=compress)
    finally:
        # The task raises nothing, and the caller's exception does not pass through the group: it
        # leaves as it is.
        try:
            await connection.aclose()
        finally:
            await tasks.__aexit__(None, None, None)


class HelperTransport:
    """A FileTransport over a connection to a helper."""

    def __init__(self, connection: HelperConnection, *, compress: bool) -> None:
        self._connection = connection
        self._session = connection.session
        self._compress = compress and connection.peer.compress

    @property
    def peer(self) -> PeerInfo:
        """What the far end said of itself."""
        return self._connection.peer

    @property
    def round_trips(self) -> int:
        """Requests sent so far (heartbeats not counted)."""
        return self._session.requests_sent

    @property
    def bytes_sent(self) -> int:
        """Bytes given to the channel so far."""
        return self._connection.bytes_sent

    @property
    def bytes_received(self) -> int:
        """Bytes received so far."""
        return self._connection.bytes_received

    @property
    def free_space(self) -> tuple[int, int, int]:
        """(free bytes, free inodes, statvfs flags) as last heard; no round trip."""
        return self._session.free_space

    async def stat(
        self, path: bytes, *, follow: bool = False, after: int = 0
    ) -> tuple[int, Attributes]:
        """Return (event, attributes)."""
        reply = await self._call(messages.ATTR_REPLY, path, "stat", path, follow, after)
        return reply.event, reply.result

    async def stat_many(
        self, paths: builtins.list[bytes], *, follow: bool = False
    ) -> builtins.list[Attributes | int]:
        """Return attributes, or the errno, for each path in order.

        Asks in several requests at once when there are many.
        """
        exchanges = []
        answers: list[Attributes | int | None] = [None] * len(paths)
        try:
            for first, part in parts_of(paths, [len(path) + 5 for path in paths]):
                exchanges.append((first, self._connection.open("stat_many", part, follow)))
            for first, exchange in exchanges:
                await self._connection.wait_done(exchange)
                self._connection.outcome(exchange, None)
                for record in await self._records(messages.STAT_RECORD, exchange):
                    for entry in record.stats:
                        place(answers, first + entry.index, entry.attr, entry.errno)
        finally:
            for _, exchange in exchanges:
                self._connection.cancel(exchange)
        found = [answer for answer in answers if answer is not None]
        if len(found) != len(paths):
            raise ProtocolError("stat_many left paths without an answer")
        return found

    async def list(
        self, path: bytes, *, follow: bool = False, after: int = 0
    ) -> tuple[int, Attributes, builtins.list[tuple[bytes, Attributes]]]:
        """Return (event, attributes of the directory, entries)."""
        exchange = self._connection.open("list", path, after, follow)
        reply = await self._finish(messages.ATTR_REPLY, path, exchange)
        entries: list[tuple[bytes, Attributes]] = []
        for record in await self._records(messages.LIST_RECORD, exchange):
            entries += record.entries
        return reply.event, reply.result, entries

    def snapshot(
        self, path: bytes, max_depth: int = 0, *, prune: Prune | None = None
    ) -> RecordStream[DirectoryRecord]:
        """Stream the tree below path, breadth first.

        prune: directories that are named, and not looked into (PROTOCOL.md section 5.1).
        """
        return Records(
            self._connection,
            path,
            messages.DIRECTORY_RECORDS,
            lambda: [
                self._connection.open(
                    "snapshot", path, max_depth, *self._pruning(prune), collect=False
                )
            ],
            _as_they_are,
        )

    async def read(
        self,
        path: bytes,
        *,
        version: Version | None = None,
        offset: int = 0,
        length: int = -1,
        follow: bool = False,
    ) -> tuple[Attributes, bytes]:
        """Return (attributes after reading, content); ESTALE when it is another version."""
        expected = None if length < 0 else length
        if version is not None:
            left = max(0, version.size - offset)
            expected = left if expected is None else min(expected, left)
        exchange = self._connection.open(
            "read",
            path,
            version,
            offset,
            length,
            follow,
            expected=expected,
            bulk=expected is not None,
        )
        reply = await self._finish(messages.ATTR_REPLY, path, exchange)
        return reply.result, _content(exchange)

    def read_many(
        self,
        files: builtins.list[tuple[bytes, Version | None]],
        *,
        max_each: int = 65536,
        follow: bool = False,
    ) -> RecordStream[ManyRecord]:
        """Stream the contents of small files.

        Asks in several requests at once when there are many.
        """
        # 80: a version with a digest.
        parts = parts_of(files, [len(path) + 80 for path, _ in files])

        def start() -> builtins.list[Exchange]:
            return [
                self._connection.open("read_many", part, max_each, follow, collect=False, bulk=True)
                for _, part in parts
            ]

        def adapt(
            number: int, records: builtins.list[messages.FileRecord]
        ) -> builtins.list[ManyRecord]:
            first, _ = parts[number]
            return [
                ManyRecord(first + record.index, record.errno, record.attr, record.content or b"")
                for record in records
            ]

        return Records(self._connection, None, messages.FILE_RECORDS, start, adapt)

    async def open(
        self, path: bytes, *, version: Version | None = None, follow: bool = False
    ) -> tuple[int, Attributes]:
        """Return (handle, attributes); the handle pins the file until close()."""
        exchange = self._connection.open("open", path, version, follow)
        exchange.on_late_reply = self._close_late
        taken = False
        try:
            reply = await self._finish(messages.OPEN_REPLY, path, exchange)
            taken = True
        finally:
            if not taken and exchange.reply is not None:
                self._close_late(exchange.reply)
        return reply.result.handle, reply.result.attr

    async def pread(self, handle: int, offset: int, length: int) -> tuple[Attributes, bytes]:
        """Read from a handle; short at the end of the file."""
        exchange = self._connection.open(
            "pread", handle, offset, length, expected=length, bulk=True
        )
        reply = await self._finish(messages.ATTR_REPLY, None, exchange)
        return reply.result, _content(exchange)

    def stream(
        self, handle: int, offset: int, length: int
    ) -> RecordStream[bytes | Attributes] | None:
        """Return None: pieces that are asked for at once share the channel, and leave it room."""
        return None

    async def close(self, handle: int) -> None:
        """Release a handle; done also when the call is cancelled."""
        exchange = self._connection.open("close", handle, cancellable=False)
        await self._finish(messages.ANY_REPLY, None, exchange)

    async def readlink(self, path: bytes) -> bytes:
        """Return a symbolic link's target."""
        return (await self._call(messages.BYTES_REPLY, path, "readlink", path)).result

    async def statvfs(self, path: bytes = b"") -> FileSystemUsage:
        """Return the file system's figures."""
        return (await self._call(messages.USAGE_REPLY, path, "statvfs", path)).result

    async def hash(
        self, path: bytes, *, offset: int = 0, length: int = -1, block: int = 0
    ) -> tuple[Attributes, builtins.list[bytes]]:
        """Return (attributes, SHA-256 digests): one, or one per block of `block` bytes."""
        exchange = self._connection.open("hash", path, offset, length, block)
        reply = await self._finish(messages.ATTR_REPLY, path, exchange)
        digests: list[bytes] = []
        for record in await self._records(messages.DIGESTS, exchange):
            digests += record
        return reply.result, digests

    async def getxattr(self, path: bytes, name: bytes) -> bytes:
        """Return an extended attribute's value."""
        return (await self._call(messages.BYTES_REPLY, path, "getxattr", path, name)).result

    async def listxattr(self, path: bytes) -> builtins.list[bytes]:
        """Return the names of the extended attributes."""
        return (await self._call(messages.NAMES_REPLY, path, "listxattr", path)).result

    async def apply(self, batch: Batch) -> ApplyResult:
        """Apply a batch; returns its outcomes, failed operations included.

        Batches of a journal are sent in the order of the calls, whole, one after another; the next
        is on its way while one is applied. Others share the link and have no order. A cancelled
        call leaves open whether the batch was applied: not if its contents were not sent whole.
        """
        self._require("apply")
        exchange = self._connection.open(
            "apply",
            batch.journal,
            batch.incarnation,
            batch.generation,
            batch.number,
            batch.acked,
            batch.resume,
            batch.bypass,
            ordered=batch.journal is not None,
        )
        self._connection.kick()
        sent = False
        try:
            await send_batch(self._connection, exchange, batch, compress=self._compress)
            sent = True
        finally:
            if not sent:
                self._connection.cancel(exchange)
        await self._connection.wait_done(exchange)
        outcomes: list[Outcome] = []
        for record in await self._records(messages.OUTCOMES, exchange):
            outcomes += record
        complete = len(outcomes) == len(batch.operations)
        if exchange.error is not None and batch.sync and complete:
            # Applied, but not all of it could be made durable: the outcomes still count.
            free_bytes, free_inodes, _ = self.free_space
            return ApplyResult(outcomes, 0, free_bytes, free_inodes, 0, exchange.error.errno)
        reply = messages.decode(messages.APPLY_REPLY, self._connection.outcome(exchange, None))
        if [outcome.seq for outcome in outcomes] != [
            operation[0] for operation in batch.operations
        ]:
            raise ProtocolError("apply answered other operations than it was given")
        result = reply.result
        self._session.free_space = (result.free_bytes, result.free_inodes, self.free_space[2])
        return ApplyResult(
            outcomes,
            result.durable,
            result.free_bytes,
            result.free_inodes,
            reply.event,
            seen=result.seen,
        )

    async def attach(self, journal: bytes, generation: int) -> tuple[int, int, str]:
        """Take a journal over; returns (last applied batch, durable batch, boot id)."""
        reply = await self._call(messages.ATTACH_REPLY, None, "attach", journal, generation)
        return reply.result.batch, reply.result.durable, reply.result.boot_id

    async def locks(self, journal: bytes, paths: builtins.list[bytes]) -> builtins.list[bool]:
        """Say which locks of the journal are still held; returns whether each is still there."""
        self._require("locks")
        return (await self._call(messages.BOOLS_REPLY, None, "locks", journal, paths)).result

    async def detach(self, journal: bytes) -> None:
        """Let the helper forget a finished journal."""
        await self._call(messages.ANY_REPLY, None, "detach", journal)

    async def sync(self) -> int:
        """syncfs(2) in the box; returns the durable batch."""
        return (await self._call(messages.INT_REPLY, None, "sync")).result

    async def caught_up(self) -> int:
        """Return the number of an event; whoever has taken it knows all that was there by now.

        Of the watch without walk. 0: it cannot be said, only a snapshot tells.
        """
        try:
            return (await self._call(messages.INT_REPLY, None, "caught_up")).result
        except BoxFileError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            return 0  # an older helper

    def watch(
        self, path: bytes = b"", *, walk: bool = False, prune: Prune | None = None
    ) -> RecordStream[Event]:
        """Stream events.

        The first receive() returns (perhaps an empty list) when the watch is active. prune:
        directories that are not watched, and names of which changes need not be told.
        """
        self._require("watch")
        return Records(
            self._connection,
            path,
            messages.EVENTS,
            lambda: [
                self._connection.open(
                    "watch", path, walk, *self._pruning(prune), collect=False, endless=True
                )
            ],
            _as_they_are,
        )

    def exec(
        self,
        argv: builtins.list[bytes],
        *,
        cwd: bytes | None = None,
        env: dict[str, str] | None = None,
        pty: tuple[int, int, str] | None = None,
    ) -> CommandStream:
        """Run a command; cwd relative to the workspace root or absolute, None for the root."""
        self._require("exec")
        if pty is not None:
            self._require("pty")
        if not argv:
            raise ValueError("argv is empty")
        return Command(self._connection, argv[0], (argv, cwd, env or {}, pty, 0))

    async def aclose(self) -> None:
        """Close the channel; running requests end with TransportError. Safe to call twice."""
        await self._connection.aclose()

    def _pruning(self, prune: Prune | None) -> builtins.list[object]:
        """Return the argument for it; an older helper tells of everything."""
        return [prune.wire()] if prune and "prune" in self.peer.capabilities else []

    def _require(self, capability: str) -> None:
        if capability not in self.peer.capabilities:
            raise CapabilityError(f"the helper in this box cannot do that: no {capability}")

    async def _finish(
        self, decoder: Decoder[messages.Reply[T]], path: bytes | None, exchange: Exchange
    ) -> messages.Reply[T]:
        await self._connection.wait_done(exchange)
        return messages.decode(decoder, self._connection.outcome(exchange, path))

    async def _call(
        self, decoder: Decoder[messages.Reply[T]], path: bytes | None, op: str, *args: object
    ) -> messages.Reply[T]:
        return await self._finish(decoder, path, self._connection.open(op, *args))

    async def _records(self, decoder: Decoder[T], exchange: Exchange) -> builtins.list[T]:
        """Decode what was collected, without holding up the event loop."""
        records = []
        size = 0
        for _, payload, _ in exchange.incoming:
            size += len(payload)
            if size > DECODED_AT_ONCE:
                size = 0
                await anyio.lowlevel.checkpoint()
            records.append(messages.decode(decoder, payload))
        return records

    def _close_late(self, reply: bytes) -> None:
        """Release a handle that nobody waits for any more."""
        handle = messages.decode(messages.OPEN_REPLY, reply).result.handle
        self._connection.cancel(self._connection.open("close", handle, cancellable=False))


def _as_they_are(_: int, records: builtins.list[T]) -> builtins.list[T]:
    return records


def _content(exchange: Exchange) -> bytes:
    return b"".join([payload for _, payload, _ in exchange.incoming])
