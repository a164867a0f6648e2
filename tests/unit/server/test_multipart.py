"""Forms, cut into pieces of every size."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealos_devbox.server.agent.multipart import (
    Data,
    MultipartError,
    MultipartReader,
    Part,
    boundary_of,
)

BODY = (
    b"preamble\r\n--B\r\n"
    b'Content-Disposition: form-data; name="path"\r\n\r\na/b\r\n--B\r\n'
    b'content-disposition: form-data; name="file"; filename="x%22y"\r\nX: 1\r\n\r\n'
    b"\r\n--b\r\n--\r\n--B\r\n"
    b'Content-Disposition: form-data; name=empty; filename="z"\r\n\r\n\r\n--B--\r\nepilogue'
)


def parts(pieces: list[bytes]) -> tuple[list[tuple[str | None, str | None, bytes]], bool]:
    reader = MultipartReader(b"B")
    found: list[tuple[str | None, str | None, bytes]] = []
    for piece in pieces:
        for event in reader.feed(piece):
            if isinstance(event, Part):
                found.append((event.name, event.filename, b""))
            elif isinstance(event, Data):
                name, filename, data = found[-1]
                found[-1] = (name, filename, data + event.data)
    return found, reader.complete


@given(st.lists(st.integers(0, len(BODY)), max_size=12))
def test_every_split_gives_the_same(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(BODY)]
    pieces = [BODY[start:end] for start, end in itertools.pairwise(edges)]
    found, complete = parts(pieces)
    assert complete
    assert found == [
        ("path", None, b"a/b"),
        ("file", 'x"y', b"\r\n--b\r\n--"),
        ("empty", "z", b""),
    ]


def test_a_body_that_is_cut_is_not_complete() -> None:
    for end in range(len(BODY) - len(b"--\r\nepilogue") + 1):
        assert not parts([BODY[:end]])[1]


def test_bodies_that_are_no_forms() -> None:
    with pytest.raises(MultipartError):
        boundary_of("multipart/form-data")
    with pytest.raises(MultipartError):
        MultipartReader(b"B").feed(b"--B\r\n" + b"x" * 20_000)
