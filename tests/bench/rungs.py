"""Measure every way into a box, beside kubectl: `python -m tests.bench.rungs [--size MiB]` (root).

The helper, plain exec and kubectl reach a box of the test cluster (tests/cluster), the agent a box
of the embedded engine. Each transfer is compared by SHA-256; the memory is that of the client's
process and of the helper's at its highest, and a run in which either needs more than LIMIT_MIB is
an error. Pings are sent every second in which nothing else is, which is often while reading: what
comes after a program's end must not be lost by them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from sealos_devbox import AsyncDevbox, Devbox, DevboxConfig
from sealos_devbox._transport.kube.exec_channel import open_exec_channel
from sealos_devbox.server.run import serving
from sealos_devbox.server.settings import EngineSettings
from tests.cluster import binaries
from tests.cluster.boxes import Box
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import devboxes
from tests.cluster.controller import DevboxController
from tests.support.commands import run

RUNGS = ("helper", "exec", "kubectl", "agent")
STATS = 200
LIMIT = 1800
"""Seconds after which one way counts as hung."""
LIMIT_MIB = 150
PING_INTERVAL = 1.0


@dataclass(frozen=True)
class Way:
    """How a child process measures one way."""

    rung: str
    kubeconfig: Path
    name: str
    endpoint: str | None = None
    root: str = "/home/devbox/project"
    """Of the helper, or what that begins with."""


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -- in the child: nothing but the client is in its memory -----------------------------------------


async def measure(way: Way, source: Path, target: Path) -> dict[str, float]:
    config = DevboxConfig(api_url=way.endpoint, kubeconfig=way.kubeconfig, transport=way.rung)
    figures: dict[str, float] = {}
    async with AsyncDevbox(config) as devbox:
        started = time.monotonic()
        box = await devbox.get(way.name)
        await box.fs.exists("nothing")
        figures["first_reply_ms"] = 1000 * (time.monotonic() - started)
        times = []
        for _ in range(STATS):
            started = time.monotonic()
            await box.fs.exists("nothing")
            times.append(time.monotonic() - started)
        figures["stat_per_second"] = 1 / statistics.median(times)
        size = source.stat().st_size
        for name, transfer in (
            ("up", lambda: box.fs.upload_files([(str(source), "big")], idle_timeout=None)),
            ("down", lambda: box.fs.download_files(["big"], target, idle_timeout=None)),
        ):
            started = time.monotonic()
            await transfer()
            figures[f"{name}_mb_per_second"] = size / 1e6 / (time.monotonic() - started)
        if digest(source) != digest(target / "big"):
            raise AssertionError("what came back is not what was sent")
        await box.fs.delete("big")
    figures["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return figures


def child(text: str) -> None:
    opener = open_exec_channel.__wrapped__  # type: ignore[attr-defined]
    opener.__kwdefaults__["ping_interval"] = PING_INTERVAL
    said = json.loads(text)
    way = Way(said["rung"], Path(said["kubeconfig"]), said["name"], said["endpoint"])
    figures = anyio.run(measure, way, Path(said["source"]), Path(said["target"]))
    print(json.dumps(figures))


def in_child(way: Way, source: Path, target: Path) -> dict[str, float]:
    said = {
        "rung": way.rung,
        "kubeconfig": str(way.kubeconfig),
        "name": way.name,
        "endpoint": way.endpoint,
        "source": str(source),
        "target": str(target),
    }
    with helpers_peak(way.root) as helpers:
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.rungs", "--child", json.dumps(said)],
            stdout=subprocess.PIPE,
            check=True,
            timeout=LIMIT,
        )
    figures = dict(json.loads(done.stdout))
    if helpers:
        figures["helper_mib"] = max(helpers.values())
    if max(figures["peak_mib"], figures.get("helper_mib", 0)) > LIMIT_MIB:
        raise AssertionError(f"more than {LIMIT_MIB} MiB were needed: {figures}")
    return figures


@contextmanager
def helpers_peak(root: str) -> Iterator[dict[int, float]]:
    """Yield the highest memory, in MiB, of each helper that runs meanwhile, by its process."""
    peaks: dict[int, float] = {}
    over = threading.Event()
    before = set(helpers(root))

    def look() -> None:
        while not over.wait(0.2):
            for pid in set(helpers(root)) - before:
                try:
                    status = Path(f"/proc/{pid}/status").read_text()
                except OSError:
                    continue
                for line in status.splitlines():
                    if line.startswith("VmHWM:"):
                        peaks[pid] = int(line.split()[1]) / 1024

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield peaks
    finally:
        over.set()
        looking.join()


def helpers(root: str) -> Iterator[int]:
    wanted = b"\0serve\0--root\0" + os.fsencode(root)
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and wanted in (entry / "cmdline").read_bytes():
                yield int(entry.name)
        except OSError:
            continue


# -- the other programs ----------------------------------------------------------------------------


def kubectl(box: Box, source: Path, target: Path) -> dict[str, dict[str, float]]:
    program = [binaries.directory() / "kubectl", "--kubeconfig", box.cluster.kubeconfig("owner")]
    pod = str(box.pod()["metadata"]["name"])
    remote = "/home/devbox/project/big"
    size = source.stat().st_size / 1e6

    def rate(action: Callable[[], object]) -> float:
        started = time.monotonic()
        action()
        return size / (time.monotonic() - started)

    inside = [*program, "exec", "-i", pod, "--"]

    def tar_up() -> None:
        with subprocess.Popen(
            ["tar", "cf", "-", "-C", source.parent, source.name], stdout=subprocess.PIPE
        ) as tar:
            argv = [*inside, "tar", "xf", "-", "-C", "/home/devbox/project"]
            subprocess.run(argv, stdin=tar.stdout, check=True, timeout=LIMIT)

    def tar_down() -> None:
        argv = [*inside, "tar", "cf", "-", "-C", "/home/devbox/project", source.name]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as tar:
            subprocess.run(
                ["tar", "xf", "-", "-C", target], stdin=tar.stdout, check=True, timeout=LIMIT
            )

    def first() -> float:
        started = time.monotonic()
        run(*inside, "true")
        return 1000 * (time.monotonic() - started)

    begun = first()
    return {
        "kubectl cp": {
            "first_reply_ms": begun,
            "up_mb_per_second": rate(
                lambda: run(*program, "cp", source, f"{pod}:{remote}", timeout=LIMIT)
            ),
            "down_mb_per_second": rate(
                lambda: run(*program, "cp", f"{pod}:{remote}", target / "cp", timeout=LIMIT)
            ),
        },
        "kubectl exec tar": {
            "first_reply_ms": begun,
            "up_mb_per_second": rate(tar_up),
            "down_mb_per_second": rate(tar_down),
        },
    }


# -- grounds ---------------------------------------------------------------------------------------


@contextmanager
def cluster_box() -> Iterator[Box]:
    attached = os.environ.get("DEVBOX_TEST_CLUSTER")
    cluster = Cluster.attach(Path(attached)) if attached else Cluster.start("bench")
    try:
        with DevboxController(cluster) as controller:
            maker = devboxes(controller)
            yield next(maker)("posix")
            next(maker, None)
    finally:
        if not attached:
            cluster.close()


@contextmanager
def engine_box(directory: Path) -> Iterator[Way]:
    os.environ["HOME"] = str(directory)
    with serving(EngineSettings(directory / "data")) as served:
        config = DevboxConfig(api_url=served.url, kubeconfig=served.kubeconfig)
        with Devbox(config) as devbox:
            devbox.create("bench", runtime="python").keep()
        yield Way("agent", served.kubeconfig, "bench", served.url, str(directory))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.rungs", description=__doc__)
    parser.add_argument("--size", type=int, default=1024, help="MiB of the file (default: 1024)")
    parser.add_argument("--runs", type=int, default=1, help="times in a row (default: 1)")
    parser.add_argument("--rungs", nargs="+", default=RUNGS, choices=RUNGS, help="default: all")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return
    binaries.build()
    with tempfile.TemporaryDirectory(prefix="devbox-rungs-", dir="/var/tmp") as name:
        directory = Path(name)
        source, target = directory / "big", directory / "down"
        target.mkdir()
        with source.open("wb") as file:
            for _ in range(options.size):
                file.write(os.urandom(1 << 20))
        show("", {})
        if options.rungs != ["agent"]:
            with cluster_box() as box:
                kubeconfig = box.cluster.kubeconfig("owner")
                for rung in ("helper", "exec"):
                    for number in range(options.runs if rung in options.rungs else 0):
                        way = Way(rung, kubeconfig, box.name)
                        show(f"{rung} {number + 1}", in_child(way, source, target))
                if "kubectl" in options.rungs:
                    for label, figures in kubectl(box, source, target).items():
                        show(label, figures)
        if "agent" in options.rungs:
            with engine_box(directory) as way:
                for number in range(options.runs):
                    show(f"agent {number + 1}", in_child(way, source, target))


COLUMNS = (
    "first_reply_ms",
    "stat_per_second",
    "up_mb_per_second",
    "down_mb_per_second",
    "peak_mib",
    "helper_mib",
)


def show(label: str, figures: dict[str, float]) -> None:
    if not label:
        heads = (name.replace("_per_second", "/s").replace("_", " ") for name in COLUMNS)
        print(" " * 18 + "".join(f"{head:>16}" for head in heads), flush=True)
        return
    cells = (f"{figures[name]:.0f}" if name in figures else "" for name in COLUMNS)
    print(f"{label:<18}" + "".join(f"{cell:>16}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
