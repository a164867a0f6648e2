"""Addresses of the control plane and of what belongs to it."""

from __future__ import annotations

import ipaddress
from urllib.parse import quote, urlsplit

from sealos_devbox.errors import ConfigurationError

__all__ = ["agent_address", "box_path", "checked_endpoint"]


def checked_endpoint(text: str) -> str:
    """Return an endpoint without a slash at its end; raises ConfigurationError.

    Without TLS only on this machine: the credential is in every request.
    """
    text = text.strip()
    if "://" not in text:
        text = f"https://{text}"
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError("The endpoint is no URL.") from None
    if parts.scheme not in ("https", "http") or not host or parts.query or parts.fragment:
        raise ConfigurationError(f"{parts.scheme}://{host or ''} is no address of a service.")
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError("The endpoint cannot carry a user or a password.")
    if parts.scheme == "http" and not _is_this_machine(host):
        raise ConfigurationError(
            f"http://{host} would send the credential in the clear.",
            hint="Use https, or an engine on this machine.",
        )
    path = parts.path.rstrip("/")
    # As a copied address of the API ends; all paths here begin with it.
    path = path.removesuffix("/api/v1").removesuffix("/v1").rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path}"


def agent_address(endpoint: str, unique_id: str) -> str:
    """Return where a box's agent is: a host of the region, whose name begins with ``devbox.``.

    An engine on this machine, where such names do not resolve, has its agents at paths.
    """
    host = urlsplit(endpoint).hostname or ""
    if _is_this_machine(host):
        return f"{endpoint}/box/{quote(unique_id, safe='')}/agent"
    return f"https://devbox-{unique_id}-agent.{host.removeprefix('devbox.')}"


def box_path(name: str) -> str:
    """Return the part of a path that names a box, or a tag."""
    return quote(name, safe="")


def _is_this_machine(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
