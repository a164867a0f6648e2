"""When a request is sent again, and after which wait.

What may be repeated: a request that certainly was not carried out (no connection was made; 429),
and one that can be carried out twice without harm, after anything that may pass. Waits grow, are
spread at random so that many clients do not come back at once, and are never shorter than what the
service asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Literal

__all__ = ["Outcome", "RetryPolicy", "TokenBucket", "retry_after_seconds"]

PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that the next attempt may not meet."""

Outcome = Literal["not-sent", "broken", "answered"]
"""What became of an attempt: it never left; it broke on the way; there is an answer."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, and how long between."""

    attempts: int = 4
    first_wait: float = 0.5
    """Seconds, on average."""
    longest_wait: float = 10.0

    def wait(
        self,
        attempt: int,
        outcome: Outcome,
        *,
        status: int | None = None,
        repeatable: bool,
        retry_after: float | None = None,
        left: float,
        random: float,
    ) -> float | None:
        """Return the seconds to wait before the next attempt, None when there shall be none.

        `attempt` counts from 1; `left` is what is left of the deadline over all attempts; `random`
        is between 0 and 1.
        """
        if attempt >= self.attempts:
            return None
        if outcome == "answered":
            if status not in PASSING or not (repeatable or status == 429):
                return None
        elif outcome == "broken" and not repeatable:
            return None
        average = min(self.first_wait * 2.0 ** (attempt - 1), self.longest_wait)
        wait = average * (0.5 + random)
        if retry_after is not None:
            wait = retry_after + wait * 0.1
        return wait if wait < left else None


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """Return what a Retry-After header asks for (RFC 9110 10.2.3); None when it says nothing."""
    if not value:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - now).total_seconds())
    except (ValueError, TypeError):
        return None


class TokenBucket:
    """A limit on requests: `rate` a second in the long run, `burst` at once."""

    def __init__(self, rate: float, burst: float | None = None) -> None:
        self._rate = rate
        self._burst = max(1.0, rate if burst is None else burst)
        self._tokens = self._burst
        self._last: float | None = None

    def take(self, now: float) -> float:
        """Take one, and return how long to wait before using it."""
        if self._last is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._last) * self._rate)
        self._last = now
        self._tokens -= 1.0
        return max(0.0, -self._tokens / self._rate)
