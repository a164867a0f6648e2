"""The rule of read-ahead."""

import random

import pytest

from devboxfs.core.chunks import BLOCK, RANGE
from devboxfs.core.readahead import ReadAhead

MIB = 1024 * 1024
SIZE = 200 * MIB


def covered(ranges: list[tuple[int, int]], offset: int, end: int) -> bool:
    return any(start <= offset and end <= stop for start, stop in ranges)


def test_the_start_of_a_file_is_read_on() -> None:
    assert ReadAhead(SIZE).access(0, BLOCK) == [(0, RANGE)]


def test_a_random_read_gets_its_blocks_only() -> None:
    readahead = ReadAhead(SIZE)
    assert readahead.access(50 * MIB + 5, 10) == [(50 * MIB, 50 * MIB + BLOCK)]
    assert readahead.access(90 * MIB - 5, 10) == [(90 * MIB - BLOCK, 90 * MIB + BLOCK)]


def test_the_end_of_the_file_bounds_everything() -> None:
    size = 10 * MIB + 17
    readahead = ReadAhead(size)
    assert readahead.access(size - 5, 100) == [(10 * MIB, size)]
    assert readahead.access(size, 100) == []
    assert readahead.access(size + MIB, 100) == []


@pytest.mark.parametrize("start", [0, 64 * MIB])
def test_sequential_reading_is_ahead_and_never_asks_twice(start: int) -> None:
    readahead = ReadAhead(SIZE, most=8)
    planned = start
    ahead = []
    for offset in range(start, start + 40 * MIB, BLOCK):
        for first, end in readahead.access(offset, BLOCK):
            assert first == planned
            planned = end
        assert planned >= offset + BLOCK
        ahead.append((planned - offset) / MIB)
    assert max(ahead) <= 9
    assert min(ahead[20 * MIB // BLOCK :]) >= 3.8


def test_the_window_doubles() -> None:
    readahead = ReadAhead(SIZE, most=8)
    planned = 0
    ahead = []
    for offset in range(0, 30 * MIB, BLOCK):
        for _, end in readahead.access(offset, BLOCK):
            planned = end
            ahead.append((planned - offset - BLOCK) / MIB)
    # To the next whole range: a little more than 1, 2, 4, 8.
    assert [round(each) for each in ahead[:5]] == [1, 2, 4, 8, 8]


def test_pieces_out_of_order_are_one_stream() -> None:
    rng = random.Random(5)
    readahead = ReadAhead(SIZE)
    planned: list[tuple[int, int]] = []
    for base in range(0, 32 * MIB, 8 * BLOCK):
        offsets = [base + n * BLOCK for n in range(8)]
        rng.shuffle(offsets)
        for offset in offsets:
            planned += readahead.access(offset, BLOCK)
    beyond = [end for _, end in planned if end > 33 * MIB]
    assert beyond, "reading was not recognised as sequential"


def test_two_readers_of_one_file_each_have_a_stream() -> None:
    readahead = ReadAhead(SIZE)
    seen = {0: 0, 100 * MIB: 100 * MIB}
    for step in range(0, 16 * MIB, BLOCK):
        for base in seen:
            for _, end in readahead.access(base + step, BLOCK):
                seen[base] = max(seen[base], end)
    for base, end in seen.items():
        assert end >= base + 19 * MIB


def test_random_reads_never_read_ahead() -> None:
    rng = random.Random(3)
    readahead = ReadAhead(4 * 1024 * MIB)
    asked = 0
    for _ in range(200):
        offset = rng.randrange(RANGE, 4 * 1024 * MIB)
        asked += sum(end - start for start, end in readahead.access(offset, 4096))
    assert asked <= 200 * 2 * BLOCK


def test_what_was_read_is_asked_for_again_if_need_be() -> None:
    readahead = ReadAhead(SIZE)
    readahead.access(0, BLOCK)
    readahead.access(BLOCK, BLOCK)
    assert covered(readahead.access(0, BLOCK), 0, BLOCK)
