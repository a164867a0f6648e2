"""From a kubeconfig to what the control plane is sent.

The control plane takes the whole text of a kubeconfig in a header, takes the namespace of the
*first* context and the user of the current one, and ignores the cluster's address. So one context
is left, first and current at once, and everything is left out that the service has no use for: the
servers on the way accept 8 KiB in one header, and 16 KiB in all of them.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from sealos_devbox.errors import ConfigurationError
from sealos_devbox.secret import Secret

__all__ = [
    "Selected",
    "credential",
    "derived_endpoint",
    "header_value",
    "is_kubeconfig",
    "merge",
    "minimised",
    "secret_parts",
    "select",
    "unquoted",
]

_ROOMY = 7_500
"""Bytes of a header that passes nginx's buffers of 8 KiB, with room for its name."""
_LARGEST = 15_000
"""Bytes that pass Node, which allows 16 KiB for all headers."""

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Selected:
    """One context with what it names."""

    name: str
    namespace: str | None
    cluster: Config
    user: Config
    user_name: str


def is_kubeconfig(text: str) -> bool:
    """Whether a credential is a kubeconfig, in YAML or JSON; a token is one word."""
    return "\n" in text.strip() or "{" in text or "clusters:" in text


def unquoted(text: str) -> str:
    """Return a credential that was given percent-encoded, as it is sent, in its own form."""
    return unquote(text) if "%0A" in text.upper() or "%7B" in text.upper() else text


def merge(texts: Sequence[tuple[str, str]]) -> Config:
    """Parse the files, given as (path, text), and merge them as kubectl does: the first wins.

    A text that is no file's has a name that is no absolute path. Paths in a file are relative to
    the directory that it is in.
    """
    merged: dict[str, Any] = {"clusters": [], "users": [], "contexts": []}
    for name, text in texts:
        config = _parsed(name, text)
        merged.setdefault("current-context", None)
        merged["current-context"] = merged["current-context"] or config.get("current-context")
        for kind in ("clusters", "users", "contexts"):
            items = config.get(kind) or []
            if not isinstance(items, list):
                raise ConfigurationError(f"{name} is no kubeconfig: {kind} is no list.")
            known = {item["name"] for item in merged[kind]}
            for item in items:
                if not isinstance(item, dict) or not isinstance(item.get("name"), str):
                    raise ConfigurationError(f"{name} is no kubeconfig: an item has no name.")
                if item["name"] not in known:
                    merged[kind].append(_located(item, posixpath.dirname(name)))
    return merged


def select(config: Config, context: str | None) -> Selected:
    """Return one context, by default the current one; raises ConfigurationError."""
    wanted = context or config.get("current-context")
    names = [item["name"] for item in config["contexts"]]
    if not wanted and len(names) == 1:
        wanted = names[0]
    if not wanted:
        raise ConfigurationError(
            "The kubeconfig has no current context.",
            hint=f"Name one of: {', '.join(names)}." if names else "",
        )
    found = _item(config, "contexts", wanted, "context")
    cluster = _item(config, "clusters", str(found.get("cluster")), "cluster")
    user = _item(config, "users", str(found.get("user")), "user")
    namespace = found.get("namespace")
    return Selected(
        str(wanted), str(namespace) if namespace else None, cluster, user, str(found["user"])
    )


def minimised(selected: Selected, read: Callable[[str], bytes]) -> str:
    """Return the smallest kubeconfig that says the same to the control plane.

    `read` reads a file that the kubeconfig names. A user that has a token needs no certificate.
    Raises ConfigurationError when the credential is one that only a program here can make.
    """
    user = _user(selected, read)
    context: dict[str, Any] = {"cluster": "c", "user": selected.user_name}
    if selected.namespace:
        context["namespace"] = selected.namespace
    cluster = {"server": selected.cluster.get("server", "https://kubernetes.default.svc")}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": selected.user_name, "user": user}],
            "contexts": [{"name": "x", "context": context}],
            "current-context": "x",
        },
        separators=(",", ":"),
    )


