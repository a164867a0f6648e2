"""What an enclosure leaves behind: nothing, however it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.node.enclosure import Enclosure, enclosures, is_alive, sweep
from tests.support.waiting import wait_until

KILLED = """\
import os, signal
from tests.node.containerd import Containerd
from tests.node.enclosure import Enclosure
from tests.node import images
enclosure = Enclosure.start("killed")
containerd = Containerd(enclosure)
containerd.start()
containerd.import_images(images.archive())
containerd.ctr("run", "--detach", images.reference("busybox"), "c1", "/bin/sleep", "54321")
print(enclosure.directory, enclosure.init_pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def control_groups() -> set[str]:
    return {top for top, _, _ in os.walk("/sys/fs/cgroup") if top.endswith("/c1")}


def processes() -> list[bytes]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_a_killed_owner_takes_containers_and_daemons_with_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    directory, init = done.stdout.split()
    wait_until(lambda: not is_alive(Path(directory)), timeout=20)
    assert not Path(f"/proc/{init}").exists()
    assert not any(b"54321" in words or directory.encode() in words for words in processes())
    mounts = Path("/proc/self/mountinfo").read_text()
    assert directory not in mounts
    assert Path(directory) in enclosures()
    assert control_groups()
    sweep()
    assert not Path(directory).exists()
    assert not control_groups()


def test_a_living_enclosure_is_not_swept() -> None:
    enclosure = Enclosure.start("living")
    try:
        enclosure.spawn("sleeper", ["sleep", "1000"])
        sweep()
        assert enclosure.running() == ["sleeper"]
        assert Enclosure.attach(enclosure.directory).running() == ["sleeper"]
    finally:
        enclosure.close()
    assert not enclosure.directory.exists()


def test_a_daemon_that_ignores_its_end_is_killed() -> None:
    enclosure = Enclosure.start("stubborn")
    try:
        script = "trap '' TERM; echo ready; while :; do sleep 1; done"
        enclosure.spawn("stubborn", ["sh", "-c", script])
        wait_until(lambda: "ready" in enclosure.log("stubborn"))
        enclosure.stop("stubborn", patience=0.2)
        assert enclosure.running() == []
    finally:
        enclosure.close()


def test_what_daemons_write_outside_stays_inside() -> None:
    enclosure = Enclosure.start("inside")
    try:
        for place in ("/run", "/var/lib", "/var/log"):
            enclosure.run("touch", f"{place}/of-an-enclosure")
            assert not Path(place, "of-an-enclosure").exists()
    finally:
        enclosure.close()
