"""Which service is meant, and how it is spoken to.

The service is never guessed. The first of these that says something decides:

1. what the caller says: `embedded`, `api_url`, `api_key`, `kubeconfig`, `credential_source`,
   `profile`;
2. ``DEVBOX_EMBEDDED``, ``DEVBOX_ENDPOINT``, ``DEVBOX_API_KEY``, ``DEVBOX_KUBECONFIG``,
   ``DEVBOX_CREDENTIAL_SOURCE``, ``DEVBOX_PROFILE``;
3. the default profile;
4. ``KUBECONFIG``;
5. the embedded engine.

A service that is configured and cannot be used is an error, never a reason to take another one.
Settings that do not choose a service come from the caller, the environment, the profile, a default,
in this order.

==========================  ===================================================================
DEVBOX_EMBEDDED             1: the embedded engine; 0: not the embedded engine
DEVBOX_ENDPOINT             the control plane's address; DEVBOX_API_URL is another name for it
DEVBOX_API_KEY              the credential: the text of a kubeconfig, or a token
DEVBOX_API_KEY_FILE         a file that holds it
DEVBOX_KUBECONFIG           the credential as a file; several with the path separator between
DEVBOX_CONTEXT              the context of the kubeconfig, by default its current one
DEVBOX_NAMESPACE            the workspace's namespace, by default the context's
DEVBOX_CREDENTIAL_SOURCE    a plugin that supplies the credential
DEVBOX_PROFILE              a profile of the configuration file
DEVBOX_CONFIG               the configuration file, see `sealos_devbox.profiles`
DEVBOX_TRANSPORT            the way to a box: auto, helper, agent, exec, or a plugin's name
DEVBOX_CA_FILE              certificates of authorities that are trusted in place of the usual
DEVBOX_CONNECT_TIMEOUT      seconds, as for the three below; see Timeouts
DEVBOX_REQUEST_TIMEOUT
DEVBOX_IDLE_TIMEOUT
DEVBOX_TOTAL_TIMEOUT
DEVBOX_REQUESTS_PER_SECOND  at most so many requests are sent, in the long run
DEVBOX_DATA_DIR             where the embedded engine keeps its boxes
DEVBOX_HELPER               the box helper's executable, in place of the one in this package
DEVBOX_LINK_DELAY_MS        for tests and benchmarks: makes every round trip to an embedded box
                            last so many milliseconds longer
==========================  ===================================================================

This module is the only reader of the environment, but for proxies and the trust store, which httpx
takes from it (``HTTPS_PROXY``, ``NO_PROXY``, ``SSL_CERT_FILE``).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sealos_devbox.errors import CapabilityError, ConfigurationError
from sealos_devbox.profiles import Profiles, ProfileValue, read_profiles
from sealos_devbox.secret import Secret

__all__ = [
    "DevboxConfig",
    "EmbeddedSettings",
    "RemoteSettings",
    "Settings",
    "Timeouts",
    "config_file",
]

_USE_EMBEDDED = (
    "To use the embedded engine all the same, say so: DevboxConfig(embedded=True) in Python, "
    "--embedded on the command line, or DEVBOX_EMBEDDED=1 in the environment."
)
_CONFIGURE = (
    "Name a service: DevboxConfig(api_url=..., api_key=...), kubeconfig=... or profile=... in "
    "Python, --endpoint, --kubeconfig or --profile on the command line."
)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long things may take, in seconds."""

    connect: float = 10.0
    """Opening a connection, TLS included."""
    request: float = 60.0
    """One attempt of one request, its answer's body included. `restart` and port changes of the
    service take up to 30 s."""
    idle: float = 30.0
    """Without a byte in either direction, while a request is under way."""
    total: float = 120.0
    """All attempts of one request, and the waits between them."""


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
    transport: str = "auto"
    timeouts: Timeouts = field(default_factory=Timeouts)
    requests_per_second: float = 20.0


