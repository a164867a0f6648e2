"""What an API server's refusals mean, and those of what stands before it."""

from __future__ import annotations

import json
from typing import Final

import httpx

from sealos_devbox._transport.kube.proxies import without_password
from sealos_devbox.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AuthenticationError,
    ConnectError,
    DevboxError,
    InvalidRequestError,
    NotFoundError,
    PaymentRequiredError,
    QuotaExceededError,
    RateLimitedError,
    ServerError,
    ServiceError,
)

__all__ = ["refusal", "upgrade_refusal"]

SHOWN: Final = 300

_KINDS: dict[int, type[ServiceError]] = {
    400: InvalidRequestError,
    401: AuthenticationError,
    403: AccessDeniedError,
    404: NotFoundError,
    409: AlreadyExistsError,
    422: InvalidRequestError,
    429: RateLimitedError,
}
_HINTS = {
    401: "The kubeconfig's credential has expired or is for another cluster: fetch a new one.",
    403: "Ask the workspace's owner for a role that has this right.",
}


def refusal(response: httpx.Response, body: bytes, proxy: str | None) -> DevboxError:
    """Return the error for an answer that is not the one asked for."""
    message = _status_message(body)
    code = response.status_code
    if message is None:
        return ConnectError(
            f"{_who(response, proxy)} answered HTTP {code} instead of the API server"
            f"{_excerpt(response, body)}",
            hop="gateway",
            status=code,
            retryable=code >= 500,
            hint="Look at the server of the kubeconfig, and at proxies on the way.",
        )
    # What an admission webhook and a ResourceQuota say comes as a refusal of a right too.
    if code == httpx.codes.PAYMENT_REQUIRED or "40001:" in message:
        return PaymentRequiredError(message, hop="cluster", status=code)
    if "exceeded quota" in message:
        return QuotaExceededError(message, hop="cluster", status=code)
    kind = _KINDS.get(code, ServerError if code >= 500 else ServiceError)
    return kind(message, hop="cluster", status=code, hint=_HINTS.get(code, ""))


def upgrade_refusal(response: httpx.Response, body: bytes, proxy: str | None) -> DevboxError:
    """Return the error for an answer to an upgrade that is no upgrade."""
    code = response.status_code
    message = _status_message(body)
    if message is not None and not (code == 400 and "pgrade" in message):
        return refusal(response, body, proxy)
    # The API server says "Upgrade request required" when the header that asks for it is lost.
    said = f": {message}" if message else _excerpt(response, body)
    return ConnectError(
        f"{_who(response, proxy)} answered HTTP {code} and does not pass WebSockets on{said}",
        hop="gateway",
        status=code,
        retryable=code >= 500,
        hint="An exec stream is a WebSocket: the proxy or load balancer before the API server has "
        "to let the Upgrade header pass (nginx: proxy_http_version 1.1; proxy_set_header Upgrade "
        "$http_upgrade; proxy_set_header Connection upgrade).",
    )


def _status_message(body: bytes) -> str | None:
    """Return the message of a Status object; None when the body is none."""
    try:
        status = json.loads(body)
    except ValueError:
        return None
    if not isinstance(status, dict) or status.get("kind") != "Status":
        return None
    return str(status.get("message") or status.get("reason") or "refused without a reason")


def _who(response: httpx.Response, proxy: str | None) -> str:
    server = response.headers.get("Server") or response.headers.get("Via")
    name = f"A proxy ({server[:60]})" if server else "A proxy"
    if proxy:
        name += f", perhaps {without_password(proxy)},"
    return name


def _excerpt(response: httpx.Response, body: bytes) -> str:
    if not response.headers.get("Content-Type", "").startswith("text/plain"):
        return "."
    text = body[:SHOWN].decode(errors="backslashreplace").strip()
    return f": {text}" if text else "."
