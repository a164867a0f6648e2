"""Where a workload runs: on the local disk, on a mount of a box; `peers` has others beside them.

A ground offers the same work tree (`furnish`) under `top`, can be made cold, and knows when
what was written is where it belongs.
"""

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from tests.support import repository
from tests.support.accounts import ROOT, USER
from tests.support.commands import clean_environment, run
from tests.support.mounts import MountedBox


class Ground(Protocol):
    """One place to work in."""

    name: str
    top: Path
    box: Path | None
    """The same directory as processes in the box have it; None: nothing is told of its changes."""

    def cold(self) -> float:
        """Forget everything that was read; returns the seconds until the first listing."""
        ...

    def arrive(self) -> None:
        """Return when everything that was written is where it belongs."""
        ...

    def counts(self) -> tuple[int, int] | None:
        """Requests to the box, and reads that waited for one, since the mount; None: unknown."""
        ...


def furnish(top: Path, environment: dict[str, str], bulk: int) -> None:
    """Write the work tree that the workloads are about."""
    repository.make(top / "repository", environment)
    repository.make_files(top / "tree", seed=2, files=500, directories=40)
    block = os.urandom(1 << 20)
    with (top / "large").open("wb") as file:
        for _ in range(bulk // len(block)):
            file.write(block)
    os.sync()


class LocalDisk:
    """A directory on the disk that the boxes of the embedded engine are on."""

    name = "local"

    def __init__(self, home: Path, bulk: int) -> None:
        self.top = self.box = home / "local"
        self.top.mkdir()
        furnish(self.top, clean_environment(home), bulk)

    def cold(self) -> float:
        start = time.perf_counter()
        os.listdir(self.top)
        return time.perf_counter() - start

    def arrive(self) -> None:
        run("sync", "-f", self.top)

    def counts(self) -> None:
        return None


class Mounted:
    """A box of the embedded engine behind a link with that round trip."""

    name = "devboxfs"

    def __init__(self, box: MountedBox, rtt_ms: float) -> None:
        self.mounted = box
        self.rtt_ms = rtt_ms
        self.top, self.box = box.mount, box.box

    def cold(self) -> float:
        if self.mounted.is_mounted():
            self.mounted.umount()
        shutil.rmtree(self.mounted.cache, ignore_errors=True)
        start = time.perf_counter()
        self.mounted.start(delay_ms=self.rtt_ms)
        os.listdir(self.top)
        return time.perf_counter() - start

    def arrive(self) -> None:
        self.mounted.sync(timeout=300)

    def counts(self) -> tuple[int, int]:
        status = self.mounted.status()
        return int(status["link"]["round_trips"]), int(status.get("reader", {}).get("misses", 0))


@contextlib.contextmanager
def local_disk(bulk: int) -> Iterator[LocalDisk]:
    home = Path(tempfile.mkdtemp(prefix="devboxfs-bench-"))
    try:
        prepare(home)
        yield LocalDisk(home, bulk)
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def mounted(rtt_ms: float, bulk: int) -> Iterator[Mounted]:
    box = MountedBox(ROOT if os.geteuid() == 0 else USER)
    try:
        box.start()
        box.umount()
        furnish(box.box, box.environment, bulk)
        yield Mounted(box, rtt_ms)
    finally:
        for complaint in box.close():
            print(f"bench: {complaint}", file=sys.stderr)


def prepare(home: Path) -> None:
    (home / "tmp").mkdir()
    (home / "gitconfig").write_text("[user]\nname = Bench\nemail = bench@example.com\n")
