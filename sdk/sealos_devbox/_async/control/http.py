"""Requests to the control plane: retries, deadlines, rate limit, logging.

httpx is imported with this module, which is imported when the first request is due: files of
embedded boxes do without.
"""

from __future__ import annotations

import logging
import random
import ssl
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import httpx
import msgspec

from sealos_devbox._async.control.credentials import Credentials
from sealos_devbox._async.control.tracing import Span, request_span
from sealos_devbox._planning.answers import Answer
from sealos_devbox._planning.retry import Outcome, RetryPolicy, TokenBucket, retry_after_seconds
from sealos_devbox._version import __version__
from sealos_devbox.config import Timeouts
from sealos_devbox.errors import (
    ConfigurationError,
    ConnectError,
    DeadlineExceededError,
    DevboxError,
    Hop,
    ProtocolError,
    TransportError,
)
from sealos_devbox.secret import Secret

__all__ = ["ControlHttp"]

_log = logging.getLogger(__name__)

POLICY = RetryPolicy()
_LARGEST_BODY = 32 * 1024 * 1024
"""Bytes; a list of a thousand boxes has one."""
_CLOSE_TIMEOUT = 5.0


class ControlHttp:
    """Sends requests to one control plane and reads their answers to the end."""

    def __init__(
        self,
        credentials: Credentials,
        timeouts: Timeouts,
        *,
        requests_per_second: float,
        ca_file: Path | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Make the client; `transport` in place of the network."""
        self.credentials = credentials
        self._timeouts = timeouts
        self._policy = POLICY
        self._bucket = TokenBucket(requests_per_second)
        # What HTTP/2 packs into a header block is logged by its library, the credential with it.
        logging.getLogger("hpack").setLevel(logging.INFO)
        secure = credentials.endpoint.startswith("https://")
        self._client = httpx.AsyncClient(
            base_url=credentials.endpoint,
            http2=secure,
            timeout=httpx.Timeout(timeouts.idle, connect=timeouts.connect, pool=timeouts.request),
            # Never followed: the credential is for this host.
            follow_redirects=False,
            headers={"User-Agent": f"sealos-devbox/{__version__}", "Accept": "application/json"},
            verify=_trust(ca_file, needed=transport is None and secure),
            transport=transport,
        )

    async def send(
        self,
        method: str,
        path: str,
        *,
        what: str,
        route: str = "",
        params: Mapping[str, str] | None = None,
        json: Any = None,  # noqa: ANN401 - any JSON value
        content_type: str = "application/json",
        repeatable: bool,
    ) -> Answer:
        """Send a request, again where that helps and may be done, and return the last answer.

        `what` begins the messages of errors; `route` is the path with placeholders, for spans;
        `repeatable` says whether the request may be carried out twice. Raises TransportError,
        DeadlineExceededError or ProtocolError when there is no answer.
        """
        headers = {"X-Request-Id": uuid.uuid4().hex}
        request = self._client.build_request(
            method,
            path,
            params=params,
            content=None if json is None else _encoded(json),
            headers=headers if json is None else {**headers, "Content-Type": content_type},
        )
        attributes: dict[str, str | int] = {
            "http.request.method": method,
            "url.template": route or path,
            "server.address": request.url.host,
        }
        with request_span(f"{method} {route or path}", attributes) as span:
            with anyio.move_on_after(self._timeouts.total) as scope:
                return await self._attempts(request, what, repeatable, scope, span)
            span.error = "deadline"
            raise DeadlineExceededError(
                f"{what} took longer than {self._timeouts.total:g} s.",
                hop="control-plane",
                request_id=headers["X-Request-Id"],
            )

    async def get_foreign(self, url: str, token: Secret | None = None) -> Answer:
        """Ask another host, once, and with a token of its own instead of the credential."""
        headers = {} if token is None else {"Authorization": f"Bearer {token.reveal()}"}
        request = self._client.build_request("GET", url, headers=headers)
        return await self._attempt(request, f"GET {url}", 1, authorized=False)

    async def aclose(self) -> None:
        """Close all connections. Safe to call twice."""
        with anyio.move_on_after(_CLOSE_TIMEOUT, shield=True):
            await self._client.aclose()

    async def _attempts(
        self,
        request: httpx.Request,
        what: str,
        repeatable: bool,
        scope: anyio.CancelScope,
        span: Span,
    ) -> Answer:
        attempt, renewed = 0, False
        while True:
            attempt += 1
            answer: Answer | None = None
            failure: DevboxError | None = None
            outcome: Outcome = "answered"
            retry_after: float | None = None
            await anyio.sleep(self._bucket.take(anyio.current_time()))
            try:
                answer = await self._attempt(request, what, attempt, authorized=True)
            except ConnectError as error:
                failure, outcome = error, "not-sent"
            except TransportError as error:
                failure, outcome = error, "broken"
            span.attributes["http.request.resend_count"] = attempt - 1
            if answer is not None:
                status = answer.effective_status
                span.attributes["http.response.status_code"] = answer.status
                span.error = str(status) if status >= 400 else ""
                if answer.refuses_credential and not renewed:
                    renewed = True
                    if await self.credentials.renew():
                        continue
                retry_after = answer.retry_after
            elif failure is not None and not failure.retryable:
                raise failure
            wait = self._policy.wait(
                attempt,
                outcome,
                status=None if answer is None else answer.effective_status,
                repeatable=repeatable,
                retry_after=retry_after,
                left=scope.deadline - anyio.current_time(),
                random=random.random(),  # noqa: S311 - nothing depends on its quality
            )
            if wait is None:
                if failure is not None:
                    raise failure
                if answer is not None:
                    return replace(answer, attempts=attempt)
            else:
                await anyio.sleep(wait)

    async def _attempt(
        self, request: httpx.Request, what: str, attempt: int, *, authorized: bool
    ) -> Answer:
        """Send once; raises ConnectError when it never left, TransportError when it broke."""
        if authorized:
            request.headers["Authorization"] = self.credentials.header.reveal()
        started = anyio.current_time()
        said = "no answer"
        try:
            with anyio.move_on_after(self._timeouts.request):
                answer = await self._exchange(request, what)
                said = f"{answer.status}, {len(answer.body)} bytes"
                return answer
            said = "timed out"
            raise TransportError(
                f"{what}: no answer within {self._timeouts.request:g} s.",
                hop="control-plane",
                request_id=_id_of(request),
            )
        except DevboxError as error:
            if said == "no answer":
                said = error.code
            raise
        finally:
            _log.debug(
                "%s %s: %s after %.0f ms (attempt %d, request %s)",
                request.method,
                request.url.path,
                said,
                (anyio.current_time() - started) * 1000,
                attempt,
                _id_of(request),
            )

    async def _exchange(self, request: httpx.Request, what: str) -> Answer:
        try:
            response = await self._client.send(request, stream=True)
            try:
                body = bytearray()
                async for piece in response.aiter_bytes():
                    body += piece
                    if len(body) > _LARGEST_BODY:
                        raise ProtocolError(
                            f"{what}: the answer is too large.", hop="control-plane"
                        )
            finally:
                with anyio.move_on_after(_CLOSE_TIMEOUT, shield=True):
                    await response.aclose()
        except httpx.HTTPError as error:
            raise self._failure(error, request, what) from None
        return Answer(
            status=response.status_code,
            content_type=response.headers.get("Content-Type", "").lower(),
            body=self._scrubbed(bytes(body)),
            request_id=response.headers.get("X-Request-Id") or _id_of(request),
            what=what,
            retry_after=retry_after_seconds(response.headers.get("Retry-After"), datetime.now(UTC)),
        )

    def _scrubbed(self, body: bytes) -> bytes:
        """Take the credential out of what a service says that quotes requests."""
        text = body.decode("utf-8", "surrogateescape")
        return self.credentials.header.scrub(text).encode("utf-8", "surrogateescape")

    def _failure(self, error: httpx.HTTPError, request: httpx.Request, what: str) -> DevboxError:
        """Translate; the original is left out: it holds the request, and so the credential."""
        hop: Hop = "gateway"
        request_id = _id_of(request)
        host = request.url.host
        if verification := _verification_error(error):
            return ConnectError(
                f"{what}: {host} cannot be trusted: {verification}.",
                hop=hop,
                code="certificate",
                retryable=False,
                hint="For a service with its own authority, name its certificates with ca_file.",
                request_id=request_id,
            )
        said = self.credentials.header.scrub(str(error)) or type(error).__name__
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
            return ConnectError(
                f"{what}: {host} cannot be reached ({said}).", hop=hop, request_id=request_id
            )
        if isinstance(error, httpx.TimeoutException):
            said = f"nothing came for {self._timeouts.idle:g} s"
        return TransportError(f"{what}: {said}.", hop=hop, request_id=request_id)


def _encoded(value: Any) -> bytes:  # noqa: ANN401 - any JSON value
    return msgspec.json.encode(value)


def _id_of(request: httpx.Request) -> str | None:
    found: str | None = request.headers.get("X-Request-Id")
    return found


def _trust(ca_file: Path | None, *, needed: bool) -> ssl.SSLContext | bool:
    if not needed:
        # Reading the usual authorities takes a tenth of a second. This one trusts nobody.
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"{ca_file} cannot be used: {error.strerror}.") from error


def _verification_error(error: BaseException) -> str:
    """Return what is wrong with the certificate, if that is what happened; else nothing."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return seen.verify_message
        seen = seen.__cause__ or seen.__context__
    return ""
