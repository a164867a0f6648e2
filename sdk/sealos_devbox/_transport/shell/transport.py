"""A FileTransport over a shell: the rungs below the helper.

What is weaker, and why a mount over it is read-only unless that is accepted: between a check and
the change is a moment; nothing is logged, so a batch whose answer was lost may be applied twice; a
watch is a look every second or more; handles do not pin a file; with busybox, times are whole
seconds. There are no extended attributes and no exchange.
"""

from __future__ import annotations

import builtins
import errno
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from sealos_devbox._protocol import shell
from sealos_devbox._transport.base import CommandStream, RecordStream
from sealos_devbox._transport.shell.changes import PRIVATE, ShellChanges
from sealos_devbox._transport.shell.probe import probe
from sealos_devbox._transport.shell.reading import Lazy, ShellReader
from sealos_devbox._transport.shell.runner import Runner, ShellOutput
from sealos_devbox._transport.shell.stream import ContentStream
from sealos_devbox._transport.shell.watch import Poll
from sealos_devbox.batch import Batch
from sealos_devbox.errors import CapabilityError, TransportError, file_error
from sealos_devbox.patterns import Prune
from sealos_devbox.types import (
    ApplyResult,
    Attributes,
    Content,
    DirectoryRecord,
    Event,
    FileSystemUsage,
    ManyRecord,
    PeerInfo,
    Version,
)

__all__ = ["ShellTransport", "open_shell_transport"]


@asynccontextmanager
async def open_shell_transport(runner: Runner) -> AsyncIterator[ShellTransport]:
    """Ask the box what it has and yield a transport.

    Leaving the block closes the runner. Raises ConnectError when the box lacks the tools.
    """
    counted = _Counted(runner)
    try:
        peer, dialect = await probe(counted)
        yield ShellTransport(counted, peer, dialect)
    finally:
        await counted.aclose()


