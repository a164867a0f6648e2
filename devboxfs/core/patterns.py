"""Patterns of names, for `--local` and `--exclude`: those of .gitignore, without `!`.

A pattern without a slash, or with one at its end only, means a name wherever it is. Any other is
anchored at the directory that is mounted. `*` and `?` stop at slashes, `**` as a whole part of the
path does not, `[...]` is a class, a backslash takes the next character as it is. What is below a
match need not match: it is reached through the match only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

__all__ = ["Patterns", "check_pattern"]

_WILD: Final = frozenset("*?[\\")
_ANY: Final = rb"(?:[\xc2-\xf4][\x80-\xbf]+|[^/])"  # of UTF-8 a whole character


def check_pattern(pattern: str) -> None:
    """Refuse what cannot match any name.

    Raises:
        ValueError: the text says why.
    """
    body = pattern.strip("/")
    parts = body.split("/")
    if not body or "\0" in pattern:
        raise ValueError(f"{pattern!r} is no pattern of names.")
    if any(part in {"", ".", ".."} for part in parts):
        raise ValueError(f"{pattern!r} has an empty part, `.` or `..`, which no name matches.")
    if all(part == "**" for part in parts):
        raise ValueError(f"{pattern!r} would match everything.")
    _translate(body)


class Patterns:
    """A set of patterns. Most are plain names, which cost one look into a set."""

    def __init__(self, patterns: Iterable[str]) -> None:
        plain: set[bytes] = set()
        names: list[bytes] = []
        paths: list[bytes] = []
        for pattern in patterns:
            check_pattern(pattern)
            body = pattern.rstrip("/")
            while body.startswith("**/"):
                # Anywhere, which is what a pattern without a slash says.
                rest = body.removeprefix("**/")
                if "/" in rest and not rest.startswith("**/"):
                    break
                body = rest
            if "/" in body:
                paths.append(_translate(body.lstrip("/")))
            elif _WILD.isdisjoint(body):
                plain.add(_bytes(body))
            else:
                names.append(_translate(body))
        self._plain = frozenset(plain)
        self._name = re.compile(b"|".join(names), re.DOTALL) if names else None
        self._path = re.compile(b"|".join(paths), re.DOTALL) if paths else None

    def __bool__(self) -> bool:
        """Whether there is any pattern."""
        return bool(self._plain) or self._name is not None or self._path is not None

    def match(self, name: bytes, path: Callable[[], bytes]) -> bool:
        """Whether an entry matches; `path`, from the mount's root, is asked for only if needed."""
        if name in self._plain:
            return True
        if self._name is not None and self._name.fullmatch(name):
            return True
        return self._path is not None and self._path.fullmatch(path()) is not None


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _translate(body: str) -> bytes:
    """Translate a pattern without leading and trailing slashes."""
    parts = body.split("/")
    done = b""
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if part == "**":
            done += b".*" if last else b"(?:.*/)?"
        else:
            done += _part(part) + (b"" if last else b"/")
    return b"(?:" + done + b")"


def _part(part: str) -> bytes:
    done = b""
    at = 0
    while at < len(part):
        character = part[at]
        at += 1
        if character == "*":
            done += b"[^/]*"
        elif character == "?":
            done += _ANY
        elif character == "\\":
            if at == len(part):
                raise ValueError(f"The pattern {part!r} ends with a backslash.")
            done += re.escape(_bytes(part[at]))
            at += 1
        elif character == "[":
            end = part.find("]", at + 1 + part.startswith("!", at))
            if end < 0:
                raise ValueError(f"The pattern {part!r} opens a class that it does not close.")
            done += _class(part[at:end])
            at = end + 1
        else:
            done += re.escape(_bytes(character))
    return done


def _class(inside: str) -> bytes:
    negated = inside[:1] in {"!", "^"}
    kept = _bytes(inside[negated:])
    if not kept.isascii():
        raise ValueError(f"The class [{inside}] holds other characters than ASCII.")
    escaped = re.sub(rb"([\\\[\]^&~|])", rb"\\\1", kept)
    compiled = (b"[^/" if negated else b"[") + escaped + b"]"
    try:
        re.compile(compiled)
    except re.error as error:
        raise ValueError(f"The class [{inside}] makes no sense: {error}.") from None
    return compiled
