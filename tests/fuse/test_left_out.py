"""The box's helper neither lists nor watches what `--exclude` and `--local` take away."""

import os
import sys
from pathlib import Path

import pytest

from tests.fakes.helper import helper_binary
from tests.support.mounts import PLAIN, MountedBox
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow
if PLAIN:
    pytest.skip("about options of mounts", allow_module_level=True)

MODULES = 150


def fill(top: Path) -> None:
    for number in range(MODULES):
        (top / "node_modules" / f"m{number}" / "lib").mkdir(parents=True)
        (top / "node_modules" / f"m{number}" / "lib" / "f").write_text("x")
    for name in ("src/build/out", "src/deep"):
        (top / name).mkdir(parents=True)
        (top / name / "f").write_text(name)


def watches(box: MountedBox) -> int:
    """How many directories the helper watches by inotify."""
    (helper,) = box.helpers()
    count = 0
    for info in Path(f"/proc/{helper}/fdinfo").iterdir():
        count += info.read_text().count("inotify wd:")
    return count


@pytest.fixture
def filled(make_box) -> MountedBox:
    box = make_box().start()
    box.umount()
    box.account.perform(fill, box.box)
    return box


def mount(box: MountedBox, *options: str) -> None:
    box.devboxfs("mount", box.name, box.mount, *options)
    wait_until(lambda: box.status()["tree"]["snapshot_complete"], what="the snapshot")


def test_neither_listed_nor_watched(filled: MountedBox) -> None:
    box = filled
    mount(box)
    everything = box.status()["tree"]["snapshot_entries"]
    assert watches(box) > 2 * MODULES
    box.umount()

    mount(box, "--local", "node_modules", "--exclude", "build")
    status = box.status()
    assert everything - status["tree"]["snapshot_entries"] == 3 * MODULES + 2
    assert watches(box) == 3  # the root, src, src/deep
    assert status["tree"]["snapshot_entries"] == 5

    # What happens there is not told, and does not cost anything.
    events = box.status()["tree"]["events"]

    def change() -> None:
        for number in range(100):
            (box.box / "node_modules" / "m1" / "lib" / f"n{number}").write_text("x")
        (box.box / "src" / "deep" / "last").write_text("x")

    box.account.perform(change)
    wait_until(lambda: (box.mount / "src/deep/last").exists(), what="the last change")
    assert box.status()["tree"]["events"] - events < 10
    # The local one begins empty, the box's stays.
    os.mkdir(box.mount / "node_modules")
    assert os.listdir(box.mount / "node_modules") == []
    assert len(os.listdir(box.box / "node_modules")) == MODULES


def test_a_place_that_matters(filled: MountedBox) -> None:
    """An anchored pattern: what is shown of a directory that gets another name follows it."""
    box = filled
    mount(box, "--exclude", "/src/build", "--exclude", "/lib/deep")
    assert sorted(os.listdir(box.mount / "src")) == ["deep"]

    box.account.perform((box.box / "src").rename, box.box / "lib")  # in the box
    wait_until(
        lambda: (box.mount / "lib").exists() and os.listdir(box.mount / "lib") == ["build"],
        what="the other place's names",
    )
    assert (box.mount / "lib/build/out/f").read_text() == "src/build/out"

    (box.mount / "lib").rename(box.mount / "src")  # here
    wait_until(lambda: os.listdir(box.mount / "src") == ["deep"], what="the first names again")
    assert (box.mount / "src/deep/f").read_text() == "src/deep"
    box.sync()
    assert sorted(os.listdir(box.box / "src")) == ["build", "deep"]
    assert box.status()["conflicts"] == []


def test_renamed_into_view_and_out_of_it(filled: MountedBox) -> None:
    box = filled
    mount(box, "--exclude", "node_modules")
    assert sorted(os.listdir(box.mount)) == ["src"]
    box.account.perform((box.box / "node_modules").rename, box.box / "shown")
    wait_until(lambda: (box.mount / "shown").exists(), what="what was left out")
    assert (box.mount / "shown/m7/lib/f").read_text() == "x"
    assert len(os.listdir(box.mount / "shown")) == MODULES
    box.account.perform((box.box / "shown/m7/lib/f").write_text, "news")
    wait_until(lambda: (box.mount / "shown/m7/lib/f").read_text() == "news", what="news of it")
    box.account.perform((box.box / "shown").rename, box.box / "src" / "node_modules")
    wait_until(lambda: not (box.mount / "shown").exists(), what="its end")
    assert sorted(os.listdir(box.mount / "src")) == ["build", "deep"]
    wait_until(lambda: watches(box) == 5, what="the watches to end")


@pytest.mark.parametrize("moved", ["a", "a/b"])
def test_a_subpath_that_goes_and_comes_again(make_box, moved: str) -> None:
    box = make_box().start()
    (box.mount / "a/b").mkdir(parents=True)
    (box.mount / "a/b/f").write_text("x")
    box.umount()
    mount(box, "--subpath", "a/b")
    assert os.listdir(box.mount) == ["f"]

    def refused() -> bool:
        try:
            os.close(os.open(box.mount / "made", os.O_CREAT | os.O_WRONLY))
        except FileNotFoundError:
            return True
        (box.mount / "made").unlink()
        return False

    assert not refused()
    box.sync()
    box.account.perform((box.box / moved).rename, box.box / "away")
    wait_until(refused, what="the news that there is nothing any more")
    box.account.perform((box.box / "away").rename, box.box / moved)
    box.account.perform((box.box / "a/b/g").write_text, "y")
    wait_until(lambda: sorted(os.listdir(box.mount)) == ["f", "g"], what="all that is there")
    assert not refused()
    (box.mount / "h").write_text("z")
    box.sync()
    assert (box.box / "a/b/h").read_text() == "z"


OLDER = """\
#!{python} -I
import os, subprocess, sys
helper = subprocess.Popen([{helper!r}, *sys.argv[1:]], stdout=subprocess.PIPE, bufsize=0)
said = b""
while b"prune" not in said and (piece := helper.stdout.read(65536)):
    said += piece
said = said.replace(b"prune", b"prone", 1)
while said:
    said = said[os.write(1, said):] or helper.stdout.read(65536)
sys.exit(helper.wait())
"""
"""A helper from before it could leave anything out: the capability has another name."""


def test_a_helper_that_tells_of_everything(filled: MountedBox) -> None:
    box = filled
    older = box.home / "older-helper"
    older.write_text(OLDER.format(python=sys.executable, helper=os.fspath(helper_binary())))
    older.chmod(0o755)
    box.environment["DEVBOX_HELPER"] = os.fspath(older)
    mount(box, "--local", "node_modules", "--exclude", "build")
    assert box.status()["tree"]["snapshot_entries"] > 3 * MODULES
    assert sorted(os.listdir(box.mount)) == ["src"]
    assert os.listdir(box.mount / "src") == ["deep"]
    (box.mount / "node_modules").mkdir()

    def change() -> None:
        (box.box / "node_modules" / "m1" / "lib" / "new").write_text("x")
        (box.box / "src" / "build" / "new").write_text("x")
        (box.box / "build").mkdir()
        (box.box / "src" / "deep" / "last").write_text("x")

    box.account.perform(change)
    wait_until(lambda: (box.mount / "src/deep/last").exists(), what="the last change")
    assert sorted(os.listdir(box.mount)) == ["node_modules", "src"]
    assert os.listdir(box.mount / "node_modules") == []
    assert not (box.mount / "src" / "build").exists()
    (box.mount / "node_modules" / "mine").write_text("x")
    box.sync()
    assert not (box.box / "node_modules" / "mine").exists()
