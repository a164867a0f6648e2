"""The credential: where it comes from, and what of it is sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from anyio import to_thread

from sealos_devbox._planning import kubeconfig
from sealos_devbox._planning.addresses import checked_endpoint
from sealos_devbox._plugins import load_plugin
from sealos_devbox.config import RemoteSettings
from sealos_devbox.errors import ConfigurationError, DevboxError
from sealos_devbox.secret import Secret

__all__ = ["CREDENTIAL_PLUGINS", "Credentials"]

CREDENTIAL_PLUGINS = "sealos_devbox.credentials"
"""The group of entry points: each a callable (profile) -> text of a kubeconfig or token."""


class Credentials:
    """What identifies the user to the control plane, and to the cluster if it is a kubeconfig."""

    def __init__(
        self,
        header: Secret,
        *,
        endpoint: str,
        namespace: str | None = None,
        kubeconfig_text: Secret | None = None,
        load: Callable[[], Credentials] | None = None,
    ) -> None:
        self.header = header
        """What the Authorization header says."""
        self.endpoint = endpoint
        self.namespace = namespace
        self.kubeconfig_text = kubeconfig_text
        """None when the credential is a token, or comes from files."""
        self._load = load

    @classmethod
    async def load(cls, settings: RemoteSettings) -> Credentials:
        """Read the credential that the settings name; raises ConfigurationError."""
        return await to_thread.run_sync(_load, settings)

    async def renew(self) -> bool:
        """Read it again where it may have changed since; returns whether it has."""
        if self._load is None:
            return False
        before = self.header
        fresh = await to_thread.run_sync(self._load)
        self.header, self.namespace = fresh.header, fresh.namespace
        self.kubeconfig_text = fresh.kubeconfig_text
        return self.header != before


def _load(settings: RemoteSettings) -> Credentials:
    again = None if settings.api_key is not None else lambda: _load(settings)
    if settings.api_key is not None:
        text = settings.api_key.reveal()
    elif settings.credential_source is not None:
        text = _from_plugin(settings)
    else:
        return _from_files(settings, again)
    text = kubeconfig.unquoted(text.strip())
    if kubeconfig.is_kubeconfig(text):
        return _from_kubeconfig(settings, [("the given kubeconfig", text)], Secret(text), again)
    if settings.endpoint is None:
        raise ConfigurationError(
            "A token does not say which service it is for.", hint="Name the endpoint too."
        )
    if not text.isprintable() or not text.isascii():
        raise ConfigurationError("The credential is neither a kubeconfig nor a token.")
    return Credentials(
        kubeconfig.credential(text), endpoint=checked_endpoint(settings.endpoint), load=again
    )


def _from_plugin(settings: RemoteSettings) -> str:
    name = settings.credential_source or ""
    plugin = load_plugin(CREDENTIAL_PLUGINS, name)
    try:
        text = plugin(dict(settings.options))
    except DevboxError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a plugin raises
        # Not its text, nor as the cause: what a plugin says may have the secret in it.
        raise ConfigurationError(
            f"The credential source {name!r} failed with {type(error).__name__}."
        ) from None
    if isinstance(text, Secret):
        text = text.reveal()
    if not isinstance(text, str) or not text.strip():
        raise ConfigurationError(f"The credential source {name!r} gave no credential.")
    return text


def _from_files(settings: RemoteSettings, again: Callable[[], Credentials] | None) -> Credentials:
    texts = []
    for path in settings.kubeconfig:
        try:
            texts.append((str(path), path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            continue  # as kubectl: of several, some may not exist
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from error
        except UnicodeDecodeError:
            raise ConfigurationError(f"{path} is no kubeconfig: it is no text.") from None
    if not texts:
        paths = ", ".join(map(str, settings.kubeconfig))
        raise ConfigurationError(f"There is no kubeconfig: {paths} does not exist.")
    return _from_kubeconfig(settings, texts, None, again)


def _from_kubeconfig(
    settings: RemoteSettings,
    texts: list[tuple[str, str]],
    given: Secret | None,
    again: Callable[[], Credentials] | None,
) -> Credentials:
    selected = kubeconfig.select(kubeconfig.merge(texts), settings.context)
    if settings.namespace is not None:
        selected = replace(selected, namespace=settings.namespace)
    if _made_by_program(selected) and not selected.user.get("token"):
        selected = _with_token(selected, settings, given)
    header = kubeconfig.credential(
        kubeconfig.minimised(selected, _read), *kubeconfig.secret_parts(selected)
    )
    endpoint = settings.endpoint or kubeconfig.derived_endpoint(selected)
    return Credentials(
        header,
        endpoint=checked_endpoint(endpoint),
        namespace=selected.namespace,
        kubeconfig_text=given,
        load=again,
    )


def _made_by_program(selected: kubeconfig.Selected) -> bool:
    return "exec" in selected.user or "auth-provider" in selected.user


def _with_token(
    selected: kubeconfig.Selected, settings: RemoteSettings, given: Secret | None
) -> kubeconfig.Selected:
    """Have the kubeconfig's program make a token: the control plane cannot run it."""
    # Imported here: it needs the package kubernetes, and few kubeconfigs have such a program.
    from sealos_devbox._transport.kube.kubeconfig import KubeconfigSource, load_credentials

    made = load_credentials(
        KubeconfigSource(
            paths=tuple(map(str, settings.kubeconfig)),
            text=None if given is None else given.reveal(),
            context=selected.name,
        )
    )
    scheme, _, token = (made.authorization or "").partition(" ")
    if scheme != "Bearer" or not token:
        raise ConfigurationError(
            f"The user {selected.user_name!r} of the kubeconfig has no token that could be sent."
        )
    return kubeconfig.Selected(
        selected.name, selected.namespace, selected.cluster, {"token": token}, selected.user_name
    )


def _read(path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{path}, which the kubeconfig names, cannot be read: {error.strerror}."
        ) from error
