"""The process that repeats the box's changes on the mount, so that local watchers hear of them.

The kernel raises inotify events for operations on the mount only, and these must not come from the
daemon: a process that waits for its own answer cannot be killed. This program has one thread, holds
neither /dev/fuse nor, while idle, anything inside the mount, and ends when its standard input does.
It imports nothing but the standard library: it is started by its path.

Standard input has one JSON array per line, `[number, operation, path, ...]`, paths as text with
surrogate escapes; each is answered by a line `number errno`.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2
NOFOLLOW = os.O_NOFOLLOW | os.O_CLOEXEC
BESIDE = os.O_PATH | NOFOLLOW
DIRECTORY = BESIDE | os.O_DIRECTORY


class Time(ctypes.Structure):
    """struct timespec."""

    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class Repeater:
    """Performs operations below one mount point."""

    def __init__(self, mountpoint: str, device: int) -> None:
        self._mountpoint = mountpoint
        self._device = device
        self._utimensat = ctypes.CDLL(None, use_errno=True).utimensat
        self._open: list[int] = []
        self.operations: dict[str, Callable[..., None]] = {
            "create": self.create,
            "mkdir": self.mkdir,
            "symlink": self.symlink,
            "mknod": self.mknod,
            "unlink": self.unlink,
            "rmdir": self.rmdir,
            "rename": self.rename,
            "modify": self.modify,
            "attributes": self.attributes,
        }

    def perform(self, operation: str, arguments: Sequence[Any]) -> int:
        """Perform one operation; returns its errno."""
        try:
            self.operations[operation](*arguments)
        except OSError as exc:
            return exc.errno or errno.EIO
        finally:
            while self._open:
                os.close(self._open.pop())
        return 0

    def _parent(self, path: str) -> tuple[int, str]:
        """Open the directory that a name is in.

        Component by component: neither a link nor another mount leads out of this one, nor does the
        directory below, when nothing is mounted any more.
        """
        *above, name = path.split("/")
        fd = self._keep(os.open(self._mountpoint, DIRECTORY))
        self._check(fd)
        for part in above:
            fd = self._keep(os.open(part, DIRECTORY, dir_fd=fd))
        if above:
            self._check(fd)
        return fd, name

    def _check(self, fd: int) -> None:
        if os.fstat(fd).st_dev != self._device:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    def _keep(self, fd: int) -> int:
        self._open.append(fd)
        return fd

    def create(self, path: str, mode: int, written: bool) -> None:
        """Raise CREATE, OPEN, MODIFY if something was written, CLOSE_WRITE."""
        parent, name = self._parent(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NOFOLLOW
        fd = self._keep(os.open(name, flags, mode, dir_fd=parent))
        if written:
            self._touch(fd)

    def mkdir(self, path: str, mode: int) -> None:
        """Raise CREATE."""
        parent, name = self._parent(path)
        os.mkdir(name, mode, dir_fd=parent)

    def symlink(self, path: str, target: str) -> None:
        """Raise CREATE."""
        parent, name = self._parent(path)
        os.symlink(target, name, dir_fd=parent)

    def mknod(self, path: str, mode: int) -> None:
        """Raise CREATE."""
        parent, name = self._parent(path)
        os.mknod(name, mode, dir_fd=parent)

    def unlink(self, path: str) -> None:
        """Raise DELETE."""
        parent, name = self._parent(path)
        os.unlink(name, dir_fd=parent)

    def rmdir(self, path: str) -> None:
        """Raise DELETE."""
        parent, name = self._parent(path)
        os.rmdir(name, dir_fd=parent)

    def rename(self, old: str, new: str) -> None:
        """Raise MOVED_FROM and MOVED_TO."""
        source, name = self._parent(old)
        target, new_name = self._parent(new)
        os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=target)

    def modify(self, path: str, complete: bool) -> None:
        """Raise MODIFY; when the writer is done, OPEN and CLOSE_WRITE too."""
        parent, name = self._parent(path)
        self._touch(self._keep(os.open(name, BESIDE, dir_fd=parent)))
        if complete:
            self._keep(os.open(name, os.O_WRONLY | os.O_NONBLOCK | NOFOLLOW, dir_fd=parent))

    def attributes(self, path: str, mode: int) -> None:
        """Raise ATTRIB."""
        if path:
            parent, name = self._parent(path)
        else:
            parent, name = self._parent(".")
        fd = self._keep(os.open(name, BESIDE, dir_fd=parent))
        os.chmod(f"/proc/self/fd/{fd}", mode)

    def _touch(self, fd: int) -> None:
        """Set the mtime alone: with the atime it would be an ATTRIB, not a MODIFY."""
        times = (Time * 2)(Time(0, UTIME_OMIT), Time(0, UTIME_NOW))
        if self._utimensat(-100, b"/proc/self/fd/%d" % fd, times, 0):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))


def main() -> None:
    """Serve until standard input ends."""
    repeater = Repeater(sys.argv[1], int(sys.argv[2]))
    os.umask(0)
    for line in sys.stdin.buffer:
        number, operation, *arguments = json.loads(line)
        code = repeater.perform(operation, arguments)
        os.write(1, b"%d %d\n" % (number, code))


if __name__ == "__main__":
    main()
