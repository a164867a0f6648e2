"""A mount of a box behind a service, by each way that there is: what a weak one may not do unasked.

The service is the embedded engine, served on a port: its boxes have an API server and an agent.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from sealos_devbox import Devbox, DevboxConfig
from sealos_devbox.server.run import serving
from sealos_devbox.server.settings import EngineSettings
from tests.support.accounts import ACCOUNTS, LAUNCHER
from tests.support.mounts import PLAIN, MountedBox
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PLAIN, reason="a plain directory is reached in no way"),
]


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Iterator[MountedBox]:
    """A box of a service, not mounted yet, with the service in its environment."""
    [account] = [account for account in ACCOUNTS if account.uid == LAUNCHER]
    one = MountedBox(account)
    # Processes in the box are this process's: they have its home.
    monkeypatch.setenv("HOME", str(one.home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    try:
        with serving(EngineSettings(one.data)) as served:
            config = DevboxConfig(api_url=served.url, kubeconfig=served.kubeconfig)
            with Devbox(config) as devbox:
                devbox.create(one.name, runtime="python").keep()
            one.environment |= {"DEVBOX_EMBEDDED": "0"}
            one.options = ("--endpoint", served.url, "--kubeconfig", str(served.kubeconfig))
            yield one
            complaints = one.close()
            assert not complaints, one.log_tail()
    finally:
        one.close()


def mount(box: MountedBox, *options: str, **settings: object) -> str:
    done = box.devboxfs("mount", *box.options, *options, box.name, box.mount, **settings)
    return (done.stdout + done.stderr).decode()


def use(box: MountedBox) -> None:
    """Change names and contents, and find all of it in the box."""
    (box.mount / "dir").mkdir()
    (box.mount / "dir" / "file").write_bytes(b"content" * 10_000)
    (box.mount / "dir" / "file").rename(box.mount / "renamed")
    (box.mount / "gone").write_bytes(b"x")
    (box.mount / "gone").unlink()
    (box.mount / "link").symlink_to("renamed")
    os.chmod(box.mount / "renamed", 0o755)
    with (box.mount / "renamed").open("r+b") as file:
        file.seek(100)
        file.write(b"CHANGED")
    box.sync()
    expected = bytearray(b"content" * 10_000)
    expected[100:107] = b"CHANGED"
    assert (box.box / "renamed").read_bytes() == expected
    assert (box.box / "renamed").stat().st_mode & 0o777 == 0o755
    assert os.readlink(box.box / "link") == "renamed"
    assert sorted(path.name for path in box.box.iterdir() if not path.name.startswith(".")) == [
        "dir",
        "link",
        "renamed",
    ]
    (box.box / "theirs").write_bytes(b"from the box")
    wait_until(lambda: (box.mount / "theirs").exists(), timeout=30)
    assert (box.mount / "theirs").read_bytes() == b"from the box"
    assert not box.status()["conflicts"]


@pytest.mark.parametrize(
    ("rung", "way"), [("helper", "over pods/exec"), ("agent", "through the box's agent")]
)
def test_by_the_helper(box: MountedBox, rung: str, way: str) -> None:
    said = mount(box, "--transport", rung)
    assert "as asked for" in said
    status = box.status()
    assert not status["read_only"]
    assert (status["link"]["rung"], status["link"]["weaker"]) == (rung, [])
    assert way in status["link"]["way"]
    use(box)


def test_a_weak_way_is_read_only_unless_that_is_accepted(box: MountedBox) -> None:
    (box.box / "file").write_bytes(b"content")
    said = mount(box, "--transport", "exec")
    assert "read-only" in said
    status = box.status()
    assert status["read_only"]
    assert status["link"]["rung"] == "exec"
    assert any("may be made twice" in lack for lack in status["link"]["weaker"])
    shown = box.devboxfs("status", box.mount).stdout.decode()
    assert "the box's own tools, by pods/exec" in shown
    assert "may be made twice" in shown
    assert (box.mount / "file").read_bytes() == b"content"
    with pytest.raises(OSError, match="Read-only"):
        (box.mount / "file").write_bytes(b"other")
    box.umount()
    mount(box, "--transport", "exec", "--allow-weak")
    (box.box / "file").unlink()
    wait_until(lambda: not (box.mount / "file").exists(), timeout=30)
    use(box)


def test_by_the_agent_where_the_helper_may_not_run(box: MountedBox) -> None:
    no_helper = box.home / "helper"
    no_helper.write_bytes(b"no executable")
    mount(box, "--transport", "agent", "--allow-weak", env={"DEVBOX_HELPER": str(no_helper)})
    status = box.status()
    assert not status["read_only"]
    assert status["link"]["way"] == "the box's own tools, through its agent"
    use(box)


def test_a_box_that_is_not_there_is_not_made(box: MountedBox) -> None:
    done = box.devboxfs("mount", *box.options, "no-such-box", box.mount, check=False)
    assert done.returncode == 6
    assert b"no-such-box" in done.stderr


def test_no_credential_is_on_the_daemons_command_line(box: MountedBox) -> None:
    mount(box)
    with open(f"/proc/{box.pid}/cmdline", "rb") as file:
        words = file.read()
    token = (box.data / "engine" / "token").read_bytes().strip()
    assert token
    assert token not in words
    assert token not in box.log_tail().encode()


def test_the_doctor_tries_every_way(box: MountedBox) -> None:
    done = box.devboxfs("doctor", *box.options, "--json", box.name)
    found = json.loads(done.stdout)
    assert found["ok"]
    checks = {check["name"]: check for check in found["checks"]}
    assert [checks[name]["state"] for name in ("fuse", "service", "authentication", "box")] == [
        "ok"
    ] * 4
    assert [checks[rung]["state"] for rung in ("helper", "agent", "exec")] == [
        "ok",
        "ok",
        "warning",
    ]
    for rung in ("helper", "agent", "exec"):
        figures = checks[rung]["figures"]
        assert all(
            figures[name] > 0
            for name in ("open_milliseconds", "stat_milliseconds", "up_bytes_per_second")
        )
    assert list(box.box.glob(".devboxfs-doctor*")) == []
    shown = box.devboxfs("doctor", *box.options, box.name).stdout.decode()
    assert "the helper in the box, over pods/exec: opens in" in shown
    assert "may be made twice" in shown


def test_the_doctor_says_what_is_wrong(box: MountedBox) -> None:
    said = box.devboxfs("doctor", *box.options, "no-such-box", check=False)
    assert said.returncode == 6
    assert b"no-such-box" in said.stdout
    assert b"devboxfs box list" in said.stdout
    wrong = ("--endpoint", "http://127.0.0.1:1", *box.options[2:])
    said = box.devboxfs("doctor", *wrong, check=False)
    assert said.returncode == 13
    assert b"failed  authentication" in said.stdout
    with Devbox(DevboxConfig(api_url=box.options[1], kubeconfig=box.options[3])) as devbox:
        devbox.get(box.name).pause()
    said = box.devboxfs("doctor", *box.options, box.name, check=False)
    assert said.returncode == 14
    assert f"devboxfs box start {box.name}".encode() in said.stdout
    no_helper = box.home / "helper"
    no_helper.write_bytes(b"no executable")
    with Devbox(DevboxConfig(api_url=box.options[1], kubeconfig=box.options[3])) as devbox:
        devbox.get(box.name).start()
    said = box.devboxfs(
        "doctor", *box.options, box.name, check=False, env={"DEVBOX_HELPER": str(no_helper)}
    )
    assert said.returncode == 16
    assert b"is no helper" in said.stdout
    assert b"--allow-weak" in said.stdout
