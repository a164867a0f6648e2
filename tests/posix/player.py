"""Plays cases in a directory: `python -m tests.posix.player STEP LIMIT DIRECTORY TABLE...`.

STEP is `furnish`, `perform`, or `describe`, which tells what there is afterwards. A process of its
own, since the working directory, the umask and the credentials belong to a process. Between the
steps a suite may flush the mount, or mount it anew: the calls must not tell the difference. LIMIT
is how many cases are taken of each table, evenly; 0 takes all. What is found is printed as one JSON
object by table: outcome by case.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator

from tests.posix.stage import Case, acting, effects, furnish, look, said
from tests.posix.tables import TABLES

TICK = 0.015
"""Seconds within which the clock of every kernel's file systems moves on (HZ=100)."""


def selected(table: str, limit: int, *, privileged: bool) -> list[Case]:
    """Return the cases that are played."""
    cases = [case for case in TABLES[table]() if privileged or not case.privileged]
    # A stride that is odd and not a multiple of a table's inner loops meets all of their values.
    stride = 1
    if limit and len(cases) > limit:
        stride = -(-len(cases) // limit) | 1
        while stride > 1 and (stride % 3 == 0 or stride % 5 == 0):
            stride += 2
    return cases[::stride]


class _Cases:
    def __init__(self, table: str, limit: int, directory: str) -> None:
        self.directory = directory
        self.cases = selected(table, limit, privileged=os.getuid() == 0)

    def __iter__(self) -> Iterator[tuple[str, Case]]:
        for number, case in enumerate(self.cases):
            yield f"{self.directory}/{number}", case


def _furnish(cases: _Cases) -> dict[str, object]:
    os.mkdir(cases.directory, 0o755)
    os.chmod(cases.directory, 0o755)
    for place, case in cases:
        os.mkdir(place, 0o777)
        os.chmod(place, 0o777)
        os.chdir(place)
        try:
            furnish(case)
        except OSError as error:
            raise RuntimeError(f"{case.name} cannot be set up") from error
    os.chdir("/")
    return {}


def _perform(cases: _Cases) -> dict[str, object]:
    time.sleep(TICK)
    outcomes: dict[str, object] = {}
    for place, case in cases:
        os.chdir(place)
        before = look([".", *(thing.path for thing in case.things)])
        os.umask(case.umask)
        with acting(case.actor):
            answer = said(case.call)
        os.umask(0)
        if case.name in outcomes:
            raise RuntimeError(f"two cases are called {case.name}")
        outcomes[case.name] = [answer, effects(before, time.time_ns())]
    os.chdir("/")
    return outcomes


def _describe(cases: _Cases) -> dict[str, object]:
    found: dict[str, object] = {}
    for place, case in cases:
        os.chdir(place)
        found[case.name] = [None, effects({}, time.time_ns(), accessed=False)]
    os.chdir("/")
    return found


def main() -> None:
    """Do as the arguments say."""
    step, limit, directory, *tables = sys.argv[1:]
    steps = {"furnish": _furnish, "perform": _perform, "describe": _describe}
    found = {}
    for table in tables:
        found[table] = steps[step](_Cases(table, int(limit), f"{directory}/{table}"))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
