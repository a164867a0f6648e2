"""Names, paths and permissions at their limits: the same outcome as on a local disk."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuse.conftest import Place
from tests.support.accounts import Account
from tests.support.posix import outcome
from tests.support.trees import differences
from tests.support.waiting import wait_until

pytestmark = pytest.mark.each_account

NAMES = [
    b"a" * 255,
    "\N{SNOWMAN}".encode() * 85,
    b"new\nline",
    b"tab\tand\rreturn",
    b"quote'and\"quote",
    b"-rf",
    b"--",
    b" ",
    b" leading and trailing ",
    b"back\\slash",
    b"\xff\xfe\xfd",
    b"half\xc3\x28a character",
    b"*?[a-z]{b,c}",
    b"$(touch gone);`id`|&",
    b"\x01\x1b[31m\x7f",
    b"...",
    b".hidden",
    b"~",
    b"%s%n",
    "e\N{COMBINING ACUTE ACCENT}".encode(),
    "\N{LATIN SMALL LETTER E WITH ACUTE}".encode(),
    b"file.conflict-host-2020",
    b"CON.txt",
]


def test_odd_names_arrive_as_they_are(account: Account, place: Place) -> None:
    for number, name in enumerate(NAMES):
        tops = [os.fsencode(top / str(number)) for top in (place.mount, place.local)]
        here, there = (_use_name(top, name) for top in tops)
        assert here == there
    place.sync()
    assert differences(place.mount, place.box) == []
    assert differences(place.local, place.box, times="") == []


def _use_name(top: bytes, name: bytes) -> list[object]:
    os.mkdir(top)
    path, link, plain = (os.path.join(top, one) for one in (name, b"link", b"plain"))
    Path(os.fsdecode(path)).write_bytes(name)
    seen: list[object] = [Path(os.fsdecode(path)).read_bytes(), os.listdir(top)]
    os.rename(path, plain)
    seen.append(os.listdir(top))
    os.rename(plain, path)
    os.mkdir(os.path.join(top, name[:-1] + b"2"))
    os.symlink(name, link)
    seen += [os.readlink(link), Path(os.fsdecode(link)).read_bytes(), sorted(os.listdir(top))]
    return seen


def test_odd_names_of_the_box_are_shown(account: Account, place: Place) -> None:
    place.sync()
    for name in NAMES:
        with open(os.path.join(os.fsencode(place.box), name), "wb") as file:
            file.write(name)
    here = os.fsencode(place.mount)
    wait_until(lambda: sorted(os.listdir(here)) == sorted(NAMES), timeout=5)
    for name in NAMES:
        with open(os.path.join(here, name), "rb") as file:
            assert file.read() == name


def _limits(top: Path) -> dict[str, object]:
    """Names and paths that are too long, in every call that takes one."""
    base = os.fsencode(top)
    (top / "file").write_bytes(b"content")
    found = {}
    too_long = {"name": b"n" * 256, "path": b"/".join([b"d" * 99] * 50), "empty": b"nul\0"[:0]}
    for label, name in too_long.items():
        path = os.path.join(base, name) if name else b""
        file = os.path.join(base, b"file")
        calls = {
            "create": lambda path=path: os.open(path, os.O_CREAT | os.O_WRONLY),
            "open": lambda path=path: os.open(path, os.O_RDONLY),
            "mkdir": lambda path=path: os.mkdir(path),
            "stat": lambda path=path: os.lstat(path),
            "unlink": lambda path=path: os.unlink(path),
            "rmdir": lambda path=path: os.rmdir(path),
            "symlink": lambda path=path: os.symlink(b"target", path),
            "readlink": lambda path=path: os.readlink(path),
            "link": lambda path=path, file=file: os.link(file, path),
            "rename": lambda path=path, file=file: os.rename(file, path),
            "mkfifo": lambda path=path: os.mkfifo(path),
            "chmod": lambda path=path: os.chmod(path, 0o600),
            "utime": lambda path=path: os.utime(path),
            "listdir": lambda path=path: os.listdir(path),
        }
        for call, function in calls.items():
            found[f"{call} {label}"] = outcome(function)
    for size in (1, 1000, 4095, 4096):
        target = b"t" * size
        link = os.path.join(base, b"link%d" % size)
        found[f"symlink to {size}"] = outcome(os.symlink, target, link)
        found[f"readlink {size}"] = outcome(lambda link=link: len(os.readlink(link)))
    found["long name"] = outcome(os.setxattr, top / "file", "user." + "n" * 251, b"x")
    found["list"] = sorted(os.listdir(top))
    return found


def test_what_is_too_long(account: Account, place: Place) -> None:
    here, there = _limits(place.mount), _limits(place.local)
    assert here == there
    assert there["create name"] == there["mkdir path"] == "ENAMETOOLONG"
    place.sync()
    assert differences(place.mount, place.box) == []


def test_a_path_that_grows_beyond_4096_bytes(account: Account, place: Place) -> None:
    """Made step by step, each name relative to an open directory; what was acknowledged arrives."""
    depth = 0
    descriptor = os.open(place.mount, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for _ in range(60):
            made = outcome(os.mkdir, b"d" * 99, dir_fd=descriptor)
            if made is not None:
                assert made == "ENAMETOOLONG"
                break
            inner = os.open(b"d" * 99, os.O_RDONLY | os.O_DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
            depth += 1
    finally:
        os.close(descriptor)
    assert depth >= 35
    place.sync()
    assert _depth(place.box) == depth
    place.run("rm", "-rf", "d" * 99)
    place.sync()
    assert os.listdir(place.box) == []


def _depth(top: Path) -> int:
    depth = 0
    descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while os.listdir(descriptor):
            inner = os.open(b"d" * 99, os.O_RDONLY | os.O_DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
            depth += 1
    finally:
        os.close(descriptor)
    return depth


def _permissions(top: Path) -> dict[str, object]:
    """What a directory and a file of every mode let their owner do."""
    found: dict[str, object] = {}
    for mode in (0o000, 0o111, 0o333, 0o444, 0o555, 0o666, 0o777):
        directory = top / f"directory-{mode:o}"
        directory.mkdir()
        (directory / "file").write_bytes(b"inner")
        directory.chmod(mode)
        file = top / f"file-{mode:o}"
        file.write_bytes(b"content")
        file.chmod(mode)
        calls = {
            "list": lambda one=directory: sorted(os.listdir(one)),
            "stat": lambda one=directory: (one / "file").stat().st_size,
            "read": lambda one=directory: (one / "file").read_bytes(),
            "create": lambda one=directory: (one / "new").write_bytes(b"x"),
            "mkdir": lambda one=directory: (one / "sub").mkdir(),
            "symlink": lambda one=directory: (one / "link").symlink_to("x"),
            "link": lambda one=directory: os.link(one / "file", one / "second"),
            "rename": lambda one=directory: os.rename(one / "file", one / "renamed"),
            "unlink": lambda one=directory: os.unlink(one / "renamed"),
            "read file": lambda one=file: one.read_bytes(),
            "write file": lambda one=file: _write(one, os.O_WRONLY),
            "append file": lambda one=file: _write(one, os.O_WRONLY | os.O_APPEND),
            "truncate file": lambda one=file: os.truncate(one, 3),
            "utime now": lambda one=file: os.utime(one),
            "access": lambda one=file: [os.access(one, bit) for bit in (4, 2, 1)],
            "access directory": lambda one=directory: [os.access(one, bit) for bit in (4, 2, 1)],
        }
        for call, function in calls.items():
            found[f"{call} {mode:o}"] = outcome(function)
        directory.chmod(0o755)
        file.chmod(0o644)
        found[f"after {mode:o}"] = (file.read_bytes(), sorted(os.listdir(directory)))
    return found


def _write(path: Path, flags: int) -> int:
    descriptor = os.open(path, flags)
    try:
        return os.write(descriptor, b"changed")
    finally:
        os.close(descriptor)


def test_modes_permit_what_they_do_on_a_local_disk(account: Account, place: Place) -> None:
    assert _permissions(place.mount) == _permissions(place.local)
    place.sync()
    assert differences(place.mount, place.box) == []


def test_a_file_that_nobody_may_read_is_replaced(account: Account, place: Place) -> None:
    """The box's user cannot read it either, so its content is not what tells its versions apart.

    tar makes such files as placeholders of symbolic links.
    """
    replace: dict[str, Callable[[Path], object]] = {
        "link": lambda path: path.symlink_to("elsewhere"),
        "file": lambda path: path.write_bytes(b"another"),
        "directory": lambda path: path.mkdir(),
    }
    for name in replace:
        os.close(os.open(place.mount / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0))
    place.sync()
    for name, make in replace.items():
        (place.mount / name).unlink()
        make(place.mount / name)
    place.sync()
    assert sorted(os.listdir(place.mount)) == sorted(replace)
    assert differences(place.mount, place.box) == []


def test_modes_that_were_set_in_the_box_hold_here(account: Account, place: Place) -> None:
    for top in (place.box, place.local):
        if top == place.box:
            place.sync()
        (top / "closed").mkdir()
        (top / "closed" / "file").write_bytes(b"inner")
        (top / "closed").chmod(0o555)
        (top / "unreadable").write_bytes(b"secret")
        (top / "unreadable").chmod(0o000)
    wait_until(lambda: stat.S_IMODE((place.mount / "closed").stat().st_mode) == 0o555, timeout=5)
    wait_until(lambda: stat.S_IMODE((place.mount / "unreadable").stat().st_mode) == 0, timeout=5)

    def changes(top: Path) -> dict[str, object]:
        return {
            "create": outcome((top / "closed" / "new").write_bytes, b"x"),
            "unlink": outcome((top / "closed" / "file").unlink),
            "mkdir": outcome((top / "closed" / "sub").mkdir),
            "rename": outcome((top / "unreadable").rename, top / "closed" / "moved"),
            "read": outcome((top / "unreadable").read_bytes),
        }

    assert changes(place.mount) == changes(place.local)
    (place.mount / "closed").chmod(0o755)


def test_only_root_gives_files_away(account: Account, place: Place) -> None:
    def calls(top: Path) -> dict[str, object]:
        path = top / "file"
        path.write_bytes(b"x")
        own = path.stat()
        found: dict[str, object] = {"same": outcome(os.chown, path, own.st_uid, own.st_gid)}
        found["nothing"] = outcome(os.chown, path, -1, -1)
        if not account.is_root:
            found["away"] = outcome(os.chown, path, 1234, -1)
            found["group"] = outcome(os.chown, path, -1, 1234)
        path.chmod(0o4755)
        found["setuid"] = oct(path.stat().st_mode)
        with path.open("r+b", buffering=0) as file:
            file.write(b"changed")
        found["after a write"] = oct(path.stat().st_mode)
        return found

    assert calls(place.mount) == calls(place.local)
