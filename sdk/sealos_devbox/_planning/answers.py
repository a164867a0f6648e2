"""What an HTTP answer of the control plane means: data, or an error of our tree.

v1 wraps everything in ``{code, statusText, message, data}``; on the older lineage the HTTP status
is always 200 and only `code` counts, on the current one they agree, and what stands before either
answers with web pages and plain text. v2alpha has bare bodies and errors of its own. Both mark a
refused credential badly: 403, a 500, or what Kubernetes said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from sealos_devbox.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AuthenticationError,
    DevboxError,
    Hop,
    InvalidRequestError,
    NotFoundError,
    PaymentRequiredError,
    ProtocolError,
    QuotaExceededError,
    RateLimitedError,
    ServerError,
    ServiceError,
)

__all__ = ["NO_SUCH_ROUTE", "Answer", "bare_data", "v1_data", "v2_data"]

NO_SUCH_ROUTE = "no-such-route"
"""The code of the error for a path or method that this control plane does not have."""

_SHOWN = 300
"""Characters of a text of the service that are shown."""

_MAYBE_CREDENTIAL = (
    "This service also answers so when it does not accept the credential: check the kubeconfig."
)


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, read to its end."""

    status: int
    content_type: str
    body: bytes
    request_id: str | None = None
    what: str = "The request"
    """For messages."""
    retry_after: float | None = None
    """Seconds that the service wants to be left alone."""
    attempts: int = 1
    """Which attempt was answered; an earlier one may have been carried out too."""

    @property
    def json(self) -> bool:
        """Whether it says that it is JSON."""
        return "json" in self.content_type

    @property
    def effective_status(self) -> int:
        """The status that counts: of an envelope, which may say more than HTTP does."""
        if self.json and self.status == 200 and b'"code"' in self.body[:200]:
            try:
                body = msgspec.json.decode(self.body)
            except (msgspec.DecodeError, RecursionError):
                return self.status
            code = body.get("code") if isinstance(body, dict) else None
            if isinstance(code, int) and code >= 400:
                return code
        return self.status

    @property
    def refuses_credential(self) -> bool:
        """Whether it says, in one of the ways that are not ambiguous, who one is not."""
        return self.effective_status == 401 or (
            self.effective_status == 403 and b"credential error" in self.body
        )

    def decoded(self) -> object:
        """Return the JSON value; raises ProtocolError, for what is none, cut bodies included."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolError(
                f"{self.what}: the answer is no JSON ({error}).",
                hop="control-plane",
                status=self.status,
                request_id=self.request_id,
                retryable=True,
            ) from None


def v1_data(answer: Answer) -> object:
    """Return `data` of the envelope; raises what the service says instead."""
    body = _body(answer)
    if not isinstance(body, dict) or not isinstance(body.get("code"), int):
        raise _unexpected(answer)
    code = body["code"]
    if 200 <= code < 300 and answer.status < 300:
        return body.get("data")
    text = _text(body.get("message")) or _text(body.get("statusText"))
    # The older lineage sends 200 with every error: only `code` says how bad it is.
    status = code if code >= 400 else answer.status
    raise _refusal(answer, status, _text(body.get("statusText")), text, body.get("data"))


def bare_data(answer: Answer) -> object:
    """Return the body of a v1 route that has no envelope, or refuses in one."""
    body = _body(answer)
    if isinstance(body, dict) and isinstance(body.get("code"), int):
        return v1_data(answer)
    if answer.status >= 300:
        raise _refusal(answer, answer.status, "", "", body)
    return body


def v2_data(answer: Answer) -> object:
    """Return the body of a v2alpha route, None where there is none."""
    if answer.status in (202, 204) and not answer.body:
        return None
    body = _body(answer)
    if answer.status < 300:
        return body
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        raise _refusal(answer, answer.status, "", "", body)
    raise _refusal(
        answer,
        answer.status,
        _text(error.get("code")),
        _text(error.get("message")),
        error.get("details"),
    )


def _body(answer: Answer) -> object:
    if answer.json:
        return answer.decoded()
    raise _foreign(answer)


def _foreign(answer: Answer) -> DevboxError:
    """Make the error for an answer that is not the control plane's: a page, a text, nothing."""
    shown = _excerpt(answer)
    facts: dict[str, Any] = {"status": answer.status, "request_id": answer.request_id}
    if answer.status in (404, 405):
        return NotFoundError(
            f"{answer.what}: the service has no such route (HTTP {answer.status}).",
            code=NO_SUCH_ROUTE,
            hint="Is the endpoint a Devbox control plane, https://devbox.<domain>?",
            **facts,
        )
    gateway: Hop = "gateway"
    if answer.status == 429:
        return RateLimitedError(f"{answer.what}: too many requests{shown}.", hop=gateway, **facts)
    if answer.status in (400, 413, 414, 431) or answer.status == 494:
        return InvalidRequestError(
            f"{answer.what}: the request was not let through (HTTP {answer.status}){shown}.",
            hop=gateway,
            hint="If the credential is large, use a kubeconfig whose user has a token.",
            **facts,
        )
    if answer.status in (401, 403):
        return AuthenticationError(
            f"{answer.what}: HTTP {answer.status}{shown}.", hop=gateway, **facts
        )
    if answer.status >= 500:
        return ServerError(f"{answer.what}: HTTP {answer.status}{shown}.", hop=gateway, **facts)
    return ProtocolError(
        f"{answer.what}: HTTP {answer.status} with something that is no answer of a control "
        f"plane{shown}.",
        hop=gateway,
        hint="Is the endpoint a Devbox control plane, https://devbox.<domain>?",
        **facts,
    )


