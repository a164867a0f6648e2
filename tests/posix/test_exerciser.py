"""Random operations on one file, against a copy in memory, in every shape.

DEVBOX_TEST_LONG=1 performs 100,000 per seed.
"""

from pathlib import Path

import pytest

from tests.fuse.conftest import Place
from tests.posix.conftest import LONG
from tests.posix.exerciser import SHAPES, Exerciser, Shape
from tests.support.accounts import Account
from tests.support.mounts import MountedBox

COUNT = 100_000 if LONG else 400
SEEDS = (1, 2, 3) if LONG else (1,)


def _sparse(path: Path, base: int) -> bytes:
    with path.open("rb") as file:
        file.seek(base)
        return file.read()


@pytest.mark.timeout(3600 if LONG else 120)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_a_file_holds_what_was_put_into_it(
    account: Account, place: Place, shape: Shape, seed: int
) -> None:
    exerciser = Exerciser(str(place.mount / "file"), seed, shape, place.sync)
    exerciser.run(COUNT)
    place.sync()
    assert _sparse(place.box / "file", shape.base) == exerciser.content


def test_a_file_that_was_exercised_is_the_same_after_mounting_anew(box: MountedBox) -> None:
    exerciser = Exerciser(str(box.mount / "file"), 9, SHAPES[0], box.sync)
    exerciser.run(300)
    box.remount()
    assert (box.mount / "file").read_bytes() == exerciser.content


def test_the_exerciser_notices_a_wrong_byte(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def damage() -> None:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size + 1)

    with pytest.raises(AssertionError, match="operation 500 of shape mixed"):
        Exerciser(str(path), 1, SHAPES[0], damage).run(1000)
