"""The local disk that holds journal and cache is full: the cache gives way, then it is ENOSPC."""

import errno
import os
import subprocess
from collections.abc import Iterator

import pytest

from sealos_devbox._transport.helper_bundle import find_helper
from tests.fuse.conftest import MakeBox
from tests.support.accounts import Account, as_launcher
from tests.support.mounts import PLAIN, MountedBox
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.each_account,
    pytest.mark.fuse,
    pytest.mark.slow,
    pytest.mark.skipif(PLAIN, reason="a directory has no journal"),
]

DISK = 24 << 20
CACHED = 12 << 20


@pytest.fixture
def small(account: Account, make_box: MakeBox) -> Iterator[MountedBox]:
    """A box with journal and cache on one disk of 24 MiB."""
    if not account.is_root:
        pytest.skip("only root can mount a small disk")
    box = make_box()
    disk = box.home / "disk"
    disk.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0700", "tmpfs", disk]
    as_launcher(lambda: subprocess.run(argv, check=True))
    places = {name: str(disk / name) for name in ("state", "cache")}
    box.environment["DEVBOX_STATE_DIR"] = places["state"]
    box.environment["DEVBOX_CACHE_DIR"] = places["cache"]
    box.state, box.cache = disk / "state", disk / "cache"
    try:
        yield box
    finally:
        if box.is_mounted():
            box.umount()
        box.wait_quiet()
        subprocess.run(["umount", "-l", disk], check=True)


def filled_cache(box: MountedBox, files: int) -> None:
    size = CACHED // files
    for number in range(files):
        (box.box / f"cached-{number}").write_bytes(os.urandom(size))
    wait_until(
        lambda: (box.mount / f"cached-{files - 1}").exists(), timeout=30, what="what the box made"
    )
    for number in range(files):
        (box.mount / f"cached-{number}").read_bytes()
    wait_until(
        lambda: box.status()["cache"]["disk_bytes"] > CACHED * 9 // 10,
        timeout=60,
        what="a cache on disk",
    )


def written_until_full(box: MountedBox) -> int:
    """How many files of 100,000 bytes are accepted before it is ENOSPC."""
    for number in range(400):
        try:
            (box.mount / f"new-{number}").write_bytes(b"x" * 100_000)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return number
    raise AssertionError("the disk is not full")


@pytest.mark.timeout(200)
@pytest.mark.parametrize("files", [6, 300])
def test_the_cache_gives_way_to_the_journal(
    account: Account, small: MountedBox, files: int
) -> None:
    """Large contents are files, small ones rows of a database."""
    mark = small.scratch / "down"
    small.start()
    filled_cache(small, files)
    small.umount()
    # Out of reach, or what is written would leave the journal again.
    helper = small.scratch / "helper.sh"
    helper.write_text(f'#!/bin/sh\n[ -e "{mark}" ] && exit 1\nexec "{find_helper()}" "$@"\n')
    helper.chmod(0o755)
    small.start(env={"DEVBOX_HELPER": str(helper)})
    assert small.status()["cache"]["disk_bytes"] > CACHED * 8 // 10
    mark.touch()
    for pid in small.helpers():
        os.kill(pid, 9)
    wait_until(lambda: small.status()["state"] == "offline", timeout=60, what="offline")
    accepted = written_until_full(small)
    # Without the cache's share it would have been the rest of the disk.
    assert accepted * 100_000 > DISK - CACHED + (4 << 20), accepted
    assert (small.mount / "new-0").read_bytes() == b"x" * 100_000
    mark.unlink()
    wait_until(lambda: small.status()["state"] == "online", timeout=60, what="online")
    small.sync()
    for number in range(accepted):
        assert (small.box / f"new-{number}").read_bytes() == b"x" * 100_000
    assert (small.mount / "cached-0").read_bytes() == (small.box / "cached-0").read_bytes()
