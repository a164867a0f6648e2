"""The local side of transfers. Everything here blocks, and is called in threads."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sealos_devbox._async.deadline import Progress
from sealos_devbox.types import Attributes

__all__ = ["FileContent", "LocalTarget", "look_at"]

_PIECE = 128 * 1024

# What is not there is not needed: O_BINARY is Windows's, the others are POSIX's.
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL
for _name in ("O_BINARY", "O_CLOEXEC", "O_NOFOLLOW"):
    _FLAGS |= getattr(os, _name, 0)


@dataclass(frozen=True, slots=True)
class FileContent:
    """A local file's content, read when it is sent."""

    path: str | os.PathLike[str]
    size: int
    progress: Progress

    def chunks(self) -> Iterator[bytes]:
        """Yield the content; raises OSError when the file has become shorter."""
        left = self.size
        with open(self.path, "rb", buffering=0) as file:
            while left:
                piece = file.read(min(left, _PIECE))
                if not piece:
                    raise OSError(f"{os.fspath(self.path)!r} became shorter while it was uploaded")
                left -= len(piece)
                yield piece
                self.progress.advance(len(piece))


@dataclass(frozen=True, slots=True)
class LocalSource:
    """A regular file that is there to be uploaded."""

    size: int
    mode: int
    mtime_ns: int


def look_at(path: str | os.PathLike[str]) -> LocalSource | OSError:
    """Return what there is to upload, or why it cannot be."""
    try:
        with open(path, "rb", buffering=0) as file:  # also says whether it may be read
            found = os.fstat(file.fileno())
    except OSError as error:
        return error
    if not stat.S_ISREG(found.st_mode):
        return OSError(errno.EINVAL, "Not a regular file", os.fspath(path))
    return LocalSource(found.st_size, stat.S_IMODE(found.st_mode), found.st_mtime_ns)


class LocalTarget:
    """A local file that comes to be all at once: written beside its name, then renamed.

    Made for a path below `directory` from the names of a path in the box; refuses to be anywhere
    else, whatever the names are and wherever links below `directory` lead.
    """

    def __init__(self, directory: str | os.PathLike[str], path: bytes) -> None:
        self.path = Path(directory, *_local_names(path))
        self._directory = Path(directory)
        self._temporary = self.path.parent / f".devbox-{secrets.token_hex(8)}.part"
        self._descriptor = -1

    def begin(self, mode: int, size: int) -> None:
        """Have an empty file for so many bytes; may be called again, to start anew."""
        if self._descriptor < 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            inside = self._directory.resolve()
            if not self.path.parent.resolve().is_relative_to(inside):
                raise PermissionError(errno.EPERM, f"Leads out of {inside}", str(self.path))
            # Set-id bits of a box mean nothing here; the rest is subject to this process's umask.
            self._descriptor = os.open(self._temporary, _FLAGS, mode & 0o777)
        os.ftruncate(self._descriptor, 0)
        os.ftruncate(self._descriptor, size)

    def write(self, at: int, data: bytes) -> None:
        """Write at an offset."""
        os.lseek(self._descriptor, at, os.SEEK_SET)
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def publish(self, mtime_ns: int | None) -> None:
        """Put the file under its name; replaces what is there, a link included."""
        os.close(self._descriptor)
        self._descriptor = -1
        if mtime_ns is not None:
            os.utime(self._temporary, ns=(mtime_ns, mtime_ns))
        self._temporary.replace(self.path)

    def abandon(self) -> None:
        """Remove what was not published; does nothing after publish()."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._temporary.unlink(missing_ok=True)


def store(
    directory: str | os.PathLike[str], path: bytes, attr: Attributes, data: bytes, *, times: bool
) -> Path | OSError:
    """Write one whole file; return where it is, or why not."""
    try:
        target = LocalTarget(directory, path)
        try:
            target.begin(attr.mode, len(data))
            target.write(0, data)
            target.publish(attr.mtime_ns if times else None)
        finally:
            target.abandon()
    except OSError as error:
        return error
    return target.path


def _local_names(path: bytes) -> list[str]:
    names = [os.fsdecode(name) for name in path.split(b"/")]
    for name in names:
        # On Windows a name from a Linux box may hold what means a path or a drive there.
        if name in ("", ".", "..") or (os.name == "nt" and set(name) & set('\\/:*?"<>|')):
            raise OSError(errno.EINVAL, "The name cannot be a file's name on this machine", name)
    return names
