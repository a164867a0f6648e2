"""`kill -9` of the daemon while a program writes into the mount.

Before the second mount the box is a prefix of what was acknowledged; after it, it is all of it.
One operation may be under way when the daemon dies: whether it took place is open.
"""

import os
import random
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fuse.conftest import MakeBox
from tests.support.accounts import Account
from tests.support.commands import kill_group, run
from tests.support.history import Operation, fsynced, plan, states
from tests.support.mounts import PLAIN, MountedBox
from tests.support.tree_state import Found, found_in, mismatches
from tests.support.trees import differences, fill, fill_with_oddities
from tests.support.waiting import wait_until

LENGTH = 1500
# With DEVBOX_TEST_LONG=1, more moments to die at.
LONG = os.environ.get("DEVBOX_TEST_LONG") == "1"
MOMENTS = [(1, 0), (3, 20), (5, 100)]
MOMENTS += [(seed, 10 * (seed % 5)) for seed in range(100, 140)] if LONG else []
ROOT_OF_CHECKOUT = Path(__file__).parents[2]


@contextmanager
def writing(box: MountedBox, seed: int, *, fsync: bool) -> Iterator[subprocess.Popen[bytes]]:
    """Run the writer of a history on the mount."""
    argv = [box.mount, seed, LENGTH, fsync]
    environment = {**os.environ, "PYTHONPATH": str(ROOT_OF_CHECKOUT), "PYTHONSAFEPATH": "1"}
    writer = subprocess.Popen(
        [sys.executable, "-m", "tests.support.writer", *map(str, argv)],
        cwd="/", env=environment, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield writer
    finally:
        kill_group(writer)


def crash_after(box: MountedBox, seed: int, moment: int, *, fsync: bool, helper: bool) -> int:
    """Kill the daemon when `moment` operations are acknowledged; return how many were in the
    end."""
    pid = box.pid
    with writing(box, seed, fsync=fsync) as writer:
        acknowledged = 0
        while acknowledged < moment:
            part = os.read(writer.stdout.fileno(), moment - acknowledged)
            assert part, f"the writer ended after {acknowledged} operations"
            acknowledged += len(part)
        if box.plain:
            # Not SIGKILL, which cuts a write in the middle.
            os.kill(writer.pid, signal.SIGINT)
        elif helper:
            box.kill_all()
        else:
            box.kill(pid)
        while part := os.read(writer.stdout.fileno(), 65536):
            acknowledged += len(part)
        writer.wait(timeout=20)
    return acknowledged


def is_prefix(found: dict[str, Found], operations: list[Operation]) -> bool:
    """Whether the tree is a state of the history, a new file that was still open aside."""
    for state, unpublished in states(operations):
        if abs(len(state) - len(found)) > 1:
            continue
        if not mismatches(found, state):
            return True
        without = {name: one for name, one in state.items() if name != unpublished}
        if unpublished and not mismatches(found, without):
            return True
    return False


def nearest(found: dict[str, Found], operations: list[Operation]) -> str:
    """The state that comes closest, for the message of a failure."""
    best: tuple[int, int, list[str]] | None = None
    for number, (state, _) in enumerate(states(operations)):
        lines = mismatches(found, state)
        if best is None or len(lines) <= best[0]:
            best = len(lines), number, lines
    assert best is not None
    return f"closest is the state after {best[1]} operations: " + "; ".join(best[2][:12])


def assert_all_of(box: MountedBox, operations: list[Operation], acknowledged: int) -> None:
    """Mount and box are in the state that was acknowledged, or one operation further."""
    box.sync()
    for top in (box.mount, box.box):
        found = found_in(top)
        allowed = [
            mismatches(found, dict(state))
            for number, (state, _) in enumerate(states(operations[: acknowledged + 1]))
            if number >= acknowledged
        ]
        assert [] in allowed, f"{top} after {acknowledged} operations: {allowed[0][:12]}"


@pytest.mark.parametrize(("seed", "delay_ms"), MOMENTS)
def test_kill_at_a_random_moment(
    account: Account, make_box: MakeBox, seed: int, delay_ms: int
) -> None:
    operations = plan(seed, LENGTH)
    moment = random.Random(seed).randint(50, LENGTH - 200)
    box = make_box().start(delay_ms=delay_ms)
    acknowledged = crash_after(box, seed, moment, fsync=False, helper=False)
    assert moment <= acknowledged < len(operations)
    found = found_in(box.box)
    assert is_prefix(found, operations[: acknowledged + 1]), nearest(found, operations)
    box.start()
    assert_all_of(box, operations, acknowledged)


@pytest.mark.parametrize(("seed", "delay_ms"), [(11, 0), (12, 50)])
def test_kill_of_the_daemon_and_of_the_helper(
    account: Account, make_box: MakeBox, seed: int, delay_ms: int
) -> None:
    """As when the machine of an embedded box goes down: a batch may be half applied, until the
    next mount."""
    operations = plan(seed, LENGTH)
    moment = random.Random(seed).randint(300, LENGTH - 200)
    box = make_box().start(delay_ms=delay_ms)
    acknowledged = crash_after(box, seed, moment, fsync=False, helper=True)
    box.start()
    assert_all_of(box, operations, acknowledged)


@pytest.mark.parametrize("seed", [21, *([22, 23] if LONG else [])])
def test_what_was_fsynced_is_there_before_the_second_mount(
    account: Account, make_box: MakeBox, seed: int
) -> None:
    operations = plan(seed, LENGTH, fsync=True)
    box = make_box().start(delay_ms=20)
    acknowledged = crash_after(box, seed, 500, fsync=True, helper=False)
    found = found_in(box.box)
    durable = fsynced(operations[: acknowledged + 1], acknowledged)
    assert len(durable) > 5
    for name, content in durable.items():
        assert name in found, f"{name} was fsynced and is not in the box"
        assert found[name].content == content, f"{name} was fsynced with other content"
    box.start()
    assert_all_of(box, operations, acknowledged)


@pytest.mark.parametrize("seed", [31, *([32, 33, 34] if LONG else [])])
def test_kill_in_the_middle_of_tar(account: Account, make_box: MakeBox, seed: int) -> None:
    box = make_box()
    source, archive = box.scratch / "source", box.scratch / "source.tar"
    source.mkdir()
    fill(source, seed=seed, files=1200, directories=30, size=3000)
    fill_with_oddities(source)
    run("tar", "cf", archive, "--format=pax", "--sort=name", "-C", source, ".")
    box.start(delay_ms=10 * (seed % 2))
    pid = box.pid
    with archive.open("rb") as stream:
        tar = subprocess.Popen(
            ["tar", "xpvf", "-", "--no-same-owner", "-C", box.mount],
            stdin=stream, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            begun = _names(tar, random.Random(seed).randint(100, 900))
            if box.plain:
                os.kill(tar.pid, signal.SIGKILL)
            else:
                box.kill(pid)
            _names(tar, 10_000)
            tar.wait(timeout=20)
        finally:
            kill_group(tar)
    with tarfile.open(archive) as members:
        order = [os.path.normpath(member.name) for member in members]
    before = _present(box.box)
    assert before <= set(order)
    files = [name for name in order if name != "." and not (source / name).is_symlink()]
    there = [name for name in files if name in before]
    assert there == files[: len(there)], "the box holds a later file and lacks an earlier one"
    _assert_equal_or_cut(source, box.box, there)

    box.start()
    box.sync()
    after = _present(box.box)
    assert before <= after
    survivors = [name for name in files if name in after]
    assert survivors == files[: len(survivors)]
    # tar names a member when it begins with it: all but the last one were finished.
    assert set(begun[:-1]) - {"."} <= after
    _assert_equal_or_cut(source, box.box, survivors)
    assert _present(box.mount) == after
    # And the program can be run again.
    run("tar", "xpf", archive, "--no-same-owner", "--overwrite", "-C", box.mount)
    box.sync()
    assert differences(source, box.box, times="-l") == []


def _names(tar: subprocess.Popen[bytes], count: int) -> list[str]:
    names = []
    while len(names) < count and (line := tar.stdout.readline()):
        names.append(os.path.normpath(line.decode().rstrip("\n")))
    return names


def _present(top: Path) -> set[str]:
    return {os.path.relpath(path, top) for path in top.glob("**/*")}


def _assert_equal_or_cut(source: Path, top: Path, names: list[str]) -> None:
    """Each file is whole, except the last one, which may have been under way."""
    for name in names:
        if not (source / name).is_file():
            continue
        wanted, got = (source / name).read_bytes(), (top / name).read_bytes()
        if name == names[-1]:
            assert wanted.startswith(got)
        else:
            assert got == wanted, name


@pytest.mark.skipif(PLAIN, reason="a directory has no journal")
def test_a_crash_during_recovery(account: Account, make_box: MakeBox) -> None:
    operations = plan(41, LENGTH)
    box = make_box().start(delay_ms=200)
    acknowledged = crash_after(box, 41, 900, fsync=False, helper=False)
    for helper_too in (False, True):
        mounting = subprocess.Popen(
            [sys.executable, "-m", "devboxfs", "mount", box.name, box.mount],
            cwd="/", env={**box.environment, "DEVBOX_LINK_DELAY_MS": "150"},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            # The helper runs, so recovery has begun or is about to.
            wait_until(lambda: box.helpers(), timeout=20, what="a helper")
            box.kill_all(helpers=helper_too)
        finally:
            kill_group(mounting)
        box.wait_quiet()
    box.start()
    assert_all_of(box, operations, acknowledged)


@pytest.mark.skipif(PLAIN, reason="a directory has no journal")
def test_a_box_that_was_made_again_does_not_get_the_old_journal(
    account: Account, make_box: MakeBox
) -> None:
    box = make_box().start(delay_ms=3000)
    for number in range(20):
        (box.mount / f"file{number}").write_bytes(b"of the old box")
    assert box.processes()
    box.kill_all()
    run("rm", "-rf", box.data / "boxes" / box.name)
    box.start()
    (box.mount / "file3").write_bytes(b"of the new box")
    box.sync()
    for top in (box.mount, box.box):
        assert os.listdir(top) == ["file3"]
        assert (top / "file3").read_bytes() == b"of the new box"


@pytest.mark.skipif(PLAIN, reason="a directory does not die")
def test_a_dead_mount_point_is_no_empty_directory(account: Account, box: MountedBox) -> None:
    """Whoever mirrors the mount would take an empty directory for "all was deleted"."""
    (box.mount / "file").write_bytes(b"there")
    box.sync()
    box.kill()
    with pytest.raises(OSError, match="not connected"):
        os.listdir(box.mount)
    box.start()
    assert (box.mount / "file").read_bytes() == b"there"
