"""The engine's one credential, and the forms in which clients bring it.

The control plane is given a percent-encoded kubeconfig, whose current context's user has the token;
the cluster API is given the token as a bearer; the bare token is taken by both, so that a
configuration of "address and key" works. Compared in constant time; kept in a file of the owner's.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

__all__ = ["control_token", "kept_token", "matches", "write_kubeconfig"]

_LONGEST = 64 * 1024
"""Of a kubeconfig; real ones have a few thousand bytes."""


def matches(given: str | None, expected: str) -> bool:
    """Compare two secrets in a time that says nothing about the second."""
    if given is None:
        return False
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())


def control_token(header: str | None) -> str | None:
    """Return the token in what a client of the control plane sent; None when there is none."""
    if not header or len(header) > _LONGEST:
        return None
    scheme, _, rest = header.partition(" ")
    if scheme == "Bearer":
        return rest
    text = unquote(header)
    if "\n" not in text and "{" not in text and ":" not in text:
        return text
    try:
        config = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError):
        return None
    return _token_of(config)


def _token_of(config: object) -> str | None:
    """Return the token of the current context's user."""
    if not isinstance(config, dict):
        return None
    context = _named(config.get("contexts"), config.get("current-context"))
    if context is None:
        return None
    context = context.get("context")
    name = context.get("user") if isinstance(context, dict) else None
    user = _named(config.get("users"), name)
    user = user.get("user") if user is not None else None
    token = user.get("token") if isinstance(user, dict) else None
    return token if isinstance(token, str) else None


def _named(items: object, name: object) -> dict[str, Any] | None:
    if not isinstance(items, list):
        return None
    for item in items:
        if isinstance(item, dict) and item.get("name") == name:
            return item
    return None


def kept_token(directory: Path) -> str:
    """Return the token that is kept in a directory; made on first use, by one of many."""
    path = directory / "token"
    while True:
        try:
            token = path.read_text().strip()
        except FileNotFoundError:
            token = ""
        if token:
            return token
        fresh = directory / f".token-{os.getpid()}-{secrets.token_hex(4)}"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32))
        try:
            os.link(fresh, path)
        except FileExistsError:
            continue
        finally:
            fresh.unlink()


def write_kubeconfig(path: Path, *, server: str, namespace: str, token: str) -> None:
    """Write the kubeconfig for this engine: JSON, which is YAML."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "devbox-engine", "cluster": {"server": server}}],
        "users": [{"name": "devbox", "user": {"token": token}}],
        "contexts": [
            {
                "name": "devbox-engine",
                "context": {"cluster": "devbox-engine", "user": "devbox", "namespace": namespace},
            }
        ],
        "current-context": "devbox-engine",
    }
    fresh = path.with_name(f".{path.name}-{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(config, file, indent=1)
        file.write("\n")
    os.replace(fresh, path)
