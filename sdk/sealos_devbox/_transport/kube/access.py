"""An API server as one user: small JSON requests, and the opening of exec streams.

The connection is HTTP/1.1, because an exec stream begins with an upgrade of one. A credential that
is about to expire is renewed before a request, one that is refused (401) once after it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import anyio
import anyio.to_thread
import httpcore
import httpx

from sealos_devbox._transport.kube.kubeconfig import (
    ClusterCredentials,
    KubeconfigSource,
    load_credentials,
)
from sealos_devbox._transport.kube.proxies import choose_proxy, without_password
from sealos_devbox._transport.kube.refusals import refusal, upgrade_refusal
from sealos_devbox._version import __version__
from sealos_devbox.errors import ConfigurationError, ConnectError, ProtocolError

__all__ = ["KubernetesAccess", "Upgraded", "resource_path"]

CONNECT_TIMEOUT: Final = 10.0
REQUEST_TIMEOUT: Final = 30.0
"""For a whole request; its answer has a few kilobytes."""
BODY_SIZE: Final = 32 * 1024 * 1024
PAGE: Final = 500
MERGE_PATCH: Final = "application/merge-patch+json"

# A peer that has vanished is noticed on a connection that only waits; Linux's defaults take hours.
_KEEPALIVE: list[tuple[int, int, int]] = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
for _name, _value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6)):
    if hasattr(socket, _name):
        _KEEPALIVE.append((socket.IPPROTO_TCP, getattr(socket, _name), _value))
_KEEPALIVE.append((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1))

Params = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Upgraded:
    """A connection that has become a WebSocket."""

    stream: httpcore.AsyncNetworkStream
    subprotocol: str | None
    """What the server chose of those offered."""


class KubernetesAccess:
    """Requests to one API server. Use it as an async context manager, which closes it."""

    def __init__(self, credentials: ClusterCredentials) -> None:
        self.credentials = credentials
        self.server = credentials.server
        self.proxy = choose_proxy(credentials.server, credentials.proxy)
        self._client = self._make_client()
        self._certificates = credentials.certificates
        self._retired: list[httpx.AsyncClient] = []
        self._renewing = anyio.Lock()

    @classmethod
    async def load(cls, source: KubeconfigSource) -> Self:
        """Read a configuration; raises ConfigurationError when it cannot be used."""
        return cls(await anyio.to_thread.run_sync(load_credentials, source, abandon_on_cancel=True))

    @property
    def namespace(self) -> str:
        """The context's namespace, which is where a workspace's boxes are."""
        return self.credentials.namespace or "default"

    async def get(self, path: str, params: Params = ()) -> dict[str, Any]:
        """Read an object, or a page of a list."""
        return await self._request("GET", path, params)

    async def list(self, path: str, params: Params = ()) -> list[dict[str, Any]]:
        """Read the objects of a list, all pages of it."""
        items: list[dict[str, Any]] = []
        page: Params = [*params, ("limit", str(PAGE))]
        while True:
            answer = await self.get(path, page)
            items += answer.get("items") or ()
            more = (answer.get("metadata") or {}).get("continue")
            if not more:
                return items
            page = [*params, ("limit", str(PAGE)), ("continue", more)]

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object, or ask for a review."""
        return await self._request("POST", path, (), body)

    async def patch(
        self, path: str, body: Mapping[str, Any], content_type: str = MERGE_PATCH
    ) -> dict[str, Any]:
        """Change an object."""
        return await self._request("PATCH", path, (), body, content_type)

    async def delete(self, path: str, params: Params = ()) -> dict[str, Any]:
        """Remove an object."""
        return await self._request("DELETE", path, params)

    async def may(
        self, namespace: str, verb: str, resource: str, subresource: str = "", group: str = ""
    ) -> bool:
        """Ask whether the user has a right (SelfSubjectAccessReview, which everybody may ask)."""
        attributes = {"namespace": namespace, "verb": verb, "group": group, "resource": resource}
        if subresource:
            attributes["subresource"] = subresource
        review = await self.post(
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": attributes},
            },
        )
        return bool((review.get("status") or {}).get("allowed"))

    @asynccontextmanager
    async def upgrade(
        self, path: str, params: Params, subprotocols: Sequence[str]
    ) -> AsyncIterator[Upgraded]:
        """Open a WebSocket; leaving the block closes the connection.

        Raises what the server, or the proxy that stands before it, has to say against it.
        """
        key = base64.b64encode(os.urandom(16)).decode()
        headers = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Key": key,
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Protocol": ", ".join(subprotocols),
        }
        try:
            with anyio.fail_after(REQUEST_TIMEOUT):
                response = await self._send("GET", path, params, headers=headers)
        except TimeoutError:
            raise self._late() from None
        try:
            if response.status_code != httpx.codes.SWITCHING_PROTOCOLS:
                body = b""
                with anyio.move_on_after(CONNECT_TIMEOUT), contextlib.suppress(httpx.HTTPError):
                    body = await _body(response)
                raise upgrade_refusal(response, body, self.proxy)
            _check_accept(response, key)
            yield Upgraded(
                response.extensions["network_stream"],
                response.headers.get("Sec-WebSocket-Protocol"),
            )
        finally:
            with anyio.move_on_after(CONNECT_TIMEOUT, shield=True):
                await response.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        with anyio.move_on_after(CONNECT_TIMEOUT, shield=True):
            for client in (self._client, *self._retired):
                await client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _request(
        self,
        method: str,
        path: str,
        params: Params,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        headers = {"Accept": "application/json"}
        content = None
        if body is not None:
            headers["Content-Type"] = content_type
            content = json.dumps(body).encode()
        try:
            with anyio.fail_after(REQUEST_TIMEOUT):
                response = await self._send(method, path, params, headers=headers, content=content)
                try:
                    answer = await _body(response)
                finally:
                    with anyio.move_on_after(CONNECT_TIMEOUT, shield=True):
                        await response.aclose()
        except TimeoutError:
            raise self._late() from None
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if response.is_success:
            try:
                decoded = json.loads(answer)
            except ValueError:
                decoded = None
            if isinstance(decoded, dict):
                return decoded
        raise refusal(response, answer, self.proxy)

    async def _send(
        self,
        method: str,
        path: str,
        params: Params,
        *,
        headers: Mapping[str, str],
        content: bytes | None = None,
    ) -> httpx.Response:
        if not self.credentials.is_fresh:
            await self._renew(None)
        response = await self._send_once(method, path, params, headers, content)
        if response.status_code == httpx.codes.UNAUTHORIZED:
            refused = response.request.headers.get("Authorization")
            if await self._renew(refused):
                await response.aclose()
                response = await self._send_once(method, path, params, headers, content)
        return response

    async def _send_once(
        self,
        method: str,
        path: str,
        params: Params,
        headers: Mapping[str, str],
        content: bytes | None,
    ) -> httpx.Response:
        sent = [*headers.items(), *self.credentials.headers]
        if self.credentials.authorization is not None:
            sent.append(("Authorization", self.credentials.authorization))
        # A connection that the server closed while it was idle is noticed only by using it; asking
        # again changes nothing.
        for last in (method != "GET", True):
            request = self._client.build_request(
                method, self.server + path, params=list(params), headers=sent, content=content
            )
            try:
                return await self._client.send(request, stream=True)
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
                if last:
                    raise self._unreachable(error) from error
            except httpx.HTTPError as error:
                raise self._unreachable(error) from error
        raise AssertionError("unreachable")

    async def _renew(self, refused: str | None) -> bool:
        async with self._renewing:
            changed = await anyio.to_thread.run_sync(
                self.credentials.renew, refused, abandon_on_cancel=True
            )
        if self.credentials.certificates != self._certificates:
            # Connections that are open go on showing the old one. They may be in use, so their
            # client is closed at the end only.
            self._certificates = self.credentials.certificates
            self._retired.append(self._client)
            self._client = self._make_client()
        return changed

    def _make_client(self) -> httpx.AsyncClient:
        context = self.credentials.ssl_context
        try:
            transport = httpx.AsyncHTTPTransport(
                verify=True if context is None else context,
                http2=False,
                # Exec streams are connections too, and last.
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=4),
                trust_env=False,
                proxy=self.proxy,
                socket_options=_KEEPALIVE,
            )
        except (ImportError, ValueError) as error:
            # httpx needs another package for SOCKS.
            raise ConfigurationError(
                f"The proxy {without_password(self.proxy)} cannot be used: {error}"
            ) from None
        return httpx.AsyncClient(
            transport=transport,
            timeout=httpx.Timeout(REQUEST_TIMEOUT, connect=CONNECT_TIMEOUT, pool=CONNECT_TIMEOUT),
            headers={"User-Agent": f"sealos-devbox/{__version__}"},
            trust_env=False,
            follow_redirects=False,
        )

    def _late(self) -> ConnectError:
        return ConnectError(
            f"The API server {self.server} did not answer within {REQUEST_TIMEOUT:g} s.",
            hop="cluster",
        )

    def _unreachable(self, error: httpx.HTTPError) -> ConnectError:
        way = f" through the proxy {without_password(self.proxy)}" if self.proxy else ""
        said, distrusted = _root_cause(error)
        if isinstance(error, httpx.ConnectTimeout):  # which has no text of its own
            said = f"no connection came about within {CONNECT_TIMEOUT:g} s"
        if isinstance(error, httpx.ProxyError):
            found = ConnectError(
                f"The proxy {without_password(self.proxy)} does not lead to {self.server}: {said}",
                hop="gateway",
            )
            found.unreachable = True
            return found
        hint = ""
        if distrusted:
            hint = (
                "The kubeconfig's certificate-authority is not the one that signed this server's "
                "certificate, or the certificate is for another name (tls-server-name)."
            )
        found = ConnectError(
            f"The API server {self.server} cannot be reached{way}: {said}",
            hop="cluster",
            hint=hint,
            retryable=not hint,
        )
        found.unreachable = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
        return found


