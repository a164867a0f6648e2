"""Writing one file as a whole.

A new file is published under its name by one rename; so is the new content of an existing file,
with the mode it had. Written in place instead is a file with several names (they would come apart)
and one whose owner the box user cannot give it again.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sealos_devbox._async.connection import Link
from sealos_devbox._async.deadline import Progress
from sealos_devbox.batch import ABSENT, ANY, Batch, Precondition, as_left_by, is_version
from sealos_devbox.errors import file_error
from sealos_devbox.paths import parent, resolve
from sealos_devbox.types import Attributes, Content, Outcome, PeerInfo, Version

__all__ = ["MemoryContent", "Write", "apply_resolving", "look", "resolve_paths", "write_whole"]

# Up to here a content is sent on the guess that the name is free, which saves a round trip when it
# is and sends the content twice when it is not.
_GUESS_MAX = 64 * 1024
# How often an unconditional write follows what others do to the file before it stops looking.
_ATTEMPTS = 8
_PIECE = 128 * 1024

_LINK_ERRORS = (errno.ELOOP, errno.ENOTDIR, errno.EEXIST)
"""What `apply`, which follows no links, may say of a path that leads through one."""


@dataclass(frozen=True, slots=True)
class MemoryContent:
    """Bytes, produced in pieces so that progress can be seen."""

    data: bytes
    progress: Progress

    @property
    def size(self) -> int:
        """Length of the data."""
        return len(self.data)

    def chunks(self) -> Iterator[bytes]:
        """Yield the data."""
        for at in range(0, len(self.data), _PIECE):
            piece = self.data[at : at + _PIECE]
            yield piece
            self.progress.advance(len(piece))


@dataclass(frozen=True, slots=True)
class Write:
    """What is to be written, and on which condition."""

    content: Content
    mode: int | None = None
    """None: the existing file's, or what the box's umask leaves of 0666."""
    mtime_ns: int | None = None
    """None: now."""
    if_match: Version | None = None
    create_only: bool = False
    parents: bool = True


def may_write(attr: Attributes, peer: PeerInfo) -> bool:
    """Whether the box user may open the file for writing, by its mode bits.

    Publishing by rename needs no right to the file itself; asking for it here keeps the promise
    that 0444 makes.
    """
    if peer.uid == 0:
        return True
    if attr.uid == peer.uid:
        return bool(attr.mode & stat.S_IWUSR)
    if attr.gid == peer.gid or attr.gid in peer.groups:
        return bool(attr.mode & stat.S_IWGRP)
    return bool(attr.mode & stat.S_IWOTH)


def must_stay(attr: Attributes, peer: PeerInfo) -> bool:
    """Whether the file has to be written in place rather than replaced."""
    foreign = attr.uid != peer.uid and peer.uid != 0
    return attr.nlink > 1 or foreign


def add_write(
    batch: Batch,
    seq: int,
    path: bytes,
    write: Write,
    existing: Attributes | None,
    pre: Precondition,
    link: Link,
) -> int:
    """Append the operations that write one file; return the first number that is free again.

    Raises BoxFileError for what cannot be written at all.
    """
    peer = link.transport.peer
    mtime_ns = link.now_ns() if write.mtime_ns is None else write.mtime_ns
    if existing is None:
        mode = 0o666 & ~peer.umask if write.mode is None else write.mode
        batch.put(seq, path, pre, batch.add_content(write.content, mode, mtime_ns))
        return seq + 1
    if existing.is_dir:
        raise file_error(errno.EISDIR, path)
    if not existing.is_file:
        raise file_error(errno.EINVAL, path)
    if not may_write(existing, peer):
        raise file_error(errno.EACCES, path)
    mode = stat.S_IMODE(existing.mode) if write.mode is None else write.mode
    if must_stay(existing, peer):
        size = write.content.size
        ranges = [(0, batch.add_content(write.content, mode, mtime_ns))] if size else []
        batch.write(seq, path, pre, ranges, size, mtime_ns)
        if write.mode is None:
            return seq + 1
        batch.setattr(seq + 1, path, as_left_by(seq), mode=mode)
        return seq + 2
    batch.put(seq, path, pre, batch.add_content(write.content, mode, mtime_ns))
    if (existing.uid, existing.gid) == (peer.uid, peer.gid):
        return seq + 1
    if peer.uid != 0 and existing.gid not in peer.groups:
        return seq + 1
    # chown(2) clears the set-id bits, so that the mode is said again.
    batch.setattr(seq + 1, path, as_left_by(seq), uid=existing.uid, gid=existing.gid, mode=mode)
    return seq + 2


async def write_whole(link: Link, path: bytes, write: Write) -> tuple[bytes, Attributes]:
    """Write one file; return its path without links, and its attributes.

    One round trip for a small file that is new, two otherwise; more where links are followed.
    """
    transport = link.transport
    if not path:
        raise file_error(errno.EISDIR, path)
    existing: Attributes | None = None
    if not write.create_only and (write.if_match or write.content.size > _GUESS_MAX):
        path, existing = await look(link, path)
        if existing is None and write.if_match:
            raise file_error(errno.ENOENT, path, conflict=True)
    resolved = False
    for attempt in range(_ATTEMPTS):
        if write.create_only and existing is not None:
            raise file_error(errno.EEXIST, path)
        if write.if_match is not None:
            pre = is_version(write.if_match)
        elif existing is None:
            pre = ABSENT
        else:
            pre = is_version(existing.version) if attempt < _ATTEMPTS - 1 else ANY
        batch = Batch()
        directory = parent(path)
        if write.parents and directory and existing is None:
            batch.mkdir(1, directory, ANY, 0o777 & ~transport.peer.umask, parents=True)
        last = add_write(batch, 2, path, write, existing, pre, link) - 1
        outcomes = {outcome.seq: outcome for outcome in (await transport.apply(batch)).outcomes}
        failed = next((o for o in outcomes.values() if o.errno), None)
        if failed is None:
            attr = outcomes[last].attr
            if attr is None:  # a rename of somebody else's was faster than the look afterwards
                raise file_error(errno.ENOENT, path)
            return path, attr
        existing, problem = _judge(failed, write, path, resolved=resolved)
        if problem is not None:
            raise problem
        if existing is None or existing.is_symlink:
            path, existing = await look(link, path)
            resolved = True
    raise file_error(errno.ESTALE, path, conflict=True)


def _judge(
    failed: Outcome, write: Write, path: bytes, *, resolved: bool
) -> tuple[Attributes | None, OSError | None]:
    """Decide after a refused batch: what is there, to go on with, or the error to raise."""
    if failed.seq == 1:
        if failed.errno in _LINK_ERRORS and not resolved:
            return None, None
        number = errno.ENOTDIR if failed.errno == errno.EEXIST else failed.errno
        return None, file_error(number, path)
    if not failed.conflict:
        if failed.errno in (errno.ELOOP, errno.ENOTDIR) and not resolved:
            return None, None
        return None, file_error(failed.errno, path)
    if write.create_only:
        return None, file_error(errno.EEXIST, path)
    if write.if_match is not None:
        return None, file_error(failed.errno, path, conflict=True)
    return failed.attr, None


async def look(link: Link, path: bytes, *, final: bool = True) -> tuple[bytes, Attributes | None]:
    """Return the path with links replaced, with `final` the last one too, and what is there."""
    (found,) = await link.transport.stat_many([path])
    if isinstance(found, int):
        if found == errno.ENOENT:
            return path, None
        if found not in (errno.ELOOP, errno.ENOTDIR):
            raise file_error(found, path)
    elif not (final and found.is_symlink):
        return path, found
    (path,) = await resolve_paths(link, [path], final=final)
    (found,) = await link.transport.stat_many([path])
    if isinstance(found, int):
        if found != errno.ENOENT:
            raise file_error(found, path)
        return path, None
    return path, found


async def resolve_paths(link: Link, paths: list[bytes], *, final: bool) -> list[bytes]:
    """Replace symbolic links in all the paths; one round trip for each level of links."""
    known: dict[bytes, Attributes | int] = {}
    while True:
        results = [resolve(path, known, link.root, final=final) for path in paths]
        unknown = list(dict.fromkeys(path for result in results for path in result.unknown))
        if not unknown:
            return [result.path or b"" for result in results]
        found = await link.transport.stat_many(unknown)
        known.update(zip(unknown, found, strict=True))


Builder = Callable[[Batch, list[bytes]], None]
"""Appends operations on the paths to a batch."""


async def apply_resolving(link: Link, paths: list[bytes], build: Builder) -> list[Outcome]:
    """Apply what `build` makes of the paths; again without links when a path led through one.

    One round trip where no directory on the way is a symbolic link. The batches must be such that
    applying one twice does no harm.
    """
    outcomes = await _apply(link, paths, build)
    if any(o.errno in (errno.ELOOP, errno.ENOTDIR) for o in outcomes):
        resolved = await resolve_paths(link, paths, final=False)
        if resolved != paths:
            return await _apply(link, resolved, build)
    return outcomes


async def _apply(link: Link, paths: list[bytes], build: Builder) -> list[Outcome]:
    batch = Batch()
    build(batch, paths)
    return (await link.transport.apply(batch)).outcomes
