"""Whether an address that nobody has given, but that was guessed, is anybody's."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

import anyio

from sealos_devbox._transport.kube.proxies import choose_proxy
from sealos_devbox.errors import ConnectError

__all__ = ["CONNECT_WAIT", "check_reachable"]

CONNECT_WAIT: Final = 4.0
"""Seconds: the first packet and the two that repeat it, after one second and three."""


async def check_reachable(endpoint: str, wait: float = CONNECT_WAIT) -> None:
    """Raise ConnectError when a TCP connection to the endpoint does not come about soon.

    A firewall that drops what it does not let through would hold up every attempt of a request for
    as long as a slow server may take. Behind a proxy nothing can be told, and nothing is tried.
    """
    if choose_proxy(endpoint, None) is not None:
        return
    parts = urlsplit(endpoint)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        with anyio.fail_after(wait):
            stream = await anyio.connect_tcp(parts.hostname or "", port)
    except TimeoutError:
        raise ConnectError(
            f"{endpoint} does not answer within {wait:g} s; the address was derived from the "
            "kubeconfig's.",
            hop="gateway",
            hint="If the control plane is elsewhere, name it (DEVBOX_ENDPOINT); a firewall may "
            "drop what is sent to this one.",
        ) from None
    except OSError as error:
        raise ConnectError(f"{endpoint} cannot be reached: {error}", hop="gateway") from error
    await stream.aclose()