def _refusal(answer: Answer, status: int, kind: str, text: str, data: object) -> ServiceError:
    """Make the error for what the control plane says, in whichever form it says it."""
    reason = _reason(data)
    said = ": ".join(part for part in (text, reason) if part and part != "Internal server error")
    message = f"{answer.what}: {said or text or f'HTTP {status}'}"[: 4 * _SHOWN].rstrip(".") + "."
    facts: dict[str, Any] = {"status": status, "request_id": answer.request_id}
    everything = f"{kind} {text} {reason}".lower()
    if status == 402 or "40001:" in everything or "insufficient_balance" in everything:
        return PaymentRequiredError(message, **facts)
    if "exceeded quota" in everything or "_exceeds_quota" in everything:
        return QuotaExceededError(message, **facts)
    if status == 401 or "credential error" in everything or "authentication_required" in everything:
        return AuthenticationError(message, **facts)
    if status == 403:
        return AccessDeniedError(message, **facts)
    if status >= 500 and ("unauthorized" in everything or "401" in reason):
        return AuthenticationError(message, **facts)
    if status >= 500 and ("forbidden" in everything or "permission_denied" in everything):
        return AccessDeniedError(message, **facts)
    code = data.get("type", "") if isinstance(data, dict) else ""
    code = code.lower().replace("_", "-") if isinstance(code, str) else ""
    if status == 404:
        return NotFoundError(message, code=code, **facts)
    if status == 409:
        return AlreadyExistsError(message, code=code, **facts)
    if status == 429:
        return RateLimitedError(message, **facts)
    if status >= 500 or status == 408:
        vague = not reason and (not text or text == "Internal server error")
        return ServerError(message, hint=_MAYBE_CREDENTIAL if vague else "", **facts)
    return InvalidRequestError(message, **facts)


def _reason(data: object) -> str:
    """Return what the details say, for people to read: issues, a Kubernetes Status, a text."""
    if isinstance(data, str):
        return data[:_SHOWN]
    if isinstance(data, dict):
        return _text(data.get("message")) or _text(data.get("error")) or _text(data.get("reason"))
    if isinstance(data, list):
        issues = []
        for issue in data[:5]:
            if isinstance(issue, dict):
                path = issue.get("path", issue.get("field", ""))
                where = ".".join(map(str, path)) if isinstance(path, list) else _text(path)
                issues.append(": ".join(filter(None, (where, _text(issue.get("message"))))))
        return "; ".join(issues)
    return ""


def _unexpected(answer: Answer) -> ProtocolError:
    return ProtocolError(
        f"{answer.what}: the answer has not the form that the control plane's answers have.",
        hop="control-plane",
        status=answer.status,
        request_id=answer.request_id,
    )


def _text(value: object) -> str:
    return value[:_SHOWN] if isinstance(value, str) else ""


def _excerpt(answer: Answer) -> str:
    text = answer.body[:2000].decode("utf-8", "replace").strip()
    if not text or text.startswith("<") or not text.isprintable():
        return ""
    return f": {text[:_SHOWN]}".rstrip(".")
