"""When operations came in."""

from devboxfs.core.ops import Kind, Operation
from devboxfs.writeback.arrivals import Arrivals
from devboxfs.writeback.limits import Limits


def write(seq: int, length: int) -> Operation:
    return Operation(Kind.WRITE, 1, b"a", 0, seq=seq, length=length)


def mkdir(seq: int) -> Operation:
    return Operation(Kind.MKDIR, 1, b"a", 0, seq=seq)


def test_enough_came_by_names_or_by_bytes_since_the_last_cut() -> None:
    limits = Limits(batch_operations=3, batch_bytes=100)
    arrivals = Arrivals(limits)
    for seq in (1, 2):
        arrivals.accept(mkdir(seq), 0.0)
    for seq in range(3, 9):
        arrivals.accept(Operation(Kind.SETATTR, 1, b"a", 0, seq=seq), 0.0)
    arrivals.accept(write(9, 99), 0.0)
    assert not arrivals.enough
    arrivals.accept(write(10, 1), 0.0)
    assert arrivals.enough
    arrivals.cut(all_went=True)
    assert not arrivals.enough
    for seq in (11, 12, 13):
        arrivals.accept(mkdir(seq), 0.0)
    assert arrivals.enough


def test_first_and_last_are_of_what_came_since_the_last_cut() -> None:
    arrivals = Arrivals(Limits())
    assert arrivals.first is None
    arrivals.accept(mkdir(1), 5.0)
    arrivals.accept(mkdir(2), 6.0)
    arrivals.touch(7.0)
    assert (arrivals.first, arrivals.last) == (5.0, 7.0)
    arrivals.cut(all_went=False)
    assert arrivals.first == 5.0
    arrivals.cut(all_went=True)
    assert arrivals.first is None
    arrivals.touch(9.0)
    assert (arrivals.first, arrivals.last) == (9.0, 9.0)


def test_age_is_that_of_the_oldest_to_a_second() -> None:
    arrivals = Arrivals(Limits())
    assert arrivals.age(1, 0.0) is None
    arrivals.note_age(1, 10.0)
    arrivals.note_age(2, 11.0)
    assert arrivals.age(1, 15.0) == 5.0
    for seq in range(3, 43):
        arrivals.accept(mkdir(seq), 10.0 + seq / 4)
    for oldest in range(3, 43):
        age = arrivals.age(oldest, 30.0)
        assert age is not None
        assert 0 <= age - (20.0 - oldest / 4) <= 1.0
