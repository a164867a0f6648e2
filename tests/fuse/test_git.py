"""git on a mount: a repository of 1,600 files, cloned, edited, committed, packed."""

import os
import random
from pathlib import Path

import pytest

from tests.support.accounts import Account
from tests.support.commands import run
from tests.support.mounts import PLAIN, MountedBox
from tests.support.trees import fill, text
from tests.support.waiting import wait_until

FILES = 1600


@pytest.fixture(scope="module")
def origin(shared: MountedBox) -> Path:
    """A local repository with three commits."""
    return shared.account.perform(_make_origin, shared)


def _make_origin(owner: MountedBox) -> Path:
    top = owner.scratch / "origin"
    top.mkdir()
    git(owner, top, "init", "-q")
    random_ = random.Random(5)
    files = fill(top, seed=4, files=FILES, directories=60, size=2000)
    (top / "run.sh").write_text("#!/bin/sh\nexit 0\n")
    (top / "run.sh").chmod(0o755)
    (top / "link").symlink_to("run.sh")
    for number in range(3):
        git(owner, top, "add", "-A")
        git(owner, top, "commit", "-q", "-m", f"commit {number}")
        for path in random_.sample(files, 30):
            path.write_bytes(text(random_, 3000))
    git(owner, top, "checkout", "-q", "--", ".")
    return top


def git(owner: MountedBox, where: Path, *arguments: str | os.PathLike[str]) -> str:
    done = run("git", *arguments, cwd=where, env=owner.environment, timeout=100)
    return done.stdout.decode()


def test_a_repository_lives_on_the_mount(
    account: Account, shared: MountedBox, origin: Path
) -> None:
    clone = shared.mount / "clone"
    git(shared, shared.mount, "clone", "-q", "--no-hardlinks", origin, clone)
    assert git(shared, clone, "status", "--porcelain") == ""
    tracked = git(shared, clone, "ls-files", "-z").rstrip("\0").split("\0")
    assert len(tracked) == FILES + 2

    git(shared, clone, "checkout", "-q", "-b", "work")
    random_ = random.Random(6)
    edited = random_.sample([name for name in tracked if name.endswith(".txt")], 50)
    for name in edited:
        (clone / name).write_bytes(text(random_, random_.randint(1, 6000)) + b"edited\n")
    changed = git(shared, clone, "status", "--porcelain", "-z").rstrip("\0").split("\0")
    assert sorted(changed) == sorted(f" M {name}" for name in edited)
    git(shared, clone, "commit", "-q", "-a", "-m", "edit 50 files")
    assert git(shared, clone, "status", "--porcelain") == ""

    # Back and forth: the work tree is rewritten twice.
    git(shared, clone, "checkout", "-q", "main")
    git(shared, clone, "merge", "-q", "--no-ff", "-m", "merge", "work")
    git(shared, clone, "mv", edited[0], "moved.txt")
    git(shared, clone, "rm", "-q", edited[1])
    git(shared, clone, "commit", "-q", "-m", "move and remove")

    git(shared, clone, "gc", "-q")
    assert "dangling" not in git(shared, clone, "fsck", "--full", "--strict")
    assert git(shared, clone, "status", "--porcelain") == ""

    shared.sync()
    in_the_box = shared.box / "clone"
    git(shared, in_the_box, "fsck", "--full", "--strict")
    # `update-index --refresh`, which `status` runs, may rewrite the index; a copy of it does
    # not disturb the mount's view.
    index = shared.scratch / "index"
    index.write_bytes((in_the_box / ".git" / "index").read_bytes())
    seen = run(
        "git", "status", "--porcelain",
        cwd=in_the_box, env={**shared.environment, "GIT_INDEX_FILE": str(index)},
    )  # fmt: skip
    assert seen.stdout == b""
    assert git(shared, in_the_box, "rev-parse", "HEAD") == git(shared, clone, "rev-parse", "HEAD")


