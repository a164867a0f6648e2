"""The images have what their descriptions say, and lack what they say."""

import pytest

from tests.node.conftest import Start
from tests.node.containerd import Containerd

PROGRAMS = ("sh", "bash", "tar", "python3", "find", "stat", "base64", "gzip", "busybox", "setpriv")
HAVE = {
    "posix": "sh bash tar find stat base64 gzip setpriv",
    "posix-python": "sh bash tar python3 find stat base64 gzip setpriv",
    "posix-user": "sh bash tar find stat base64 gzip setpriv",
    "posix-nobash": "sh tar find stat base64 gzip setpriv",
    "posix-notar": "sh find stat base64 gzip setpriv",
    "busybox": "sh tar find stat base64 gzip busybox setpriv",
}


@pytest.mark.parametrize("image", HAVE)
def test_programs(start: Start, image: str) -> None:
    box = start(image)
    script = f"for p in {' '.join(PROGRAMS)}; do command -v $p >/dev/null && echo $p; done; id -un"
    result = box.run("/bin/sh", "-c", script)
    user = "devbox" if image == "posix-user" else "root"
    assert result.stdout.decode().split() == [*HAVE[image].split(), user]


@pytest.mark.parametrize("image", ["posix-python", "busybox"])
def test_programs_work(start: Start, image: str) -> None:
    box = start(image)
    script = "mkdir d; echo x > d/f; tar cf - d | gzip | gzip -d | tar tf -; find d -type f"
    result = box.run("/bin/sh", "-c", script)
    assert result.stdout == b"d/\nd/f\nd/f\n", result.stderr


def test_python_has_its_standard_library(start: Start) -> None:
    script = (
        "import asyncio, ctypes, hashlib, json, lzma, sqlite3, ssl, tarfile, zlib; print('all')"
    )
    assert start("posix-python").run("python3", "-c", script).stdout == b"all\n"


def test_a_bare_image_has_nothing_to_run(start: Start) -> None:
    result = start("bare").run("/bin/sh", "-c", "true")
    assert result.status["reason"] == "InternalError"
    assert "no such file or directory" in result.status["message"]


def test_user_1000_owns_the_home_and_nothing_else(start: Start) -> None:
    box = start("posix-user")
    script = "cd; pwd; touch here project/there; touch /usr/no 2>&1 | cut -d: -f3"
    result = box.run("/bin/bash", "-lc", script)
    assert result.stdout == b"/home/devbox\n Permission denied\n"
    assert (box.workspace / "there").stat().st_uid == 1000


def test_a_root_that_is_read_only(start: Start) -> None:
    box = start("posix", read_only_root=True)
    assert b"Read-only file system" in box.run("touch", "/root/file").stderr
    assert box.run("touch", "file").exit_code == 0


def test_a_tmp_that_executes_nothing(start: Start, containerd: Containerd) -> None:
    box = start("posix", noexec_tmp=True)
    result = box.run("sh", "-c", "cp /usr/bin/true /tmp/it && /tmp/it")
    assert b"Permission denied" in result.stderr