@dataclass(frozen=True, slots=True)
class RemoteSettings:
    """Everything there is to know of a service elsewhere before it is spoken to."""

    endpoint: str | None
    """None: derived from the kubeconfig."""
    api_key: Secret | None = None
    """The text of a kubeconfig, or a token."""
    kubeconfig: tuple[Path, ...] = ()
    """Merged as kubectl does; empty when `api_key` or `credential_source` supplies it."""
    credential_source: str | None = None
    """The plugin that supplies the credential."""
    context: str | None = None
    """Of the kubeconfig; None for its current one."""
    namespace: str | None = None
    """None for the context's."""
    options: Mapping[str, ProfileValue] = field(default_factory=dict)
    """The profile, for plugins."""
    transport: str = "auto"
    ca_file: Path | None = None
    helper: Path | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)
    requests_per_second: float = 20.0
    reason: str = ""
    """Why this service was chosen, for people to read."""


Settings = EmbeddedSettings | RemoteSettings


@dataclass(frozen=True, slots=True)
class DevboxConfig:
    """Which service is meant; None leaves a decision to the environment, profile or default."""

    api_url: str | None = None
    """The control plane's address, ``https://devbox.<domain>``."""
    api_key: str | Secret | None = field(default=None, repr=False)
    """The credential: the text of a kubeconfig, or a token of an engine that you run."""
    kubeconfig: str | os.PathLike[str] | None = None
    """The credential as a file."""
    context: str | None = None
    """The context of the kubeconfig; None for its current one."""
    namespace: str | None = None
    """The workspace's namespace; None for that of the context."""
    credential_source: str | None = None
    """The name of a plugin that supplies the credential."""
    profile: str | None = None
    """A profile of the configuration file."""
    embedded: bool | None = None
    """True: the embedded engine, whatever else is configured; False: never that."""
    transport: str | None = None
    """The way to a box: ``auto``, ``helper``, ``agent``, ``exec``, or a plugin's name."""
    timeouts: Timeouts | None = None
    requests_per_second: float | None = None
    """At most so many requests are sent to the control plane, in the long run."""
    ca_file: str | os.PathLike[str] | None = None
    """Certificates of authorities that are trusted in place of the usual ones."""
    data_dir: str | os.PathLike[str] | None = None
    """Where the embedded engine keeps its boxes; by default the user's data directory."""
    link_delay_ms: float | None = None
    """For tests and benchmarks: added to every round trip to an embedded box."""
    helper: str | os.PathLike[str] | None = None
    """The box helper's executable, in place of the one in this package."""

    def settings(self, environment: Mapping[str, str] | None = None) -> Settings:
        """Apply the rule and return what it comes to; `environment` in place of os.environ.

        Raises ConfigurationError when the service that is meant cannot be told or its profile is
        of no use, and ValueError when a value makes no sense.
        """
        return _Resolution(self, os.environ if environment is None else environment).settings()


def config_file(environment: Mapping[str, str] | None = None) -> Path:
    """Return where the configuration file is, or would be."""
    environ = os.environ if environment is None else environment
    named = environ.get("DEVBOX_CONFIG")
    if named:
        return _absolute(named)
    return Path(_platform_dirs("user_config_dir")) / "config.toml"


