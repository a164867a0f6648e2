"""From a kubeconfig to what a client needs: an address, a TLS context, a header.

The `kubernetes` package merges the files and knows contexts and auth providers. Three things are
done here instead: credential plugins (their failure is an error), certificates (no key stays in a
file), and token files (read again). Of several files the first that names a current context
decides, as for kubectl; the package takes the last.

Everything that blocks is a plain function, to be called in a thread.
"""

from __future__ import annotations

import io
import os
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sealos_devbox._transport.kube.tls import make_context, show_certificate
from sealos_devbox.errors import CapabilityError, ConfigurationError

if TYPE_CHECKING:
    from sealos_devbox._transport.kube.loader import Loader

__all__ = ["ClusterCredentials", "KubeconfigSource", "load_credentials"]

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_FILE_AGE: Final = 60.0
"""A token file is read again after so many seconds, as client-go does: it is rewritten well before
the token in it expires."""
EXPIRY_MARGIN: Final = 10.0
"""A credential is renewed so many seconds before its end: a request takes its time."""


@dataclass(frozen=True, slots=True)
class KubeconfigSource:
    """Where the configuration is: in files, in a text, or around this process in a pod."""

    paths: tuple[str, ...] = ()
    """Merged; the first that says something decides. Those that do not exist are left out."""
    text: str | None = field(default=None, repr=False)
    """In place of files."""
    in_cluster: bool = False
    """In place of both: the service account of the pod in which this runs."""
    context: str | None = None
    """In place of the current context."""

    @classmethod
    def from_environment(
        cls,
        environment: Mapping[str, str] | None = None,
        *,
        context: str | None = None,
        service_account: Path = SERVICE_ACCOUNT,
    ) -> KubeconfigSource:
        """Do as kubectl: KUBECONFIG, a list; ~/.kube/config; the pod in which this runs."""
        environ = os.environ if environment is None else environment
        listed = tuple(filter(None, environ.get("KUBECONFIG", "").split(os.pathsep)))
        if listed:
            return cls(paths=listed, context=context)
        default = Path(environ.get("HOME") or Path.home(), ".kube", "config")
        if (
            not default.exists()
            and environ.get("KUBERNETES_SERVICE_HOST")
            and (service_account / "token").exists()
        ):
            return cls(in_cluster=True, context=context)
        return cls(paths=(str(default),), context=context)

    def __str__(self) -> str:
        if self.in_cluster:
            return "the service account of this pod"
        return "the given kubeconfig" if self.text is not None else ", ".join(self.paths)


class ClusterCredentials:
    """What is needed to talk to one API server as one user. Made by load_credentials()."""

    def __init__(self, loader: Loader, source: KubeconfigSource) -> None:
        self._loader = loader
        self._lock = threading.Lock()
        self._token_read = 0.0
        cluster = loader.cluster
        server = cluster.get("server")
        if not isinstance(server, str) or not server.startswith(("https://", "http://")):
            raise ConfigurationError(f"The cluster of {source} has no server that is a URL.")
        self.source = source
        self.context_name = loader.context_name
        self.server = server.rstrip("/")
        self.server_name: str | None = cluster.get("tls-server-name") or None
        """In place of the server's own, where the certificate is for another name."""
        self.proxy: str | None = cluster.get("proxy-url") or None
        self.namespace: str | None = loader.context.get("namespace") or None
        """Of the context."""
        self.headers = _impersonation(loader.user)
        """To be sent with each request, beside the authorization."""
        self.authorization: str | None = None
        """The header's value; None where the certificate says who we are, or nothing does."""
        self.certificates = 0
        """Goes up when another client certificate is to be shown, by new connections."""
        self.ssl_context: ssl.SSLContext | None = None
        if server.startswith("https://"):
            self.ssl_context = make_context(
                authority=loader.authority(),
                insecure=bool(cluster.get("insecure-skip-tls-verify")),
                server_name=self.server_name,
            )
        self._authenticate()

    @property
    def is_fresh(self) -> bool:
        """Whether the credential can be used as it is. Does not block."""
        loader = self._loader
        if loader.expires is not None and time.time() > loader.expires - EXPIRY_MARGIN:
            return False
        return not loader.has_token_file or time.monotonic() - self._token_read < TOKEN_FILE_AGE

    def renew(self, refused: str | None = None) -> bool:
        """Make the credential anew; returns whether it is another one. Blocks.

        refused: the authorization that the server did not accept. When another thread has renewed
        it meanwhile, nothing is done.
        """
        with self._lock:
            if refused is not None and refused != self.authorization:
                return True
            before = (self.authorization, self.certificates)
            self._authenticate()
            return (self.authorization, self.certificates) != before

    def _authenticate(self) -> None:
        loader = self._loader
        before = loader.pair
        loader.authenticate()
        self._token_read = time.monotonic()
        token = loader.token
        if token is not None and (not token.isprintable() or not token.isascii()):
            raise ConfigurationError(f"The token of {self.source} is none: it cannot be sent.")
        self.authorization = token
        if self.ssl_context is not None and loader.pair != before and loader.pair is not None:
            show_certificate(self.ssl_context, *loader.pair)
            self.certificates += 1

    def __repr__(self) -> str:
        return f"<ClusterCredentials for {self.server} from {self.source}>"


