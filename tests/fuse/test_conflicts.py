"""Both sides change the same before they have seen each other: nothing is overwritten blindly."""

import contextlib
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.accounts import Account, as_launcher
from tests.support.mounts import PLAIN, MountedBox
from tests.support.posix import outcome
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.slow,
    pytest.mark.skipif(PLAIN, reason="a directory has one side"),
]


@contextlib.contextmanager
def apart(box: MountedBox) -> Iterator[None]:
    """Neither side hears of the other's changes meanwhile."""
    helpers = box.helpers()
    assert helpers
    for pid in helpers:
        as_launcher(os.kill, pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in helpers:
            as_launcher(os.kill, pid, signal.SIGCONT)
    wait_until(lambda: not box.status()["pending_operations"], what="everything is settled")


def shared_file(box: MountedBox, name: str, content: bytes) -> None:
    (box.mount / name).write_bytes(content)
    box.sync()
    assert (box.mount / name).read_bytes() == content


def copies(top: Path, name: str) -> list[Path]:
    return sorted(top.glob(f"{name}.conflict-*"))


def listed(box: MountedBox) -> list[dict[str, object]]:
    return json.loads(box.devboxfs("conflicts", box.mount, "--json").stdout)


def both_edit(box: MountedBox, name: str = "file") -> Path:
    shared_file(box, name, b"line\nbase\n")
    with apart(box):
        (box.mount / name).write_bytes(b"line\nours\n")
        (box.box / name).write_bytes(b"line\ntheirs, longer\n")
    wait_until(lambda: copies(box.mount, name), what="our copy")
    (copy,) = copies(box.mount, name)
    return copy


def test_both_edited_and_mine_is_kept(account: Account, box: MountedBox) -> None:
    copy = both_edit(box)
    assert (box.mount / "file").read_bytes() == b"line\ntheirs, longer\n"
    assert copy.read_bytes() == b"line\nours\n"
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())
    assert re.fullmatch(rf"file\.conflict-{re.escape(host)}-\d{{8}}T\d{{6}}Z", copy.name)
    (conflict,) = listed(box)
    assert (conflict["path"], conflict["kept_as"]) == ("file", copy.name)
    assert f"{box.mount / 'file'}".encode() in box.devboxfs("conflicts").stdout
    assert b"file" in box.devboxfs("status", box.mount).stdout
    shown = box.devboxfs("resolve", box.mount / "file", "--diff").stdout
    assert b"-theirs, longer\n+ours\n" in shown
    refused = box.devboxfs("resolve", box.mount / "file", check=False)
    assert refused.returncode == 2
    assert len(listed(box)) == 1
    box.devboxfs("resolve", box.mount / "file", "--keep", "mine")
    box.sync()
    for top in (box.mount, box.box):
        assert (top / "file").read_bytes() == b"line\nours\n"
        assert copies(top, "file") == []
    assert listed(box) == []
    assert box.devboxfs("resolve", box.mount / "file", check=False).returncode == 1


def test_theirs_is_kept_or_both_are(account: Account, box: MountedBox) -> None:
    one, two = both_edit(box, "one"), both_edit(box, "two")
    box.remount()
    assert len(listed(box)) == 2
    box.devboxfs("resolve", box.mount, "one", "--keep", "theirs")
    box.devboxfs("resolve", two, "--keep", "both")
    box.sync()
    assert not (box.box / one.name).exists()
    assert (box.box / "one").read_bytes() == b"line\ntheirs, longer\n"
    assert (box.box / two.name).read_bytes() == b"line\nours\n"
    assert listed(box) == []


class Dialogue:
    def __init__(self, terminal: int, child: subprocess.Popen[bytes]) -> None:
        self._terminal = terminal
        self._child = child

    def expect(self, text: bytes) -> bytes:
        """Read up to a text, and return all that came."""
        said = b""
        while text not in said:
            assert select.select([self._terminal], [], [], 30)[0], said
            said += os.read(self._terminal, 4096)
        return said

    def say(self, text: bytes) -> None:
        os.write(self._terminal, text)

    def insist(self, key: bytes) -> int:
        """Press a key every other second until the command ends."""
        for _ in range(15):
            self.say(key)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._child.wait(2)
        raise AssertionError("the command goes on")

    def end(self) -> int:
        return self._child.wait(30)


@contextlib.contextmanager
def asked(box: MountedBox, *arguments: str | os.PathLike[str]) -> Iterator[Dialogue]:
    """Run a command at a terminal."""
    ours, theirs = pty.openpty()
    command = [*box.account.prefix(), sys.executable, "-m", "devboxfs", *arguments]
    child = as_launcher(
        lambda: subprocess.Popen(
            command,
            cwd="/",
            env=dict(box.environment),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            # Its controlling terminal, so that keys are signals.
            preexec_fn=lambda: os.login_tty(os.dup(theirs)),
        )
    )
    os.close(theirs)
    try:
        yield Dialogue(ours, child)
    finally:
        as_launcher(child.kill)
        child.wait()
        os.close(ours)


def test_the_difference_is_shown_and_what_to_keep_is_asked(
    account: Account, box: MountedBox
) -> None:
    copy = both_edit(box)
    with asked(box, "resolve", box.mount / "file") as dialogue:
        shown = dialogue.expect(b"[both]: ")
        assert b"-theirs, longer\r\n+ours\r\n" in shown
        dialogue.say(b"neither\n")
        dialogue.expect(b"[both]: ")
        dialogue.say(b"mine\n")
        assert dialogue.end() == 0
    box.sync()
    assert (box.box / "file").read_bytes() == b"line\nours\n"
    assert not (box.box / copy.name).exists()
    assert listed(box) == []


