"""A journal, a flusher, and real helpers that can be killed."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from devboxfs.core.ops import Kind, Operation
from devboxfs.writeback.limits import Limits
from devboxfs.writeback.seams import ConflictReport, Settled
from devboxfs.writeback.writeback import WriteBack
from sealos_devbox import Attributes, DevboxError, FileTransport, Version
from sealos_devbox._transport.base import ByteChannel
from sealos_devbox._transport.helper import open_helper_transport
from sealos_devbox._transport.helper_bundle import find_helper
from sealos_devbox._transport.subprocess import SubprocessChannel


@pytest.fixture
def anyio_backend() -> str:
    """The daemon is trio's."""
    return "trio"


@dataclass
class BoxLink:
    """A Link to a helper that is started again when it is gone."""

    root: Path
    state: Path
    transport: FileTransport | None = None
    pid: int = 0
    up: bool = True
    """False: no new helper is started."""
    connections: int = 0
    changed: trio.Event = field(default_factory=trio.Event)
    broken: trio.Event = field(default_factory=trio.Event)
    environment: dict[str, str] = field(default_factory=dict)
    wrap: Callable[[ByteChannel], ByteChannel] | None = None
    """Puts something between us and the helper."""

    @property
    def online(self) -> bool:
        return self.transport is not None

    async def wait_transport(self, previous: FileTransport | None = None) -> FileTransport:
        while True:
            if self.transport is not None:
                if self.transport is not previous:
                    return self.transport
                self.transport = None
                self.broken.set()
            await self.changed.wait()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    async def lose(self) -> None:
        """Kill the helper, and return when it is gone; no other is started until turn()."""
        self.up = False
        self.kill()
        self.broken.set()
        while self.transport is not None:
            await trio.lowlevel.checkpoint()

    def turn(self, *, up: bool) -> None:
        self.up = up
        self.signal()

    def signal(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    async def run(self) -> None:
        argv = [find_helper(), "serve", "--root", self.root, "--state", self.state]
        while True:
            while not self.up:
                await self.changed.wait()
            self.broken = trio.Event()
            try:
                channel = await SubprocessChannel.open(argv, env={**os.environ, **self.environment})
                self.pid = channel.pid
                carried = self.wrap(channel) if self.wrap is not None else channel
                async with open_helper_transport(carried, compress=False) as transport:
                    self.connections += 1
                    self.transport = transport
                    self.signal()
                    await self.broken.wait()
            except DevboxError:
                pass
            finally:
                self.transport = None


@dataclass
class Ears:
    """A Listener that remembers."""

    seqs: list[int] = field(default_factory=list)
    objects: dict[int, Attributes | None] = field(default_factory=dict)
    before: dict[int, Attributes] = field(default_factory=dict)
    conflicts: list[ConflictReport] = field(default_factory=list)
    errors: dict[int, int] = field(default_factory=dict)
    events: dict[int, int] = field(default_factory=dict)
    troubles: list[tuple[int, set[int]]] = field(default_factory=list)
    refused: list[dict[int, int]] = field(default_factory=list)
    known: dict[int, bytes] = field(default_factory=dict)
    """Contents by inode number, as a cache would have them."""

    def settled(self, batch: Settled) -> None:
        assert batch.seqs == sorted(batch.seqs)
        assert not set(batch.seqs) & set(self.seqs), "settled twice"
        self.seqs += batch.seqs
        self.objects.update(batch.objects)
        self.before.update(batch.before)
        self.conflicts += batch.conflicts
        self.errors.update(batch.errors)
        self.events.update(batch.events)
        if batch.refused:
            self.refused.append(batch.refused)

    async def base_content(self, version: Version, size: int) -> bytes | None:
        return self.known.get(version.ino)

    def trouble(self, errno: int, oids: set[int]) -> None:
        self.troubles.append((errno, oids))


class User:
    """Makes operations as the file system would: base of what is in the box, paths as they are."""

    def __init__(self, writeback: WriteBack, box: Path) -> None:
        self.writeback = writeback
        self.box = box
        self.time = 1_600_000_000_000_000_000

    def now(self) -> int:
        self.time += 1000
        return self.time

    def create(self, path: bytes, data: bytes | None = b"", *, mode: int = 0o644) -> int:
        oid = self.writeback.next_oid()
        self.writeback.append(Operation(Kind.CREATE, oid, path, self.now(), mode=mode))
        if data:
            self.write(oid, path, data, mode=mode)
        return oid

    def write(self, oid: int, path: bytes, data: bytes, **values: object) -> int:
        op = Operation(Kind.WRITE, oid, path, self.now(), **values)  # type: ignore[arg-type]
        self.writeback.append_write(op, data)
        return op.seq

    def do(self, kind: Kind, oid: int, path: bytes, **values: object) -> int:
        return self.writeback.append(Operation(kind, oid, path, self.now(), **values))  # type: ignore[arg-type]

    def mkdir(self, path: bytes) -> int:
        oid = self.writeback.next_oid()
        self.do(Kind.MKDIR, oid, path, mode=0o755)
        return oid


@dataclass
class Place:
    """A box and the state directory of its mounts."""

    directory: Path
    limits: Limits = field(default_factory=Limits)
    box_top: Path | None = None
    """Where the box and the helper's state are, if not beside the mounts."""

    @property
    def top(self) -> Path:
        return self.box_top or self.directory

    @property
    def box(self) -> Path:
        return self.top / "box"

    @property
    def mounts(self) -> Path:
        return self.directory / "mounts"

    def open(self, **values: object) -> WriteBack:
        return WriteBack.open(
            self.mounts,
            box_uid="uid",
            box_name="my-box",
            limits=self.limits,
            **values,  # type: ignore[arg-type]
        )

    def link(self) -> BoxLink:
        return BoxLink(self.box, self.top / "helper-state")

    @asynccontextmanager
    async def mounted(self) -> AsyncIterator[Mounted]:
        """A flusher that runs against a helper."""
        link = self.link()
        writeback = self.open()
        ears = Ears()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.run)
                await link.wait_transport()
                conflicts = await writeback.recover(link) if writeback.has_backlog else []
                await nursery.start(writeback.run, link, ears)
                nursery.start_soon(writeback.run_ticker)
                yield Mounted(writeback, link, ears, User(writeback, self.box), conflicts)
                nursery.cancel_scope.cancel()
        finally:
            writeback.close()


@dataclass
class Mounted:
    writeback: WriteBack
    link: BoxLink
    ears: Ears
    user: User
    recovered: list[ConflictReport]


@pytest.fixture
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="writeback-") as name:
        directory = Path(name)
        (directory / "box").mkdir()
        (directory / "helper-state").mkdir(mode=0o700)
        yield Place(directory)
