"""`--local`: directories that live on this machine inside the mount."""

import errno
import fcntl
import mmap
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.accounts import as_launcher
from tests.support.commands import run
from tests.support.mounts import PLAIN, MountedBox
from tests.support.posix import renameat2
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow
if PLAIN:
    pytest.skip("about options of mounts", allow_module_level=True)

OPTIONS = ("--local", "node_modules", "--local", "**/target", "--local", "/only/here")


def start(box: MountedBox, *options: str) -> MountedBox:
    box.devboxfs("mount", box.name, box.mount, *(options or OPTIONS))
    return box


@pytest.fixture
def box(make_box) -> MountedBox:
    return start(make_box())


def fails(number: int, function, *arguments, **named) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is compared
        function(*arguments, **named)
    assert caught.value.errno == number, caught.value


def shown(path: Path) -> tuple[int, ...]:
    info = path.stat()
    return (info.st_ino, info.st_mode, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


def traffic(box: MountedBox) -> tuple[int, int]:
    status = box.status()
    return status["journal"]["wire_operations_sent"], status["pending_operations"]


def test_nothing_crosses_the_link(box: MountedBox) -> None:
    (box.mount / "project").mkdir()
    box.sync()
    sent = traffic(box)
    tree = box.mount / "project" / "node_modules"
    tree.mkdir()
    for number in range(20):
        (tree / f"p{number}").mkdir()
        (tree / f"p{number}" / "index.js").write_text(f"{number}")
    os.rename(tree / "p0", tree / "q")
    os.link(tree / "q" / "index.js", tree / "link")
    os.symlink("q/index.js", tree / "symlink")
    assert (tree / "symlink").read_text() == "0"
    assert (tree / "link").stat().st_nlink == 2
    assert sorted(os.listdir(box.mount / "project")) == ["node_modules"]
    assert sorted(os.listdir(tree)) == sorted(
        ["q", "link", "symlink", *(f"p{n}" for n in range(1, 20))]
    )
    box.sync()
    assert traffic(box) == sent
    assert os.listdir(box.box / "project") == []
    shutil.rmtree(tree)
    assert os.listdir(box.mount / "project") == []


def test_what_is_local_and_what_is_not(box: MountedBox) -> None:
    (box.mount / "only").mkdir()
    (box.mount / "only" / "here").mkdir()
    (box.mount / "a").mkdir()
    (box.mount / "a" / "here").mkdir()
    # Only directories are local: a file of that name is the box's.
    (box.mount / "target").write_text("a file")
    fails(errno.EEXIST, os.mkdir, box.mount / "target")
    box.sync()
    assert (box.box / "target").read_text() == "a file"
    assert (box.box / "a" / "here").is_dir()
    assert not (box.box / "only" / "here").exists()
    (box.mount / "target").unlink()
    (box.mount / "target").mkdir()
    fails(errno.EEXIST, os.symlink, "x", box.mount / "target")
    fails(errno.EISDIR, os.unlink, box.mount / "target")
    box.sync()
    assert not (box.box / "target").exists()


def test_the_boxes_own_is_hidden(make_box) -> None:
    box = make_box()
    box.start()
    (box.mount / "node_modules").mkdir()
    (box.mount / "node_modules" / "theirs").write_text("box")
    (box.mount / "p").mkdir()
    box.umount()
    start(box)
    assert os.listdir(box.mount) == ["p"]
    assert not (box.mount / "node_modules").exists()
    (box.mount / "node_modules").mkdir()
    assert os.listdir(box.mount / "node_modules") == []
    # One that appears in the box while it is mounted is hidden, too, and keeps its parent.
    box.account.perform((box.box / "p" / "node_modules").mkdir)
    box.account.perform((box.box / "p" / "seen").touch)
    wait_until(lambda: os.listdir(box.mount / "p") == ["seen"], what="the file")
    (box.mount / "p" / "seen").unlink()
    fails(errno.ENOTEMPTY, os.rmdir, box.mount / "p")
    os.rmdir(box.mount / "node_modules")
    box.umount()
    assert (box.box / "node_modules" / "theirs").read_text() == "box"
    box.start()
    assert (box.mount / "node_modules" / "theirs").read_text() == "box"


def test_across_the_boundary(box: MountedBox) -> None:
    tree = box.mount / "target"
    tree.mkdir()
    (tree / "inside").write_text("in")
    (tree / "dir").mkdir()
    (box.mount / "outside").write_text("out")
    (box.mount / "plain").mkdir()
    for old, new in [
        (tree / "inside", box.mount / "moved"),
        (box.mount / "outside", tree / "moved"),
        (tree, box.mount / "other"),
        (box.mount / "plain", box.mount / "node_modules"),
        (box.mount / "plain", tree / "dir"),
    ]:
        fails(errno.EXDEV, os.rename, old, new)
    fails(errno.EXDEV, os.link, tree / "inside", box.mount / "linked")
    fails(errno.EXDEV, os.link, box.mount / "outside", tree / "linked")
    fails(errno.EXDEV, renameat2, tree, box.mount / "plain", 2)
    fails(errno.EISDIR, os.rename, box.mount / "outside", tree)
    run("mv", tree / "inside", box.mount / "moved")
    run("mv", box.mount / "outside", tree)
    run("mv", box.mount / "plain", tree / "plain")
    assert (box.mount / "moved").read_text() == "in"
    assert (tree / "outside").read_text() == "out"
    run("mv", tree, box.mount / "kept")
    box.sync()
    assert (box.box / "kept" / "outside").read_text() == "out"
    assert (box.box / "kept" / "plain").is_dir()


def test_trees_follow_the_directories_above(box: MountedBox) -> None:
    project = box.mount / "a" / "project"
    project.mkdir(parents=True)
    (project / "target").mkdir()
    (project / "target" / "x").write_text("x")
    os.rename(box.mount / "a", box.mount / "b")
    assert (box.mount / "b" / "project" / "target" / "x").read_text() == "x"
    fails(errno.ENOTEMPTY, os.rmdir, box.mount / "b" / "project")
    box.sync()
    # The same in the box.
    box.account.perform(os.rename, box.box / "b", box.box / "c")
    moved = box.mount / "c" / "project" / "target" / "x"
    wait_until(moved.exists, what="the moved tree")
    assert moved.read_text() == "x"
    # A tree that takes another local name; one whose new place would hide it is copied.
    os.rename(box.mount / "c" / "project" / "target", box.mount / "node_modules")
    assert (box.mount / "node_modules" / "x").read_text() == "x"
    assert os.listdir(box.mount / "c" / "project") == []
    (box.mount / "only").mkdir()
    (box.mount / "only" / "here").mkdir()
    fails(errno.EXDEV, os.rename, box.mount / "only", box.mount / "c" / "only")
    (box.mount / "full").mkdir()
    (box.mount / "full" / "target").mkdir()
    (box.mount / "empty").mkdir()
    fails(errno.ENOTEMPTY, os.rename, box.mount / "empty", box.mount / "full")


def renamed_unseen(box: MountedBox, before: str, after: str) -> None:
    """Rename in the box while its helper sees nothing; another one starts."""
    box.sync()  # what was read has another time of access: that is a change of ours
    for pid in box.helpers():
        as_launcher(os.kill, pid, signal.SIGSTOP)
    box.account.perform(os.rename, box.box / before, box.box / after)
    for pid in box.helpers():
        as_launcher(os.kill, pid, signal.SIGKILL)
    wait_until((box.mount / after).exists, what=f"{after} instead of {before}")


def test_trees_follow_what_was_renamed_while_the_link_was_down(box: MountedBox) -> None:
    """No event tells of it: the snapshot of the next connection does, from the top down."""
    project, moved, back = (box.mount / name for name in ("project", "other/moved", "back"))
    (project / "target").mkdir(parents=True)
    (project / "target" / "x").write_text("x")
    (project / "file").write_text("of the box")
    (box.mount / "other").mkdir()
    box.sync()
    with (project / "file").open() as file:
        inode = project.stat().st_ino
        renamed_unseen(box, "project", "other/moved")
        assert (moved / "target" / "x").read_text() == "x"
        assert file.read() == "of the box"
        renamed_unseen(box, "other/moved", "back")
        assert (back / "target" / "x").read_text() == "x"
        assert back.stat().st_ino == inode
        renamed_unseen(box, "back/file", "other/file")
        inode = os.fstat(file.fileno()).st_ino
        assert (box.mount / "other" / "file").stat().st_ino == inode
    assert sorted(os.listdir(box.mount)) == ["back", "other"]
    assert os.listdir(back) == ["target"]
    (box.mount / "other" / "file").write_text("of the mount")
    box.sync()
    assert (box.box / "other" / "file").read_text() == "of the mount"


def test_kept_over_remounts_and_told_by_status(box: MountedBox) -> None:
    (box.mount / "node_modules").mkdir(mode=0o750)
    (box.mount / "node_modules" / "big").write_bytes(b"x" * 100_000)
    before = shown(box.mount / "node_modules" / "big")
    (told,) = box.status()["local_trees"]
    assert told["path"] == "node_modules"
    assert told["files"] == 1
    assert 100_000 <= told["bytes"] < 200_000
    assert told["complete"] is True
    assert box.status()["options"]["local"] == ["node_modules", "**/target", "/only/here"]
    lines = box.devboxfs("status").stdout.decode()
    assert "local tree node_modules: " in lines
    assert told["stored_at"] in lines
    box.umount()
    start(box)
    assert shown(box.mount / "node_modules" / "big") == before
    assert stat.S_IMODE((box.mount / "node_modules").stat().st_mode) == 0o750
    # What is shown is to be removed is what the documentation says.
    box.umount()
    box.account.perform(shutil.rmtree, told["stored_at"])
    start(box)
    assert os.listdir(box.mount) == []
    assert box.status()["local_trees"] == []


def test_files_behave(box: MountedBox) -> None:
    tree = box.mount / "target"
    tree.mkdir()
    path = tree / "file"
    with open(path, "w+b") as file:
        file.write(b"hello")
        file.flush()
        os.unlink(path)
        assert os.fstat(file.fileno()).st_nlink == 0
        file.write(b" world")
        file.seek(0)
        assert file.read() == b"hello world"
        # Another may get the number that is free now: both stay apart.
        path.write_bytes(b"second")
        assert os.fstat(file.fileno()).st_ino != path.stat().st_ino
        file.seek(0)
        assert file.read() == b"hello world"
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 6) as mapped:
        mapped[:3] = b"SEC"
        mapped.flush()
    assert path.read_bytes() == b"SECond"
    first, second = (
        os.open(path, os.O_WRONLY | os.O_APPEND),
        os.open(path, os.O_WRONLY | os.O_APPEND),
    )
    os.write(first, b"1")
    os.write(second, b"2")
    os.close(first)
    os.close(second)
    assert path.read_bytes() == b"SECond12"
    os.truncate(path, 3)
    assert path.read_bytes() == b"SEC"
    os.utime(path, ns=(1_000_000_007, 2_000_000_009))
    assert path.stat().st_mtime_ns == 2_000_000_009
    path.chmod(0o640)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    os.setxattr(path, "user.note", b"value")
    assert os.getxattr(path, "user.note") == b"value"
    assert os.listxattr(path) == ["user.note"]
    fails(errno.ENODATA, os.getxattr, path, "user.other")
    os.mkfifo(tree / "fifo")
    assert stat.S_ISFIFO((tree / "fifo").stat().st_mode)
    with open(path, "rb") as one, open(path, "rb") as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        fails(errno.EWOULDBLOCK, fcntl.flock, two, fcntl.LOCK_EX | fcntl.LOCK_NB)
    data = os.urandom(3_000_000)
    (tree / "large").write_bytes(data)
    assert (tree / "large").read_bytes() == data
    os.rename(tree / "large", path)
    assert path.read_bytes() == data
    fails(errno.EEXIST, renameat2, path, tree / "fifo", 1)
    renameat2(path, tree / "fifo", 2)
    assert stat.S_ISFIFO(path.stat().st_mode)
    with open(tree / "fifo", "rb") as file:
        os.fsync(file.fileno())
    descriptor = os.open(tree, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def test_a_socket_can_be_bound(box: MountedBox) -> None:
    (box.mount / "target").mkdir()
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(box.mount / "target" / "s"))
        server.listen(1)
        client.connect(str(box.mount / "target" / "s"))


