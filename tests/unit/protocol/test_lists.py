"""Long lists cut into requests, and answers put where they belong."""

import pytest

from sealos_devbox._protocol.lists import REQUEST_SIZE, parts_of, place
from sealos_devbox.errors import ProtocolError
from sealos_devbox.types import Attributes

ATTR = Attributes(0o100644, 1, 0, 0, 5, 1, 7, 7, 7)


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [
        ([], []),
        ([1, 2, 3], [(0, [0, 1, 2])]),
        ([REQUEST_SIZE], [(0, [0])]),
        ([REQUEST_SIZE - 1, 1, 1], [(0, [0, 1]), (2, [2])]),
        ([1, REQUEST_SIZE, 1], [(0, [0]), (1, [1]), (2, [2])]),
        ([1, REQUEST_SIZE + 1, 1], [(0, [0]), (1, [1]), (2, [2])]),
        ([REQUEST_SIZE + 1] * 2, [(0, [0]), (1, [1])]),
    ],
)
def test_parts(sizes: list[int], parts: list[tuple[int, list[int]]]) -> None:
    assert parts_of(range(len(sizes)), sizes) == parts


def test_answers_in_their_places() -> None:
    answers: list[Attributes | int | None] = [None] * 3
    place(answers, 2, ATTR, 0)
    place(answers, 0, None, 2)
    assert answers == [2, None, ATTR]


@pytest.mark.parametrize(
    ("index", "attr", "number"), [(-1, ATTR, 0), (3, ATTR, 0), (0, ATTR, 2), (0, None, 0)]
)
def test_answers_that_are_none(index: int, attr: Attributes | None, number: int) -> None:
    with pytest.raises(ProtocolError):
        place([None] * 3, index, attr, number)
