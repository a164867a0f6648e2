"""Shown numbers outlive mounts, and none is given twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from devboxfs.writeback.identities import BLOCK, FIRST_INO, Identities, Identity


def test_rows_outlive_a_mount(tmp_path: Path) -> None:
    table = Identities.open(tmp_path)
    assert table.load() == {}
    one, two = Identity(1, 2, 3, 4, FIRST_INO, 6), Identity(7, -2, 3, 4, 7, 6)
    table.record([one, two])
    table.close()
    table = Identities.open(tmp_path)
    assert table.load() == {1: one, 7: two}
    newer = Identity(1, 20, 30, 40, FIRST_INO, 6)
    table.record([newer])
    table.forget([7, 8])
    assert table.load() == {1: newer}
    table.close()
    assert (tmp_path / "identities.sqlite").stat().st_mode & 0o777 == 0o600


def test_no_number_is_given_twice_though_the_mount_dies(tmp_path: Path) -> None:
    given = set()
    for _ in range(3):
        table = Identities.open(tmp_path)
        for _ in range(5):
            number = table.next_ino()
            assert number >= FIRST_INO
            assert number not in given
            given.add(number)
        # Not closed properly: the connection goes with the object.
        del table
    table = Identities.open(tmp_path)
    numbers = [table.next_ino() for _ in range(BLOCK + 10)]
    assert len(set(numbers)) == len(numbers)
    assert not set(numbers) & given
    table.close()


def test_two_mounts_share_the_counter(tmp_path: Path) -> None:
    one, two = Identities.open(tmp_path), Identities.open(tmp_path)
    assert {one.next_ino() for _ in range(5)}.isdisjoint({two.next_ino() for _ in range(5)})
    one.close()
    two.close()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_damaged_file_starts_anew(tmp_path: Path) -> None:
    table = Identities.open(tmp_path)
    before = table.next_ino()
    table.record([Identity(1, 2, 3, 4, 5, 6)])
    table.close()
    (tmp_path / "identities.sqlite").write_bytes(b"no database" * 1000)
    table = Identities.open(tmp_path)
    assert table.load() == {}
    assert table.next_ino() > before + BLOCK
    table.close()


def test_a_directory_that_is_missing_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot be used"):
        Identities.open(tmp_path / "missing")
