"""What the planner makes of single situations.

Tests/property/test_plan_model.py has all of them together.
"""

from __future__ import annotations

from devboxfs.core.deferral import bypassing, split
from devboxfs.core.ops import Kind, Operation, Source
from devboxfs.core.plan import plan
from devboxfs.core.planned import Left
from devboxfs.core.wire_batch import SPARSE
from sealos_devbox import RENAME_EXCHANGE, Version


class Zeros:
    def read(self, offset: int, length: int) -> bytes:
        return bytes(length)


BASE = Version(77, 5, 6, 100)


def op(kind: Kind, oid: int, path: bytes, seq: int, **values: object) -> Operation:
    made = Operation(kind, oid, path, 1000 + seq, seq, **values)  # type: ignore[arg-type]
    if kind is Kind.WRITE:
        made.source = Source(Zeros(), 0)
        made.length = made.length or 10
    return made


def test_an_extracted_file_is_one_put() -> None:
    made = plan(
        [
            op(Kind.CREATE, 1, b"d/f", 1, mode=0o600),
            op(Kind.WRITE, 1, b"d/f", 2, mode=0o600),
            op(Kind.SETATTR, 1, b"d/f", 3, mtime_ns=5, atime_ns=6),
            op(Kind.SETATTR, 1, b"d/f", 4, mode=0o644),
        ],
        {},
        10,
    )
    assert made.operations == [
        (11, "put", b"d/f", (0,), 0),
        (12, "dirtime", b"d", (3,), 1001),
    ]
    assert (made.members[0].mode, made.members[0].mtime_ns, made.members[0].length) == (
        0o644,
        5,
        10,
    )
    assert made.owners[0].seqs == [1, 2, 3, 4]


def test_a_directory_through_which_something_went_does_not_vanish() -> None:
    run = [
        op(Kind.MKDIR, 1, b"d", 1, mode=0o755),
        op(Kind.RENAME, 2, b"d/f", 2, other=b"f", base=BASE),
        op(Kind.RENAME, 2, b"g", 3, other=b"d/f"),
        op(Kind.RMDIR, 1, b"d", 4, is_dir=True),
    ]
    assert [(o[1], o[2]) for o in plan(run, {}, 1).operations] == [
        ("mkdir", b"d"),
        ("rename", b"d/f"),
        ("rename", b"g"),
        ("rmdir", b"d"),
        ("dirtime", b""),
    ]


def test_a_directory_that_was_renamed_meanwhile_is_followed() -> None:
    run = [
        op(Kind.MKDIR, 1, b"d", 1, mode=0o755),
        op(Kind.MKDIR, 3, b"d/e", 2, mode=0o755),
        op(Kind.RENAME, 1, b"x", 3, other=b"d", is_dir=True),
        op(Kind.RENAME, 2, b"x/e/f", 4, other=b"f", base=BASE),
        op(Kind.RENAME, 2, b"f", 5, other=b"x/e/f"),
        op(Kind.RMDIR, 3, b"x/e", 6, is_dir=True),
        op(Kind.RMDIR, 1, b"x", 7, is_dir=True),
    ]
    made = plan(run, {}, 1)
    assert [o[1] for o in made.operations] == [
        "mkdir",
        "mkdir",
        "rename",
        "rename",
        "rename",
        "rmdir",
        "rmdir",
        "dirtime",
    ]
    assert made.vanished == []


def test_what_never_lived_in_the_box_is_not_sent() -> None:
    run = [
        op(Kind.MKDIR, 1, b"d", 1, mode=0o755),
        op(Kind.CREATE, 2, b"d/f", 2, mode=0o644),
        op(Kind.WRITE, 2, b"d/f", 3),
        op(Kind.RENAME, 2, b"f", 4, other=b"d/f", replaced=9, replaced_base=BASE),
        op(Kind.UNLINK, 2, b"f", 5),
        op(Kind.RMDIR, 1, b"d", 6, is_dir=True),
    ]
    made = plan(run, {}, 1)
    assert made.operations == [
        (1, "unlink", b"f", (1, 77, 5, 6, 100, None)),
        (2, "dirtime", b"", (3,), 1006),
    ]
    assert made.vanished == [1, 2, 3, 5, 6]


