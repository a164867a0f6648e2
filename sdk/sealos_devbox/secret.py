"""A text that must not be shown.

What holds a credential holds it as a Secret: its repr, its str and its format are the same for
every secret, so that a log line, an error or a traceback with local variables shows nothing.
"""

from __future__ import annotations

import hmac

__all__ = ["Secret"]

_MASK = "[secret]"
# Shorter texts are no credentials, and would be found in the middle of ordinary words.
_SHORTEST = 6


class Secret:
    """A credential. `reveal` is the only way to its text."""

    __slots__ = ("_parts", "_text")

    def __init__(self, text: str, *parts: str) -> None:
        """Hide `text`; `parts` are texts inside it that must not be shown by themselves either."""
        self._text = text
        self._parts = parts

    def reveal(self) -> str:
        """Return the text."""
        return self._text

    def scrub(self, text: str) -> str:
        """Return `text`, which others wrote, without this secret in it."""
        for part in sorted((self._text, *self._parts), key=len, reverse=True):
            if len(part) >= _SHORTEST:
                text = text.replace(part, _MASK)
        return text

    def __repr__(self) -> str:
        return _MASK

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a secret is not pickled")
