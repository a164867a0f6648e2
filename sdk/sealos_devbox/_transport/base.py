"""The two seams: a channel of bytes, and the file operations that a way to a box offers.

Each is a Protocol with a conformance suite in tests/contract that every implementation passes.
"""

from __future__ import annotations

import builtins
from types import TracebackType
from typing import Protocol, Self, TypeVar

from sealos_devbox.batch import Batch
from sealos_devbox.patterns import Prune
from sealos_devbox.types import (
    ApplyResult,
    Attributes,
    DirectoryRecord,
    Event,
    FileSystemUsage,
    ManyRecord,
    PeerInfo,
    Version,
)

__all__ = ["ByteChannel", "CommandStream", "FileTransport", "RecordStream"]


class ByteChannel(Protocol):
    """A reliable duplex stream of bytes to a helper.

    Errors follow anyio's triad: ClosedResourceError when this side closed it, EndOfStream when the
    other side ended it, BrokenResourceError when it was cut.
    """

    @property
    def can_half_close(self) -> bool:
        """Whether send_eof() reaches the far end."""
        ...

    async def send(self, data: bytes) -> None:
        """Send all of data.

        A cancelled send may have sent a part, after which the channel is unusable.
        """
        ...

    async def receive(self) -> bytes:
        """Return at least one byte, as soon as there is any."""
        ...

    async def send_eof(self) -> None:
        """End the outgoing direction where that is possible."""
        ...

    async def aclose(self) -> None:
        """Close both directions; what runs at the far end is made to end. Safe to call twice."""
        ...

    def diagnostics(self) -> str:
        """What the far end said outside the stream (its stderr's tail), for error messages."""
        ...


RecordT = TypeVar("RecordT")


