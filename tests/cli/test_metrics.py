"""`devboxfs metrics`: what it plots is what the box used."""

import json
import signal
import subprocess
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sealos_devbox import Devbox, DevboxConfig
from tests.cli.conftest import User


@pytest.fixture
def busy(user: User, box: str) -> str:
    """A box that has been seen to use its CPU."""
    config = DevboxConfig(api_url=user.url, kubeconfig=user.kubeconfig)
    with Devbox(config) as devbox:
        there = devbox.get(box)
        ends = time.monotonic() + 90
        while (latest := there.metrics_latest()) is None or latest.cpu_percent < 5:
            assert time.monotonic() < ends
            there.run("timeout 2 sh -c 'while :; do :; done'")
    return box


def test_the_plot_shows_what_the_samples_say(user: User, busy: str) -> None:
    plotted = user.does("metrics", busy, "--since", "5m", *user.service)
    samples = user.json("metrics", busy, "--since", "5m", *user.service)["samples"]
    most = max(sample["cpu_percent"] for sample in samples)
    assert most > 1
    assert "work, " in plotted
    assert "●" in plotted
    assert "▪" in plotted
    assert "\x1b" not in plotted  # for a pipe
    cpu, memory = plotted.splitlines()[-2:]
    assert cpu.split()[0] == "cpu"
    assert memory.split()[0] == "memory"
    words = cpu.split()
    assert float(words[words.index("most") + 1]) > 1
    # A dot of the curve is above the axis, where a box that does nothing has none. The highest is
    # on the line of the legend.
    frame = [line for line in plotted.splitlines() if "│" in line or "┤" in line]
    assert any("●" in line.replace("●● cpu", "") for line in frame[:-1])


def test_ranges_and_steps(user: User, busy: str) -> None:
    end = datetime.now(UTC)
    found = user.json(
        *("metrics", busy, "--start", (end - timedelta(minutes=4)).isoformat()),
        *("--end", end.isoformat(), "--step", "10s", *user.service),
    )
    assert set(found) == {"start", "end", "step", "samples", "shared_with"}
    assert found["step"] == 10
    assert datetime.fromisoformat(found["end"]) == end
    times = [datetime.fromisoformat(one["time"]) for one in found["samples"]]
    assert times == sorted(times)
    assert set(found["samples"][0]) == {"time", "cpu_percent", "memory_percent"}
    rows = user.does("metrics", busy, "--since", "4m", "--table", *user.service).splitlines()
    assert rows[0].split() == ["TIME", "CPU", "%", "MEMORY", "%"]
    assert len(rows) > 1
    nothing = user.does(
        *("metrics", busy, "--start", "2020-01-01", "--end", "2020-01-02", *user.service)
    )
    assert "there are no samples" in nothing


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--since", "soon"], "write for example 90s"),
        (["--start", "yesterday"], "write for example 2026"),
        (["--start", "2020-01-02", "--end", "2020-01-01"], "earlier"),
        (["--since", "1h", "--start", "2020-01-01"], "exclude"),
        (["--watch", "--end", "2020-01-01"], "exclude"),
        (["--table", "--json"], "exclude"),
    ],
)
def test_wrong_times(user: User, arguments: list[str], said: str) -> None:
    done = user.run("metrics", "work", *arguments, *user.service)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr


def test_figures_that_are_not_the_boxs_own_are_refused(user: User, box: str) -> None:
    for name in ("two-one", "two-two"):
        user.does("box", "create", name, "--runtime", "python", "--no-wait", *user.service)
    done = user.run("metrics", "two-one", *user.service)
    assert (done.returncode, "--allow-shared" in done.stderr) == (16, True)
    average = user.json("metrics", "two-one", "--allow-shared", *user.service)
    assert average["shared_with"] == ["two-two"]


def test_watching_until_interrupted(user: User, busy: str) -> None:
    command = user.command(
        *("metrics", busy, "--watch", "--interval", "0.2s", "--json", *user.service)
    )
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=user.environment,
        cwd="/",
    )
    try:
        assert child.stdout is not None
        looks: list[Any] = [json.loads(child.stdout.readline()) for _ in range(3)]
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=30)
    finally:
        child.kill()
        child.wait()
    assert looks[0]["end"] < looks[1]["end"] < looks[2]["end"]
    assert child.returncode == 130
    assert "Traceback" not in said
    assert "Interrupted." in said
