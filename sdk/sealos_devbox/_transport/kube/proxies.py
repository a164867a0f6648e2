"""Which proxy leads to a server."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit, urlunsplit

__all__ = ["choose_proxy", "without_password"]

PORTS: Final = {"http": 80, "https": 443}


def choose_proxy(
    server: str, configured: str | None, environ: Mapping[str, str] | None = None
) -> str | None:
    """Return the proxy's URL, None for none.

    That of the kubeconfig, else that of the environment (HTTPS_PROXY, HTTP_PROXY, NO_PROXY, as Go's
    net/http and so kubectl read them: never for this machine itself). environ: in place of this
    process's.
    """
    if configured:
        return configured
    if environ is None:
        environ = os.environ
    parts = urlsplit(server)
    host = parts.hostname or ""
    variable = f"{parts.scheme}_proxy"
    proxy = environ.get(variable.upper()) or environ.get(variable)
    if not proxy or _is_here(host):
        return None
    excepted = environ.get("NO_PROXY") or environ.get("no_proxy") or ""
    port = parts.port or PORTS.get(parts.scheme, 0)
    if any(_matches(rule.strip().lower(), host, port) for rule in excepted.split(",")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def without_password(proxy: str | None) -> str:
    """Return a proxy's URL as it may be shown."""
    if proxy is None:
        return ""
    parts = urlsplit(proxy)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _matches(rule: str, host: str, port: int) -> bool:
    if rule == "*":
        return True
    name, colon, number = rule.rpartition(":")
    if colon and number.isdigit() and "]" not in number and name.count(":") == 0:
        if int(number) != port:
            return False
        rule = name
    if not rule:
        return False
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(rule, strict=False)
    except ValueError:
        rule = rule.removeprefix("*")
        return host == rule.removeprefix(".") or host.endswith("." + rule.removeprefix("."))
