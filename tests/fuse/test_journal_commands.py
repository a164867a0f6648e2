"""`devboxfs journal`: what waits on this machine can be seen, tried again, taken out, given up."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.conftest import MakeBox
from tests.support.accounts import LAUNCHER, Account, as_launcher
from tests.support.mounts import PLAIN, MountedBox
from tests.support.posix import outcome
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.slow,
    pytest.mark.skipif(PLAIN, reason="a directory has no journal"),
]


def listed(box: MountedBox, *names: str) -> list[dict[str, object]]:
    return json.loads(box.devboxfs("journal", "list", *names, "--json").stdout)


def left_behind(box: MountedBox) -> None:
    """A journal whose daemon was killed before anything was sent."""
    box.start(delay_ms=3000)
    (box.mount / "directory").mkdir()
    (box.mount / "directory" / "file").write_bytes(b"not there yet")
    box.kill_all()


def test_a_journal_that_waits(account: Account, make_box: MakeBox) -> None:
    box = make_box()
    left_behind(box)
    (journal,) = listed(box)
    assert journal["box"] == box.name
    assert journal["mountpoint"] is None
    assert [one["path"] for one in journal["objects"]] == ["directory", "directory/file"]
    said = box.devboxfs("journal", "list").stdout
    assert b"directory/file: create, write, 13 B" in said
    out = box.scratch / "out"
    box.devboxfs("journal", "export", box.name, out)
    assert (out / "files" / "directory" / "file").read_bytes() == b"not there yet"
    assert len(json.loads((out / "changes.json").read_text())) == 2
    assert b"mount" in box.devboxfs("journal", "retry").stdout
    refused = box.devboxfs("journal", "discard", box.name, check=False)
    assert refused.returncode == 2
    assert listed(box)
    box.devboxfs("journal", "discard", box.name, "--yes")
    assert listed(box) == []
    box.start()
    assert os.listdir(box.mount) == []


def journal_of(box: MountedBox) -> Path:
    (found,) = (box.state / "mounts").glob("*/*/meta")
    return found.parent


def test_the_journal_of_a_later_version(account: Account, make_box: MakeBox) -> None:
    box = make_box()
    left_behind(box)
    path = journal_of(box)
    written = (path / "meta").read_text()
    meta = {**json.loads(written), "format": 99}
    as_launcher((path / "meta").write_text, json.dumps(meta))
    segments = {one.name: one.read_bytes() for one in path.glob("segment-*")}
    told = box.devboxfs("mount", box.name, box.mount)
    said = told.stdout + told.stderr
    assert f"Journal {path.name[:8]} is left as it is".encode() in said
    assert b"format 99 is not known to this version" in said
    assert os.listdir(box.mount) == []
    (box.mount / "new").write_bytes(b"goes on")
    box.umount()
    assert {one.name: one.read_bytes() for one in path.glob("segment-*")} == segments
    assert b"cannot be read: its format 99" in box.devboxfs("journal", "list").stdout
    # The version that wrote it finds everything.
    as_launcher((path / "meta").write_text, written)
    box.start()
    assert (box.mount / "directory" / "file").read_bytes() == b"not there yet"
    assert (box.mount / "new").read_bytes() == b"goes on"


def test_a_damaged_journal(account: Account, make_box: MakeBox) -> None:
    box = make_box()
    left_behind(box)
    path = journal_of(box)
    # A second segment that is nothing of the kind.
    as_launcher((path / "segment-2").write_bytes, b"damaged " * 100)
    told = box.devboxfs("mount", box.name, box.mount)
    said = told.stdout + told.stderr
    (kept,) = path.parent.glob("damaged-*")
    assert b"Part of a journal cannot be read: segment 2 is damaged" in said
    assert os.fsencode(kept) in said
    assert (kept / "segment-2").read_bytes() == b"damaged " * 100
    assert (box.mount / "directory" / "file").read_bytes() == b"not there yet"


def test_nothing_is_listed_that_is_in_the_box(account: Account, box: MountedBox) -> None:
    (box.mount / "file").write_bytes(b"1")
    box.sync()
    assert listed(box) == []
    assert b"Nothing waits" in box.devboxfs("journal", "list").stdout
    assert box.devboxfs("journal", "list", "no-such", check=False).returncode == 1


def test_what_is_on_its_way_cannot_be_given_up(account: Account, box: MountedBox) -> None:
    for pid in box.helpers():
        as_launcher(os.kill, pid, signal.SIGSTOP)
    try:
        (box.mount / "file").write_bytes(b"1")
        (journal,) = listed(box, str(box.mount))
        assert journal["mountpoint"] == str(box.mount)
        assert [one["path"] for one in journal["objects"]] == ["file"]
        refused = box.devboxfs("journal", "discard", box.mount, "--yes", check=False)
        assert refused.returncode == 1
    finally:
        for pid in box.helpers():
            as_launcher(os.kill, pid, signal.SIGCONT)
    box.sync()
    assert (box.box / "file").read_bytes() == b"1"


@pytest.fixture
def closed(account: Account, box: MountedBox) -> Iterator[MountedBox]:
    """A mount whose box has a directory that became read-only (root) or not permitted."""
    account.perform((box.mount / "inner").mkdir)
    box.sync()
    inner = box.box / "inner"
    if LAUNCHER == 0:

        def bind() -> None:
            subprocess.run(["mount", "--bind", inner, inner], check=True, timeout=20)
            subprocess.run(["mount", "-o", "remount,ro,bind", inner], check=True, timeout=20)

        as_launcher(bind)
    else:
        inner.chmod(0o555)
    try:
        yield box
    finally:
        open_again(box)


def open_again(box: MountedBox) -> None:
    inner = box.box / "inner"
    if LAUNCHER == 0:
        as_launcher(
            lambda: subprocess.run(["umount", "-l", inner], check=False, stderr=subprocess.DEVNULL)
        )
    else:
        inner.chmod(0o755)


def test_what_the_box_refuses(closed: MountedBox) -> None:
    box = closed
    refusing = ("EROFS", "EACCES")
    with (box.mount / "inner" / "file").open("wb", buffering=0) as file:
        file.write(b"kept")
        assert outcome(os.fsync, file.fileno()) in refusing
        # Once per open file.
        os.close(os.dup(file.fileno()))
    (box.mount / "inner" / "other").write_bytes(b"given up")
    (box.mount / "elsewhere").write_bytes(b"goes on")
    wait_until(lambda: (box.box / "elsewhere").exists(), what="what does not depend on it")
    wait_until(lambda: len(box.status()["refused"]) == 2, what="both are refused")
    assert (box.mount / "inner" / "file").read_bytes() == b"kept"
    assert b"inner/file" in box.devboxfs("status", box.mount).stdout
    assert box.devboxfs("sync", box.mount, check=False).returncode == 7
    box.devboxfs("journal", "discard", box.mount, box.mount / "inner" / "other", "--yes")
    wait_until(
        lambda: not (box.mount / "inner" / "other").exists(), what="what was given up is gone"
    )
    said = box.devboxfs("journal", "retry", box.mount).stdout
    assert b"still wait" in said
    open_again(box)
    said = box.devboxfs("journal", "retry", box.mount).stdout
    assert b"everything is in the box" in said
    assert (box.box / "inner" / "file").read_bytes() == b"kept"
    assert box.status()["refused"] == []
    assert not list(box.box.rglob("*conflict*"))


def test_unmounting_says_what_the_box_refuses(closed: MountedBox) -> None:
    box = closed
    (box.mount / "inner" / "file").write_bytes(b"kept")
    said = box.devboxfs("umount", box.mount, check=False)
    assert said.returncode == 7
    assert b"the box refuses inner/file" in said.stderr
    said = box.devboxfs("mount", box.name, box.mount)
    assert b"devboxfs journal list" in said.stdout
    (box.mount / "works").write_bytes(b"1")
    open_again(box)
    box.devboxfs("journal", "retry", box.name)
    assert (box.box / "inner" / "file").read_bytes() == b"kept"
    wait_until(lambda: (box.mount / "inner" / "file").exists(), what="it is shown")
    assert listed(box) == []
