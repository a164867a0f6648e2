import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devboxfs import mountpoint
from devboxfs.mountpoint import parse_mountinfo

# From a Debian 12 machine; the third line has optional fields, the fourth none.
MOUNTINFO = rb"""22 27 0:21 / /proc rw,nosuid,nodev,noexec,relatime shared:12 - proc proc rw
27 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro
40 27 0:36 / /tmp/a\040b rw shared:2 master:7 - tmpfs t\043mp rw
48 27 0:40 / /mnt/x\134y\012z rw,nosuid - fuse.devboxfs devbox:my-box rw,user_id=1000,group_id=7
49 27 0:41 / /mnt/s rw,nosuid - fuse.sshfs host:/ rw,user_id=0,group_id=0
"""


def test_mountinfo():
    found = parse_mountinfo(MOUNTINFO)
    assert [str(mount.path) for mount in found] == [
        "/proc",
        "/",
        "/tmp/a b",
        "/mnt/x\\y\nz",
        "/mnt/s",
    ]
    assert found[2].source == "t#mp"
    ours = found[3]
    assert (ours.ours, ours.box, ours.minor, ours.user_id) == (True, "my-box", 40, 1000)
    assert (found[4].ours, found[4].user_id) == (False, 0)
    assert found[1].user_id is None


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name))
def test_every_name_survives_the_kernels_escapes(name):
    escaped = b"".join(
        b"\\%03o" % byte if byte in b" \t\n\\#" else bytes([byte]) for byte in b"/" + name
    )
    line = b"1 2 0:3 / " + escaped + b" rw - fuse.devboxfs devbox:a rw,user_id=0\n"
    (found,) = parse_mountinfo(line)
    assert found.path == Path("/" + os.fsdecode(name))


def test_find_mount():
    assert mountpoint.find_mount("/proc/self/../sys").fstype == "proc"
    assert mountpoint.find_mount("/dev/fd/no/such").fstype == "proc"
    assert mountpoint.find_mount("/proc/self/cwd/x").path == mountpoint.find_mount(os.getcwd()).path


def test_probe_and_resolve(tmp_path):
    assert mountpoint.probe(tmp_path) == "alive"
    assert mountpoint.probe(tmp_path / "missing") == "alive"
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b")
    assert mountpoint.resolve(tmp_path / "link" / ".." / "c") == tmp_path / "a" / "c"


def test_what_does_not_answer_is_given_up(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert mountpoint._guarded("open(__import__('sys').argv[1])", str(fifo), timeout=0.2) is None


def test_unmount_of_what_is_not_mounted(tmp_path):
    with pytest.raises(OSError, match=r"(?i)invalid|not ") as caught:
        mountpoint.unmount(tmp_path)
    assert caught.value.errno in {errno.EINVAL, errno.EPERM}


def test_users(tmp_path):
    (tmp_path / "mnt").mkdir()
    (tmp_path / "mnt2").mkdir()
    file = tmp_path / "mnt" / "file"
    file.write_bytes(b"x" * 4096)
    programs = {
        "its working directory": f"import os; os.chdir({str(tmp_path / 'mnt')!r})",
        "open file": f"kept = open({str(file)!r})",
        "mapped file": (
            "import mmap, os\n"
            f"with open({str(file)!r}, 'r+b') as file:\n"
            "    kept = mmap.mmap(file.fileno(), 0)\n"
            # mmap keeps a descriptor of its own
            "for number in range(3, 10):\n"
            "    try: os.close(number)\n"
            "    except OSError: pass"
        ),
        "": f"import os; os.chdir({str(tmp_path / 'mnt2')!r})",
    }
    children = {}
    try:
        for how, code in programs.items():
            child = subprocess.Popen(
                [sys.executable, "-c", f"{code}\nprint(1, flush=True)\ninput()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            children[how] = child
            assert child.stdout.readline() == b"1\n"
        found = {user.how: user.pid for user in mountpoint.users(tmp_path / "mnt")}
        assert found == {how: child.pid for how, child in children.items() if how}
    finally:
        for child in children.values():
            child.stdin.close()
            child.kill()
            child.wait()
            child.stdout.close()
