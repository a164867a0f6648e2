"""A long time of mixed work on one mount: `python -m tests.bench.soak [--operations N] [--rtt MS]`.

Several processes work in a directory each, and know what it has to hold; what they read is compared
on the way and at the end, here and in the box. Meanwhile another one changes files in the box. At
the end: errors, p50 and p99 of each kind of call, and whether the daemon grew.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.bench.grounds import mounted
from tests.support.mounts import MountedBox
from tests.support.trees import differences

WORKERS = 4
FILES = 200
"""Most files that one worker has."""
SAMPLE_SECONDS = 10.0
ROOT = Path(__file__).parents[2]


class Worker:
    """Random calls in one directory, against a model of it in memory."""

    def __init__(self, top: Path, seed: int) -> None:
        self.top = top
        self.random = random.Random(seed)
        self.files: dict[str, bytes] = {}
        self.directories = [""]
        self.made = 0
        self.times: dict[str, list[float]] = {}

    def run(self, count: int) -> None:
        kinds: list[tuple[Callable[[], None], int]] = [
            (self.make, 20), (self.read, 25), (self.look, 20), (self.append, 8), (self.patch, 6),
            (self.truncate, 3), (self.save, 5), (self.rename, 5), (self.remove, 14),
            (self.list, 4), (self.make_directory, 1), (self.miss, 5),
        ]  # fmt: skip
        calls = self.random.choices([kind for kind, _ in kinds], [w for _, w in kinds], k=count)
        for call in calls:
            begun = time.perf_counter()
            call()
            self.times.setdefault(call.__name__, []).append(time.perf_counter() - begun)
        for name in self.files:
            self._compare(name)

    def _some(self) -> str:
        if not self.files:
            self.make()
        return self.random.choice(list(self.files))

    def _data(self, most: int) -> bytes:
        return self.random.randbytes(self.random.randrange(most))

    def _compare(self, name: str) -> None:
        data = (self.top / name).read_bytes()
        if data != self.files[name]:
            wanted = len(self.files[name])
            raise AssertionError(f"{name}: {len(data)} bytes are not the {wanted} written")

    def make(self) -> None:
        if len(self.files) >= FILES:
            self.remove()
        self.made += 1
        name = os.path.join(self.random.choice(self.directories), f"file{self.made}")
        self.files[name] = self._data(20_000)
        (self.top / name).write_bytes(self.files[name])

    def read(self) -> None:
        self._compare(self._some())

    def look(self) -> None:
        name = self._some()
        if (self.top / name).stat().st_size != len(self.files[name]):
            raise AssertionError(f"{name}: not the size that was written")

    def append(self) -> None:
        name, data = self._some(), self._data(2_000)
        with (self.top / name).open("ab") as file:
            file.write(data)
        self.files[name] += data

    def patch(self) -> None:
        name, data = self._some(), self._data(2_000)
        before = self.files[name]
        at = self.random.randrange(len(before) + 1)
        with (self.top / name).open("r+b") as file:
            file.seek(at)
            file.write(data)
        self.files[name] = before[:at] + data + before[at + len(data) :]

    def truncate(self) -> None:
        name = self._some()
        size = self.random.randrange(25_000)
        os.truncate(self.top / name, size)
        self.files[name] = self.files[name][:size].ljust(size, b"\0")

    def save(self) -> None:
        name, data = self._some(), self._data(20_000)
        with (self.top / "new").open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(self.top / "new", self.top / name)
        self.files[name] = data

    def rename(self) -> None:
        name = self._some()
        self.made += 1
        target = os.path.join(self.random.choice(self.directories), f"renamed{self.made}")
        os.rename(self.top / name, self.top / target)
        self.files[target] = self.files.pop(name)

    def remove(self) -> None:
        name = self._some()
        (self.top / name).unlink()
        del self.files[name]

    def list(self) -> None:
        where = self.random.choice(self.directories)
        found = {entry.name for entry in os.scandir(self.top / where) if entry.is_file()}
        wanted = {os.path.basename(it) for it in self.files if os.path.dirname(it) == where}
        if found != wanted:
            raise AssertionError(f"{where or '.'}: {sorted(found ^ wanted)[:5]} should (not) be")

    def make_directory(self) -> None:
        if len(self.directories) > 20:
            old = self.directories.pop(self.random.randrange(1, len(self.directories)))
            shutil.rmtree(self.top / old)
            self.files = {it: has for it, has in self.files.items() if os.path.dirname(it) != old}
        self.made += 1
        self.directories.append(f"directory{self.made}")
        (self.top / self.directories[-1]).mkdir()

    def miss(self) -> None:
        if os.path.lexists(self.top / "nothing"):
            raise AssertionError("nothing: is there")


class Sampler(threading.Thread):
    """Memory and descriptors of the daemon and what belongs to it, every few seconds."""

    def __init__(self, box: MountedBox) -> None:
        super().__init__(daemon=True)
        self.daemon_process = psutil.Process(box.pid)
        self.samples: list[tuple[float, int, int]] = []
        self.ended = threading.Event()

    def run(self) -> None:
        begun = time.monotonic()
        while not self.ended.wait(SAMPLE_SECONDS):
            memory = self.daemon_process.memory_info().rss
            found = (time.monotonic() - begun, memory, self.daemon_process.num_fds())
            self.samples.append(found)

    def say(self) -> None:
        """A line of growth; the first tenth is warming up."""
        told = self.samples[len(self.samples) // 10 :: max(1, len(self.samples) // 8)]
        for seconds, memory, descriptors in told:
            print(f"  {seconds:7.0f} s  {memory >> 20:5} MiB  {descriptors:4} descriptors")


def change_in_box(top: Path, ended: threading.Event) -> int:
    """Change files in the box until told to end; returns how many changes there were."""
    top.mkdir()
    random_ = random.Random(0)
    count = 0
    while not ended.wait(0.02):
        path = top / f"file{random_.randrange(100)}"
        if random_.random() < 0.2:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(random_.randbytes(random_.randrange(5_000)))
        count += 1
    return count


def work(top: str, seed: str, count: str) -> int:
    worker = Worker(Path(top), int(seed))
    worker.run(int(count))
    print(json.dumps(worker.times))
    return 0


def soak(operations: int, rtt_ms: float) -> int:
    with mounted(rtt_ms, bulk=0) as ground:
        ground.cold()
        sampler = Sampler(ground.mounted)
        sampler.start()
        changes: list[int] = []
        elsewhere = threading.Thread(
            target=lambda: changes.append(change_in_box(ground.box / "remote", sampler.ended))
        )
        elsewhere.start()
        begun = time.monotonic()
        workers = []
        for number in range(WORKERS):
            top = ground.top / f"worker{number}"
            top.mkdir()
            argv = [sys.executable, "-m", "tests.bench.soak", "--worker", top, number]
            argv.append(operations // WORKERS)
            workers.append(subprocess.Popen([*map(str, argv)], cwd=ROOT, stdout=subprocess.PIPE))
        said = [worker.communicate()[0] for worker in workers]
        seconds = time.monotonic() - begun
        sampler.ended.set()
        elsewhere.join()
        ground.mounted.sync(timeout=600)
        failed = [worker.returncode for worker in workers if worker.returncode]
        failed += differences(ground.top, ground.box)
        total = report([json.loads(text) for text in said if text])
        print(f"{total} operations, {changes[0]} changes in the box, {seconds:.0f} s")
        sampler.say()
        for line in failed:
            print(f"FAILED {line}")
        return 1 if failed else 0


def report(times: list[dict[str, list[float]]]) -> int:
    """Say p50 and p99 of each kind of call; returns how many calls there were."""
    total = 0
    for kind in times[0] if times else ():
        found = sorted(one for each in times for one in each.get(kind, ()))
        total += len(found)
        p50, p99 = statistics.median(found), found[int(len(found) * 0.99)]
        print(f"  {kind:15} {len(found):8}  p50 {p50 * 1000:8.3f} ms  p99 {p99 * 1000:8.3f} ms")
    return total


def main() -> int:
    if sys.argv[1:2] == ["--worker"]:
        return work(*sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak", description=__doc__)
    parser.add_argument("--operations", type=int, default=1_000_000)
    parser.add_argument("--rtt", type=float, default=20.0, help="round trip in ms")
    options = parser.parse_args()
    return soak(options.operations, options.rtt)


if __name__ == "__main__":
    sys.exit(main())
