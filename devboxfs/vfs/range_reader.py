"""Contents read in ranges: whole medium files, and large ones by a handle that pins them.

The first range of a large file is asked for by path while its handle is being opened: the version
is checked either way, and a round trip is saved. What the handle reads is the content that was
opened, though the file be replaced meanwhile: a changed ctime is the replacement, a changed size or
mtime means that it was written in place, so that the old content exists nowhere (ESTALE).
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import trio

from devboxfs.core.chunks import BLOCK, MEDIUM, RANGE, ContentKey, blocks_of
from devboxfs.core.readahead import ReadAhead
from devboxfs.vfs.content_cache import ContentCache
from devboxfs.vfs.fetching import CHANGED, Fetcher, Flight, fail
from sealos_devbox import Attributes, BoxFileError, DevboxError, FileTransport, Version

__all__ = ["RangeReader"]

FILES = 256
"""Files with a handle at once; the helper has 1,024, for all that its client does."""

DISK_TRIES = 4
"""Ranges in a row not found on disk after which a partly cached file is fetched without looking."""


class _Pin:
    """A handle in the box, or the attempt to get one."""

    __slots__ = ("done", "error", "handle", "transport")

    def __init__(self, transport: FileTransport) -> None:
        self.transport = transport
        self.handle: int | None = None
        self.error = 0
        self.done = trio.Event()


@dataclass(slots=True, eq=False)
class _File:
    """What is known of one content while it is read."""

    key: ContentKey
    path: bytes
    version: Version
    readahead: ReadAhead
    flights: dict[int, Flight] = field(default_factory=dict)
    """By block."""
    pin: _Pin | None = None
    keep: bool = False
    """Whether the handle is wanted though nothing is being read."""
    released: bool = False
    disk_misses: int = 0


class RangeReader:
    """Reads ranges of contents through the cache."""

    def __init__(self, fetcher: Fetcher, cache: ContentCache) -> None:
        self._fetcher = fetcher
        self._cache = cache
        self._files: OrderedDict[ContentKey, _File] = OrderedDict()
        # A stream must not be able to push its own read-ahead out of memory.
        self._most_ahead = max(1, min(16, cache.memory_limit // (4 * RANGE)))
        self.disk_hits = 0

    def busy(self, key: ContentKey) -> bool:
        """Whether something of that content is on its way."""
        file = self._files.get(key)
        return file is not None and bool(file.flights)

    def pinned(self, key: ContentKey) -> bool:
        """Whether that content is held in the box by `pin()`."""
        file = self._files.get(key)
        return file is not None and file.keep

    def advance(
        self, path: Callable[[], bytes], key: ContentKey, version: Version, offset: int, length: int
    ) -> None:
        """Take note of a read of a large file: starts what read-ahead asks for."""
        file = self._file(path, key, version)
        file.readahead.most = max(1, min(self._most_ahead, self._fetcher.ahead() // RANGE))
        for start, end in file.readahead.access(offset, length):
            if self._fetcher.link.online:
                self._start(file, start, end, guess=start > offset)

    def fetch_whole(
        self, path: bytes, version: Version, key: ContentKey, *, guess: bool
    ) -> list[Flight]:
        """Start fetching all of a medium file that is not there; returns what is on its way."""
        file = self._file(lambda: path, key, version)
        self._start(file, 0, key.size, guess=guess)
        return list({id(flight): flight for flight in file.flights.values()}.values())

    async def read(
        self,
        path: Callable[[], bytes],
        key: ContentKey,
        version: Version,
        offset: int,
        end: int,
        deadline: float,
    ) -> bytes:
        """Return [offset, end) of a content. Raises OSError as `Reader.read` does."""
        file = self._file(path, key, version)
        file.path = path()
        parts: list[bytes] = []
        position = offset
        while position < end:
            number = position // BLOCK
            stop = min(end, (number + 1) * BLOCK)
            data = self._cache.get(key, position, stop - position)
            if data is None:
                flight = file.flights.get(number)
                if flight is None:
                    whole = key.size <= MEDIUM
                    self._start(file, 0 if whole else position, key.size if whole else end)
                    flight = file.flights[number]
                if not await self._fetcher.wait(flight, deadline):
                    continue
                stop = min(end, flight.end)
                data = flight.take(position, stop)
            parts.append(data)
            position = stop
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _file(self, path: Callable[[], bytes], key: ContentKey, version: Version) -> _File:
        file = self._files.get(key)
        if file is not None:
            self._files.move_to_end(key)
            return file
        readahead = ReadAhead(key.size)
        file = self._files[key] = _File(key, path(), version, readahead)
        if len(self._files) > FILES:
            idle = next((f for f in self._files.values() if not f.flights and f is not file), None)
            if idle is not None:
                self._let_go(idle)
        return file

    def _start(self, file: _File, start: int, end: int, *, guess: bool = False) -> None:
        """Start fetching the blocks around [start, end) that are neither there nor on their way."""
        first: int | None = None
        blocks = blocks_of(start, end - start)
        for number in blocks:
            there = number in file.flights or self._cache.holds(file.key, number)
            if first is not None and (there or number * BLOCK % RANGE == 0):
                self._send(file, first, number, guess=guess)
                first = None
            if not there and first is None:
                first = number
        if first is not None:
            self._send(file, first, blocks.stop, guess=guess)

    def _send(self, file: _File, first: int, stop: int, *, guess: bool) -> None:
        flight = Flight(first * BLOCK, min(file.key.size, stop * BLOCK))
        self._fetcher.start([flight], partial(self._fetch, file, flight, guess))
        for number in range(first, stop):
            file.flights[number] = flight

    async def _fetch(self, file: _File, flight: Flight, guess: bool) -> None:
        key, length = file.key, flight.end - flight.start
        try:
            if file.disk_misses < DISK_TRIES and self._cache.on_disk(key):
                data = await self._cache.load(key, flight.start, length)
                if data is not None:
                    file.disk_misses = 0
                    self.disk_hits += 1
                    flight.land(data)
                    return
                file.disk_misses += 1
            data = await self._fetcher.ask(
                partial(self._request, file, flight.start, length, flight), guess=guess
            )
            self._fetcher.landed(length)
            self._cache.put(key, flight.start, data, key.size)
            flight.land(data)
        finally:
            for number in blocks_of(flight.start, length):
                del file.flights[number]
            idle = key.size <= MEDIUM and not file.flights and file.pin is None
            if idle and self._files.get(key) is file:
                del self._files[key]

    async def _request(
        self, file: _File, start: int, length: int, flight: Flight, transport: FileTransport
    ) -> bytes:
        if file.released and not flight.waiters:
            fail(errno.ESTALE)  # read-ahead that nobody wants any more
        pin = file.pin
        if (file.key.size > MEDIUM or file.keep) and not file.released:
            pin = self._pin(file, transport)
        if pin is not None and pin.handle is not None and pin.transport is transport:
            return await self._pread(file.key, pin.handle, start, length, transport)
        try:
            _, data = await transport.read(
                file.path, version=file.version, offset=start, length=length
            )
        except BoxFileError as error:
            if error.errno not in CHANGED or pin is None or pin.transport is not transport:
                raise
            await pin.done.wait()
            if pin.handle is None:
                raise
            return await self._pread(file.key, pin.handle, start, length, transport)
        if len(data) != length:
            fail(errno.ESTALE)
        return data

    @staticmethod
    async def _pread(
        key: ContentKey, handle: int, start: int, length: int, transport: FileTransport
    ) -> bytes:
        attr, data = await transport.pread(handle, start, length)
        if not _same_content(attr, key) or len(data) != length:
            fail(errno.ESTALE)
        return data

    # Handles

    async def pin(
        self, path: Callable[[], bytes], key: ContentKey, version: Version, deadline: float
    ) -> None:
        """Make sure that the box holds that content until `release()`."""
        file = self._file(path, key, version)
        file.path = path()
        file.keep = True
        with trio.move_on_at(deadline) as scope:
            previous: FileTransport | None = None
            while True:
                transport = await self._fetcher.link.wait_transport(previous)
                pin = self._pin(file, transport)
                await pin.done.wait()
                if pin.handle is not None:
                    return
                if pin.error:
                    fail(pin.error)
                previous = transport
        if scope.cancelled_caught:
            fail(errno.ETIMEDOUT if self._fetcher.link.online else errno.EIO)

    def _pin(self, file: _File, transport: FileTransport) -> _Pin:
        """Return the file's pin on that transport; starts to open one where there is none."""
        pin = file.pin
        if pin is None or pin.transport is not transport:
            pin = file.pin = _Pin(transport)
            self._fetcher.start([], partial(self._open, file, pin))
        return pin

    async def _open(self, file: _File, pin: _Pin) -> None:
        """Open the handle; without one, ranges go on being read by path."""
        try:
            self._fetcher.requests += 1
            pin.handle, _ = await pin.transport.open(file.path, version=file.version)
        except BoxFileError as error:
            code = error.errno or errno.EIO
            pin.error = errno.ESTALE if code in CHANGED else code
        except DevboxError:
            pass  # the transport is gone, and the pin with it
        finally:
            pin.done.set()

    def release(self, key: ContentKey) -> None:
        """Let go of a content; what readers still wait for arrives."""
        file = self._files.get(key)
        if file is not None:
            self._let_go(file)

    def _let_go(self, file: _File) -> None:
        del self._files[file.key]
        file.released = True
        if file.pin is not None and self._fetcher.running:
            self._fetcher.start([], partial(self._close, file, file.pin))

    async def _close(self, file: _File, pin: _Pin) -> None:
        for flight in list(file.flights.values()):
            await flight.done.wait()
        await pin.done.wait()
        if pin.handle is not None:
            try:
                self._fetcher.requests += 1
                await pin.transport.close(pin.handle)
            except DevboxError:
                pass  # its helper is gone, or has closed it itself


def _same_content(attr: Attributes, key: ContentKey) -> bool:
    return attr.size == key.size and attr.mtime_ns == key.mtime_ns