def test_an_exchange_with_what_vanishes_is_a_rename() -> None:
    run = [
        op(Kind.CREATE, 1, b"a", 1, mode=0o644),
        op(
            Kind.RENAME,
            1,
            b"b",
            2,
            other=b"a",
            replaced=2,
            replaced_base=BASE,
            flags=RENAME_EXCHANGE,
        ),
        op(Kind.UNLINK, 1, b"b", 3),
    ]
    assert plan(run, {}, 1).operations[0] == (
        1,
        "rename",
        b"a",
        (0,),
        b"b",
        (1, 77, 5, 6, 100, None),
        0,
    )


def test_a_cut_that_grew_again_is_cut_first() -> None:
    run = [
        op(Kind.TRUNCATE, 1, b"f", 1, size=10, base=BASE),
        op(Kind.WRITE, 1, b"f", 2, offset=50),
    ]
    first, second = plan(run, {}, 5).operations
    assert first == (5, "write", b"f", (1, 77, 5, 6, 100, None), [], 10, None)
    assert second == (6, "write", b"f", (2, 5), [(50, 0)], 60, 1002)


def test_content_of_what_is_removed_stays_here() -> None:
    run = [op(Kind.WRITE, 1, b"f", 1, base=BASE), op(Kind.UNLINK, 1, b"f", 2)]
    made = plan(run, {}, 1)
    assert made.operations[0] == (1, "unlink", b"f", (1, 77, 5, 6, 100, None))
    assert made.owners[0].seqs == [1, 2]
    assert made.members == []


def test_later_batches_refer_to_what_is_in_flight() -> None:
    first = plan([op(Kind.CREATE, 1, b"f", 1, mode=0o644)], {}, 1)
    second = plan([op(Kind.WRITE, 1, b"f", 2)], first.left, first.next_wire)
    write = second.operations[0]
    assert write[:4] == (5, "write", b"f", (2, 2))
    settled = plan([op(Kind.WRITE, 1, b"f", 2)], {1: Left(BASE, 100)}, 9)
    assert settled.operations[0][3] == (1, 77, 5, 6, 100, None)


def test_a_file_that_is_open_keeps_what_depends_on_it_back() -> None:
    run = [
        op(Kind.CREATE, 1, b"d/open", 1),
        op(Kind.CREATE, 2, b"d/other", 2),
        op(Kind.RENAME, 1, b"d/name", 3, other=b"d/open", replaced=3),
        op(Kind.CREATE, 4, b"d/open", 4),
        op(Kind.SETATTR, 5, b"d", 5, mode=0o500, is_dir=True),
        op(Kind.WRITE, 2, b"d/other", 6),
        op(Kind.CREATE, 7, b"e", 7),
    ]
    go, stay = split(run, {1})
    # Behind the mode of the directory everything in it waits as well.
    assert [o.seq for o in go] == [2, 7]
    assert [o.seq for o in stay] == [1, 3, 4, 5, 6]


def test_only_what_depends_on_nothing_passes_a_full_box() -> None:
    run = [
        op(Kind.WRITE, 1, b"a", 1, base=BASE),
        op(Kind.UNLINK, 1, b"a", 2),
        op(Kind.UNLINK, 2, b"b", 3, base=BASE),
        op(Kind.RENAME, 3, b"d2", 4, other=b"d", base=BASE, is_dir=True),
        op(Kind.UNLINK, 4, b"d2/x", 5, base=BASE),
    ]
    assert [o.seq for o in bypassing(run)] == [3]


def test_holes_are_not_sent() -> None:
    size = SPARSE + 10
    run = [
        op(Kind.CREATE, 1, b"f", 1, mode=0o640),
        op(Kind.WRITE, 1, b"f", 2, offset=size - 10, mode=0o640),
        op(Kind.RENAME, 1, b"g", 3, other=b"f"),
    ]
    made = plan(run, {}, 1)
    put, write, rename = made.operations[:3]
    assert put == (1, "put", b"f", (0,), 0)
    assert write == (2, "write", b"f", (2, 1), [(size - 10, 1)], size, 1002)
    assert rename[5] == (2, 2)
    assert [(m.offset, m.length, m.mode) for m in made.members] == [
        (0, 0, 0o640),
        (size - 10, 10, 0o600),
    ]
