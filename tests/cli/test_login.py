"""`devboxfs login`, `logout` and `profiles`."""

import os
import pty
import select
import stat
import subprocess
import termios
import time
from pathlib import Path

import pytest

from tests.cli.conftest import TOKEN, User


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_kubeconfig_that_is_a_file_stays_where_it_is(user: User) -> None:
    said = user.does("login", *user.service)
    config = user.home / "config" / "config.toml"
    assert "takes the credential" in said
    assert mode(config) == 0o600
    assert str(user.kubeconfig) in config.read_text()
    assert TOKEN not in config.read_text() + said
    (profile,) = user.json("profiles")
    assert profile == {
        "name": "default",
        "default": True,
        "embedded": False,
        "endpoint": user.url,
        "kubeconfig": str(user.kubeconfig),
        "context": None,
        "api_key_file": None,
    }
    listed = user.run("box", "list", "--json")
    assert "the default profile, default" in listed.stderr


def test_a_credential_from_the_standard_input_is_kept_unread_by_others(user: User) -> None:
    text = user.kubeconfig.read_text()
    user.does("login", "--endpoint", user.url, "--profile", "piped", stdin=text)
    kept = user.home / "config" / "credentials" / "piped"
    assert (mode(kept), mode(kept.parent)) == (0o600, 0o700)
    assert kept.read_text().strip() == text.strip()
    user.does("login", "--endpoint", user.url, "--profile", "token", stdin=f"{TOKEN}\n")
    assert [one["default"] for one in user.json("profiles")] == [True, False]
    assert "profile token" in user.run("box", "list", "--profile", "token").stderr
    assert "Profile token is used" in user.does("profiles", "use", "token")
    user.does("logout", "token")
    assert not kept.with_name("token").exists()
    assert [one["name"] for one in user.json("profiles")] == ["piped"]
    wrong = user.run("profiles", "use", "pipd")
    assert (wrong.returncode, "Did you mean 'piped'?" in wrong.stderr) == (17, True)
    assert user.run("logout", "token").returncode == 17


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "said"),
    [
        (["--token-file", "-"], "this-is-refused\n", 12, "does not accept the credential"),
        ([], "", 18, "is empty"),
        ([], "apiVersion: v1\nkind: Config\n", 18, ""),
        (["--kubeconfig", "/dev/null/none"], "", 18, "cannot be read"),
        (["--kubeconfig", "a", "--token-file", "b"], "", 2, "exclude each other"),
        (["--profile", "../x"], "", 2, "named with"),
    ],
)
def test_what_is_refused_leaves_no_profile(
    user: User, arguments: list[str], stdin: str, code: int, said: str
) -> None:
    done = user.run("login", "--endpoint", user.url, *arguments, stdin=stdin)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert said in done.stderr
    assert "refused" not in done.stderr.replace("was refused", "")
    assert not (user.home / "config").exists()


def test_a_refused_kubeconfig_does_not_replace_the_profile_there_is(member: User) -> None:
    before = (member.home / "config" / "config.toml").read_bytes()
    bad = member.home / "bad.yaml"
    bad.write_text(member.kubeconfig.read_text().replace(TOKEN, "not-the-right-token"))
    done = member.run("login", "--endpoint", member.url, "--kubeconfig", bad)
    assert done.returncode == 12
    assert "not-the-right-token" not in done.stdout + done.stderr
    assert "chmod 600" in done.stderr
    assert (member.home / "config" / "config.toml").read_bytes() == before


def test_what_is_pasted_into_a_terminal_is_not_shown(user: User) -> None:
    terminal, theirs = pty.openpty()
    # A line that is longer than the kernel's of a terminal.
    note = '"x-note": "' + "x" * 6000 + '",'
    text = user.kubeconfig.read_text().replace("{", "{\n" + note, 1)
    command = user.command("login", "--endpoint", user.url)
    login = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=user.environment, cwd="/"
    )
    os.close(theirs)
    try:
        shown = read_until(terminal, b"Ctrl-D")
        # A paste may follow the prompt at once: it is to be neither shown, nor cut, nor dropped.
        local = termios.tcgetattr(terminal)[3]
        assert not local & (termios.ECHO | termios.ICANON | termios.ISIG)
        for line in text.splitlines():
            os.write(terminal, line.encode() + b"\n")
        os.write(terminal, b"\x04")
        shown += read_until(terminal, b"used where nothing else is said")
        assert login.wait(30) == 0
    finally:
        login.kill()
        login.wait()
        os.close(terminal)
    assert TOKEN.encode() not in shown
    assert b"xxx" not in shown
    kept = user.home / "config" / "credentials" / "default"
    assert "x" * 6000 in kept.read_text()


def read_until(terminal: int, wanted: bytes) -> bytes:
    shown = b""
    ends = time.monotonic() + 60
    while wanted not in shown:
        ready, _, _ = select.select([terminal], [], [], max(ends - time.monotonic(), 0))
        assert ready, shown
        try:
            shown += os.read(terminal, 65536)
        except OSError:
            raise AssertionError(shown) from None
    return shown
