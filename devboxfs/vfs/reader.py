"""Contents of files in the box: from the cache, or fetched with what is likely to be read next.

A read that finds its bytes in memory has no checkpoint. Small files are fetched many at once, in
the order of core/prefetch.py; others in ranges (vfs/range_reader.py).
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import trio

from devboxfs.core.chunks import MEDIUM, SMALL, ContentKey
from devboxfs.core.prefetch import (
    Candidate,
    Prefetch,
    PrefetchSource,
    Scan,
    Window,
    git_companions,
    git_directory,
    is_git_companion,
)
from devboxfs.vfs.content_cache import ContentCache
from devboxfs.vfs.fetching import CHANGED, Fetcher, Flight
from devboxfs.vfs.range_reader import RangeReader
from devboxfs.writeback.seams import Link
from sealos_devbox import FileTransport, ManyRecord, Version

__all__ = ["FileRef", "Reader", "ReaderStatistics"]

DISK_FIRST = 32
DISK_NEXT = 256
"""Files loaded from disk in one visit to a thread: few at first, because somebody waits."""

GUESSES = 8192
"""Guesses not read yet that are remembered, to tell whether they are used."""

GIT_DIRECTORIES = 64


class FileRef(Protocol):
    """A file in the box, as the table has it."""

    @property
    def path(self) -> bytes:
        """Where it is in the box at present."""
        ...

    @property
    def version(self) -> Version:
        """Its version there; its size is the size of the content."""
        ...


@dataclass(frozen=True, slots=True)
class ReaderStatistics:
    """Counts since the reader was made."""

    hits: int
    """Reads answered from memory."""
    disk_hits: int
    """Files and ranges loaded from disk."""
    misses: int
    """Reads that waited."""
    requests: int
    """Requests sent to the box."""
    fetched_bytes: int
    prefetched_files: int
    prefetched_used: int


@dataclass(frozen=True, slots=True, eq=False)
class _Small:
    """A small file that is being fetched."""

    path: bytes
    version: Version
    key: ContentKey
    flight: Flight


class Reader:
    """Reads base contents of files. `run()` owns every fetch and must run while `read` is used."""

    def __init__(
        self,
        link: Link,
        cache: ContentCache,
        tree: PrefetchSource,
        *,
        timeout: Callable[[], float] = lambda: 30.0,
    ) -> None:
        """`timeout` is asked at each read and each fetch: how long, in seconds, it may take now."""
        self._cache = cache
        self._tree = tree
        self._fetcher = Fetcher(link, timeout)
        self._ranges = RangeReader(self._fetcher, cache)
        self._prefetch = Prefetch()
        self._flights: dict[ContentKey, Flight] = {}
        self._guessed: dict[ContentKey, Window | None] = {}
        self._git_seen: dict[bytes, None] = {}
        self._hits = 0
        self._disk_hits = 0
        self._misses = 0
        self._prefetched = 0
        self._prefetched_used = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the fetches until cancelled; `nursery.start(reader.run)` returns when it is ready."""
        await self._fetcher.run(task_status=task_status)

    async def read(self, file: FileRef, offset: int, length: int) -> bytes:
        """Return that part of the content at `file.version`, cut at its end.

        No checkpoint when it is in memory. Raises OSError: ESTALE when the box has another version
        (or none) by now; EIO when there is no link within the deadline; ETIMEDOUT when the box did
        not answer within it; else what the box says.
        """
        version = file.version
        key = ContentKey.of(version)
        end = min(offset + length, key.size)
        if offset >= end:
            return b""
        if key.size > MEDIUM:
            self._ranges.advance(lambda: file.path, key, version, offset, length)
        data = self._cache.get(key, offset, length)
        if data is not None:
            self._hits += 1
            if key in self._guessed:
                self._use(key, file.path)
            return data
        self._misses += 1
        deadline = self._fetcher.deadline()
        pinned = self._ranges.pinned(key)
        if key.size > SMALL or pinned:
            if key.size <= MEDIUM and not pinned and not self._ranges.busy(key):
                self._miss(file.path, version, key)
            elif key in self._guessed:
                self._use(key, file.path)
            return await self._ranges.read(lambda: file.path, key, version, offset, end, deadline)
        while True:
            flight = self._flights.get(key)
            if flight is None:
                self._miss(file.path, version, key)
                flight = self._flights[key]
            elif key in self._guessed:
                self._use(key, file.path)
            if await self._fetcher.wait(flight, deadline):
                return flight.take(offset, end)

    async def pin(self, file: FileRef) -> None:
        """Make sure that the content stays readable until `release()`, whatever its name becomes.

        At most one round trip. Raises OSError as `read` does. A pin is lost with its connection.
        """
        version = file.version
        key = ContentKey.of(version)
        if key.size:
            deadline = self._fetcher.deadline()
            await self._ranges.pin(lambda: file.path, key, version, deadline)

    async def secure(self, file: FileRef) -> None:
        """Have the content, or a pin; no round trip when it is cached. Raises as `read` does."""
        size = file.version.size
        if size <= MEDIUM:
            await self.read(file, 0, size)
            return
        key = ContentKey.of(file.version)
        if any(self._cache.get(key, at, 1) is None for at in (0, size // 2, size - 1)):
            await self.pin(file)

    def holds(self, version: Version) -> bool:
        """Whether that content can be read although it has no name in the box any more."""
        key = ContentKey.of(version)
        return self._cache.has(key) or self._ranges.pinned(key)

    def release(self, version: Version) -> None:
        """Let go of what is pinned in the box for that version; does not wait.

        To be called when the last local open of the file is released, and with the old version
        when a file's version changes.
        """
        self._ranges.release(ContentKey.of(version))

    def statistics(self) -> ReaderStatistics:
        """Return the counts of this moment."""
        return ReaderStatistics(
            hits=self._hits,
            disk_hits=self._disk_hits + self._ranges.disk_hits,
            misses=self._misses,
            requests=self._fetcher.requests,
            fetched_bytes=self._fetcher.fetched_bytes,
            prefetched_files=self._prefetched,
            prefetched_used=self._prefetched_used,
        )

    # What to fetch. No await in this part: plans are made of the tree as it is.

    def _miss(self, path: bytes, version: Version, key: ContentKey) -> None:
        """Start fetching a file with what is likely to be read next."""
        wanted = Candidate(path, version)
        git = git_directory(path)
        if git is not None and is_git_companion(git, wanted):
            guesses: list[Candidate] = []
            if self._fetcher.link.online:
                guesses = git_companions(
                    self._tree, git, self._have, first=git not in self._git_seen
                )
                self._git_seen[git] = None
                if len(self._git_seen) > GIT_DIRECTORIES:
                    del self._git_seen[next(iter(self._git_seen))]
            self._fetch(wanted, [c for c in guesses if c.path != path], None)
            return
        scan = self._prefetch.miss(path)
        self._fetch(wanted, *self._guess(scan, path, exclude=path))

    def _use(self, key: ContentKey, path: bytes) -> None:
        """Take note of the first read of a guess; asks for more when a walk is recognised."""
        window = self._guessed.pop(key)
        self._prefetched_used += 1
        if window is None:
            return
        scan = self._prefetch.used(window, path)
        if scan is not None:
            guesses, fresh = self._guess(scan, scan.position)
            if not guesses and scan.position != path:
                guesses, fresh = self._guess(scan, path)
            self._fetch(None, guesses, fresh)

    def _guess(
        self, scan: Scan, after: bytes, exclude: bytes | None = None
    ) -> tuple[list[Candidate], Window | None]:
        if not self._fetcher.link.online:
            return [], None
        candidates: Iterable[Candidate] = self._tree.following(after)
        if exclude is not None:
            candidates = (c for c in candidates if c.path != exclude)
        self._prefetch.most_bytes = min(self._cache.memory_limit // 8, self._fetcher.ahead())
        guesses = self._prefetch.plan(scan, candidates, self._have)
        return guesses, self._prefetch.begin(scan, len(guesses))

    def _have(self, candidate: Candidate) -> bool:
        key = ContentKey.of(candidate.version)
        return key in self._flights or self._cache.in_memory(key) or self._ranges.busy(key)

    def _fetch(
        self, wanted: Candidate | None, guesses: list[Candidate], window: Window | None
    ) -> None:
        """Start fetching a file that somebody waits for, and guesses."""
        stored: list[_Small] = []
        remote: list[_Small] = []
        medium: list[Flight] = []
        files = guesses if wanted is None else [wanted, *guesses]
        for candidate in files:
            key = ContentKey.of(candidate.version)
            guess = candidate is not wanted
            if guess:
                self._guessed[key] = window
                self._prefetched += 1
            if key.size > SMALL:
                medium += self._ranges.fetch_whole(
                    candidate.path, candidate.version, key, guess=guess
                )
                continue
            small = _Small(candidate.path, candidate.version, key, Flight(0, key.size))
            self._flights[key] = small.flight
            (stored if self._cache.on_disk(key) else remote).append(small)
        while len(self._guessed) > GUESSES:
            del self._guessed[next(iter(self._guessed))]
        countdown = _Countdown(bool(remote) + bool(stored) + bool(medium), window)
        if stored:
            self._start(stored, self._load, wanted is None, countdown)
        if remote:
            self._start(remote, self._fetch_many, wanted is None, countdown)
        if medium and window is not None:
            self._fetcher.start([], partial(_all_landed, medium, countdown))

    def _start(
        self,
        batch: list[_Small],
        work: _BatchWork,
        guess: bool,
        countdown: _Countdown,
    ) -> None:
        self._fetcher.start(
            [small.flight for small in batch], partial(self._batch, batch, work, guess, countdown)
        )

    async def _batch(
        self, batch: list[_Small], work: _BatchWork, guess: bool, countdown: _Countdown
    ) -> None:
        try:
            await work(batch, guess)
        finally:
            for small in batch:
                if self._flights.get(small.key) is small.flight:
                    del self._flights[small.key]
            countdown.step()

    # Fetching

    async def _load(self, batch: list[_Small], guess: bool) -> None:
        """Load small files from disk; from the box what is not there after all."""
        at, step = 0, DISK_FIRST
        while at < len(batch):
            part = batch[at : at + step]
            found = await self._cache.load_many([small.key for small in part])
            for small in part:
                data = found.get(small.key)
                if data is not None:
                    self._disk_hits += 1
                    small.flight.land(data)
                    self._flights.pop(small.key, None)
            at, step = at + step, DISK_NEXT
        missing = [small for small in batch if not small.flight.done.is_set()]
        if missing:
            await self._fetch_many(missing, guess)

    async def _fetch_many(self, batch: list[_Small], guess: bool) -> None:
        """Fetch small files; after a broken connection, only those that somebody waits for."""
        again = False

        async def request(transport: FileTransport) -> None:
            nonlocal again
            missing = [small for small in batch if not small.flight.done.is_set()]
            if again:
                missing = [small for small in missing if small.flight.waiters]
            again = True
            if missing:
                await self._read_many(missing, transport)

        await self._fetcher.ask(request, guess=guess)

    async def _read_many(self, batch: list[_Small], transport: FileTransport) -> None:
        request: list[tuple[bytes, Version | None]] = [(s.path, s.version) for s in batch]
        async with transport.read_many(request, max_each=SMALL) as records:
            while (some := await records.receive()) is not None:
                for record in some:
                    if 0 <= record.index < len(batch):
                        self._land(batch[record.index], record)

    def _land(self, small: _Small, record: ManyRecord) -> None:
        key, flight = small.key, small.flight
        if flight.done.is_set():
            return
        if self._flights.get(key) is flight:
            del self._flights[key]
        if record.errno:
            flight.crash(errno.ESTALE if record.errno in CHANGED else record.errno)
        elif len(record.content) != key.size:
            flight.crash(errno.ESTALE)
        else:
            self._fetcher.landed(key.size)
            self._cache.put(key, 0, record.content, key.size)
            flight.land(record.content)


class _Countdown:
    """Marks a window as arrived when the last part of its fetch is over."""

    __slots__ = ("_left", "_window")

    def __init__(self, parts: int, window: Window | None) -> None:
        self._left = parts
        self._window = window

    def step(self) -> None:
        self._left -= 1
        if self._left == 0 and self._window is not None:
            self._window.arrived = True


_BatchWork = Callable[[list[_Small], bool], Awaitable[None]]


async def _all_landed(flights: list[Flight], countdown: _Countdown) -> None:
    for flight in flights:
        await flight.done.wait()
    countdown.step()
