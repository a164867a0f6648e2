"""Many files at once, in few round trips.

Uploads: the destinations are looked at in one round trip, then a batch of at most 8 MiB or 1,000
files is applied in another. Downloads: small files come in one stream of records, larger ones in
pieces. Memory is bounded by the batch and by the pieces that are under way.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import anyio
from anyio import to_thread

from sealos_devbox._async import local_files
from sealos_devbox._async.connection import Link
from sealos_devbox._async.deadline import Progress, deadline, run_all, run_while_advancing
from sealos_devbox._async.local_files import FileContent, LocalSource, LocalTarget
from sealos_devbox._async.reading import FIRST_READ, read_pinned
from sealos_devbox._async.values import TransferResult
from sealos_devbox._async.writing import (
    MemoryContent,
    Write,
    add_write,
    write_whole,
)
from sealos_devbox.batch import ANY, Batch
from sealos_devbox.errors import BoxFileError, DeadlineExceededError, DevboxError, file_error
from sealos_devbox.paths import parent, path_text
from sealos_devbox.types import Attributes, Outcome, Version

__all__ = ["Source", "download", "upload"]

Source = bytes | str | os.PathLike[str]
"""What to upload: content as bytes, or the path of a local file."""
_Download = Callable[
    [Link, bytes, str | os.PathLike[str], bool, float | None], Awaitable[TransferResult]
]
SourceT = TypeVar("SourceT", bound=Source)
"""For mappings, whose keys are invariant."""

BATCH_BYTES = 8 << 20
BATCH_FILES = 1_000
# Batches that are sent while the answer to an earlier one is still to come.
_BATCHES_AT_ONCE = 2
# Each file costs a box's shell some ten processes; a batch is to come to its end before it looks
# like one that stands still.
_WEAK_BATCH_FILES = 100
# Files asked for by one read_many; the transport makes some 15 requests of it, of 256 allowed.
_ASKED_AT_ONCE = 10_000
# Files of up to this size come many in one answer (PROTOCOL.md section 5: at most 98304).
_SMALL = 64 * 1024
# Files of up to FIRST_READ come whole, so many at once; larger ones in pieces.
_MEDIUM_AT_ONCE = 8
_LARGE_AT_ONCE = 2
# Local files of up to this size are read before the batch is sent; larger ones while it is.
_LOADED = 256 * 1024


@dataclass(slots=True)
class _Upload:
    """One file on its way up. Holds no content of a local file: there may be any number."""

    path: bytes
    local: str | None
    write: Write
    size: int = 0
    error: OSError | None = None

    def result(self) -> TransferResult:
        size = 0 if self.error else self.size
        return TransferResult(path_text(self.path), self.local, size, self.error)


async def upload(
    link: Link,
    files: Sequence[tuple[Source, bytes]],
    *,
    parents: bool,
    preserve_mtime: bool,
    idle_timeout: float | None,
) -> list[TransferResult]:
    """Upload the files; the answer is in their order."""
    progress = Progress()
    uploads = await to_thread.run_sync(_plan, files, parents, preserve_mtime, progress)

    async def apply(batch: list[_Upload]) -> None:
        await _upload_batch(link, batch)
        progress.advance(1)  # also where all of its files are empty

    def applying(batch: list[_Upload]) -> Callable[[], Awaitable[None]]:
        return lambda: run_while_advancing(
            lambda: apply(batch), progress, idle_timeout, "The upload"
        )

    weak = "weak" in link.transport.peer.capabilities
    batches = _batches(uploads, _WEAK_BATCH_FILES if weak else BATCH_FILES)
    await run_all([applying(batch) for batch in batches], _BATCHES_AT_ONCE)
    return [upload.result() for upload in uploads]


def _plan(
    files: Sequence[tuple[Source, bytes]],
    parents: bool,
    preserve_mtime: bool,
    progress: Progress,
) -> list[_Upload]:
    uploads = []
    for source, path in files:
        if isinstance(source, bytes):
            write = Write(MemoryContent(source, progress), parents=parents)
            uploads.append(_Upload(path, None, write))
            continue
        local = os.fspath(source)
        found = local_files.look_at(local)
        if isinstance(found, LocalSource):
            content = FileContent(local, found.size, progress)
            mtime_ns = found.mtime_ns if preserve_mtime else None
            write = Write(content, found.mode & 0o777, mtime_ns, parents=parents)
            uploads.append(_Upload(path, local, write))
        else:
            nothing = Write(MemoryContent(b"", progress))
            uploads.append(_Upload(path, local, nothing, error=found))
    return uploads


def _batches(uploads: list[_Upload], most: int) -> Iterator[list[_Upload]]:
    """Group what can be uploaded; a larger file is a batch of its own."""
    batch: list[_Upload] = []
    room = BATCH_BYTES
    for upload in uploads:
        if upload.error is not None:
            continue
        size = upload.write.content.size
        if batch and (size > room or len(batch) == most):
            yield batch
            batch, room = [], BATCH_BYTES
        batch.append(upload)
        room -= size
    if batch:
        yield batch


async def _upload_batch(link: Link, uploads: list[_Upload]) -> None:
    found = await link.transport.stat_many([upload.path for upload in uploads])
    writes = await to_thread.run_sync(_load_small, uploads)
    batch = Batch()
    for directory in _missing_directories(uploads, found):
        mode = 0o777 & ~link.transport.peer.umask
        batch.mkdir(len(batch.operations) + 1, directory, ANY, mode, parents=True)
    seq = len(batch.operations) + 1
    owner: dict[int, int] = {}
    alone: dict[int, None] = {}  # in order
    for number, (upload, write, now) in enumerate(zip(uploads, writes, found, strict=True)):
        if upload.error is not None:
            continue
        if (isinstance(now, int) and now != errno.ENOENT) or _is_symlink(now):
            alone[number] = None  # a link on the way, or a real error, which it will meet again
            continue
        existing = None if isinstance(now, int) else now
        try:
            after = add_write(batch, seq, upload.path, write, existing, ANY, link)
        except BoxFileError as error:
            upload.error = error
            continue
        owner.update(dict.fromkeys(range(seq, after), number))
        seq = after
    if owner:
        for outcome in await _apply(link, batch):
            refused = owner.get(outcome.seq)
            if refused is None or not outcome.errno or uploads[refused].error is not None:
                continue
            if outcome.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENOENT, errno.ECANCELED):
                # A link on the way, a directory that could not be made, or a batch that never was.
                alone[refused] = None
            else:
                uploads[refused].error = file_error(outcome.errno, uploads[refused].path)
    for number in alone:
        try:
            await write_whole(link, uploads[number].path, writes[number])
        except DeadlineExceededError:
            raise
        except OSError as error:
            uploads[number].error = error
    for upload, write in zip(uploads, writes, strict=True):
        upload.size = write.content.size


async def _apply(link: Link, batch: Batch) -> list[Outcome]:
    """Apply a batch; when a local file cannot be read to its end, nothing of it was applied."""
    try:
        return (await link.transport.apply(batch)).outcomes
    except DevboxError:
        raise
    except OSError:
        return [Outcome(seq, errno.ECANCELED) for seq in range(1, len(batch.operations) + 1)]


def _is_symlink(found: Attributes | int) -> bool:
    return isinstance(found, Attributes) and found.is_symlink


def _load_small(uploads: list[_Upload]) -> list[Write]:
    """Read the small local files of a batch now: together they are no more than the batch."""
    writes = []
    for upload in uploads:
        write = upload.write
        content = write.content
        if isinstance(content, FileContent) and content.size <= _LOADED:
            try:
                data = Path(content.path).read_bytes()
            except OSError as error:
                upload.error = error
            else:
                write = replace(write, content=MemoryContent(data, content.progress))
        writes.append(write)
    return writes


def _missing_directories(uploads: list[_Upload], found: list[Attributes | int]) -> list[bytes]:
    """Return the directories to make for files that are not there yet, the deepest only."""
    wanted = {
        parent(upload.path)
        for upload, now in zip(uploads, found, strict=True)
        if now == errno.ENOENT and upload.write.parents and upload.error is None
    }
    wanted.discard(b"")
    made_on_the_way = set()
    for directory in wanted:
        above = parent(directory)
        while above:
            made_on_the_way.add(above)
            above = parent(above)
    return sorted(wanted - made_on_the_way)


async def download(
    link: Link,
    paths: Sequence[bytes],
    directory: str | os.PathLike[str],
    *,
    preserve_mtime: bool,
    idle_timeout: float | None,
) -> list[TransferResult]:
    """Download the files below a local directory; the answer is in their order."""
    results: dict[bytes, TransferResult] = {}
    medium: list[bytes] = []
    large: list[bytes] = []
    wanted = list(dict.fromkeys(paths))
    for first in range(0, len(wanted), _ASKED_AT_ONCE):
        part = wanted[first : first + _ASKED_AT_ONCE]
        for path, size in await _download_small(
            link, part, directory, results, preserve_mtime, idle_timeout
        ):
            (medium if size <= FIRST_READ else large).append(path)

    def downloading(path: bytes, way: _Download) -> Callable[[], Awaitable[None]]:
        async def call() -> None:
            try:
                results[path] = await way(link, path, directory, preserve_mtime, idle_timeout)
            except DeadlineExceededError:
                raise
            except OSError as error:
                results[path] = TransferResult(path_text(path), None, 0, error)

        return call

    await run_all([downloading(path, _download_medium) for path in medium], _MEDIUM_AT_ONCE)
    await run_all([downloading(path, _download_large) for path in large], _LARGE_AT_ONCE)
    return [results[path] for path in paths]


async def _download_small(
    link: Link,
    paths: list[bytes],
    directory: str | os.PathLike[str],
    results: dict[bytes, TransferResult],
    preserve_mtime: bool,
    idle_timeout: float | None,
) -> list[tuple[bytes, int]]:
    """Download what is small; return the rest, with the sizes."""
    larger: list[tuple[bytes, int]] = []
    wanted: list[tuple[bytes, Version | None]] = [(path, None) for path in paths]
    async with link.transport.read_many(wanted, max_each=_SMALL, follow=True) as stream:
        while True:
            with deadline(idle_timeout, "Waiting for the next file"):
                records = await stream.receive()
            if records is None:
                return larger
            whole: list[tuple[bytes, Attributes, bytes]] = []
            for record in records:
                path = paths[record.index]
                if record.errno == errno.EFBIG and record.attr is not None:
                    larger.append((path, record.attr.size))
                elif record.errno or record.attr is None:
                    number = record.errno or errno.EIO
                    if record.attr is not None and record.attr.is_dir:
                        number = errno.EISDIR
                    error = file_error(number, path)
                    results[path] = TransferResult(path_text(path), None, 0, error)
                else:
                    whole.append((path, record.attr, record.content))
            if whole:
                await to_thread.run_sync(_store_all, directory, whole, preserve_mtime, results)


def _store_all(
    directory: str | os.PathLike[str],
    files: list[tuple[bytes, Attributes, bytes]],
    preserve_mtime: bool,
    results: dict[bytes, TransferResult],
) -> None:
    for path, attr, content in files:
        stored = local_files.store(directory, path, attr, content, times=preserve_mtime)
        if isinstance(stored, OSError):
            results[path] = TransferResult(path_text(path), None, 0, stored)
        else:
            results[path] = TransferResult(path_text(path), str(stored), len(content))


async def _download_medium(
    link: Link,
    path: bytes,
    directory: str | os.PathLike[str],
    preserve_mtime: bool,
    idle_timeout: float | None,
) -> TransferResult:
    with deadline(idle_timeout, "Reading the file"):
        attr, content = await link.transport.read(path, length=FIRST_READ, follow=True)
    if attr.size > len(content):  # it has grown
        return await _download_large(link, path, directory, preserve_mtime, idle_timeout)
    results: dict[bytes, TransferResult] = {}
    files = [(path, attr, content)]
    await to_thread.run_sync(_store_all, directory, files, preserve_mtime, results)
    return results[path]


async def _download_large(
    link: Link,
    path: bytes,
    directory: str | os.PathLike[str],
    preserve_mtime: bool,
    idle_timeout: float | None,
) -> TransferResult:
    target = LocalTarget(directory, path)
    total = 0
    # The pieces arrive in any order; seek and write belong together.
    writing = anyio.Lock()

    async def begin(attr: Attributes, size: int) -> None:
        nonlocal total
        total = size
        await to_thread.run_sync(target.begin, attr.mode, size)

    async def sink(at: int, piece: bytes) -> None:
        async with writing:
            await to_thread.run_sync(target.write, at, piece)

    try:
        attr = await read_pinned(link, path, begin, sink, idle_timeout=idle_timeout)
        await to_thread.run_sync(target.publish, attr.mtime_ns if preserve_mtime else None)
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(target.abandon)
    return TransferResult(path_text(path), str(target.path), total)
