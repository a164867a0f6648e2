"""The loader of the `kubernetes` package, with its gaps filled. Imported only when it is needed."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kubernetes.config.kube_config import ConfigNode, KubeConfigLoader, KubeConfigMerger

from sealos_devbox._transport.kube.exec_plugin import run_exec_plugin
from sealos_devbox.errors import ConfigurationError

__all__ = ["Loader", "merge"]

KNOWN_PROVIDERS = ("gcp", "oidc")


class Loader(KubeConfigLoader):
    """One context of a kubeconfig. The overridden methods are called by the package's own."""

    def __init__(
        self,
        config: ConfigNode | Mapping[str, Any],
        *,
        context: str | None,
        persist: Callable[[], None] | None = None,
    ) -> None:
        self.token: str | None = None  # type: ignore[assignment] # the package sets it late
        """The value of the Authorization header."""
        self.pair: tuple[bytes, bytes] | None = None
        """A client certificate and its key, in PEM."""
        self.expires: float | None = None
        """In seconds since the epoch."""
        self.expiry: Any = None  # where the package puts it for auth providers
        super().__init__(  # type: ignore[no-untyped-call] # the package has no annotations
            config, active_context=context, config_base_path=None, config_persister=persist
        )
        if self._user is None and self.context.get("user"):
            raise ConfigurationError(
                f"The kubeconfig's context names the user {self.context['user']!r}, "
                "which is not in it."
            )

    @property
    def context_name(self) -> str:
        """What the context is called."""
        return str(_mapping(self._current_context)["name"])

    @property
    def context(self) -> Mapping[str, Any]:
        """The context as it is written."""
        return _mapping(_mapping(self._current_context)["context"])

    @property
    def cluster(self) -> Mapping[str, Any]:
        """The cluster as it is written."""
        return _mapping(self._cluster)

    @property
    def user(self) -> Mapping[str, Any]:
        """The user as it is written; empty if there is none."""
        return _mapping(self._user)

    @property
    def has_token_file(self) -> bool:
        """Whether the token comes from a file that somebody rewrites."""
        return bool(self.user.get("tokenFile")) and "auth-provider" not in self.user

    def authenticate(self) -> None:
        """Find or make the credential anew."""
        self.token = self.expires = self.expiry = None
        certificate, key = self._user_content("certificate"), self._user_content("key")
        if (certificate is None) != (key is None):
            raise ConfigurationError(
                "The kubeconfig's user has a client certificate without its key, or the other "
                "way round."
            )
        self.pair = None if certificate is None or key is None else (certificate, key)
        provider = self.user.get("auth-provider")
        if provider is not None and provider.get("name") not in KNOWN_PROVIDERS:
            raise ConfigurationError(
                f"The kubeconfig's auth provider {provider.get('name')!r} is not supported.",
                hint="Such providers were replaced by credential plugins (`exec`).",
            )
        self._load_authentication()  # type: ignore[no-untyped-call]
        if provider is not None and self.token is None:
            raise ConfigurationError(
                f"The kubeconfig's auth provider {provider['name']!r} has no usable token."
            )
        self.expires = self.expires or _moment(self.expiry)

    def authority(self) -> bytes | None:
        """Return the certificates to trust (PEM); None for the system's."""
        return _content(self.cluster, "certificate-authority", self._directory(self._cluster))

    def _load_user_token(self) -> bool:
        # Unlike the package: a file goes before a token, as for client-go, and its last line may
        # end like one.
        if self.user.get("tokenFile"):
            path = Path(self._directory(self._user) or "", str(self.user["tokenFile"]))
            token = path.read_text().strip()
        else:
            token = str(self.user.get("token") or "").strip()
        if token:
            self.token = f"Bearer {token}"
        return bool(token)

    def _load_from_exec_plugin(self) -> bool:
        plugin = self.user.get("exec")
        if plugin is None:
            return False
        status = run_exec_plugin(plugin, self.cluster, self._directory(self._user))
        if status.get("token"):
            self.token = f"Bearer {status['token']}"
        if status.get("clientCertificateData"):
            self.pair = (
                str(status["clientCertificateData"]).encode(),
                str(status["clientKeyData"]).encode(),
            )
        self.expires = _moment(status.get("expirationTimestamp"))
        return True

    def _user_content(self, what: str) -> bytes | None:
        return _content(self.user, f"client-{what}", self._directory(self._user))

    def _directory(self, node: ConfigNode | None) -> str | None:
        path = getattr(node, "path", None)
        return os.path.dirname(os.path.abspath(path)) if path else None


def merge(paths: str | io.StringIO) -> KubeConfigMerger:
    """Merge files (a list as KUBECONFIG is one), or read a text; returns the package's merger."""
    return KubeConfigMerger(paths)  # type: ignore[no-untyped-call] # as above


def _mapping(node: ConfigNode | Mapping[str, Any] | None) -> Mapping[str, Any]:
    value = getattr(node, "value", node)
    return value if isinstance(value, Mapping) else {}


def _content(section: Mapping[str, Any], key: str, directory: str | None) -> bytes | None:
    """Return what a section holds or names; the former goes first."""
    data = section.get(f"{key}-data")
    if data:
        try:
            return base64.b64decode(str(data))
        except ValueError:
            # Not chained: the key's data is in it.
            raise ConfigurationError(f"The kubeconfig's {key}-data is no base64.") from None
    name = section.get(key)
    return Path(directory or "", str(name)).read_bytes() if name else None


def _moment(text: object) -> float | None:
    """Return the seconds since the epoch of a time in RFC 3339."""
    if not text:
        return None
    # YAML has times of its own, and its parser makes them of what looks like one.
    try:
        moment = text if isinstance(text, datetime) else datetime.fromisoformat(str(text))
    except ValueError:
        raise ConfigurationError("The credential's time of expiry is none.") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp()
