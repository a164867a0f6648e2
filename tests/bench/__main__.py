"""Measure a mount beside the local disk: `python -m tests.bench --help`."""

import argparse
import contextlib
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from tests.bench import grounds
from tests.bench.grounds import Ground
from tests.bench.peers import PEERS, mounted_by
from tests.bench.report import CHECKOUT, Cell, duration, surroundings, table, write_json
from tests.bench.workloads import ROWS, WORKLOADS, Fixture, Workload
from tests.support import repository

LIMIT = 900
"""Seconds after which one run of one workload counts as hung."""

Open = Callable[[], AbstractContextManager[Ground]]


class Overtime(Exception):
    """A workload did not end."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rtt", type=float, action="append", help="round trip in ms; repeatable")
    keys = [row.key for row in ROWS]
    parser.add_argument("--row", action="append", choices=keys, help="only this row; repeatable")
    parser.add_argument("--runs", type=int, default=5, help="runs of each row (default: 5)")
    parser.add_argument("--quick", action="store_true", help="2 runs, 10 MB instead of 100")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    peers = "tuned sshfs and rclone, too, where they are installed: ten minutes a run at 20 ms"
    parser.add_argument("--peers", action="store_true", help=peers)
    options = parser.parse_args()
    options.rtt = options.rtt or [0.0, 20.0]
    options.row = set(options.row or keys)
    if options.quick:
        options.runs = min(options.runs, 2)
    return options


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise Overtime in the body after that time."""

    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise Overtime(f"not done after {seconds} s")

    previous = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


class Session:
    """One run of the benchmark."""

    def __init__(self, options: argparse.Namespace, fixture: Fixture) -> None:
        self.options = options
        self.fixture = fixture
        self.cells: list[Cell] = []

    def measure(self, name: str, rtt_ms: float, open_ground: Open) -> None:
        """Run all wanted workloads on one ground; one that fails gets a fresh ground after it."""
        todo = [(work, keys) for work, keys in WORKLOADS if self.options.row & set(keys)]
        while todo:
            try:
                with open_ground() as ground:
                    ground.cold()
                    while todo:
                        work, keys = todo.pop(0)
                        if not self.workload(work, keys, ground, name, rtt_ms):
                            break
            # Whatever goes wrong is reported, and the other rows are measured all the same.
            except Exception as error:  # noqa: BLE001
                say(f"  {name}: {type(error).__name__}: {error}")
                if todo:
                    _, keys = todo.pop(0)
                    self.cells += [Cell(key, name, rtt_ms, error=str(error)) for key in keys]

    def workload(
        self, work: Workload, keys: tuple[str, ...], ground: Ground, name: str, rtt_ms: float
    ) -> bool:
        cells = {key: Cell(key, name, rtt_ms) for key in keys if key in self.options.row}
        self.cells += cells.values()
        start = time.perf_counter()
        try:
            for _ in range(self.options.runs):
                with limited(LIMIT):
                    result = work(ground, self.fixture)
                for key, cell in cells.items():
                    cell.runs.append(result[key])
        except Exception as error:  # noqa: BLE001
            for cell in cells.values():
                cell.error = f"{type(error).__name__}: {error}"
            say(f"  {name}: {work.__name__} failed: {type(error).__name__}: {error}")
            return False
        say(f"  {name}: {work.__name__} ({duration(time.perf_counter() - start)})")
        return True


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    options = arguments()
    bulk = (10 if options.quick else 100) << 20
    home = Path(tempfile.mkdtemp(prefix="devboxfs-bench-"))
    try:
        (home / "tmp").mkdir()
        (home / "gitconfig").touch()
        archive = home / "thousand.tar"
        repository.make_archive(archive, seed=3, files=1000)
        session = Session(options, Fixture(home, archive, bulk))
        names = _run(session, bulk)
    finally:
        shutil.rmtree(home, ignore_errors=True)

    about = surroundings()
    machine = about["machine"]
    print(f"{about['commit'][:12]}{' (modified)' if about['modified'] else ''}, {machine['cpu']},")
    print(
        f"{machine['cores']} cores, Linux {machine['kernel']}, n = {options.runs}; median (range)"
    )
    for rtt_ms in options.rtt:
        print()
        print("\n".join(table(session.cells, rtt_ms, names, options.row)))
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    path = options.json or CHECKOUT / "bench-results" / f"{stamp}.json"
    said = {"runs": options.runs, "rtt_ms": options.rtt, "bulk_bytes": bulk}
    write_json(path, session.cells, said)
    print(f"\nAll figures: {path}")
    failed = [cell for cell in session.cells if cell.error]
    for cell in failed:
        print(f"FAILED {cell.row} on {cell.ground} at {cell.rtt_ms:g} ms: {cell.error[:500]}")
    return 1 if failed else 0


def _run(session: Session, bulk: int) -> list[str]:
    """Measure everything; returns the names of the grounds, in the order of the columns."""
    others = [it for it in PEERS if it.is_installed()] if session.options.peers else []
    names = ["local", "devboxfs", *(peer.name for peer in others)]
    say("local disk")
    session.measure("local", 0, lambda: grounds.local_disk(bulk))
    for rtt_ms in session.options.rtt:
        say(f"round trip {rtt_ms:g} ms")
        session.measure("devboxfs", rtt_ms, lambda rtt=rtt_ms: grounds.mounted(rtt, bulk))
        for peer in others:
            session.measure(peer.name, rtt_ms, lambda p=peer, r=rtt_ms: mounted_by(p, r, bulk))
    return names


if __name__ == "__main__":
    sys.exit(main())