def header_value(text: str) -> str:
    """Return the header for a credential.

    Encoded as encodeURIComponent does; where that gets too large, only what a header cannot carry
    is encoded, which decodes to the same. Raises ConfigurationError when it still is too large.
    """
    value = quote(text, safe="!~*'()")
    if len(value) > _ROOMY:
        value = quote(text, safe="!\"#$&'()*+,/:;<=>?@[\\]^`{|}~")
    if len(value) > _LARGEST:
        raise ConfigurationError(
            f"The credential has {len(value)} bytes, and the control plane takes about 15000.",
            hint="Use a kubeconfig whose user has a token in place of certificates.",
        )
    return value


def secret_parts(selected: Selected) -> list[str]:
    """Return the texts of a kubeconfig that must not be shown by themselves."""
    user = selected.user
    return [
        str(user[key])
        for key in ("token", "password", "client-key-data")
        if isinstance(user.get(key), str)
    ]


def derived_endpoint(selected: Selected) -> str:
    """Return the control plane's address that belongs to a cluster's: ``https://devbox.<host>``.

    Raises ConfigurationError, whose `code` is ``no-endpoint``, where there can be none.
    """
    server = str(selected.cluster.get("server") or "")
    host = urlsplit(server).hostname
    if not host or _is_address(host):
        said = f"at {host}, which is no name" if host else "without an address"
        raise ConfigurationError(
            f"The control plane's address cannot be derived: the kubeconfig's cluster is {said}.",
            code="no-endpoint",
            hint="Name the endpoint, as in https://devbox.<domain>.",
        )
    return f"https://devbox.{host}"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _parsed(name: str, text: str) -> Config:
    # Imported here: only who has a kubeconfig needs it.
    import yaml

    try:
        config = json.loads(text) if text.lstrip().startswith("{") else yaml.safe_load(text)
    except yaml.YAMLError as error:
        # Not its text: that quotes the line, in which a secret may be.
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise ConfigurationError(f"{name} is no YAML{where}.") from None
    except (ValueError, RecursionError):
        raise ConfigurationError(f"{name} is no JSON.") from None
    if not isinstance(config, dict) or not config.get("contexts"):
        raise ConfigurationError(f"{name} is no kubeconfig: it has no contexts.")
    return config


def _located(item: Config, directory: str) -> Config:
    user = item.get("user")
    if not isinstance(user, dict) or not directory:
        return item
    paths = {
        key: posixpath.join(directory, user[key])
        for key in ("client-certificate", "client-key", "tokenFile")
        if isinstance(user.get(key), str)
    }
    return {**item, "user": {**user, **paths}}


def _item(config: Config, kind: str, name: str, key: str) -> Config:
    for item in config[kind]:
        if item["name"] == name:
            found = item.get(key)
            return found if isinstance(found, dict) else {}
    names = ", ".join(item["name"] for item in config[kind]) or "none"
    raise ConfigurationError(f"The kubeconfig has no {key} {name!r}; it has: {names}.")


def _user(selected: Selected, read: Callable[[str], bytes]) -> dict[str, str]:
    user = selected.user
    token = user.get("token")
    if not token and user.get("tokenFile"):
        token = read(str(user["tokenFile"])).decode().strip()
    if token:
        return {"token": str(token)}
    found: dict[str, str] = {}
    for key in ("client-certificate", "client-key"):
        if user.get(f"{key}-data"):
            found[f"{key}-data"] = str(user[f"{key}-data"])
        elif user.get(key):
            found[f"{key}-data"] = base64.b64encode(read(str(user[key]))).decode()
    if len(found) == 2:
        return found
    if user.get("username") and user.get("password"):
        return {"username": str(user["username"]), "password": str(user["password"])}
    raise ConfigurationError(
        f"The user {selected.user_name!r} of the kubeconfig has neither a token nor a certificate."
    )


def credential(text: str, *parts: str) -> Secret:
    """Return the header's secret, with all the forms in which it could turn up elsewhere."""
    return Secret(header_value(text), text, *parts)
