"""Several processes with the contents of one box on one disk."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from devboxfs.core.chunks import ContentKey
from devboxfs.vfs.content_store import ContentStore, Piece
from tests.unit.vfs.contents import content

WRITER = """
import random, sys
from pathlib import Path
from devboxfs.core.chunks import ContentKey
from devboxfs.vfs import content_database
from devboxfs.vfs.content_store import ContentStore, Piece
content_database.BUSY_TIMEOUT = 60
store = ContentStore.open(Path(sys.argv[1]), 1 << 30)
who = int(sys.argv[2])
for step in range(60):
    number = step if step % 2 else who * 1000 + step
    data = random.Random(number).randbytes(3000)
    store.write([Piece(ContentKey(number, 2, 3, 3000), 0, data)], [])
    large = random.Random(number).randbytes(300000)
    key = ContentKey(number, 2, 4, 300000)
    pieces = [Piece(key, n, large[n * 131072 : (n + 1) * 131072]) for n in range(3)]
    store.write(pieces, [ContentKey(number - 20, 2, 4, 300000)])
store.close()
"""


@pytest.mark.slow
def test_processes_share_it(tmp_path: Path) -> None:
    path = os.pathsep.join(sys.path)
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, tmp_path, str(who)],
            env={**os.environ, "PYTHONPATH": path},
        )
        for who in (1, 2, 3)
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    store = ContentStore.open(tmp_path, 1 << 30)
    whole, partial = store.rows()
    assert partial == []
    for who in (1, 2, 3):
        for step in range(0, 60, 2):
            key, data = content(who * 1000 + step, 3000)
            assert store.load(key, 0, 3000) == data
    for step in range(41, 60, 2):
        key = ContentKey(step, 2, 4, 300000)
        assert store.load(key, 0, 300000) == random.Random(step).randbytes(300000)
    names = {path.name for path in (tmp_path / "content-1" / "files").iterdir()}
    assert len(names) == sum(1 for row in whole if row[3] == 300000)
    store.close()


def test_one_process_hears_of_the_other(tmp_path: Path) -> None:
    one = ContentStore.open(tmp_path, 1 << 30)
    two = ContentStore.open(tmp_path, 1 << 30)
    one.write([Piece(ContentKey(1, 2, 3, 4), 0, b"data")], [])
    told = two.write([Piece(ContentKey(2, 2, 3, 4), 0, b"data")], [])
    assert {row[0] for row in told.whole} == {1, 2}
    one.close()
    two.close()
