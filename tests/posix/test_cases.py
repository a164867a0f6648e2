"""System calls by table: errno and effects on the mount are those of a local disk.

The tables are in tests/posix/tables. Each case is played on the mount and in a local directory, and
what it said and did is compared; then the box is compared with the local directory. `make test`
plays an even choice of each table, as root (which plays other users too, through allow_other) and
as an ordinary user, on a mount that has the objects from its own journal and on one that was
mounted afresh. DEVBOX_TEST_LONG=1 plays all of them.
"""

import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.posix.conftest import LONG
from tests.posix.player import selected
from tests.posix.tables import TABLES
from tests.support.accounts import Account, as_launcher
from tests.support.commands import run
from tests.support.mounts import MountedBox, remove_tree

pytestmark = pytest.mark.each_account

LIMIT = 0 if LONG else 40
_ATIME = re.compile("atime [^,]*(, )?")
ROOT_OF_CHECKOUT = Path(__file__).resolve().parents[2]
STATES = ("unflushed", "flushed", "remounted") if LONG else ("unflushed", "remounted")


Outcomes = dict[str, dict[str, list[Any]]]
"""By table and case: what the call said, and the effects."""


@dataclass
class Stages:
    """The same tables, played on a mount and in a local directory."""

    box: MountedBox
    local: Path

    state: str
    """An atime is forgotten with the mount, mostly (DESIGN.md, section 9)."""

    here: Outcomes = field(default_factory=dict)
    there: Outcomes = field(default_factory=dict)
    arrived: Outcomes = field(default_factory=dict)
    expected: Outcomes = field(default_factory=dict)

    def play(self, step: str, top: Path, *tables: str) -> Outcomes:
        account = self.box.account
        path = os.pathsep.join(map(str, (ROOT_OF_CHECKOUT, ROOT_OF_CHECKOUT / "sdk")))
        argv = ["-m", "tests.posix.player", step, str(LIMIT), top, *tables]
        said = as_launcher(
            lambda: run(
                *account.prefix(),
                sys.executable,
                *argv,
                cwd="/",
                env={**self.box.environment, "PYTHONPATH": path},
                timeout=900,
            )
        )
        found = json.loads(said.stdout)
        if self.state == "remounted":
            for outcomes in found.values():
                for _answer, effects in outcomes.values():
                    for facts in effects.values():
                        facts[7] = _ATIME.sub("", facts[7])
        return found


@pytest.fixture(scope="module", params=STATES)
def stages(request: pytest.FixtureRequest, account: Account) -> Iterator[Stages]:
    box = MountedBox(account)
    local = Path(tempfile.mkdtemp(prefix="devboxfs-test-"))
    options = ["--allow-other"] if account.is_root else []
    try:
        as_launcher(account.own, local)
        as_launcher(_open_to_all, local, box.home, box.mount)
        if not box.plain:
            box.devboxfs("mount", *options, box.name, box.mount)
            as_launcher(os.chmod, box.box, 0o777)
        one = Stages(box, local, request.param)
        for top in (box.mount, local):
            one.play("furnish", top, *TABLES)
        if request.param != "unflushed":
            box.sync()
        if request.param == "remounted" and not box.plain:
            box.umount()
            box.devboxfs("mount", *options, box.name, box.mount)
        one.here = one.play("perform", box.mount, *TABLES)
        one.there = one.play("perform", local, *TABLES)
        box.sync()
        one.arrived = one.play("describe", box.box, *TABLES)
        one.expected = one.play("describe", local, *TABLES)
        yield one
    finally:
        complaints = box.close()
        remove_tree(local)
    assert not complaints


def _open_to_all(*paths: Path) -> None:
    for path in paths:
        path.chmod(0o755)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("table", TABLES)
def test_calls_do_what_they_do_on_a_local_disk(
    account: Account, stages: Stages, table: str
) -> None:
    cases = selected(table, LIMIT, privileged=account.is_root)
    differing = {case.name for case in cases if case.differs}
    here, there = stages.here[table], stages.there[table]
    assert len(here) == len(there) == len(cases)
    failed = [name for name in there if here[name] != there[name] and name not in differing]
    assert not failed, _report(failed, here, there)
    arrived, expected = stages.arrived[table], stages.expected[table]
    failed = [
        name
        for name in expected
        if name not in differing and not _same_in_the_box(arrived[name], expected[name])
    ]
    assert not failed, "in the box: " + _report(failed, arrived, expected)


def _same_in_the_box(arrived: list[Any], expected: list[Any]) -> bool:
    """Whether the box has it. A file that is replaced moves its directory's mtime there
    (DESIGN.md, section 9)."""
    there, wanted = arrived[1], expected[1]
    if there.keys() != wanted.keys():
        return False
    for path, facts in wanted.items():
        moved = there[path][7].startswith("now") and facts[0].startswith("d")
        if [fact for at, fact in enumerate(facts) if not (moved and at == 7)] != [
            fact for at, fact in enumerate(there[path]) if not (moved and at == 7)
        ]:
            return False
    return True


def _report(failed: list[str], here: dict[str, list[Any]], there: dict[str, list[Any]]) -> str:
    lines = [f"{len(failed)} of {len(there)} cases differ"]
    for name in failed[:10]:
        lines.append(f"{name}: said {here[name][0]}, local {there[name][0]}")
        for path in sorted(here[name][1].keys() | there[name][1].keys()):
            one, other = here[name][1].get(path), there[name][1].get(path)
            if one != other:
                lines.append(f"    {path}: {one}, local {other}")
    return "\n".join(lines)
