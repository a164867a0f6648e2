"""What a mount shows: a part of the workspace, other owners and bits, links that work."""

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.support.mounts import PLAIN, MountedBox
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.each_account, pytest.mark.slow]
if PLAIN:
    pytest.skip("about options of mounts", allow_module_level=True)


def fails(number: int, function, *arguments, **named) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is compared
        function(*arguments, **named)
    assert caught.value.errno == number, caught.value


def start(box: MountedBox, *options: str) -> MountedBox:
    box.devboxfs("mount", box.name, box.mount, *options)
    return box


def test_subpath(make_box) -> None:
    box = make_box().start()
    (box.mount / "a").mkdir()
    (box.mount / "a" / "b").mkdir()
    (box.mount / "a" / "b" / "file").write_text("x")
    (box.mount / "other").write_text("x")
    box.umount()
    start(box, "--subpath", "a/b", "--local", "/target")
    assert os.listdir(box.mount) == ["file"]
    assert box.status()["options"]["subpath"] == "a/b"
    (box.mount / "dir").mkdir()
    (box.mount / "dir" / "new").write_text("new")
    os.rename(box.mount / "file", box.mount / "dir" / "file")
    (box.mount / "target").mkdir()
    (box.mount / "target" / "here").write_text("here")
    box.sync()
    assert (box.box / "a" / "b" / "dir" / "new").read_text() == "new"
    assert sorted(os.listdir(box.box)) == ["a", "other"]
    assert sorted(os.listdir(box.box / "a" / "b")) == ["dir"]
    box.account.perform((box.box / "a" / "b" / "remote").write_text, "r")
    box.account.perform((box.box / "a" / "outside").write_text, "r")
    wait_until((box.mount / "remote").exists, what="the file of the box")
    assert (box.mount / "remote").read_text() == "r"
    assert not (box.mount / "outside").exists()
    # Changes in the box are repeated for local watchers, at the place where they are here.
    os.listdir(box.mount / "dir")
    before = box.status()["watchers"]["performed"]
    box.account.perform((box.box / "a" / "b" / "dir" / "seen").write_text, "r")
    wait_until(lambda: box.status()["watchers"]["performed"] > before, what="the repetition")
    # What a killed daemon leaves is brought to the same place by a mount of everything.
    (box.mount / "last").write_text("kept")
    box.kill()
    box.start()
    assert (box.mount / "a" / "b" / "last").read_text() == "kept"
    box.umount()
    start(box, "--local", "target")
    assert (box.mount / "a" / "b" / "target" / "here").read_text() == "here"


def test_owners_and_bits(make_box) -> None:
    box = start(make_box(), "--umask", "027", "--local", "target")
    path = box.mount / "file"
    path.write_text("x")
    path.chmod(0o755)
    box.sync()
    assert stat.S_IMODE((box.box / "file").stat().st_mode) & 0o027 == 0
    box.account.perform((box.box / "file").chmod, 0o717)
    wait_until(lambda: stat.S_IMODE(path.stat().st_mode) == 0o710, what="the mode")
    path.chmod(0o640)
    box.sync()
    # What is not shown stays as it is in the box.
    assert stat.S_IMODE((box.box / "file").stat().st_mode) == 0o647
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    (box.mount / "target").mkdir(mode=0o777)
    (box.mount / "target" / "x").touch(0o666)
    assert stat.S_IMODE((box.mount / "target").stat().st_mode) & 0o027 == 0
    assert stat.S_IMODE((box.mount / "target" / "x").stat().st_mode) & 0o027 == 0
    box.umount()
    owner = (box.box / "file").stat().st_uid
    me = box.account.uid
    start(box, "--uid", str(me), "--gid", "4242", "--local", "target")
    for shown in (path, box.mount, box.mount / "target", box.mount / "target" / "x"):
        assert (shown.stat().st_uid, shown.stat().st_gid) == (me, 4242)
    os.chown(path, me, -1)
    if box.account.is_root:
        os.chown(path, me, 4242)
        fails(errno.EPERM, os.chown, path, 4243, -1)
        fails(errno.EPERM, os.chown, path, -1, 4243)
    (box.mount / "new").write_text("x")
    box.sync()
    assert (box.box / "new").stat().st_uid == owner
    told = box.status()["options"]
    assert (told["uid"], told["gid"]) == (me, 4242)


