"""System calls that Python does not offer, and outcomes that can be compared."""

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
SEEK_DATA = 3
FALLOC_FL_KEEP_SIZE = 1


def renameat2(source: Path, target: Path, flags: int) -> None:
    names = os.fsencode(source), os.fsencode(target)
    if _LIBC.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fspath(source), None, os.fspath(target))


def outcome(call: Callable[..., object], *arguments: object, **named: object) -> object:
    """What a call returns, unless that is a path, or the name of the error that it raises."""
    try:
        result = call(*arguments, **named)
        return None if isinstance(result, Path) else result
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))


@contextmanager
def opened(path: str | os.PathLike[str], flags: int, mode: int = 0o644) -> Iterator[int]:
    """Open a descriptor and close it in the end."""
    descriptor = os.open(path, flags, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
