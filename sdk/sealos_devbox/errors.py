"""The errors of sealos_devbox.

::

    DevboxError
    +-- BoxFileError (OSError)            the box answered with an errno
    |   +-- BoxFileNotFoundError (FileNotFoundError)
    |   +-- BoxFileExistsError (FileExistsError)
    |   +-- BoxPermissionError (PermissionError)
    |   +-- BoxIsADirectoryError (IsADirectoryError)
    |   +-- BoxNotADirectoryError (NotADirectoryError)
    |   +-- ConflictError                 a precondition failed
    +-- BoxNotFoundError                  no box of that name
    +-- CommandNotFoundError              the program to run does not exist in the box
    +-- DeadlineExceededError (TimeoutError)
    +-- TransportError                    the way to the box broke; retryable
    |   +-- ConnectError                  it could not be opened
    +-- ProtocolError                     the other side broke the protocol
    +-- CapabilityError                   the box, or the way to it, cannot do that

Wrong use of the API raises TypeError, ValueError or RuntimeError, outside this tree.
"""

from __future__ import annotations

import errno as _errno
import os

__all__ = [
    "BoxFileError",
    "BoxFileExistsError",
    "BoxFileNotFoundError",
    "BoxIsADirectoryError",
    "BoxNotADirectoryError",
    "BoxNotFoundError",
    "BoxPermissionError",
    "CapabilityError",
    "CommandNotFoundError",
    "ConflictError",
    "ConnectError",
    "DeadlineExceededError",
    "DevboxError",
    "ProtocolError",
    "TransportError",
    "file_error",
]


class DevboxError(Exception):
    """The root of what this library raises for things that can go wrong at run time."""

    hint: str = ""
    """What to do about it, in one sentence; empty when there is nothing general to say."""
    retryable: bool = False
    """Whether the same call can succeed later without anything being changed by the caller."""

    def __init__(self, message: str, *, hint: str = "", retryable: bool | None = None) -> None:
        super().__init__(message)
        if hint:
            self.hint = hint
        if retryable is not None:
            self.retryable = retryable


class BoxFileError(DevboxError, OSError):
    """The box answered a file operation with an errno; also an OSError with errno and filename."""

    # OSError.__new__ parses its arguments, DevboxError.__init__ takes a message: build explicitly
    # through file_error().
    def __init__(self, errno: int, strerror: str, filename: str | bytes | None = None) -> None:
        OSError.__init__(self, errno, strerror, filename)

    def __str__(self) -> str:
        """Render as OSError does."""
        return OSError.__str__(self)


class BoxFileNotFoundError(BoxFileError, FileNotFoundError):
    """ENOENT."""


class BoxFileExistsError(BoxFileError, FileExistsError):
    """EEXIST."""


class BoxPermissionError(BoxFileError, PermissionError):
    """EACCES or EPERM."""


class BoxIsADirectoryError(BoxFileError, IsADirectoryError):
    """EISDIR."""


class BoxNotADirectoryError(BoxFileError, NotADirectoryError):
    """ENOTDIR."""


class ConflictError(BoxFileError):
    """A precondition failed: the file in the box is not the one that the caller had seen."""


class BoxNotFoundError(DevboxError):
    """There is no box of that name."""


class CommandNotFoundError(DevboxError):
    """The program to run does not exist in the box."""


class DeadlineExceededError(DevboxError, TimeoutError):
    """The call's deadline passed; what it was doing may or may not have happened."""

    retryable = True


class TransportError(DevboxError):
    """The way to the box broke; a call that was under way may or may not have happened."""

    retryable = True


class ConnectError(TransportError):
    """The way to the box could not be opened."""


class ProtocolError(DevboxError):
    """The other side broke the protocol."""


class CapabilityError(DevboxError):
    """The box, or the way to it, cannot do that."""


_BY_ERRNO: dict[int, type[BoxFileError]] = {
    _errno.ENOENT: BoxFileNotFoundError,
    _errno.EEXIST: BoxFileExistsError,
    _errno.EACCES: BoxPermissionError,
    _errno.EPERM: BoxPermissionError,
    _errno.EISDIR: BoxIsADirectoryError,
    _errno.ENOTDIR: BoxNotADirectoryError,
}


def file_error(errno: int, path: str | bytes | None, *, conflict: bool = False) -> BoxFileError:
    """Make the error for an errno that the box answered; the text is the system's own."""
    kind = ConflictError if conflict else _BY_ERRNO.get(errno, BoxFileError)
    return kind(errno, os.strerror(errno), path)