def load_credentials(
    source: KubeconfigSource,
    *,
    environment: Mapping[str, str] | None = None,
    service_account: Path = SERVICE_ACCOUNT,
) -> ClusterCredentials:
    """Read the configuration and make its credential; runs its plugin if it has one. Blocks.

    Raises ConfigurationError for what is missing or makes no sense, CapabilityError where the
    package `kubernetes` is not installed.
    """
    try:
        # Here, because it is of an extra and takes a third of a second.
        from kubernetes.config.config_exception import ConfigException

        from sealos_devbox._transport.kube.loader import Loader, merge
    except ModuleNotFoundError as error:
        raise CapabilityError(
            f"Reaching a cluster needs the package {error.name}, which is not installed.",
            hint="Install it with: pip install 'sealos-devbox[cluster]'",
        ) from None
    import yaml

    context = source.context
    try:
        if source.in_cluster:
            config = _in_cluster(environment or os.environ, service_account)
            return ClusterCredentials(Loader(config, context="in-cluster"), source)
        if source.text is not None:
            merger = merge(io.StringIO(source.text))
            persist = None
        else:
            paths = [str(Path(path).expanduser()) for path in source.paths]
            if not any(os.path.exists(path) for path in paths):
                raise ConfigurationError(f"There is no kubeconfig: {source} does not exist.")
            merger = merge(os.pathsep.join(paths))
            persist = merger.save_changes
            current = (file.get("current-context") for file in merger.config_files.values())
            context = context or next(filter(None, current), None)
        loader = Loader(merger.config, context=context, persist=persist)
        return ClusterCredentials(loader, source)
    except ConfigException as error:
        # Not chained, and cut: where it names a part of the file, it quotes that part.
        text = str(error).partition("{")[0]
        raise ConfigurationError(f"{source} cannot be used: {text}") from None
    except yaml.YAMLError as error:
        # Not chained: it quotes the line, which may hold a secret.
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark is not None else ""
        raise ConfigurationError(f"{source} is not valid YAML{where}.") from None
    except OSError as error:
        raise ConfigurationError(
            f"{error.filename or source} cannot be read: {error.strerror}."
        ) from error
    except (AttributeError, KeyError, TypeError, UnicodeDecodeError) as error:
        # The package takes the shape of the file for granted.
        raise ConfigurationError(f"{source} is no kubeconfig.") from error


def _in_cluster(environ: Mapping[str, str], account: Path) -> dict[str, Any]:
    """Return a kubeconfig that says what a pod's surroundings say."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise ConfigurationError("This does not run in a pod: KUBERNETES_SERVICE_HOST is not set.")
    if not (account / "token").exists():
        raise ConfigurationError(
            f"This pod has no service account token: there is no {account / 'token'}."
        )
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    namespace = account / "namespace"
    context: dict[str, Any] = {"cluster": "in-cluster", "user": "in-cluster"}
    if namespace.exists():
        context["namespace"] = namespace.read_text().strip()
    cluster = {"server": server, "certificate-authority": str(account / "ca.crt")}
    return {
        "clusters": [{"name": "in-cluster", "cluster": cluster}],
        "users": [{"name": "in-cluster", "user": {"tokenFile": str(account / "token")}}],
        "contexts": [{"name": "in-cluster", "context": context}],
    }


def _impersonation(user: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the headers for `as` of a user; without them one would act as somebody else."""
    headers = [
        (header, str(user[key]))
        for key, header in (("as", "Impersonate-User"), ("as-uid", "Impersonate-Uid"))
        if user.get(key)
    ]
    headers += [("Impersonate-Group", str(group)) for group in user.get("as-groups") or ()]
    for key, values in (user.get("as-user-extra") or {}).items():
        headers += [(f"Impersonate-Extra-{key}", str(value)) for value in values]
    return headers
