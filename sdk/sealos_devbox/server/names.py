"""Names, secrets and keys as the service makes them up (kubernetes.md 2.2, 4)."""

from __future__ import annotations

import secrets
import string

__all__ = ["letters", "secret", "unique_id"]

# The alphabet of the box's secret: no vowels, no digits that look like letters.
_SECRET_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # noqa: S105 - an alphabet
_FIRST = ("amber", "brisk", "calm", "dusty", "early", "fresh", "grand", "hollow", "inner", "jolly")
_SECOND = ("anchor", "brook", "cedar", "delta", "ember", "field", "grove", "harbor", "isle", "lake")


def letters(count: int) -> str:
    """Return random lower-case letters."""
    return "".join(secrets.choice(string.ascii_lowercase) for _ in range(count))


def secret() -> str:
    """Return what a box's agent asks for: 32 characters."""
    return "".join(secrets.choice(_SECRET_ALPHABET) for _ in range(32))


def unique_id() -> str:
    """Return a box's public host key: word-word-four letters."""
    return f"{secrets.choice(_FIRST)}-{secrets.choice(_SECOND)}-{letters(4)}"
