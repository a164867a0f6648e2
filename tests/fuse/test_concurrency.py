"""Eight processes create, rename, write and remove in one directory at once."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.fuse.conftest import Place
from tests.support.accounts import Account, can_run_python
from tests.support.commands import kill_group, shown
from tests.support.trees import wait_until_equal

CHECKOUT = Path(__file__).parents[2]
WORKERS = 8
STEPS = 150


def test_eight_processes_in_one_directory(account: Account, place: Place) -> None:
    # Where this Python is closed to the ordinary user, the system's own does: the script needs
    # nothing but the standard library.
    python = sys.executable if account.is_root or can_run_python() else "/usr/bin/python3"
    script = place.local / "busy.py"
    script.write_bytes((CHECKOUT / "tests" / "support" / "busy.py").read_bytes())
    workers = [
        subprocess.Popen(
            [python, script, place.mount, str(number), str(STEPS)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )
        for number in range(WORKERS)
    ]  # fmt: skip
    models: dict[str, str] = {}
    try:
        for worker in workers:
            out, err = worker.communicate(timeout=100)
            assert worker.returncode == 0, shown(err)
            models |= json.loads(out)
    finally:
        for worker in workers:
            kill_group(worker)
    for top in (place.mount, place.box):
        if top == place.box:
            place.sync()
        names = [name for name in os.listdir(top) if not name.startswith("common")]
        assert sorted(names) == sorted(models)
        assert {name: (top / name).read_text() for name in names} == models
    wait_until_equal(place.mount, place.box, timeout=10)


def test_one_writes_and_others_read(account: Account, place: Place) -> None:
    """A file that is replaced by rename is at any time one of its versions, whole."""
    path = place.mount / "file"
    path.write_text("0 " * 3000)
    reader = "import sys\nwhile sys.argv[2] not in (t := open(sys.argv[1]).read()).split()[:1]:\n"
    reader += "    w = t.split(); assert len(w) == 3000 and len(set(w)) == 1, (len(w), set(w))\n"
    readers = [
        subprocess.Popen(
            ["/usr/bin/env", "python3", "-W", "ignore", "-c", reader, path, "200"],
            stderr=subprocess.PIPE, start_new_session=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    try:
        for version in range(1, 201):
            temporary = place.mount / "file.tmp"
            temporary.write_text(f"{version} " * 3000)
            temporary.rename(path)
        for one in readers:
            _, err = one.communicate(timeout=30)
            assert one.returncode == 0, shown(err)
    finally:
        for one in readers:
            kill_group(one)


def test_killed_callers_do_not_stop_the_daemon(account: Account, place: Place) -> None:
    """A request of a process that is killed is taken back, maybe just before it is read."""
    script = 'i=0; while :; do echo $i > "$0/$1-$i"; rm "$0/$1-$i"; i=$((i+1)); echo $i; done'
    for _ in range(40):
        writers = [
            subprocess.Popen(
                ["sh", "-c", script, place.mount, str(number)],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
            )
            for number in range(4)
        ]  # fmt: skip
        try:
            for writer in writers:
                for _ in range(5):
                    assert writer.stdout.readline()
        finally:
            for writer in writers:
                kill_group(writer)
        # `status` asks the daemon, not the mount: a request would wake a daemon that sleeps.
        assert place.owner.status().get("link"), "the daemon answers nobody"