def resource_path(
    resource: str, namespace: str, name: str = "", subresource: str = "", *, group: str = ""
) -> str:
    """Return the path of a resource; group as in `devbox.sealos.io/v1alpha2`, empty for core."""
    path = f"/apis/{group}" if group else "/api/v1"
    path += f"/namespaces/{quote(namespace, safe='')}/{resource}"
    for part in (name, subresource):
        if part:
            path += f"/{quote(part, safe='')}"
    return path


def _root_cause(error: BaseException) -> tuple[str, bool]:
    """Return what is known of a failure, and whether the server's certificate was at fault.

    Under trio only an error further down says it.
    """
    said, distrusted = str(error), False
    cause: BaseException | None = error
    while cause is not None:
        said = said or str(cause)
        distrusted = distrusted or isinstance(cause, ssl.SSLCertVerificationError)
        cause = cause.__cause__ or cause.__context__
    return said or type(error).__name__, distrusted


def _check_accept(response: httpx.Response, key: str) -> None:
    from websockets.utils import accept_key

    if response.headers.get("Sec-WebSocket-Accept") != accept_key(key):
        raise ProtocolError("what switched protocols is no WebSocket server", hop="cluster")


async def _body(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > BODY_SIZE:
            raise ProtocolError(f"the answer has more than {BODY_SIZE:,} bytes", hop="cluster")
    return bytes(body)
