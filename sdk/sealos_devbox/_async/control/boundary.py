"""What both lineages do with refusals: say which box was meant, and look before repeating."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import anyio

from sealos_devbox._planning.answers import NO_SUCH_ROUTE
from sealos_devbox._planning.spec import BoxSpec
from sealos_devbox.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AuthenticationError,
    BoxExistsError,
    BoxNotFoundError,
    BoxStateError,
    CapabilityError,
    DeadlineExceededError,
    DevboxError,
    InvalidRequestError,
    NotFoundError,
    PaymentRequiredError,
    ProtocolError,
    QuotaExceededError,
    ServerError,
    ServiceError,
    TransportError,
)

__all__ = ["changing_state", "create_once", "missing_route", "of_box", "web_route"]

_ATTEMPTS = 3
_FIRST_WAIT = 1.0
# A service that failed after it had made the box may show it a moment later.
_LOOKS = 3


def missing_route(error: ServiceError) -> bool:
    """Whether this control plane has no such route."""
    return error.code == NO_SUCH_ROUTE


@contextmanager
def of_box(name: str) -> Iterator[None]:
    """Turn "not found" into "no such box", for routes that can mean nothing else."""
    try:
        yield
    except NotFoundError as error:
        if missing_route(error):
            raise
        raise BoxNotFoundError(
            f"There is no box {name!r}.",
            hop=error.hop,
            status=error.status,
            request_id=error.request_id,
        ) from None


@contextmanager
def web_route(what: str) -> Iterator[None]:
    """Turn the lack of a route of the web interface into CapabilityError: it promises nothing."""
    try:
        yield
    except NotFoundError as error:
        if not missing_route(error):
            raise
        raise CapabilityError(
            f"This region does not say {what}.", hop=error.hop, status=error.status
        ) from None


@contextmanager
def changing_state(name: str) -> Iterator[None]:
    """Turn the refusal of a change of state into BoxStateError.

    A rule of the custom resource forbids it while the file system is being committed: Kubernetes
    says 422, which v1 passes on or makes a 500 of.
    """
    try:
        with of_box(name):
            yield
    except (InvalidRequestError, ServerError) as error:
        said = str(error).lower()
        rule = "spec.state" in said or "commit" in said
        if error.status == 422 or rule:
            raise BoxStateError(
                f"The box {name!r} cannot change its state now: it is being committed.",
                hop=error.hop,
                status=error.status,
                request_id=error.request_id,
                hint="It takes seconds to minutes; try again then.",
            ) from None
        raise


async def create_once(
    spec: BoxSpec,
    post: Callable[[], Awaitable[list[str]]],
    exists: Callable[[], Awaitable[bool]],
) -> list[str]:
    """Make a box, and never two: after a failure that says nothing, look before repeating.

    The service answers 500 or 404 for a box that it has made, when what belongs to it was not
    there in time; a gateway gives up on a request that is carried out all the same.
    """
    wait = _FIRST_WAIT
    attempt = 0
    while True:
        attempt += 1
        try:
            return await post()
        except AlreadyExistsError as error:
            if attempt > 1:
                return []  # what seemed to have failed had not
            raise BoxExistsError(
                f"There is a box {spec.name!r} already.",
                hop=error.hop,
                status=error.status,
                request_id=error.request_id,
            ) from None
        except (
            InvalidRequestError,
            PaymentRequiredError,
            QuotaExceededError,
            AuthenticationError,
            AccessDeniedError,
        ):
            raise
        except (ServiceError, TransportError, ProtocolError, DeadlineExceededError) as error:
            if not error.retryable and not isinstance(error, NotFoundError):
                raise
            if await _looked_for(exists):
                return [f"The service said that it failed, and has made the box: {error}"]
            if isinstance(error, NotFoundError) or attempt == _ATTEMPTS:
                raise
            await anyio.sleep(wait)
            wait *= 2
            if await _looked_for(exists):
                return []


async def _looked_for(exists: Callable[[], Awaitable[bool]]) -> bool:
    """Look until the service says yes or no: what cannot be seen must not be made again."""
    for look in range(_LOOKS):
        try:
            return await exists()
        except DevboxError as error:
            if look == _LOOKS - 1 or not error.retryable:
                raise
            await anyio.sleep(_FIRST_WAIT)
    return False
