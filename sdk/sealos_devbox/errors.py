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
    +-- BoxExistsError                    there is a box of that name already
    +-- BoxStateError                     the box's state does not allow it now
    +-- CommandNotFoundError              the program to run does not exist in the box
    +-- CommandFailedError                a command with check=True did not end with exit code 0
    +-- DeadlineExceededError (TimeoutError)
    |   +-- CommandTimeoutError           a command was killed because its time was up
    +-- TransportError                    the way to the box broke; retryable
    |   +-- ConnectError                  it could not be opened
    +-- ProtocolError                     the other side broke the protocol
    +-- CapabilityError                   the box, or the way to it, cannot do that
    |   +-- MetricsUnreliableError        the service would answer with other boxes' figures
    +-- ConfigurationError                a profile, kubeconfig or credential cannot be used
    +-- ServiceError                      the control plane refused
        +-- AuthenticationError           it does not accept the credential
        +-- AccessDeniedError             the credential has no right to do that
        +-- PaymentRequiredError          the account is in arrears
        +-- QuotaExceededError            the workspace's quota does not allow it
        +-- InvalidRequestError           it calls the request invalid
        +-- NotFoundError                 no such release, runtime, port, ...
        +-- AlreadyExistsError            there is one already: a release, a port
        +-- RateLimitedError              too many requests; retryable
        +-- ServerError                   it failed itself; retryable

Every error has `code`, `status`, `hop`, `request_id`, `retryable` and `hint`. Wrong use of the API
raises TypeError, ValueError or RuntimeError, outside this tree.
"""

from __future__ import annotations

import errno as _errno
import os
from typing import Literal

from sealos_devbox.results import CommandResult

__all__ = [
    "AccessDeniedError",
    "AlreadyExistsError",
    "AuthenticationError",
    "BoxExistsError",
    "BoxFileError",
    "BoxFileExistsError",
    "BoxFileNotFoundError",
    "BoxIsADirectoryError",
    "BoxNotADirectoryError",
    "BoxNotFoundError",
    "BoxPermissionError",
    "BoxStateError",
    "CapabilityError",
    "CommandFailedError",
    "CommandNotFoundError",
    "CommandTimeoutError",
    "ConfigurationError",
    "ConflictError",
    "ConnectError",
    "DeadlineExceededError",
    "DevboxError",
    "Hop",
    "InvalidRequestError",
    "MetricsUnreliableError",
    "NotFoundError",
    "PaymentRequiredError",
    "ProtocolError",
    "QuotaExceededError",
    "RateLimitedError",
    "ServerError",
    "ServiceError",
    "TransportError",
    "file_error",
]

Hop = Literal["local", "control-plane", "gateway", "agent", "cluster", "box"]
"""Where something failed: here; at the service's API; at what stands before it or a box; in a
box's agent; at the cluster's API server; in the box."""


class DevboxError(Exception):
    """The root of what this library raises for things that can go wrong at run time."""

    code: str = "error"
    """What went wrong, for programs: the same word for the same kind of error, whoever said it."""
    hop: Hop = "local"
    """Where it went wrong."""
    status: int | None = None
    """The HTTP status, if an HTTP answer said so."""
    request_id: str | None = None
    """What the request is called in the logs of both sides, if there was one."""
    hint: str = ""
    """What to do about it, in one sentence; empty when there is nothing general to say."""
    retryable: bool = False
    """Whether the same call can succeed later without anything being changed by the caller."""

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        retryable: bool | None = None,
        code: str = "",
        hop: Hop | None = None,
        status: int | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        if hint:
            self.hint = hint
        if retryable is not None:
            self.retryable = retryable
        if code:
            self.code = code
        if hop is not None:
            self.hop = hop
        if status is not None:
            self.status = status
        if request_id is not None:
            self.request_id = request_id


class BoxFileError(DevboxError, OSError):
    """The box answered a file operation with an errno; also an OSError with errno and filename."""

    hop = "box"

    # OSError.__new__ parses its arguments, DevboxError.__init__ takes a message: build explicitly
    # through file_error().
    def __init__(self, errno: int, strerror: str, filename: str | bytes | None = None) -> None:
        OSError.__init__(self, errno, strerror, filename)
        self.code = _errno.errorcode.get(errno, "EIO")

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

    code = "box-not-found"


class BoxExistsError(DevboxError):
    """There is a box of that name already."""

    code = "box-exists"


class BoxStateError(DevboxError):
    """The box's state does not allow that now: it is being committed, or it is not running."""

    code = "box-state"
    retryable = True


class CommandNotFoundError(DevboxError):
    """The program to run does not exist in the box."""

    code = "command-not-found"
    hop = "box"


class CommandFailedError(DevboxError):
    """A command that was run with ``check=True`` did not end with exit code 0."""

    code = "command-failed"
    hop = "box"

    def __init__(self, message: str, result: CommandResult) -> None:
        super().__init__(message)
        self.result = result


class DeadlineExceededError(DevboxError, TimeoutError):
    """The call's deadline passed; what it was doing may or may not have happened."""

    code = "deadline-exceeded"
    retryable = True


class CommandTimeoutError(DeadlineExceededError):
    """A command was killed because its time was up; `result` holds its output until then."""

    code = "command-timeout"
    retryable = False

    def __init__(self, message: str, result: CommandResult) -> None:
        super().__init__(message)
        self.result = result


class TransportError(DevboxError):
    """The way to the box broke; a call that was under way may or may not have happened."""

    code = "transport"
    retryable = True


class ConnectError(TransportError):
    """The way to the box could not be opened."""

    code = "connect"
    unreachable: bool = False
    """Whether not even a connection to what `hop` names came about."""


class ProtocolError(DevboxError):
    """The other side broke the protocol."""

    code = "protocol"


class CapabilityError(DevboxError):
    """The box, or the way to it, cannot do that."""

    code = "not-supported"


class MetricsUnreliableError(CapabilityError):
    """The service would answer with the figures of other boxes mixed in."""

    code = "metrics-unreliable"


class ConfigurationError(DevboxError):
    """A profile, a kubeconfig or a credential cannot be used."""

    code = "configuration"


class ServiceError(DevboxError):
    """The control plane refused."""

    code = "refused"
    hop = "control-plane"


class AuthenticationError(ServiceError):
    """The control plane does not accept the credential."""

    code = "unauthenticated"
    hint = "Log in again, or name a kubeconfig of this region's workspace."


class AccessDeniedError(ServiceError):
    """The credential has no right to do that."""

    code = "access-denied"
    hint = "The workspace's owner or a manager has to do it, or give you that role."


class PaymentRequiredError(ServiceError):
    """The account is in arrears."""

    code = "payment-required"
    hint = "The account has to be topped up."


class QuotaExceededError(ServiceError):
    """The workspace's quota does not allow it."""

    code = "quota-exceeded"
    hint = "Ask for less, or free what other boxes hold."


class InvalidRequestError(ServiceError):
    """The control plane calls the request invalid."""

    code = "invalid-request"


class NotFoundError(ServiceError):
    """The control plane has no such release, runtime or port."""

    code = "not-found"


class AlreadyExistsError(ServiceError):
    """There is a release or a port of that kind already."""

    code = "already-exists"


class RateLimitedError(ServiceError):
    """Too many requests; the service said so until every attempt was used up."""

    code = "rate-limited"
    retryable = True


class ServerError(ServiceError):
    """The control plane, or what stands before it, failed itself."""

    code = "server-error"
    retryable = True


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
