"""Lists that do not fit into one request: cut into parts, their answers put back in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

from sealos_devbox.errors import ProtocolError
from sealos_devbox.types import Attributes

__all__ = ["REQUEST_SIZE", "parts_of", "place"]

REQUEST_SIZE: Final = 96 * 1024
"""Of the lists in one request, so that it fits into a frame; longer ones are asked for in several
requests at once."""

T = TypeVar("T")


def parts_of(values: Sequence[T], sizes: Sequence[int]) -> list[tuple[int, list[T]]]:
    """Cut a list into parts of at most REQUEST_SIZE; returns (index of the first, part).

    A value that is larger than that is a part of its own.
    """
    parts: list[tuple[int, list[T]]] = []
    room = 0
    for index, (value, size) in enumerate(zip(values, sizes, strict=True)):
        if size > room or not parts:
            parts.append((index, []))
            room = REQUEST_SIZE
        parts[-1][1].append(value)
        room -= size
    return parts


def place(
    answers: list[Attributes | int | None], index: int, attr: Attributes | None, number: int
) -> None:
    """Put what is said of one path, attributes or an errno, where the path was in the list.

    Raises ProtocolError when it is neither, both, or of no path.
    """
    if not 0 <= index < len(answers) or (attr is None) != bool(number):
        raise ProtocolError("stat_many answered nonsense")
    answers[index] = number if attr is None else attr