def test_a_commit_made_in_the_box_is_seen_by_git_on_the_mount(
    account: Account, shared: MountedBox
) -> None:
    here, there = shared.mount / "small", shared.box / "small"
    git(shared, shared.mount, "init", "-q", here)
    fill(here, seed=8, files=20, directories=2)
    git(shared, here, "add", "-A")
    git(shared, here, "commit", "-q", "-m", "from the mount")
    shared.sync()

    (there / "made-there.txt").write_text("made in the box\n")
    git(shared, there, "add", "-A")
    git(shared, there, "commit", "-q", "-m", "from the box")
    head = git(shared, there, "rev-parse", "HEAD")
    wait_until(lambda: git(shared, here, "rev-parse", "HEAD") == head, timeout=5, interval=0.05)
    wait_until(lambda: git(shared, here, "status", "--porcelain") == "", timeout=5, interval=0.05)
    assert (here / "made-there.txt").read_text() == "made in the box\n"
    git(shared, here, "fsck", "--strict")


def test_git_status_after_a_remount_does_not_read_the_files_again(
    account: Account, box: MountedBox
) -> None:
    """git compares inode number, times and size with its index: they have to outlive the mount."""
    repository = box.mount / "repository"
    git(box, box.mount, "init", "-q", repository)
    fill(repository, seed=9, files=200, directories=5)
    git(box, repository, "add", "-A")
    git(box, repository, "commit", "-q", "-m", "all")
    before = {path: _identity(path) for path in repository.glob("**/*.txt")}
    box.remount()
    after = {path: _identity(path) for path in repository.glob("**/*.txt")}
    assert after == before
    assert git(box, repository, "status", "--porcelain") == ""


def _identity(path: Path) -> tuple[int, ...]:
    info = path.lstat()
    return info.st_ino, info.st_mtime_ns, info.st_ctime_ns, info.st_size, info.st_uid, info.st_mode


@pytest.mark.slow
@pytest.mark.skipif(PLAIN, reason="a plain directory has no other side")
def test_what_both_sides_hash_of_one_work_tree(account: Account, box: MountedBox) -> None:
    """Numbers and times of what was made here are others in the box; `minimal` looks at neither."""
    files = 30
    here, there = box.mount / "repository", box.box / "repository"
    hashed = box.scratch / "hashed"
    hashed.touch()
    git(box, box.mount, "init", "-q", here)
    # git has a filter take whatever it hashes.
    git(box, here, "config", "filter.count.clean", f"sh -c 'echo x >>{hashed}; cat'")
    (here / ".gitattributes").write_text("*.txt filter=count\n")
    for number in range(files):
        path = here / f"{number}.txt"
        path.write_text(f"{number}\n")
        os.utime(path, (1_700_000_000, 1_700_000_000))  # or it is too young to be believed
    git(box, here, "add", "-A")
    git(box, here, "commit", "-q", "-m", "from the mount")

    def count(side: Path) -> int:
        box.sync()
        index = (there / ".git" / "index").read_bytes
        wait_until(lambda: (here / ".git" / "index").read_bytes() == index(), what="one index")
        before = hashed.stat().st_size
        assert git(box, side, "status", "--porcelain") == ""
        return (hashed.stat().st_size - before) // 2

    assert [count(side) for side in (here, there, there, here, here)] == [0, files, 0, files, 0]
    git(box, there, "config", "core.checkStat", "minimal")
    wait_until(lambda: "minimal" in (here / ".git/config").read_text(), what="the configuration")
    assert [count(side) for side in (there, here, there, here)] == [0, 0, 0, 0]

    (there / "7.txt").write_text("changed\n")
    os.utime(there / "7.txt", (1_700_000_007, 1_700_000_007))
    box.sync()  # the last `git status` here has given its lock up
    git(box, there, "commit", "-q", "-a", "-m", "from the box")
    wait_until(lambda: (here / "7.txt").read_text() == "changed\n", what="the box's change")
    assert [count(side) for side in (here, there)] == [0, 0]
