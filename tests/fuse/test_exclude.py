"""`--exclude`: names that do not exist in the mount."""

import errno
import os
from pathlib import Path

import pytest

from tests.support.mounts import PLAIN, MountedBox
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow
if PLAIN:
    pytest.skip("about options of mounts", allow_module_level=True)


def fails(number: int, function, *arguments) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is compared
        function(*arguments)
    assert caught.value.errno == number, caught.value


def fill(top: Path) -> None:
    for name in (".cache", "src", "src/.cache", "data"):
        (top / name).mkdir()
    for name in (".cache/a", "src/b.tmp", "src/c.c", "src/.cache/d", "data/raw", "data/x"):
        (top / name).write_text(name)


@pytest.fixture
def box(make_box) -> MountedBox:
    box = make_box().start()
    box.account.perform(fill, box.mount)
    box.umount()
    patterns = ("--exclude", ".cache", "--exclude", "*.tmp", "--exclude", "/data/raw")
    box.devboxfs("mount", box.name, box.mount, *patterns)
    return box


def test_what_is_excluded_is_not_there(box: MountedBox) -> None:
    top = box.mount
    assert sorted(os.listdir(top)) == ["data", "src"]
    assert os.listdir(top / "src") == ["c.c"]
    assert os.listdir(top / "data") == ["x"]
    for name in (".cache", ".cache/a", "src/b.tmp", "data/raw"):
        fails(errno.ENOENT, os.lstat, top / name)
        fails(errno.ENOENT, os.open, top / name, os.O_RDONLY)
    assert box.status()["options"]["exclude"] == [".cache", "*.tmp", "/data/raw"]


def test_none_can_be_made(box: MountedBox) -> None:
    top = box.mount
    (top / "plain").write_text("x")
    fails(errno.EPERM, os.mkdir, top / ".cache")
    fails(errno.EPERM, os.open, top / "new.tmp", os.O_CREAT | os.O_WRONLY)
    fails(errno.EPERM, os.symlink, "x", top / "new.tmp")
    fails(errno.EPERM, os.link, top / "plain", top / "new.tmp")
    fails(errno.EPERM, os.rename, top / "plain", top / "new.tmp")
    fails(errno.EPERM, os.mknod, top / "new.tmp")
    # What is excluded in the box keeps its parent: the box would refuse the removal later.
    (top / "src" / "c.c").unlink()
    fails(errno.ENOTEMPTY, os.rmdir, top / "src")
    box.sync()
    assert box.status()["conflicts"] == []
    assert (box.box / "src" / "b.tmp").read_text() == "src/b.tmp"


def test_news_of_it_are_not_told(box: MountedBox) -> None:
    def change() -> None:
        (box.box / "src" / "e.tmp").write_text("x")
        (box.box / "src" / "c.c").rename(box.box / "src" / "f.tmp")
        (box.box / "src" / "b.tmp").rename(box.box / "src" / "shown")
        (box.box / "src" / "last").write_text("x")

    os.listdir(box.mount / "src")
    box.account.perform(change)
    wait_until(lambda: (box.mount / "src" / "last").exists(), what="the last change")
    assert sorted(os.listdir(box.mount / "src")) == ["last", "shown"]
    assert (box.mount / "src" / "shown").read_text() == "src/b.tmp"
    # Nothing of what is excluded is left: then the directory can be removed.
    box.account.perform(lambda: [p.unlink() for p in (box.box / "src").glob("*.tmp")])
    box.account.perform((box.box / "src" / ".cache" / "d").unlink)
    box.account.perform((box.box / "src" / ".cache").rmdir)
    for name in ("last", "shown"):
        (box.mount / "src" / name).unlink()

    def removed() -> bool:
        try:
            os.rmdir(box.mount / "src")
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            return False
        return True

    wait_until(removed, what="the directory to be empty")
    box.sync()
    assert not (box.box / "src").exists()


def test_nonsense_is_refused(make_box) -> None:
    box = make_box()
    for options in (
        ("--exclude", "a//b"),
        ("--local", "[a"),
        ("--exclude", "!a"),
        ("--subpath", ""),
        ("--subpath", "../x"),
        ("--subpath", "/x"),
        ("--umask", "1777"),
        ("--umask", "9"),
        ("--uid", "-1"),
    ):
        said = box.devboxfs("mount", box.name, box.mount, *options, check=False)
        assert said.returncode == 2, (options, said)
    box.start()
    (box.mount / "file").write_text("x")
    os.symlink(".", box.mount / "link")
    box.umount()
    for path, text in (
        ("missing", b"No such file"),
        ("file", b"no directory"),
        ("file/below", b"Not a directory"),
        ("link", b"symbolic link"),
    ):
        said = box.devboxfs("mount", box.name, box.mount, "--subpath", path, check=False)
        assert said.returncode == 6
        assert text in said.stderr
        assert path.encode() in said.stderr
    box.devboxfs("mount", box.name, box.mount, "--exclude", r"\!a")
    with pytest.raises(PermissionError):
        (box.mount / "!a").touch()