@pytest.mark.parametrize("key", [b"\x03", b"\x04"], ids=["interrupt", "end of input"])
def test_who_does_not_answer_keeps_the_conflict(
    account: Account, box: MountedBox, key: bytes
) -> None:
    copy = both_edit(box)
    with asked(box, "resolve", box.mount / "file") as dialogue:
        dialogue.expect(b"[both]: ")
        # A key that comes while the line editor is being set up is only seen at the next one.
        assert dialogue.insist(key) != 0
    assert len(listed(box)) == 1
    assert (box.mount / "file").read_bytes() == b"line\ntheirs, longer\n"
    assert copy.read_bytes() == b"line\nours\n"


def test_equal_content_is_no_conflict(account: Account, box: MountedBox) -> None:
    shared_file(box, "file", b"base")
    with apart(box):
        (box.mount / "file").write_bytes(b"the same")
        (box.box / "file").write_bytes(b"the same")
    assert copies(box.box, "file") == []
    assert listed(box) == []
    assert (box.mount / "file").read_bytes() == b"the same"


def test_edited_here_and_removed_there(account: Account, box: MountedBox) -> None:
    shared_file(box, "file", b"base")
    with apart(box):
        (box.mount / "file").write_bytes(b"ours")
        (box.box / "file").unlink()
    (copy,) = copies(box.box, "file")
    assert copy.read_bytes() == b"ours"
    assert not (box.box / "file").exists()
    box.devboxfs("resolve", box.mount / "file", "--keep", "mine")
    box.sync()
    assert (box.box / "file").read_bytes() == b"ours"


def test_removed_here_and_edited_there(account: Account, box: MountedBox) -> None:
    shared_file(box, "file", b"base")
    with apart(box):
        (box.mount / "file").unlink()
        (box.box / "file").write_bytes(b"theirs")
    wait_until(lambda: (box.mount / "file").exists(), what="theirs is shown")
    assert (box.mount / "file").read_bytes() == b"theirs"
    assert len(listed(box)) == 1
    box.devboxfs("resolve", box.mount / "file", "--keep", "mine")
    box.sync()
    assert not (box.box / "file").exists()


def test_a_directory_that_was_removed_there(account: Account, box: MountedBox) -> None:
    (box.mount / "directory").mkdir()
    box.sync()
    with apart(box):
        (box.mount / "directory" / "new").write_bytes(b"ours")
        (box.box / "directory").rmdir()
    wait_until(lambda: not (box.mount / "directory").exists(), what="the removal is shown")
    (conflict,) = listed(box)
    assert Path(str(conflict["stored_at"])).read_bytes() == b"ours"
    box.devboxfs("resolve", box.mount / "directory" / "new", "--keep", "mine")
    box.sync()
    assert (box.box / "directory" / "new").read_bytes() == b"ours"
    assert not Path(str(conflict["stored_at"])).exists()


def test_renamed_on_both_sides(account: Account, box: MountedBox) -> None:
    shared_file(box, "file", b"content")
    with apart(box):
        (box.mount / "file").rename(box.mount / "here")
        (box.box / "file").rename(box.box / "there")
    wait_until(lambda: not (box.mount / "here").exists(), what="the box's name is shown")
    for top in (box.mount, box.box):
        assert (top / "there").read_bytes() == b"content"
        assert sorted(path.name for path in top.iterdir()) == ["there"]
    assert len(listed(box)) == 1


def test_an_open_file_follows_its_copy(account: Account, box: MountedBox) -> None:
    shared_file(box, "file", b"base")
    with (box.mount / "file").open("wb", buffering=0) as file:
        with apart(box):
            file.write(b"ours")
            (box.box / "file").write_bytes(b"theirs")
        wait_until(lambda: copies(box.box, "file"), what="our copy")
        assert outcome(os.fsync, file.fileno()) == "EIO"
        file.write(b" and more")
        assert outcome(os.fsync, file.fileno()) is None
    (copy,) = copies(box.box, "file")
    assert copy.read_bytes() == b"ours and more"
    assert (box.box / "file").read_bytes() == b"theirs"
    assert len(copies(box.box, "file")) == 1


def test_what_was_appended_is_kept_with_what_was_there(account: Account, box: MountedBox) -> None:
    shared_file(box, "log", b"first\n")
    with apart(box):
        with (box.mount / "log").open("ab") as file:
            file.write(b"ours\n")
        with (box.box / "log").open("ab") as file:
            file.write(b"theirs\n")
    wait_until(lambda: copies(box.mount, "log"), what="our copy")
    (copy,) = copies(box.mount, "log")
    assert copy.read_bytes() == b"first\nours\n"
    assert (box.mount / "log").read_bytes() == b"first\ntheirs\n"
    assert (box.box / copy.name).read_bytes() == b"first\nours\n"


def test_no_conflict_with_ourselves(account: Account, box: MountedBox) -> None:
    """After a name was removed, or two were exchanged, the next change is no conflict."""
    for number in range(10):
        name = f"f{number}"
        shared_file(box, name, b"1" * 100)
        os.link(box.mount / name, box.mount / f"{name}-link")
        box.sync()
        (box.mount / f"{name}-link").unlink()
        box.sync()
        with (box.mount / name).open("r+b") as file:
            file.write(b"2")
        box.sync()
        assert (box.box / name).read_bytes() == b"2" + b"1" * 99
    assert list(box.box.glob("*conflict*")) == []
    assert listed(box) == []
