"""The TLS side of a kubeconfig: whom to trust, and the certificate to show."""

from __future__ import annotations

import os
import ssl
import tempfile
from pathlib import Path
from typing import NoReturn

from sealos_devbox.errors import ConfigurationError

__all__ = ["make_context", "show_certificate"]


class _Context(ssl.SSLContext):
    """A context that may verify the server under another name than that of its address.

    Here, because httpcore knows no other way that works through a proxy too. The context is made
    by itself and not by ssl.create_default_context(), whose VERIFY_X509_STRICT (since Python 3.13)
    many clusters' own authorities do not pass.
    """

    server_name: str | None = None

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        name = self.server_name or server_hostname
        return super().wrap_bio(incoming, outgoing, server_side, name, session)


def make_context(
    *, authority: bytes | None, insecure: bool, server_name: str | None
) -> ssl.SSLContext:
    """Make the context for a server.

    authority: PEM certificates to trust in place of the system's. server_name: in place of the name
    in the address. Raises ConfigurationError when they make no sense.
    """
    context = _Context(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.server_name = server_name
    # An upgrade to a WebSocket is HTTP/1.1's.
    context.set_alpn_protocols(["http/1.1"])
    if insecure:
        if authority is not None:
            raise ConfigurationError(
                "The kubeconfig's cluster has a certificate-authority, and says "
                "insecure-skip-tls-verify: one of them has to go."
            )
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif authority is None:
        context.load_default_certs()
    else:
        try:
            context.load_verify_locations(cadata=authority.decode("ascii"))
        except (ValueError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"The kubeconfig's certificate authority cannot be read: {error}."
            ) from error
    return context


def show_certificate(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Have connections made from now on show a client certificate (PEM).

    The key is never in a file of a disk where the system can help it, and in no file at all after
    this. Raises ConfigurationError when the two cannot be used.
    """
    pair = certificate.rstrip() + b"\n" + key.rstrip() + b"\n"
    try:
        if hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir():
            descriptor = os.memfd_create("client-certificate", os.MFD_CLOEXEC)
            with open(descriptor, "wb", closefd=True) as file:
                file.write(pair)
                file.flush()
                context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=_no_password)
            return
        with tempfile.TemporaryDirectory(prefix="devbox-") as directory:
            path = Path(directory, "pair")
            path.touch(mode=0o600)
            path.write_bytes(pair)
            context.load_cert_chain(path, password=_no_password)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"The client certificate and its key cannot be used: {error}."
        ) from error


def _no_password() -> NoReturn:
    # Without this OpenSSL asks on the terminal.
    raise ConfigurationError("The client certificate's key is encrypted; that is not supported.")