class _Resolution:
    """One application of the rule."""

    def __init__(self, config: DevboxConfig, environ: Mapping[str, str]) -> None:
        self._config = config
        self._environ = environ
        self._profile: Mapping[str, ProfileValue] = {}

    def settings(self) -> Settings:
        for level in (self._said, self._in_environment, self._in_default_profile):
            found = level()
            if found is not None:
                return found
        if self._environ.get("KUBECONFIG"):
            return self._remote("as KUBECONFIG says")
        if self._config.embedded is False or self._flag("DEVBOX_EMBEDDED") is False:
            raise CapabilityError(
                "No Devbox service is configured, and the embedded engine is ruled out.",
                hint=f"{_CONFIGURE} {_USE_EMBEDDED}",
            )
        return self._embedded("nothing else is configured")

    # -- the levels of the rule --------------------------------------------------------------------

    def _said(self) -> Settings | None:
        config = self._config
        services = (config.api_url, config.api_key, config.kubeconfig, config.credential_source)
        named = [value for value in services if value is not None]
        if config.embedded:
            if named or config.profile is not None:
                raise ValueError("embedded=True and another service exclude each other")
            return self._embedded("as asked for")
        if config.profile is not None:
            return self._from_profile(config.profile, "as asked for", bool(named))
        return self._remote("as asked for") if named else None

    def _in_environment(self) -> Settings | None:
        if self._config.embedded is None and self._flag("DEVBOX_EMBEDDED"):
            return self._embedded("as DEVBOX_EMBEDDED says")
        profile = self._environ.get("DEVBOX_PROFILE")
        named = [
            name
            for name in (
                "DEVBOX_ENDPOINT",
                "DEVBOX_API_URL",
                "DEVBOX_API_KEY",
                "DEVBOX_API_KEY_FILE",
                "DEVBOX_KUBECONFIG",
                "DEVBOX_CREDENTIAL_SOURCE",
            )
            if self._environ.get(name)
        ]
        if profile:
            return self._from_profile(profile, "as DEVBOX_PROFILE says", bool(named))
        return self._remote(f"as {named[0]} says") if named else None

    def _in_default_profile(self) -> Settings | None:
        profiles = self._profiles()
        if profiles.default is None:
            return None
        self._profile = profiles.get(profiles.default)
        reason = f"the default profile, {profiles.default}"
        if self._profile.get("embedded"):
            if self._config.embedded is False or self._flag("DEVBOX_EMBEDDED") is False:
                return None
            return self._embedded(reason)
        return self._remote(reason)

    def _from_profile(self, name: str, reason: str, remote: bool) -> Settings:
        profiles = self._profiles()
        self._profile = profiles.get(name)
        if self._profile.get("embedded") and not remote:
            if self._config.embedded is False:
                raise ValueError(f"embedded=False and the profile {name!r} exclude each other")
            return self._embedded(f"profile {name}, {reason}")
        return self._remote(f"profile {name}, {reason}")

    def _profiles(self) -> Profiles:
        return read_profiles(config_file(self._environ))

    # -- what a service has to know ----------------------------------------------------------------

    def _embedded(self, reason: str) -> EmbeddedSettings:
        data_dir = self._path(self._config.data_dir, "data_dir")
        return EmbeddedSettings(
            data_dir=data_dir or Path(_platform_dirs("user_data_dir")),
            link_delay_ms=self._number(
                self._config.link_delay_ms, "link_delay_ms", 0.0, 0.0, 60_000.0
            ),
            helper=self._path(self._config.helper, "helper"),
            reason=reason,
            transport=self._text(self._config.transport, "transport") or "auto",
            timeouts=self._timeouts(),
            requests_per_second=self._rate(),
        )

    def _remote(self, reason: str) -> RemoteSettings:
        endpoint = (
            self._config.api_url
            or self._environ.get("DEVBOX_ENDPOINT")
            or self._environ.get("DEVBOX_API_URL")
            or self._profile.get("endpoint")
        )
        key, files, source = self._credential()
        return RemoteSettings(
            endpoint=str(endpoint) if endpoint else None,
            api_key=key,
            kubeconfig=files,
            credential_source=source,
            context=self._text(self._config.context, "context"),
            namespace=self._text(self._config.namespace, "namespace"),
            options=dict(self._profile),
            transport=self._text(self._config.transport, "transport") or "auto",
            ca_file=self._path(self._config.ca_file, "ca_file"),
            helper=self._path(self._config.helper, "helper"),
            timeouts=self._timeouts(),
            requests_per_second=self._rate(),
            reason=reason,
        )

    def _credential(self) -> tuple[Secret | None, tuple[Path, ...], str | None]:
        """Return the credential from the first level that names one, of whichever kind."""
        config, environ = self._config, self._environ
        if config.api_key is not None:
            key = config.api_key
            return (key if isinstance(key, Secret) else Secret(key)), (), None
        if config.kubeconfig is not None:
            return None, (_absolute(config.kubeconfig),), None
        if config.credential_source is not None:
            return None, (), config.credential_source
        if environ.get("DEVBOX_API_KEY"):
            return Secret(environ["DEVBOX_API_KEY"]), (), None
        in_environment = {
            name: environ.get(f"DEVBOX_{name.upper()}", "")
            for name in ("api_key_file", "kubeconfig", "credential_source")
        }
        for named in (in_environment, self._profile):
            if named.get("api_key_file"):
                return _secret_in(_absolute(str(named["api_key_file"]))), (), None
            if named.get("kubeconfig"):
                return None, _paths(str(named["kubeconfig"])), None
            if named.get("credential_source"):
                return None, (), str(named["credential_source"])
        if environ.get("KUBECONFIG"):
            return None, _paths(environ["KUBECONFIG"]), None
        raise ConfigurationError(
            "A Devbox service is configured, and no credential for it.",
            hint="Give api_key or kubeconfig, or set DEVBOX_KUBECONFIG or DEVBOX_API_KEY.",
        )

    def _timeouts(self) -> Timeouts:
        given = self._config.timeouts
        standard = Timeouts()

        def seconds(name: str) -> float:
            return self._number(
                None if given is None else getattr(given, name),
                f"{name}_timeout",
                getattr(standard, name),
                0.001,
                86_400.0,
            )

        return Timeouts(seconds("connect"), seconds("request"), seconds("idle"), seconds("total"))

    def _rate(self) -> float:
        return self._number(
            self._config.requests_per_second, "requests_per_second", 20.0, 0.01, 10_000.0
        )

    # -- one value ---------------------------------------------------------------------------------

    def _text(self, said: str | None, name: str) -> str | None:
        value = said or self._environ.get(f"DEVBOX_{name.upper()}") or self._profile.get(name)
        return str(value) if value else None

    def _path(self, said: str | os.PathLike[str] | None, name: str) -> Path | None:
        value = said or self._environ.get(f"DEVBOX_{name.upper()}") or self._profile.get(name)
        if not value:
            return None
        return _absolute(value if isinstance(value, str | os.PathLike) else str(value))

    def _number(
        self, said: float | None, name: str, default: float, lowest: float, highest: float
    ) -> float:
        variable = f"DEVBOX_{name.upper()}"
        value: float | str | None = said
        where = name
        if value is None:
            value, where = self._environ.get(variable) or None, variable
        if value is None and name in self._profile:
            value, where = float(self._profile[name]), f"{name} of the profile"
        if value is None:
            return default
        try:
            number = float(value)
        except ValueError:
            raise ValueError(f"{where} must be a number, not {value!r}") from None
        if not (math.isfinite(number) and lowest <= number <= highest):
            raise ValueError(f"{where} must be between {lowest:g} and {highest:g}, not {number!r}")
        return number

    def _flag(self, variable: str) -> bool | None:
        text = self._environ.get(variable, "").strip().lower()
        if not text:
            return None
        if text in ("1", "true", "yes", "on"):
            return True
        if text in ("0", "false", "no", "off"):
            return False
        raise ValueError(f"{variable} must be 1 or 0, not {self._environ[variable]!r}")


def _secret_in(path: Path) -> Secret:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is no text.") from None
    if not text:
        raise ConfigurationError(f"{path} is empty.")
    return Secret(text)


def _paths(text: str) -> tuple[Path, ...]:
    return tuple(_absolute(part) for part in text.split(os.pathsep) if part)


def _absolute(path: str | os.PathLike[str]) -> Path:
    # Not resolve(): what a link names stays a link.
    return Path(os.path.abspath(Path(path).expanduser()))


def _platform_dirs(function: str) -> str:
    # Imported when nothing names the directory: most calls do without.
    import platformdirs

    return str(getattr(platformdirs, function)("devbox", appauthor=False))
