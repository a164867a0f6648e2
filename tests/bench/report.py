"""What was measured, on which machine, of which commit: as JSON and as a table."""

import json
import os
import platform
import statistics
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.bench.workloads import ROWS, Measurement
from tests.support.commands import run

CHECKOUT = Path(__file__).parents[2]


@dataclass
class Cell:
    """One row on one ground at one round trip time."""

    row: str
    ground: str
    rtt_ms: float
    runs: list[Measurement] = field(default_factory=list)
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        seconds = [run.seconds for run in self.runs]
        found: dict[str, Any] = {"row": self.row, "ground": self.ground, "rtt_ms": self.rtt_ms}
        found["n"] = len(seconds)
        if seconds:
            found |= {"median": statistics.median(seconds), "min": min(seconds)}
            found |= {"max": max(seconds), "seconds": seconds}
            found["requests"] = [run.requests for run in self.runs]
            found["waited"] = [run.waited for run in self.runs]
        if self.error:
            found["error"] = self.error
        return found


def surroundings() -> dict[str, Any]:
    """The commit, the machine and the versions that a number depends on."""
    here = {"cwd": CHECKOUT, "check": False}
    cpu = [line for line in _read("/proc/cpuinfo").splitlines() if line.startswith("model name")]
    memory = _read("/proc/meminfo").split(maxsplit=2)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": run("git", "rev-parse", "HEAD", **here).stdout.decode().strip(),
        "modified": bool(run("git", "status", "--porcelain", "-uno", **here).stdout),
        "machine": {
            "cpu": cpu[0].partition(": ")[2] if cpu else platform.machine(),
            "cores": os.cpu_count(),
            "memory_kib": int(memory[1]) if len(memory) > 1 else None,
            "kernel": platform.release(),
        },
        "versions": {
            "python": platform.python_version(),
            "git": run("git", "--version", **here).stdout.decode().strip(),
            **{name: _version(name) for name in ("sealos-devbox", "pyfuse3", "trio")},
        },
    }


def _read(path: str) -> str:
    return Path(path).read_text() if os.path.exists(path) else ""


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"


def write_json(path: Path, cells: list[Cell], options: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {**surroundings(), "options": options, "results": [one.to_json() for one in cells]}
    path.write_text(json.dumps(content, indent=1) + "\n")


def duration(seconds: float) -> str:
    if seconds < 0.01:
        return f"{seconds * 1000:.2f} ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _cell(cell: Cell | None) -> str:
    if cell is None or not (cell.runs or cell.error):
        return "-"
    if not cell.runs:
        return "failed"
    seconds = [run.seconds for run in cell.runs]
    spread = f"{duration(min(seconds))}-{duration(max(seconds))}"
    return f"{duration(statistics.median(seconds))} ({spread})"


def _count(values: list[int | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known):g}" if known else "-"


def _verdict(cell: Cell | None, target: float | None) -> str:
    if cell is None or not cell.runs or target is None:
        return ""
    median = statistics.median(run.seconds for run in cell.runs)
    return "met" if median <= target else f"{median / target:.1f} x"


def table(cells: list[Cell], rtt_ms: float, grounds: list[str], rows: set[str]) -> list[str]:
    """The lines of the table for one round trip time; the targets are those for 20 ms."""
    found = {(one.row, one.ground): one for one in cells if one.ground == "local"}
    found |= {(one.row, one.ground): one for one in cells if one.rtt_ms == rtt_ms}
    head = [
        "round trip " + f"{rtt_ms:g} ms",
        *grounds,
        "requests",
        "waited",
        "budget",
        "target",
        "",
    ]
    lines = [head]
    for row in ROWS:
        if row.key not in rows:
            continue
        ours = found.get((row.key, "devboxfs"))
        target = duration(row.target) if row.target else ""
        counts = [_count([run.requests for run in ours.runs]) if ours else "-"]
        counts += [_count([run.waited for run in ours.runs]) if ours else "-"]
        line = [row.title, *(_cell(found.get((row.key, ground))) for ground in grounds)]
        lines.append([*line, *counts, row.budget, target, _verdict(ours, row.target)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
            for line in lines]  # fmt: skip