def test_numbers_do_not_collide(box: MountedBox) -> None:
    numbers = set()
    for top in ("target", "plain"):
        (box.mount / top).mkdir()
        for number in range(50):
            path = box.mount / top / f"{number}"
            path.touch()
            numbers.add(path.stat().st_ino)
    assert len(numbers) == 100


def test_a_program_runs_from_a_tree(box: MountedBox) -> None:
    (box.mount / "target").mkdir()
    program = box.mount / "target" / "program"
    shutil.copy("/bin/true", program)
    for _ in range(2):
        assert subprocess.run([program], check=False, timeout=60).returncode == 0


def test_many_entries(box: MountedBox) -> None:
    tree = box.mount / "target"
    tree.mkdir()
    names = {f"{'n' * 60}{number}" for number in range(3000)}
    for name in names:
        os.mknod(tree / name)
    assert set(os.listdir(tree)) == names
    assert {entry.name for entry in os.scandir(tree) if entry.is_file()} == names
    run("rm", "-rf", tree)
    assert not tree.exists()


def test_read_only(make_box) -> None:
    box = start(make_box())
    (box.mount / "target").mkdir()
    (box.mount / "target" / "file").write_text("x")
    box.umount()
    start(box, "--local", "target", "--read-only")
    tree, path = box.mount / "target", box.mount / "target" / "file"
    assert path.read_text() == "x"
    for function, *arguments in [
        (os.mkdir, tree / "d"),
        (os.unlink, path),
        (os.rmdir, tree),
        (os.rename, path, tree / "b"),
        (os.link, path, tree / "b"),
        (os.symlink, "x", tree / "b"),
        (os.mknod, tree / "b"),
        (os.truncate, path, 0),
        (os.chmod, path, 0o600),
        (os.utime, path),
        (os.setxattr, path, "user.a", b""),
        (os.open, path, os.O_RDWR),
        (os.open, path, os.O_RDONLY | os.O_TRUNC),
        (os.open, tree / "new", os.O_CREAT | os.O_WRONLY),
    ]:
        fails(errno.EROFS, function, *arguments)


