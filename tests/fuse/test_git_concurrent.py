"""git through the mount and git in the box at the same time, on the same repository.

Each side does what people and scripts do: try, and try again when git says that somebody else was
there. No update may be lost: what git has reported as done is in the history at the end.
"""

import os
import random
import re
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from tests.support.accounts import Account
from tests.support.mounts import PLAIN, MountedBox
from tests.support.trees import wait_until_equal
from tests.support.waiting import wait_until

LONG = os.environ.get("DEVBOX_TEST_LONG") == "1"
COMMITS = 200 if LONG else 8
PATIENCE = 1800 if LONG else 150

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2 * PATIENCE),
    pytest.mark.skipif(PLAIN, reason="a plain directory has no other side"),
]


@dataclass
class Side:
    """Somebody who uses git somewhere."""

    name: str
    where: Path
    environment: dict[str, str]
    done: list[str] = field(default_factory=list)
    """Commits that git has reported as made."""
    refused: int = 0
    said: str = ""
    failure: str = ""
    dice: random.Random = field(default_factory=lambda: random.Random(7))

    def git(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.where, env=self.environment, capture_output=True, text=True, check=False,
            timeout=120,
        )  # fmt: skip
        self.said = done.stderr or done.stdout
        if check and done.returncode:
            raise AssertionError(f"{self.name}: git {arguments}: {self.said}")
        return done

    def until_done(self, what: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE / 2
        while not what():
            self.refused += 1
            assert time.monotonic() < end, f"{self.name} is refused for ever; git says {self.said}"
            time.sleep(self.dice.uniform(0.0, 0.1))  # or the faster side would have it always


def at_once(sides: list[Side], work: Callable[[Side], None]) -> None:
    def guarded(side: Side) -> None:
        try:
            work(side)
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            side.failure = f"{type(error).__name__}: {error}"

    threads = [threading.Thread(target=guarded, args=(side,)) for side in sides]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "a side is not done in time"
    assert not any(side.failure for side in sides), [side.failure for side in sides]


def begin(box: MountedBox, top: Path) -> dict[str, str]:
    """Make a repository with one commit."""
    environment = {**os.environ, **box.environment}
    maker = Side("maker", top, environment)
    top.mkdir()
    maker.git("init", "-q")
    (top / "first").write_text("first\n")
    maker.git("add", "first")
    maker.git("commit", "-q", "-m", "first")
    box.sync()
    return environment


def examine(box: MountedBox, sides: list[Side], branches: list[str]) -> None:
    """Both sides see the same sound repository, with every commit that was reported."""
    box.sync()
    seen = [side.git("for-each-ref").stdout for side in sides]
    wait_until(
        lambda: len({side.git("for-each-ref").stdout for side in sides}) == 1,
        timeout=10, what=f"the same refs on both sides: {seen}",
    )  # fmt: skip
    for side in sides:
        assert "conflict" not in side.git("for-each-ref").stdout
        fsck = side.git("fsck", "--full", "--strict")
        assert "error" not in fsck.stderr, fsck.stderr
        assert "broken" not in fsck.stdout + fsck.stderr
        history = set(side.git("log", "--format=%H", *branches).stdout.split())
        for one in sides:
            missing = [made for made in one.done if not any(h.startswith(made) for h in history)]
            assert not missing, f"{side.name} lacks {len(missing)} commits of {one.name}"
    git_directory = Path(sides[-1].git("rev-parse", "--absolute-git-dir").stdout.strip())
    names = [name for _, _, files in os.walk(git_directory) for name in files]
    assert not [name for name in names if "conflict" in name or name.endswith(".lock")]


def compare_and_swap(branch: str, count: int) -> Callable[[Side], None]:
    """Make commits on top of a branch without a work tree: plumbing, as servers and tools do."""
    ref = f"refs/heads/{branch}"

    def work(side: Side) -> None:
        def once() -> bool:
            tip = side.git("rev-parse", "--verify", "-q", ref, check=False).stdout.strip()
            if not tip:
                return False  # in the moment of a replacement on the other side
            made = side.git(
                "commit-tree", f"{tip}^{{tree}}", "-p", tip, "-m", f"{side.name} {len(side.done)}",
                check=False,
            )  # fmt: skip
            new = made.stdout.strip()
            if made.returncode or side.git("update-ref", ref, new, tip, check=False).returncode:
                return False
            side.done.append(new)
            return True

        for _ in range(count):
            side.until_done(once)

    return work


def test_one_branch(account: Account, box: MountedBox) -> None:
    environment = begin(box, box.mount / "repo")
    sides = [
        Side("here", box.mount / "repo", environment),
        Side("there", box.box / "repo", environment),
    ]
    at_once(sides, compare_and_swap("main", COMMITS))
    examine(box, sides, ["main"])
    # Every one of them was made on top of another: none was made on what was not the tip any more.
    assert int(sides[1].git("rev-list", "--count", "main").stdout) == 2 * COMMITS + 1
    assert box.status()["conflicts"] == []


def test_one_branch_through_two_mounts(account: Account, box: MountedBox, second: Path) -> None:
    sides = begin_on_two_mounts(box, second)
    at_once(sides, compare_and_swap("main", COMMITS))
    box.devboxfs("sync", second)
    sides.append(Side("there", box.box / "repo", sides[0].environment))
    examine(box, sides, ["main"])
    assert int(sides[2].git("rev-list", "--count", "main").stdout) == 2 * COMMITS + 1


def begin_on_two_mounts(box: MountedBox, second: Path) -> list[Side]:
    environment = begin(box, box.mount / "repo")
    wait_until_equal(box.box / "repo", second / "repo")
    return [
        Side("one", box.mount / "repo", environment),
        Side("other", second / "repo", environment),
    ]


def test_two_worktrees(account: Account, box: MountedBox) -> None:
    """`git commit` on a branch each, and a tag each time: refs, reflogs and objects are shared."""
    environment = begin(box, box.mount / "repo")
    there = Side("there", box.box / "repo", environment)
    there.git("worktree", "add", "-q", "-b", "there", str(box.box / "tree"))
    sides = [
        Side("here", box.mount / "repo", environment),
        Side("there", box.box / "tree", environment),
    ]
    wait_until(lambda: sides[0].git("rev-parse", "there", check=False).returncode == 0, timeout=10)

    def work(side: Side) -> None:
        for number in range(COMMITS):
            (side.where / f"{side.name}-{number}").write_text(f"{side.name} {number}\n")
            # The same content on both sides: the same object, made twice.
            (side.where / f"same-{number}").write_text(f"same {number}\n")
            side.until_done(partial(works, side, "add", "-A"))
            side.until_done(partial(commit, side, f"{number}"))
            side.until_done(partial(works, side, "tag", f"{side.name}-{number}"))

    at_once(sides, work)
    examine(box, sides, ["main", "there"])
    assert int(sides[0].git("rev-list", "--count", "main").stdout) == COMMITS + 1
    assert int(sides[0].git("rev-list", "--count", "there").stdout) == COMMITS + 1
    assert len(sides[0].git("tag").stdout.split()) == 2 * COMMITS
    assert len(sides[1].git("reflog", "show", "main").stdout.splitlines()) == COMMITS + 1


def test_one_work_tree(account: Account, box: MountedBox) -> None:
    """Everything shared, the index too."""
    environment = begin(box, box.mount / "repo")
    sides = [
        Side("here", box.mount / "repo", environment),
        Side("there", box.box / "repo", environment),
    ]
    commit_in_one_tree(box, sides, COMMITS)


def test_one_work_tree_through_two_mounts(account: Account, box: MountedBox, second: Path) -> None:
    """Three at once: two mounts, and the box itself."""
    sides = begin_on_two_mounts(box, second)
    sides.append(Side("there", box.box / "repo", sides[0].environment))
    commit_in_one_tree(box, sides, COMMITS if LONG else COMMITS // 2)


def commit_in_one_tree(box: MountedBox, sides: list[Side], count: int) -> None:

    def work(side: Side) -> None:
        for number in range(count):
            name = f"{side.name}-{number}"
            (side.where / name).write_text(f"{name}\n")
            side.until_done(partial(committed, side, name))

    at_once(sides, work)
    examine(box, sides, ["main"])
    for side in sides:
        tracked = set(side.git("ls-tree", "--name-only", "HEAD").stdout.split())
        assert tracked == {"first"} | {f"{s.name}-{n}" for s in sides for n in range(count)}


def works(side: Side, *arguments: str) -> bool:
    return side.git(*arguments, check=False).returncode == 0


def committed(side: Side, name: str) -> bool:
    """Add and commit a file; the other side may do that for us."""
    if not works(side, "add", name):
        return False
    if commit(side, name):
        return True
    found = side.git("ls-tree", "--name-only", "HEAD", name, check=False)
    return found.stdout.strip() == name


def commit(side: Side, message: str) -> bool:
    """Whether git says that it has made a commit."""
    said = side.git("commit", "-m", message, check=False)
    if said.returncode:
        return False
    made = re.match(r"\[\S+ ([0-9a-f]+)\]", said.stdout)
    assert made is not None, said.stdout
    side.done.append(made[1])
    return True
