"""What the lineages of the control plane have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sealos_devbox.errors import (
    DeadlineExceededError,
    MetricsUnreliableError,
    ProtocolError,
    ServerError,
    TransportError,
)
from sealos_devbox.models import Port, PortRequest

__all__ = ["AMBIGUOUS", "CustomResource", "field_of", "same_ports", "unreliable"]

AMBIGUOUS = (TransportError, DeadlineExceededError, ServerError, ProtocolError)
"""After these it is not known whether a request has done what it asked for."""


class CustomResource(Protocol):
    """Changes a box where the REST API has no field for it: on its object in the cluster."""

    async def check(self) -> None:
        """Raise what `patch` would, if that can be told before."""
        ...

    async def patch(self, name: str, body: Mapping[str, Any]) -> None:
        """Apply a merge patch; raises CapabilityError where there is no way to."""
        ...


def unreliable(name: str, shared: Sequence[str]) -> MetricsUnreliableError:
    """Make the error for figures in which other boxes are mixed."""
    return MetricsUnreliableError(
        f"The service would average the metrics of {name!r} with those of {', '.join(shared)}: it "
        "tells boxes apart by the beginnings of their names.",
        hop="control-plane",
        hint="Give allow_shared=True to have the average; a name without a hyphen that no other "
        "begins with has figures of its own.",
    )


def same_ports(present: Sequence[Port], wanted: Sequence[PortRequest | Port]) -> bool:
    """Whether a box has just the ports that were asked for."""

    def facts(ports: Sequence[PortRequest | Port]) -> set[tuple[int, str, bool]]:
        return {(port.number, port.protocol, port.public) for port in ports}

    return facts(present) == facts(wanted)


def field_of(data: object, key: str) -> Any:  # noqa: ANN401 - a part of what a route answers
    """Return a field of an answer; None when there is none."""
    return data.get(key) if isinstance(data, dict) else None