def test_a_virtual_environment(box: MountedBox) -> None:
    (box.mount / "target").mkdir()
    venv = box.mount / "target" / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv, timeout=110)
    said = run(venv / "bin" / "python", "-c", "import sys; print(sys.prefix)", timeout=60)
    assert Path(said.stdout.decode().strip()) == venv
    assert box.status()["pending_operations"] == 0
    assert not (box.box / "target").exists()


def test_npm_install(box: MountedBox) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed on this machine")
    package = box.scratch / "greeter"
    package.mkdir()
    (package / "package.json").write_text('{"name": "greeter", "version": "1.0.0"}')
    (package / "index.js").write_text("module.exports = () => 'hello';\n")
    run(npm, "pack", "--silent", cwd=package, env=box.environment, timeout=100)
    (box.mount / "package.json").write_text('{"name": "app", "version": "1.0.0"}')
    archive = package / "greeter-1.0.0.tgz"
    command = [npm, "install", "--offline", "--no-audit", "--no-fund", archive]
    run(*command, cwd=box.mount, env=box.environment, timeout=110)
    said = run("node", "-e", "console.log(require('greeter')())", cwd=box.mount, timeout=60)
    assert said.stdout == b"hello\n"
    box.sync()
    assert sorted(os.listdir(box.box)) == ["package-lock.json", "package.json"]
