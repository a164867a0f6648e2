"""The daemon is killed at every point of the durable path; the next one finishes its work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from devboxfs.core.ops import Kind, Source
from devboxfs.writeback.faults import POINTS
from tests.unit.writeback.conftest import Place
from tests.unit.writeback.driver import LIMITS, workload
from tests.unit.writeback.model_box import History

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ROOT = Path(__file__).parents[3]
COUNT = 120


class Data:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


def history(count: int) -> dict[bytes, tuple[object, ...]]:
    tree = History()
    for op, data in islice(workload(), count):
        if op.kind is Kind.WRITE:
            op.source, op.length = Source(Data(data), 0), len(data)
        tree.do(op)
    seen = tree.picture()
    # Kind, content, mode; for files the time too.
    return {
        path: (kind, content, mode, mtime if kind == "file" else 0)
        for path, (kind, mode, _uid, mtime, content, *_rest) in seen.items()
        if path
    }


def content(box: Path) -> dict[bytes, tuple[object, ...]]:
    found: dict[bytes, tuple[object, ...]] = {}
    for path in box.rglob("*"):
        name = os.fsencode(path.relative_to(box))
        mode = path.stat().st_mode & 0o7777
        if path.is_dir():
            found[name] = ("dir", b"", mode, 0)
        else:
            found[name] = ("file", path.read_bytes(), mode, path.stat().st_mtime_ns)
    return found


def run(place: Place, count: int, fault: str) -> tuple[int, int, int]:
    """Run the driver; returns (accepted, synced, how it ended)."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}", "DEVBOXFS_FAULT": fault}
    if not fault:
        del environment["DEVBOXFS_FAULT"]
    ended = subprocess.run(
        [sys.executable, "-m", "tests.unit.writeback.driver", str(place.directory), str(count)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
    last = {"accepted": 0, "synced": 0}
    for line in ended.stdout.splitlines():
        word, _, number = line.partition(" ")
        if number:
            last[word] = int(number)
    return last["accepted"], last["synced"], ended.returncode


async def check(place: Place, accepted: int, synced: int) -> None:
    """What was synced is there, and after recovery what was accepted.

    Perhaps one more, of which nobody heard.
    """
    place.limits = LIMITS
    async with place.mounted() as m:
        assert m.recovered == []
        now = content(place.box)
        assert now in (history(accepted), history(accepted + 1))
        await m.writeback.drain()
    assert list(place.mounts.iterdir()) == []
    assert accepted >= synced


@pytest.mark.parametrize("number", [1, 7])
@pytest.mark.parametrize("point", POINTS)
async def test_killed_at(place: Place, point: str, number: int) -> None:
    if point.startswith("append"):
        number = number * 19 - 2
    accepted, synced, ended = run(place, COUNT, f"exit:{point}:{number}")
    assert ended == -signal.SIGKILL, "the point was not passed so often"
    await check(place, accepted, synced)


@pytest.mark.parametrize("point", ["send-before", "outcome-before", "outcome-after", "batch-after"])
async def test_killed_again_while_recovering(place: Place, point: str) -> None:
    accepted, synced, ended = run(place, COUNT, "exit:outcome-before:2")
    assert ended == -signal.SIGKILL
    for number in (1, 1, 2):
        # It has nothing of its own to do but to recover.
        run(place, 0, f"exit:{point}:{number}")
    await check(place, accepted, synced)


async def test_what_was_synced_is_there_without_recovery(place: Place) -> None:
    accepted, synced, ended = run(place, COUNT, "exit:append-before:130")
    assert ended == -signal.SIGKILL
    assert synced >= 50
    names = set(history(synced))
    now = content(place.box)
    assert now in [history(count) for count in range(synced, accepted + 2)], names
    await check(place, accepted, synced)


async def test_nothing_happens_without_a_fault(place: Place) -> None:
    assert run(place, COUNT, "")[::2] == (COUNT, 0)
    assert content(place.box) == history(COUNT)
    assert list(place.mounts.iterdir()) == []
