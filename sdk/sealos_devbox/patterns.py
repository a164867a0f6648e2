"""Patterns of names: those of .gitignore, without `!` (PROTOCOL.md section 5.1).

A pattern without a slash, or with one at its end only, means a name wherever it is. Any other is
anchored at the directory where patterns begin. `*` and `?` stop at slashes, `**` as a whole part of
the path does not, `[...]` is a class, a backslash takes the next character as it is. What is below
a match need not match: it is reached through the match only.

Names are bytes. A character is one of UTF-8, or a byte that is none. The helper reads patterns in
the same way; sdk/testvectors/patterns.json is tried by both sides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

__all__ = ["Patterns", "Prune", "check_pattern"]

_WILD: Final = frozenset("*?[\\")
_ANY: Final = "[^/]"


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
    _translate(parts)


class Patterns:
    """A set of patterns. Most are plain names, which cost one look into a set."""

    def __init__(self, patterns: Iterable[str]) -> None:
        plain: set[bytes] = set()
        names: list[str] = []
        paths: list[str] = []
        for pattern in patterns:
            check_pattern(pattern)
            parts = pattern.strip("/").split("/")
            anywhere = not pattern.startswith("/") and all(part == "**" for part in parts[:-1])
            if not anywhere:
                paths.append(_translate(parts))
            elif _WILD.isdisjoint(parts[-1]):
                plain.add(parts[-1].encode("utf-8", "surrogateescape"))
            else:
                names.append(_translate(parts[-1:]))
        self.plain: Final = frozenset(plain)
        """Those that are names."""
        self._name = re.compile("|".join(names), re.DOTALL) if names else None
        self._path = re.compile("|".join(paths), re.DOTALL) if paths else None

    def __bool__(self) -> bool:
        """Whether there is any pattern."""
        return bool(self.plain) or self._name is not None or self._path is not None

    @property
    def anchored(self) -> bool:
        """Whether it matters for any where an entry is."""
        return self._path is not None

    def match(self, name: bytes, path: Callable[[], bytes]) -> bool:
        """Whether an entry matches; `path`, from where patterns begin, is asked for if needed."""
        if name in self.plain:
            return True
        if self._name is not None and self._name.fullmatch(_text(name)):
            return True
        return self._path is not None and self._path.fullmatch(_text(path())) is not None


@dataclass(frozen=True, slots=True)
class Prune:
    """What a snapshot and a watch do not look into (PROTOCOL.md section 5.1).

    Directories that match are named as entries of theirs, and that is all. Raises ValueError for
    what is no pattern.
    """

    names: tuple[str, ...] = ()
    """Patterns of anything: of what matches only that it comes and goes is worth telling."""
    directories: tuple[str, ...] = ()
    """Patterns of directories."""
    base: bytes = b""
    """The directory where patterns begin; what is not below it never matches."""
    patterns: Patterns = field(init=False, repr=False, compare=False)
    """All of them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "patterns", Patterns((*self.names, *self.directories)))

    def __bool__(self) -> bool:
        """Whether it leaves anything out."""
        return bool(self.patterns)

    def matches(self, path: bytes) -> bool:
        """Whether a directory at this path of the workspace is left out."""
        below = path
        if self.base:
            if not path.startswith(self.base + b"/"):
                return False
            below = path[len(self.base) + 1 :]
        return self.patterns.match(path.rpartition(b"/")[2], lambda: below)

    def wire(self) -> list[object]:
        """Return the argument of a request."""
        return [
            self.base,
            [pattern.encode("utf-8", "surrogateescape") for pattern in self.names],
            [pattern.encode("utf-8", "surrogateescape") for pattern in self.directories],
        ]


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _translate(parts: list[str]) -> str:
    """Translate the parts of a pattern."""
    done = ""
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if part != "**":
            done += _part(part) + ("" if last else "/")
        elif last:
            done += ".*"
        elif parts[number + 1] != "**":
            done += "(?:.*/)?"
    return "(?:" + done + ")"


def _part(part: str) -> str:
    done = ""
    at = 0
    while at < len(part):
        character = part[at]
        at += 1
        if character == "*":
            if not done.endswith(_ANY + "*"):
                done += _ANY + "*"
        elif character == "?":
            done += _ANY
        elif character == "\\":
            if at == len(part):
                raise ValueError(f"The pattern {part!r} ends with a backslash.")
            done += re.escape(part[at])
            at += 1
        elif character == "[":
            negated = part[at : at + 1] in {"!", "^"}
            # A `]` that comes first is one of its members.
            end = part.find("]", at + negated + 1)
            if end < 0:
                raise ValueError(f"The pattern {part!r} opens a class that it does not close.")
            done += _class(part[at + negated : end], negated=negated)
            at = end + 1
        else:
            done += re.escape(character)
    return done


def _class(members: str, *, negated: bool) -> str:
    if not members.isascii():
        raise ValueError(f"The class [{members}] holds other characters than ASCII.")
    done = "[^/" if negated else "["
    at = 0
    while at < len(members):
        low = high = members[at]
        at += 1
        if members[at : at + 1] == "-" and at + 1 < len(members):
            high = members[at + 1]
            at += 2
        if low > high:
            raise ValueError(f"The class [{members}] has a range that runs backwards.")
        done += f"\\x{ord(low):02x}-\\x{ord(high):02x}"
    return done + "]"
