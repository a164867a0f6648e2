"""The wall between the file system and pyfuse3: nothing but FUSEError and cancellation passes.

Any other exception that leaves a handler ends the whole mount, with ENOTCONN for everybody.
"""

from __future__ import annotations

import errno
import functools
import itertools
import logging
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, Final, ParamSpec, TypeVar

import pyfuse3
import trio

from sealos_devbox import (
    CapabilityError,
    DeadlineExceededError,
    ProtocolError,
    TransportError,
)

__all__ = ["errno_of", "handler"]

_logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

SLOW: Final = 1.0
_NAMES: Final = ("create", "link", "mkdir", "mknod", "rename", "rmdir", "symlink", "unlink")
_JOURNALLED: Final = frozenset([*_NAMES, "removexattr", "setattr", "setxattr", "write"])
"""Handlers that may be called again after ENOSPC. Others report what has happened before, once."""
_numbers = itertools.count(1)


def errno_of(error: Exception) -> int | None:
    """Return what an application is told about `error`; None when it is a bug of ours."""
    # DeadlineExceededError and TimeoutError are OSErrors too, often without an errno.
    if isinstance(error, DeadlineExceededError | trio.TooSlowError):
        return errno.ETIMEDOUT
    if isinstance(error, OSError):
        if error.errno == errno.ENOSYS:
            # The kernel would never ask again, on behalf of anybody.
            return errno.EOPNOTSUPP
        if error.errno is None and isinstance(error, TimeoutError):
            return errno.ETIMEDOUT
        return error.errno
    if isinstance(error, TransportError | ProtocolError):
        return errno.EIO
    if isinstance(error, CapabilityError):
        return errno.EOPNOTSUPP
    if isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        # A nursery with one failed task: what it was about is inside.
        return errno_of(error.exceptions[0])
    return None


def handler(
    function: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[P, Coroutine[Any, Any, T]]:
    """Make a method of pyfuse3.Operations safe to be called by pyfuse3.

    Signature and result are the method's own. What it raises becomes the errno that `errno_of`
    tells; a bug becomes EIO and is logged with its traceback under a number.
    """
    name = function.__name__
    enabled = _logger.isEnabledFor

    @functools.wraps(function)
    async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        started = monotonic()
        code = 0
        try:
            try:
                return await function(*args, **kwargs)
            except OSError as error:
                if error.errno != errno.ENOSPC or not await _relieved(name, args):
                    raise
                return await function(*args, **kwargs)
        except pyfuse3.FUSEError as error:
            code = error.errno
            raise
        except Exception as error:
            told = errno_of(error)
            code = told or errno.EIO
            if told is None:
                number = next(_numbers)
                _logger.exception("request %d: %s(%s) failed", number, name, _subject(args))
            raise pyfuse3.FUSEError(code) from error
        finally:
            if (taken := monotonic() - started) > SLOW:
                _logger.info(
                    "%s(%s) took %.1f s: %s",
                    name,
                    _subject(args),
                    taken,
                    errno.errorcode.get(code, "done"),
                )
            elif enabled(logging.DEBUG):
                outcome = errno.errorcode.get(code, "done")
                _logger.debug("%s(%s): %s", name, _subject(args), outcome)

    return guarded


async def _relieved(name: str, args: tuple[object, ...]) -> bool:
    """Whether room is made on this machine's disk, for a request of which nothing was accepted."""
    wait = getattr(args[0], "relieved", None) if name in _JOURNALLED and args else None
    return wait is not None and await wait()


def _subject(args: tuple[object, ...]) -> object:
    """Return the inode or handle of a request; never its bytes."""
    subject = args[1] if len(args) > 1 else ""
    return subject if isinstance(subject, int) else type(subject).__name__
