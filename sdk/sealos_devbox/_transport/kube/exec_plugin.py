"""Credential plugins: the programs that a kubeconfig names for making a token or a certificate.

The protocol is client.authentication.k8s.io, v1 and v1beta1. The loader of the `kubernetes` package
runs plugins too, but logs their failure and goes on as nobody, waits for them without end, and lets
them read this program's standard input.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Final

from sealos_devbox.errors import ConfigurationError

__all__ = ["run_exec_plugin"]

QUIET_WAIT: Final = 60.0
"""For a plugin that asks nobody: it may have to wait for a slow identity service."""
INTERACTIVE_WAIT: Final = 300.0
"""For one that somebody has to answer, in a terminal or a browser."""
STDERR_SHOWN: Final = 1000
VERSIONS: Final = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
EXTENSION: Final = "client.authentication.k8s.io/exec"


def run_exec_plugin(
    plugin: Mapping[str, Any], cluster: Mapping[str, Any], directory: str | None
) -> dict[str, Any]:
    """Run a plugin and return the `status` of its answer. Blocks.

    directory: of the kubeconfig, to which a command with a slash in its name is relative. Raises
    ConfigurationError, with what the plugin said, whenever there is no credential.
    """
    version = plugin.get("apiVersion")
    name = plugin.get("command")
    if not isinstance(name, str) or not name:
        raise ConfigurationError("The kubeconfig has an exec plugin without a command.")
    if version not in VERSIONS:
        raise ConfigurationError(
            f"The credential plugin {name} speaks {version!r}; {' and '.join(VERSIONS)} are known."
        )
    terminal = sys.stdin is not None and sys.stdin.isatty()
    mode = plugin.get("interactiveMode") or "IfAvailable"
    if mode == "Always" and not terminal:
        raise ConfigurationError(
            f"The credential plugin {name} needs a terminal, and there is none."
        )
    interactive = terminal and mode != "Never"
    answer = _run(
        [_command(name, directory), *map(str, plugin.get("args") or ())],
        _environment(plugin, cluster, interactive),
        name=name,
        interactive=interactive,
        hint=str(plugin.get("installHint") or "").strip(),
    )
    return _status(answer, name, version)


def _command(name: str, directory: str | None) -> str:
    if "/" in name and not os.path.isabs(name) and directory:
        return os.path.join(directory, name)
    return name


def _environment(
    plugin: Mapping[str, Any], cluster: Mapping[str, Any], interactive: bool
) -> dict[str, str]:
    spec: dict[str, Any] = {"interactive": interactive}
    if plugin.get("provideClusterInfo"):
        spec["cluster"] = {key: value for key, value in cluster.items() if key != "extensions"}
        for extension in cluster.get("extensions") or ():
            if extension.get("name") == EXTENSION:
                spec["cluster"]["config"] = extension.get("extension")
    info = {"apiVersion": plugin["apiVersion"], "kind": "ExecCredential", "spec": spec}
    extra = {str(item["name"]): str(item["value"]) for item in plugin.get("env") or ()}
    return {**os.environ, **extra, "KUBERNETES_EXEC_INFO": json.dumps(info)}


def _run(
    argv: list[str], environment: dict[str, str], *, name: str, interactive: bool, hint: str
) -> bytes:
    wait = INTERACTIVE_WAIT if interactive else QUIET_WAIT
    # What a plugin asks for ("open this address and enter the code") goes to whoever sits there.
    watched = sys.stderr is not None and sys.stderr.isatty()
    try:
        done = subprocess.run(
            argv,
            env=environment,
            stdin=None if interactive else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if watched else subprocess.PIPE,
            timeout=wait,
            check=False,
        )
    except OSError as error:
        raise ConfigurationError(
            f"The credential plugin {name} could not be started: {error.strerror}.", hint=hint
        ) from error
    except subprocess.TimeoutExpired:
        # Not chained: that error shows the command line, which may hold a secret.
        raise ConfigurationError(
            f"The credential plugin {name} did not answer within {wait:g} s.", retryable=True
        ) from None
    if done.returncode:
        said = (done.stderr or b"")[-STDERR_SHOWN:].decode(errors="backslashreplace").strip()
        raise ConfigurationError(
            f"The credential plugin {name} failed with exit code {done.returncode}"
            + (f": {said}" if said else "."),
            hint=hint,
        )
    return done.stdout


def _status(answer: bytes, name: str, version: str) -> dict[str, Any]:
    try:
        credential = json.loads(answer)
    except ValueError:
        # Not chained and not shown: a part of it may be a secret.
        raise ConfigurationError(f"The credential plugin {name} answered no JSON.") from None
    if not isinstance(credential, dict) or credential.get("kind") != "ExecCredential":
        raise ConfigurationError(f"The credential plugin {name} answered no ExecCredential.")
    if credential.get("apiVersion") != version:
        raise ConfigurationError(
            f"The credential plugin {name} answered as {credential.get('apiVersion')!r}, "
            f"where {version!r} was asked for."
        )
    status = credential.get("status")
    if not isinstance(status, dict):
        status = {}
    pair = [bool(status.get(key)) for key in ("clientCertificateData", "clientKeyData")]
    if pair[0] != pair[1] or not (pair[0] or status.get("token")):
        raise ConfigurationError(
            f"The credential plugin {name} answered with neither a token nor a certificate "
            "and its key."
        )
    return status
