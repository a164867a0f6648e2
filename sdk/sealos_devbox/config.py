"""Which service is meant, and where its things are.

The rule, in this order: what the caller says; the environment; the embedded engine. The embedded
engine is the only service there is so far. A service that is configured and cannot be used is an
error, never a reason to take another one.

=====================  =======================================================================
DEVBOX_EMBEDDED        1: the embedded engine, whatever else is set; 0: not the embedded engine
DEVBOX_DATA_DIR        where the embedded engine keeps its boxes
DEVBOX_HELPER          the box helper's executable, in place of the one in this package
DEVBOX_LINK_DELAY_MS   for tests and benchmarks: makes every round trip to an embedded box last
                       so many milliseconds longer
=====================  =======================================================================

This module is the only reader of the environment.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sealos_devbox.errors import CapabilityError

__all__ = ["DevboxConfig", "EmbeddedSettings"]

# What other services will be configured by. Set, they mean a service that cannot be reached yet.
_OTHER_SERVICES = (
    "DEVBOX_ENDPOINT",
    "DEVBOX_API_URL",
    "DEVBOX_KUBECONFIG",
    "DEVBOX_PROFILE",
    "KUBECONFIG",
)

_USE_EMBEDDED = (
    "To use the embedded engine all the same, say so: DevboxConfig(embedded=True) in Python, "
    "--embedded on the command line, or DEVBOX_EMBEDDED=1 in the environment."
)


@dataclass(frozen=True, slots=True)
class EmbeddedSettings:
    """Everything the embedded engine has to know."""

    data_dir: Path
    """Absolute."""
    link_delay_ms: float = 0.0
    """Added to every round trip."""
    helper: Path | None = None
    """None for the helper in this package."""
    reason: str = "nothing else is configured"
    """Why this service was chosen, for people to read."""


@dataclass(frozen=True, slots=True)
class DevboxConfig:
    """Which service is meant; None leaves the decision to the environment, then to the default."""

    embedded: bool | None = None
    """True: the embedded engine, whatever the environment configures."""
    data_dir: str | os.PathLike[str] | None = None
    """Where the embedded engine keeps its boxes; by default the user's data directory."""
    link_delay_ms: float | None = None
    """For tests and benchmarks: added to every round trip to an embedded box."""
    helper: str | os.PathLike[str] | None = None
    """The box helper's executable, in place of the one in this package."""

    def settings(self, environment: Mapping[str, str] | None = None) -> EmbeddedSettings:
        """Apply the rule and return what it comes to; `environment` in place of os.environ.

        Raises CapabilityError when a service is meant that does not exist yet, and ValueError
        when a value makes no sense.
        """
        environ = os.environ if environment is None else environment
        embedded = self.embedded
        reason = "as asked for"
        if embedded is None:
            embedded = _flag(environ, "DEVBOX_EMBEDDED")
            reason = "as DEVBOX_EMBEDDED says" if embedded else "nothing else is configured"
        if embedded is None:
            for variable in _OTHER_SERVICES:
                if environ.get(variable):
                    raise CapabilityError(
                        f"{variable} is set, so a Devbox service elsewhere is meant, and this "
                        "version can use the embedded engine only.",
                        hint=_USE_EMBEDDED,
                    )
        elif not embedded:
            raise CapabilityError(
                "No Devbox service is configured, and the embedded engine is ruled out.",
                hint=_USE_EMBEDDED,
            )
        data_dir = self.data_dir or environ.get("DEVBOX_DATA_DIR") or _default_data_dir()
        helper = self.helper or environ.get("DEVBOX_HELPER")
        return EmbeddedSettings(
            data_dir=_absolute(data_dir),
            link_delay_ms=self._delay(environ),
            helper=_absolute(helper) if helper else None,
            reason=reason,
        )

    def _delay(self, environ: Mapping[str, str]) -> float:
        if self.link_delay_ms is not None:
            return _milliseconds(self.link_delay_ms, "link_delay_ms")
        text = environ.get("DEVBOX_LINK_DELAY_MS")
        if not text:
            return 0.0
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"DEVBOX_LINK_DELAY_MS must be a number, not {text!r}") from None
        return _milliseconds(value, "DEVBOX_LINK_DELAY_MS")


def _flag(environ: Mapping[str, str], variable: str) -> bool | None:
    text = environ.get(variable, "").strip().lower()
    if not text:
        return None
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off"):
        return False
    raise ValueError(f"{variable} must be 1 or 0, not {environ[variable]!r}")


def _milliseconds(value: float, name: str) -> float:
    if not (math.isfinite(value) and 0 <= value <= 60_000):
        raise ValueError(f"{name} must be between 0 and 60000, not {value!r}")
    return value


def _absolute(path: str | os.PathLike[str]) -> Path:
    # Not resolve(): what a link names stays a link.
    return Path(os.path.abspath(Path(path).expanduser()))


def _default_data_dir() -> str:
    # Imported here: needed by the embedded engine only, and part of its extra.
    try:
        from platformdirs import user_data_dir
    except ModuleNotFoundError:
        raise CapabilityError(
            "The embedded engine needs the package platformdirs, which is not installed.",
            hint="Install it with: pip install 'sealos-devbox[server]'",
        ) from None
    return user_data_dir("devbox", appauthor=False)