class _Counted:
    """A runner that counts, and that is closed for good."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.calls = 0
        self.sent = 0
        self.received = 0
        self.closed = False
        self.max_data = runner.max_data
        self.streams = runner.streams

    async def run(
        self, script: bytes, data: bytes | Content = b"", *, timeout: float = 60.0
    ) -> ShellOutput:
        self.check()
        self.calls += 1
        self.sent += len(script) + (len(data) if isinstance(data, bytes) else data.size)
        output = await self._runner.run(script, data, timeout=timeout)
        self.received += len(output.stdout) + len(output.stderr)
        return output

    def command(
        self, argv: list[bytes], *, cwd: bytes | None, env: Mapping[str, str]
    ) -> CommandStream:
        self.check()
        self.calls += 1
        return self._runner.command(argv, cwd=cwd, env=env)

    def count(self, received: int) -> None:
        self.received += received

    def check(self) -> None:
        if self.closed:
            raise TransportError("the connection was closed")

    async def aclose(self) -> None:
        if not self.closed:
            self.closed = True
            await self._runner.aclose()


class ShellTransport:
    """Reading, changing, watching and running by a box's own tools."""

    def __init__(self, runner: _Counted, peer: PeerInfo, dialect: shell.Dialect) -> None:
        self._runner = runner
        self._peer = peer
        self._dialect = dialect
        self._reader = ShellReader(runner, dialect)
        self._changes = ShellChanges(runner, dialect)
        self._polls: builtins.list[Poll] = []
        self._handles: dict[int, tuple[bytes, Version, bool]] = {}
        self._next_handle = 1
        self._applied = 0
        """The last batch of the journal that was attached."""
        usage = peer.statvfs
        self._free = (usage.bavail * usage.frsize, usage.favail, usage.flag)

    @property
    def peer(self) -> PeerInfo:
        """What the box said of itself."""
        return self._peer

    @property
    def round_trips(self) -> int:
        """Scripts run so far."""
        return self._runner.calls

    @property
    def bytes_sent(self) -> int:
        """Bytes of scripts and their input."""
        return self._runner.sent

    @property
    def bytes_received(self) -> int:
        """Bytes of output."""
        return self._runner.received

    @property
    def free_space(self) -> tuple[int, int, int]:
        """(free bytes, free inodes, statvfs flags) as last heard; no round trip."""
        return self._free

    async def stat(
        self, path: bytes, *, follow: bool = False, after: int = 0
    ) -> tuple[int, Attributes]:
        """Return (event, attributes)."""
        return 0, await self._reader.stat(path, follow=follow)

    async def stat_many(
        self, paths: builtins.list[bytes], *, follow: bool = False
    ) -> builtins.list[Attributes | int]:
        """Return attributes, or the errno, for each path in order."""
        return await self._reader.stat_many(paths, follow=follow)

    async def list(
        self, path: bytes, *, follow: bool = False, after: int = 0
    ) -> tuple[int, Attributes, builtins.list[tuple[bytes, Attributes]]]:
        """Return (event, attributes of the directory, entries)."""
        own, entries = await self._reader.list(path, follow=follow)
        return 0, own, [entry for entry in entries if not entry[0].startswith(PRIVATE)]

    def snapshot(
        self, path: bytes, max_depth: int = 0, *, prune: Prune | None = None
    ) -> RecordStream[DirectoryRecord]:
        """Stream the tree below path, breadth first: all of it at once."""
        return Lazy(lambda: self._snapshot(path, max_depth, prune))

    async def _snapshot(
        self, path: bytes, max_depth: int, prune: Prune | None
    ) -> builtins.list[DirectoryRecord]:
        records = []
        for record in await self._reader.snapshot(path, max_depth, prune):
            if _is_private(record.path):
                continue
            if record.entries is not None:
                record.entries[:] = [
                    entry for entry in record.entries if not entry[0].startswith(PRIVATE)
                ]
            records.append(record)
        return records

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
        return await self._reader.read(
            path, version=version, offset=offset, length=length, follow=follow
        )

    def read_many(
        self,
        files: builtins.list[tuple[bytes, Version | None]],
        *,
        max_each: int = 65536,
        follow: bool = False,
    ) -> RecordStream[ManyRecord]:
        """Stream the contents of small files."""
        return Lazy(lambda: self._reader.read_many(files, max_each, follow=follow))

    async def open(
        self, path: bytes, *, version: Version | None = None, follow: bool = False
    ) -> tuple[int, Attributes]:
        """Return (handle, attributes); reading from it fails when the file has changed since."""
        attributes = await self._reader.stat(path, follow=follow)
        if attributes.is_dir:
            raise file_error(errno.EISDIR, path)
        if attributes.is_symlink:
            raise file_error(errno.ELOOP, path)
        if not attributes.is_file:
            raise file_error(errno.EINVAL, path)
        if version is not None and not version.matches(attributes.version):
            raise file_error(errno.ESTALE, path)
        # Opening is where a missing right shows.
        await self._reader.read(path, length=0, follow=follow)
        handle, self._next_handle = self._next_handle, self._next_handle + 1
        self._handles[handle] = (path, attributes.version, follow)
        return handle, attributes

    async def pread(self, handle: int, offset: int, length: int) -> tuple[Attributes, bytes]:
        """Read from a handle; short at the end of the file."""
        if handle not in self._handles:
            raise file_error(errno.EBADF, None)
        path, version, follow = self._handles[handle]
        return await self._reader.read(
            path, version=version, offset=offset, length=length, follow=follow
        )

    def stream(
        self, handle: int, offset: int, length: int
    ) -> RecordStream[bytes | Attributes] | None:
        """Stream a large part of a file, where a command's output is a stream of bytes."""
        if not self._runner.streams:
            return None
        if handle not in self._handles:
            raise file_error(errno.EBADF, None)
        path, _, follow = self._handles[handle]
        script = self._reader.reading_script(path, offset, length, follow=follow)
        return ContentStream(
            lambda: self._runner.command([b"sh", b"-c", script], cwd=None, env={}),
            self._dialect,
            path,
            self._runner.count,
        )

    async def close(self, handle: int) -> None:
        """Release a handle."""
        self._runner.check()
        if self._handles.pop(handle, None) is None:
            raise file_error(errno.EBADF, None)

    async def readlink(self, path: bytes) -> bytes:
        """Return a symbolic link's target."""
        return await self._reader.readlink(path)

    async def statvfs(self, path: bytes = b"") -> FileSystemUsage:
        """Return the file system's figures."""
        return await self._reader.statvfs(path)

    async def hash(
        self, path: bytes, *, offset: int = 0, length: int = -1, block: int = 0
    ) -> tuple[Attributes, builtins.list[bytes]]:
        """Return (attributes, SHA-256 digests): one, or one per block of `block` bytes."""
        return await self._reader.hash(path, offset=offset, length=length, block=block)

    async def getxattr(self, path: bytes, name: bytes) -> bytes:
        """Fail: the tools for extended attributes are in no stock image."""
        raise file_error(errno.EOPNOTSUPP, path)

    async def listxattr(self, path: bytes) -> builtins.list[bytes]:
        """Fail: the tools for extended attributes are in no stock image."""
        raise file_error(errno.EOPNOTSUPP, path)

    async def apply(self, batch: Batch) -> ApplyResult:
        """Apply a batch, without a log: see the module."""
        result = await self._changes.apply(batch)
        if batch.journal:
            self._applied = max(self._applied, batch.number)
        self._free = (result.free_bytes, result.free_inodes, self._free[2])
        for poll in self._polls:
            poll.own(batch, result)
        return result

    async def attach(self, journal: bytes, generation: int) -> tuple[int, int, str]:
        """Take a journal over: nothing of it is known here, so that all of it is sent again."""
        self._runner.check()
        self._applied = 0
        return 0, 0, self._peer.boot_id

    async def locks(self, journal: bytes, paths: builtins.list[bytes]) -> builtins.list[bool]:
        """Fail: nothing in the box keeps locks for a client (there is no capability `locks`)."""
        raise CapabilityError("locks of git need the helper, which is not in this box")

    async def detach(self, journal: bytes) -> None:
        """Nothing is kept."""
        self._runner.check()

    async def sync(self) -> int:
        """sync(2) in the box; returns the last batch that had been applied before."""
        applied = self._applied
        output = await self._runner.run(b"sync", timeout=300)
        if output.exit_code:
            raise file_error(shell.errno_of(output.stderr), None)
        return applied

    async def caught_up(self) -> int:
        """Say that it cannot be said: changes are found by looking."""
        return 0

    def watch(
        self, path: bytes = b"", *, walk: bool = False, prune: Prune | None = None
    ) -> RecordStream[Event]:
        """Stream events, found by looking again and again."""
        poll = Poll(lambda: self._look(path, prune))
        self._polls.append(poll)
        return poll

    async def _look(self, path: bytes, prune: Prune | None) -> dict[bytes, Attributes]:
        seen = {}
        for record in await self._snapshot(path, 0, prune):
            prefix = record.path + b"/" if record.path else b""
            for name, attributes in record.entries or ():
                seen[prefix + name] = attributes
        return seen

    def exec(
        self,
        argv: builtins.list[bytes],
        *,
        cwd: bytes | None = None,
        env: dict[str, str] | None = None,
        pty: tuple[int, int, str] | None = None,
    ) -> CommandStream:
        """Run a command; cwd relative to the workspace root or absolute, None for the root."""
        if pty is not None:
            raise CapabilityError("a terminal needs the helper, which is not in this box")
        if not argv:
            raise ValueError("argv is empty")
        return self._runner.command(argv, cwd=cwd, env=env or {})

    async def aclose(self) -> None:
        """Close; later calls raise TransportError. Safe to call twice."""
        await self._runner.aclose()


def _is_private(path: bytes) -> bool:
    return any(name.startswith(PRIVATE) for name in path.split(b"/"))
