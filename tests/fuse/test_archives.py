"""tar, cp and rsync on a mount: everything a tree consists of arrives in the box."""

import os
from pathlib import Path

import pytest

from tests.fuse.conftest import Place
from tests.support.accounts import Account
from tests.support.commands import need, run
from tests.support.mounts import MountedBox
from tests.support.trees import differences, fill, fill_with_oddities, manifest
from tests.support.waiting import wait_until

SMALL_FILES = 2000


@pytest.fixture(scope="module")
def source(shared: MountedBox) -> Path:
    """A local tree of 2,000 small files and of everything else that a tree may hold."""
    return shared.account.perform(_make_source, shared.scratch / "source")


def _make_source(top: Path) -> Path:
    top.mkdir()
    fill(top, seed=11, files=SMALL_FILES, directories=40, size=1500)
    fill_with_oddities(top)
    return top


def rsync_differences(one: Path, other: Path, environment: dict[str, str]) -> str:
    """What rsync, comparing contents, hard links and everything else, would copy."""
    argv = [need("rsync"), "-aHn", "--checksum", "--itemize-changes", "--delete"]
    return run(*argv, f"{one}/", f"{other}/", env=environment).stdout.decode()


def test_tar_extracts_2000_files(account: Account, place: Place, source: Path) -> None:
    archive = place.local / "source.tar"
    run("tar", "cf", archive, "--format=pax", "-C", source, ".")
    place.run("tar", "xpf", archive, "--delay-directory-restore")
    assert differences(source, place.mount) == []
    assert rsync_differences(source, place.mount, place.owner.environment) == ""

    place.sync()
    assert differences(source, place.box) == []
    assert rsync_differences(place.mount, place.box, place.owner.environment) == ""
    assert rsync_differences(source, place.box, place.owner.environment) == ""


def test_cp_keeps_everything(account: Account, place: Place, source: Path) -> None:
    run("cp", "-a", f"{source}/.", place.mount, timeout=100)
    assert differences(source, place.mount) == []
    place.sync()
    assert differences(source, place.box) == []

    # Out of the mount again, from one of its directories to another, and away.
    copy = place.local / "copy"
    run("cp", "-a", place.mount, copy)
    assert differences(source, copy) == []
    run("rm", "-rf", *place.mount.iterdir())
    assert list(place.mount.iterdir()) == []
    place.sync()
    assert list(place.box.iterdir()) == []


def test_rsync_updates_a_tree(account: Account, place: Place) -> None:
    """rsync writes to temporary names, sets their attributes and renames; --inplace does not."""
    need("rsync")
    first = place.local / "first"
    first.mkdir()
    files = fill(first, seed=12, files=150, directories=10)
    fill_with_oddities(first)
    for options in (["-aH"], ["-aH", "--inplace", "--no-whole-file"]):
        target = place.mount / options[-1].strip("-")
        argv = ["rsync", *options, "--delete", f"{first}/", f"{target}/"]
        run(*argv, env=place.owner.environment)
        # rsync 3.5 leaves alone the times of symbolic links and of directories that it wrote into.
        assert differences(first, target, times="-") == []
        for path in files[:20]:
            path.write_bytes(path.read_bytes() + b"grown\n")
        files.pop().unlink()
        run(*argv, env=place.owner.environment)
        assert differences(first, target, times="-") == []
        place.sync()
        there = place.box / target.name
        assert differences(target, there) == []


def test_hard_links_are_one_object_on_both_sides(account: Account, place: Place) -> None:
    (place.mount / "one").write_bytes(b"first")
    os.link(place.mount / "one", place.mount / "two")
    place.sync()
    os.link(place.mount / "one", place.mount / "three")
    (place.mount / "two").write_bytes(b"written through another name")
    place.sync()
    for top in (place.mount, place.box):
        infos = [os.stat(top / name) for name in ("one", "two", "three")]
        assert len({info.st_ino for info in infos}) == 1
        assert [info.st_nlink for info in infos] == [3, 3, 3]
        for name in ("one", "two", "three"):
            assert (top / name).read_bytes() == b"written through another name"
    os.unlink(place.mount / "one")
    place.sync()
    assert [os.stat(top / "two").st_nlink for top in (place.mount, place.box)] == [2, 2]


def test_a_tree_that_the_box_had_first(account: Account, place: Place, source: Path) -> None:
    """Everything that the mount shows of a tree made in the box equals the tree."""
    place.sync()
    run("cp", "-a", f"{source}/.", place.box / "made-there")
    wanted = manifest(source)
    wait_until(
        lambda: manifest(place.mount / "made-there") == wanted,
        timeout=10,
        interval=0.2,
        what="the mount shows the tree",
    )


def test_find_agrees_with_the_box(account: Account, place: Place) -> None:
    fill(place.mount, seed=13, files=300, directories=30)
    place.sync()
    argv = ["find", ".", "-type", "f", "-printf", r"%p %m %s %n %U %G %T@\n"]
    seen = [sorted(run(*argv, cwd=top).stdout.splitlines()) for top in (place.mount, place.box)]
    assert seen[0] == seen[1]
    assert len(seen[0]) == 300