def test_symbolic_links(make_box) -> None:
    box = make_box().start()
    (box.mount / "d").mkdir()
    (box.mount / "d" / "file").write_text("content")
    box.umount()
    root = os.path.realpath(box.box)

    def links() -> None:
        os.symlink(f"{root}/d/file", box.box / "top")
        os.symlink(f"{root}/d/file", box.box / "d" / "beside")
        os.symlink(root, box.box / "d" / "root")
        os.symlink("/etc/hostname", box.box / "outside")
        os.symlink(f"{root}/../x", box.box / "climbs")
        os.symlink("d/file", box.box / "relative")

    box.account.perform(links)
    box.start()
    assert os.readlink(box.mount / "top") == f"{root}/d/file"
    box.umount()
    start(box, "--transform-symlinks")
    for name, shown in [
        ("top", "d/file"),
        ("d/beside", "../d/file"),
        ("d/root", "../"),
        ("outside", "/etc/hostname"),
        ("climbs", f"{root}/../x"),
        ("relative", "d/file"),
    ]:
        assert os.readlink(box.mount / name) == shown
        assert (box.mount / name).lstat().st_size == len(shown)
    assert (box.mount / "d" / "beside").read_text() == "content"
    assert sorted(os.listdir(box.mount / "d" / "root")) == sorted(os.listdir(box.mount))
    # A link that is moved is shown otherwise.
    (box.mount / "e").mkdir()
    (box.mount / "e" / "f").mkdir()
    os.rename(box.mount / "top", box.mount / "e" / "f" / "top")
    assert (box.mount / "e" / "f" / "top").read_text() == "content"
    # One into the mount point works in the box, too.
    os.symlink(box.mount / "d" / "file", box.mount / "new")
    os.symlink("/mnt", box.mount / "other")
    assert (box.mount / "new").read_text() == "content"
    box.sync()
    assert os.readlink(box.box / "new") == f"{root}/d/file"
    assert os.readlink(box.box / "other") == "/mnt"
    assert os.readlink(box.box / "e" / "f" / "top") == f"{root}/d/file"


def test_read_only_refuses_everything(make_box) -> None:
    box = make_box().start()
    path, directory = box.mount / "file", box.mount / "dir"
    path.write_text("x")
    directory.mkdir()
    box.umount()
    start(box, "--read-only", "--umask", "222")
    before = path.stat()
    for function, *arguments in [
        (os.open, path, os.O_RDWR),
        (os.open, path, os.O_WRONLY),
        (os.open, path, os.O_RDONLY | os.O_TRUNC),
        (os.open, box.mount / "new", os.O_CREAT | os.O_WRONLY),
        (os.truncate, path, 0),
        (os.mkdir, box.mount / "new"),
        (os.rmdir, directory),
        (os.unlink, path),
        (os.rename, path, box.mount / "new"),
        (os.link, path, box.mount / "new"),
        (os.symlink, "x", box.mount / "new"),
        (os.mknod, box.mount / "new"),
        (os.chmod, path, 0o600),
        (os.chown, path, box.account.uid, -1),
        (os.utime, path, (1, 1)),
        (os.setxattr, path, "user.a", b"b"),
        (os.removexattr, path, "user.a"),
    ]:
        with pytest.raises(OSError, match=r".") as caught:
            function(*arguments)
        # Without write bits the kernel refuses an ordinary user before it asks.
        allowed = {errno.EROFS} if box.account.is_root else {errno.EROFS, errno.EACCES}
        if function is os.removexattr:
            allowed |= {errno.ENODATA}
        assert caught.value.errno in allowed, (function, caught.value)
    assert path.stat() == before
    if not box.account.is_root:
        assert not os.access(path, os.W_OK)
    assert os.access(path, os.R_OK)
    assert os.listdir(box.box) == ["file", "dir"] or sorted(os.listdir(box.box)) == ["dir", "file"]


def test_the_cache_keeps_to_its_size(make_box) -> None:
    box = start(make_box(), "--cache-size", "16M")

    def fill() -> None:
        for number in range(6):
            (box.box / f"f{number}").write_bytes(os.urandom(8 << 20))

    box.account.perform(fill)
    wait_until((box.mount / "f5").exists, what="the files")
    for number in range(6):
        assert (box.mount / f"f{number}").read_bytes() == (box.box / f"f{number}").read_bytes()

    def used() -> int:
        files = (p for p in Path(box.cache).rglob("*") if p.is_file())
        return sum(p.stat().st_blocks * 512 for p in files)

    # Beside contents there is an index; what is being read is let go a moment later.
    wait_until(lambda: used() < 24 << 20, what="a cache within its limit")
