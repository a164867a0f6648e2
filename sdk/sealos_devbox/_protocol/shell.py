"""File operations as shell commands: the scripts, and what their output means. Without any IO.

For boxes into which nothing may be carried. Two dialects: GNU's, with nanoseconds and everything in
one `find`, and that of busybox, whose times are whole seconds. Scripts run in a POSIX sh with
LC_ALL=C, in the workspace; names are quoted, so they may hold any byte but NUL, as names do.

An entry is a line of numbers and a name. A path here has no empty component, so that ``//`` ends
it whatever else it holds; GNU find can also end it by a NUL byte.
"""

from __future__ import annotations

import errno as _errno
import os
import stat as _stat
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from typing import Final

from sealos_devbox.errors import ProtocolError
from sealos_devbox.types import Attributes, FileSystemUsage, Version

__all__ = [
    "BUSYBOX",
    "GNU",
    "Dialect",
    "check_path",
    "errno_of",
    "parse_usage",
    "quote",
    "relative",
]

NAME_MAX: Final = 255
PATH_MAX: Final = 4095

_TYPES: Final = {
    b"f": _stat.S_IFREG,
    b"d": _stat.S_IFDIR,
    b"l": _stat.S_IFLNK,
    b"p": _stat.S_IFIFO,
    b"s": _stat.S_IFSOCK,
    b"c": _stat.S_IFCHR,
    b"b": _stat.S_IFBLK,
}

_TEXTS: Final = sorted(
    [(os.strerror(number).encode(), number) for number in _errno.errorcode]
    # As musl says it; busybox is often linked with it.
    + [(b"Cross-device link", _errno.EXDEV), (b"Symbolic link loop", _errno.ELOOP)]
    + [(b"Filename too long", _errno.ENAMETOOLONG), (b"I/O error", _errno.EIO)],
    key=lambda pair: -len(pair[0]),
)

PRELUDE: Final = b"LC_ALL=C; export LC_ALL; umask 022\n"


def quote(value: bytes) -> bytes:
    """Return the value as one word of a POSIX shell."""
    return b"'" + value.replace(b"'", b"'\\''") + b"'"


def relative(path: bytes) -> bytes:
    """Return a workspace path as the scripts name it: never an option, never empty."""
    return b"./" + path if path else b"."


def check_path(path: bytes) -> int:
    """Return 0, or the errno for a path that no box could hold."""
    if len(path) > PATH_MAX:
        return _errno.ENAMETOOLONG
    if not path:
        return 0
    for name in path.split(b"/"):
        if name in (b"", b".", b"..") or b"\0" in name:
            return _errno.EINVAL
        if len(name) > NAME_MAX:
            return _errno.ENAMETOOLONG
    return 0


def errno_of(stderr: bytes) -> int:
    """Return the errno that a tool's complaint ends with; EIO for one that is not known."""
    line = stderr.strip().rsplit(b"\n", 1)[-1].rstrip(b" .")
    for text, number in _TEXTS:
        if line.endswith(text):
            return number
    return _errno.EIO


def _nanoseconds(text: bytes) -> int:
    """Read seconds with any number of decimals; never as a float, which loses nanoseconds.

    As GNU find writes them: the whole part rounded down, so that -1.5 s is ``-2.5``.
    """
    seconds, _, fraction = text.partition(b".")
    return int(seconds) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0"))


class Dialect(ABC):
    """What the tools of a box can say of a file."""

    name: str
    nanoseconds: bool

    @abstractmethod
    def describe(self, paths: Iterable[bytes], *, follow: bool = False) -> bytes:
        """Return the script that describes each path, or complains of it."""

    @abstractmethod
    def tree(
        self, path: bytes, *, least: int, most: int | None, prune: Collection[bytes] = ()
    ) -> bytes:
        """Return the script that describes what is below a path, by depth from it.

        prune: names of directories that are not looked into.
        """

    @abstractmethod
    def version(self, word: bytes) -> bytes:
        """Return the command that prints the version of the file that a shell word names."""

    @abstractmethod
    def version_text(self, version: Version) -> bytes:
        """Return what `version` prints for it."""

    @abstractmethod
    def parse(self, output: bytes) -> list[tuple[bytes, Attributes]]:
        """Return (path, attributes) of what was described."""