class RecordStream(Protocol[RecordT]):
    """Records of one running request. Leaving the `async with` block cancels the request."""

    async def receive(self) -> list[RecordT] | None:
        """Return the next records, None when the request has ended.

        Raises what ended it otherwise.
        """
        ...

    async def __aenter__(self) -> Self:
        """Start."""
        ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Cancel the request if it is still running."""
        ...


class CommandStream(Protocol):
    """One running command (PROTOCOL.md section 8).

    Leaving the `async with` block kills its process group.
    """

    async def receive(self) -> tuple[int, bytes] | None:
        """Return (1, stdout bytes) or (2, stderr bytes), None when the command has ended."""
        ...

    async def send(self, data: bytes) -> None:
        """Write to the command's stdin."""
        ...

    async def send_eof(self) -> None:
        """Close the command's stdin."""
        ...

    async def signal(self, number: int) -> None:
        """Send a signal to the command's process group."""
        ...

    async def resize(self, rows: int, columns: int) -> None:
        """Tell a pty its size."""
        ...

    @property
    def status(self) -> tuple[int | None, int | None]:
        """(exit code, signal) after receive() returned None; one of them is None."""
        ...

    async def __aenter__(self) -> Self:
        """Start."""
        ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Kill the command if it is still running."""
        ...


class FileTransport(Protocol):
    """File operations on one box's workspace, in the terms of PROTOCOL.md sections 5 to 8.

    Paths are bytes relative to the workspace root. Every method raises BoxFileError with the box's
    errno, TransportError when the way broke, ProtocolError on nonsense. `after` is the number of a
    batch of the attached journal that must have been applied first. Methods that return an `event`
    return the number of the last event before the box looked: attributes older than the last event
    seen for that path are to be discarded. Each call is one round trip unless it says otherwise.
    """

    @property
    def peer(self) -> PeerInfo:
        """What the far end said of itself."""
        ...

    @property
    def round_trips(self) -> int:
        """Requests sent so far (heartbeats not counted)."""
        ...

    @property
    def bytes_sent(self) -> int:
        """Bytes given to the channel so far."""
        ...

    @property
    def bytes_received(self) -> int:
        """Bytes received so far."""
        ...

    @property
    def free_space(self) -> tuple[int, int, int]:
        """(free bytes, free inodes, statvfs flags) as last heard; no round trip.

        WELCOME, PONG and the reply of an apply carry them.
        """
        ...

    async def stat(
        self, path: bytes, *, follow: bool = False, after: int = 0
    ) -> tuple[int, Attributes]:
        """Return (event, attributes)."""
        ...

    async def stat_many(
        self, paths: list[bytes], *, follow: bool = False
    ) -> list[Attributes | int]:
        """Return attributes, or the errno, for each path in order."""
        ...

    async def list(
        self, path: bytes, *, follow: bool = False, after: int = 0
    ) -> tuple[int, Attributes, builtins.list[tuple[bytes, Attributes]]]:
        """Return (event, attributes of the directory, entries)."""
        ...

    def snapshot(
        self, path: bytes, max_depth: int = 0, *, prune: Prune | None = None
    ) -> RecordStream[DirectoryRecord]:
        """Stream the tree below path, breadth first.

        prune: directories that are named, and not looked into (PROTOCOL.md section 5.1).
        """
        ...

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
        ...

    def read_many(
        self,
        files: builtins.list[tuple[bytes, Version | None]],
        *,
        max_each: int = 65536,
        follow: bool = False,
    ) -> RecordStream[ManyRecord]:
        """Stream the contents of small files."""
        ...

    async def open(
        self, path: bytes, *, version: Version | None = None, follow: bool = False
    ) -> tuple[int, Attributes]:
        """Return (handle, attributes); the handle pins the file until close()."""
        ...

    async def pread(self, handle: int, offset: int, length: int) -> tuple[Attributes, bytes]:
        """Read from a handle; short at the end of the file."""
        ...

    def stream(
        self, handle: int, offset: int, length: int
    ) -> RecordStream[bytes | Attributes] | None:
        """Stream a large part of a file: pieces in order, at the end the attributes after reading.

        Shorter at the end of the file. None: pread(), several at once, is the best there is.
        """
        ...

    async def close(self, handle: int) -> None:
        """Release a handle."""
        ...

    async def readlink(self, path: bytes) -> bytes:
        """Return a symbolic link's target."""
        ...

    async def statvfs(self, path: bytes = b"") -> FileSystemUsage:
        """Return the file system's figures."""
        ...

    async def hash(
        self, path: bytes, *, offset: int = 0, length: int = -1, block: int = 0
    ) -> tuple[Attributes, builtins.list[bytes]]:
        """Return (attributes, SHA-256 digests): one, or one per block of `block` bytes."""
        ...

    async def getxattr(self, path: bytes, name: bytes) -> bytes:
        """Return an extended attribute's value."""
        ...

    async def listxattr(self, path: bytes) -> builtins.list[bytes]:
        """Return the names of the extended attributes."""
        ...

    async def apply(self, batch: Batch) -> ApplyResult:
        """Apply a batch.

        Returns its outcomes, failed operations included. Batches may be in flight at once: those of
        a journal are sent, and applied, in the order in which apply() was called; others have no
        order among themselves.
        """
        ...

    async def attach(self, journal: bytes, generation: int) -> tuple[int, int, str]:
        """Take a journal over; returns (last applied batch, durable batch, boot id)."""
        ...

    async def locks(self, journal: bytes, paths: builtins.list[bytes]) -> builtins.list[bool]:
        """Say which locks of the journal are still held; returns whether each is still there."""
        ...

    async def detach(self, journal: bytes) -> None:
        """Let the helper forget a finished journal."""
        ...

    async def sync(self) -> int:
        """syncfs(2) in the box; returns the durable batch."""
        ...

    async def caught_up(self) -> int:
        """Return the number of an event; whoever has taken it knows all that was there by now.

        Of the watch without walk. 0: it cannot be said, only a snapshot tells.
        """
        ...

    def watch(
        self, path: bytes = b"", *, walk: bool = False, prune: Prune | None = None
    ) -> RecordStream[Event]:
        """Stream events.

        The first receive() returns (perhaps an empty list) when the watch is active. prune:
        directories that are not watched, and names of which changes need not be told.
        """
        ...

    def exec(
        self,
        argv: builtins.list[bytes],
        *,
        cwd: bytes | None = None,
        env: dict[str, str] | None = None,
        pty: tuple[int, int, str] | None = None,
    ) -> CommandStream:
        """Run a command; cwd relative to the workspace root or absolute, None for the root."""
        ...

    async def aclose(self) -> None:
        """Close the channel; running requests end with TransportError. Safe to call twice."""
        ...
