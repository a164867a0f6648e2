"""What callers write for ports and variables, as models."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from sealos_devbox.models import EnvVar, Port, PortRequest

__all__ = ["env_variables", "kept_ports", "port_requests", "with_port", "without_port"]

_VARIABLE = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
"""As Kubernetes demands."""


def port_requests(ports: Sequence[int | PortRequest | Port]) -> tuple[PortRequest | Port, ...]:
    """Return ports as requests; raises ValueError for what cannot be one, or comes twice."""
    found: list[PortRequest | Port] = []
    for port in ports:
        request = PortRequest(port) if isinstance(port, int) else port
        if isinstance(request.number, bool) or not 1 <= request.number <= 65535:
            raise ValueError(f"{request.number!r} is no port: 1 to 65535")
        if request.protocol not in ("http", "grpc", "ws"):
            raise ValueError(f"{request.protocol!r} is no protocol of a port: http, grpc or ws")
        if any(other.number == request.number for other in found):
            raise ValueError(f"port {request.number} comes twice")
        found.append(request)
    return tuple(found)


def kept_ports(
    present: Sequence[Port], wanted: Sequence[PortRequest | Port]
) -> list[PortRequest | Port]:
    """Return the wanted ports, with the service's names for those that are there.

    Without it the service would close the port and open another, at another address.
    """
    by_number = {port.number: port for port in present}
    return [_named(by_number.get(port.number), port) for port in wanted]


def with_port(present: Sequence[Port], wanted: PortRequest | Port) -> list[PortRequest | Port]:
    """Return the ports there are and one more, which may be there in another form."""
    others = [port for port in present if port.number != wanted.number]
    return [*others, *kept_ports(present, [wanted])]


def without_port(present: Sequence[Port], number: int) -> list[PortRequest | Port]:
    """Return the ports there are but one; raises ValueError when it is none of them."""
    others: list[PortRequest | Port] = [port for port in present if port.number != number]
    if len(others) == len(present):
        numbers = ", ".join(str(port.number) for port in present) or "none"
        raise ValueError(f"port {number} is not open; open are: {numbers}")
    return others


def env_variables(env: Mapping[str, str] | Sequence[EnvVar]) -> tuple[EnvVar, ...]:
    """Return variables as models; raises ValueError for what the service would refuse."""
    if isinstance(env, Mapping):
        found = tuple(EnvVar(name, value) for name, value in env.items())
    else:
        found = tuple(env)
    names: set[str] = set()
    for one in found:
        if not _VARIABLE.fullmatch(one.name):
            raise ValueError(f"{one.name!r} cannot be the name of a variable")
        if one.name in names:
            raise ValueError(f"the variable {one.name!r} comes twice")
        names.add(one.name)
        if (one.value is None) == (one.secret is None):
            raise ValueError(f"the variable {one.name!r} needs a value or a secret, and one only")
        if one.value == "":
            raise ValueError(f"the service takes no empty value for {one.name!r}")
    return found


def _named(there: Port | None, wanted: PortRequest | Port) -> PortRequest | Port:
    if there is None or there.name is None:
        return PortRequest(wanted.number, wanted.protocol, wanted.public, wanted.custom_domain)
    return Port(
        wanted.number,
        wanted.protocol,
        wanted.public,
        name=there.name,
        custom_domain=wanted.custom_domain,
    )