class _Gnu(Dialect):
    name = "gnu"
    nanoseconds = True

    _FORMAT = rb"%y %m %n %U %G %s %i %T@ %C@ %A@ %b %p\0%l\0"

    def describe(self, paths: Iterable[bytes], *, follow: bool = False) -> bytes:
        flag = b"-L " if follow else b""
        words = b" ".join(quote(relative(path)) for path in paths)
        return b"find %s%s -maxdepth 0 -printf '%s'" % (flag, words, self._FORMAT)

    def tree(
        self, path: bytes, *, least: int, most: int | None, prune: Collection[bytes] = ()
    ) -> bytes:
        depth = b"" if most is None else b" -maxdepth %d" % most
        return b"find %s -mindepth %d%s -printf '%s'%s" % (
            quote(relative(path)),
            least,
            depth,
            self._FORMAT,
            b" -type d %s -prune" % _names(prune) if prune else b"",
        )

    def version(self, word: bytes) -> bytes:
        return b"find %s -maxdepth 0 -printf '%%i %%C@ %%T@ %%s'" % word

    def version_text(self, version: Version) -> bytes:
        return b"%d %s %s %d" % (
            version.ino,
            _decimal(version.ctime_ns),
            _decimal(version.mtime_ns),
            version.size,
        )

    def parse(self, output: bytes) -> list[tuple[bytes, Attributes]]:
        fields = output.split(b"\0")
        if len(fields) % 2 != 1 or fields[-1]:
            raise ProtocolError("a listing ended in the middle")
        return [
            self._entry(line, target)
            for line, target in zip(fields[:-1:2], fields[1::2], strict=True)
        ]

    def _entry(self, line: bytes, target: bytes) -> tuple[bytes, Attributes]:
        try:
            kind, mode, nlink, uid, gid, size, ino, mtime, ctime, atime, blocks, path = line.split(
                b" ", 11
            )
            attributes = Attributes(
                mode=_TYPES.get(kind, 0) | int(mode, 8),
                nlink=int(nlink),
                uid=int(uid),
                gid=int(gid),
                size=int(size),
                ino=int(ino),
                mtime_ns=_nanoseconds(mtime),
                ctime_ns=_nanoseconds(ctime),
                atime_ns=_nanoseconds(atime),
                blocks=int(blocks),
                target=target if kind == b"l" else None,
            )
        except ValueError as error:
            raise ProtocolError(f"a listing that is none: {line[:100]!r}") from error
        return _plain(path), attributes


class _Busybox(Dialect):
    name = "busybox"
    nanoseconds = False

    _STAT = b"stat -c '%f %h %u %g %s %i %Y %Z %X %b %n//'"
    _LINKS = (
        b'\'for p; do stat -c "L %f %h %u %g %s %i %Y %Z %X %b %n//" "$p" && '
        b'readlink -n "$p"; echo //; done\' sh'
    )

    def describe(self, paths: Iterable[bytes], *, follow: bool = False) -> bytes:
        words = b" ".join(quote(relative(path)) for path in paths)
        if follow:
            return self._STAT.replace(b"stat ", b"stat -L ", 1) + b" " + words
        return self._each(b"find %s -maxdepth 0" % words)

    def tree(
        self, path: bytes, *, least: int, most: int | None, prune: Collection[bytes] = ()
    ) -> bytes:
        depth = b"" if most is None else b" -maxdepth %d" % most
        # Not looked into, but described as the others are: what is pruned is true.
        skip = rb" \( ! -type d -o ! %s -o -prune \)" % _names(prune) if prune else b""
        return self._each(b"find %s -mindepth %d%s%s" % (quote(relative(path)), least, depth, skip))

    def _each(self, find: bytes) -> bytes:
        # One after the other: busybox forgets `{} +` in one branch of an `-o`. What cannot be
        # read is complained of once.
        return b"%s ! -type l -exec %s {} +; %s -type l -exec sh -c %s {} + 2>/dev/null" % (
            find,
            self._STAT,
            find,
            self._LINKS,
        )

    def version(self, word: bytes) -> bytes:
        return b"stat -c '%%i %%Z %%Y %%s' %s" % word

    def version_text(self, version: Version) -> bytes:
        return b"%d %d %d %d" % (
            version.ino,
            version.ctime_ns // 1_000_000_000,
            version.mtime_ns // 1_000_000_000,
            version.size,
        )

    def parse(self, output: bytes) -> list[tuple[bytes, Attributes]]:
        found = []
        lines = output.split(b"//\n")
        if lines.pop():
            raise ProtocolError("a listing ended in the middle")
        rest = iter(lines)
        for line in rest:
            is_link = line.startswith(b"L ")
            try:
                mode, nlink, uid, gid, size, ino, mtime, ctime, atime, blocks, path = (
                    line.removeprefix(b"L ").split(b" ", 10)
                )
                attributes = Attributes(
                    mode=int(mode, 16),
                    nlink=int(nlink),
                    uid=int(uid),
                    gid=int(gid),
                    size=int(size),
                    ino=int(ino),
                    mtime_ns=_nanoseconds(mtime),
                    ctime_ns=_nanoseconds(ctime),
                    atime_ns=_nanoseconds(atime),
                    blocks=int(blocks),
                    target=next(rest) if is_link else None,
                )
            except (ValueError, StopIteration) as error:
                raise ProtocolError(f"a listing that is none: {line[:100]!r}") from error
            found.append((_plain(path), attributes))
        return found


def _names(names: Collection[bytes]) -> bytes:
    """Return a test of find(1) for names that hold nothing that it takes for a pattern."""
    return rb"\( %s \)" % b" -o ".join(b"-name %s" % quote(name) for name in sorted(names))


def _plain(path: bytes) -> bytes:
    return b"" if path == b"." else path.removeprefix(b"./")


def _decimal(ns: int) -> bytes:
    """As GNU find prints a time: ten decimals, of which the last is always 0."""
    seconds, fraction = divmod(ns, 1_000_000_000)
    return b"%d.%09d0" % (seconds, fraction)


GNU: Final[Dialect] = _Gnu()
BUSYBOX: Final[Dialect] = _Busybox()


def parse_usage(output: bytes) -> FileSystemUsage:
    """Read ``stat -f -c '%s %S %b %f %a %c %d %l'``."""
    try:
        bsize, frsize, blocks, bfree, bavail, files, ffree, namemax = map(int, output.split())
    except ValueError as error:
        raise ProtocolError(f"no figures of a file system: {output[:100]!r}") from error
    return FileSystemUsage(bsize, frsize, blocks, bfree, bavail, files, ffree, ffree, 0, namemax)
