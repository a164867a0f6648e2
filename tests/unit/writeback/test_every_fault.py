"""Death and cut links at every point of a scenario, enumerated.

Every day each tenth point, another tenth each day of the month, and the first of each kind of the
helper's; with DEVBOX_TEST_LONG=1 all.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
LONG = os.environ.get("DEVBOX_TEST_LONG") == "1"
STEP = 1 if LONG else 10


@pytest.mark.timeout(3000 if LONG else 300)
@pytest.mark.parametrize(("what", "least"), [("daemon", 200), ("link", 40), ("helper", 10)])
def test_every_point(what: str, least: int) -> None:
    first = 1 if LONG else 1 + datetime.datetime.now(datetime.UTC).day % STEP
    ended = subprocess.run(
        [sys.executable, "-m", "tests.unit.writeback.every_fault", what, str(STEP), str(first)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}"},
        capture_output=True,
        text=True,
        timeout=2900 if LONG else 280,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["failures"] == []
    assert found["points"] >= least
    # Batches are cut by the clock, so that a run may have a few points less than the first one.
    assert found["tried"] >= 0.8 * (found["points"] - first) / STEP
