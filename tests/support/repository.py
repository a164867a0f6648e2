"""The work tree that budgets and benchmarks are about: 2,000 files of 8 MB in 122 directories."""

import os
import random
import tarfile
from collections.abc import Mapping
from pathlib import Path

from tests.support.commands import run
from tests.support.trees import text

FILES = 2000
DIRECTORIES = 122
MEAN_SIZE = 4000
# Well in the past: git reads again what is as young as its index.
_WHEN = 1_600_000_000_000_000_000


def make(top: Path, environment: Mapping[str, str], *, seed: int = 1) -> list[Path]:
    """Make a git repository with everything committed; returns its files, relative to it."""
    files = make_files(top, seed=seed, files=FILES, directories=DIRECTORIES)
    for argv in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "all of it"]):
        run("git", *argv, cwd=top, env=environment)
    run("git", "gc", "-q", cwd=top, env=environment)
    run("git", "status", cwd=top, env=environment)
    return files


def make_files(top: Path, *, seed: int, files: int, directories: int) -> list[Path]:
    """Spread files over directories that are two or three levels deep."""
    random_ = random.Random(seed)
    packages = max(1, directories // 11)
    places = [Path(f"package{number}") for number in range(packages)]
    while len(places) < directories:
        places.append(places[len(places) % packages] / f"module{len(places)}")
    for place in places:
        (top / place).mkdir(parents=True)
    made = []
    for number in range(files):
        path = places[number % len(places)] / f"source{number}.py"
        size = min(60_000, max(40, int(random_.expovariate(1 / MEAN_SIZE))))
        (top / path).write_bytes(text(random_, size))
        os.utime(top / path, ns=(_WHEN, _WHEN + number * 1_000_003))
        made.append(path)
    return made


def make_archive(archive: Path, *, seed: int, files: int) -> None:
    """Write a tar archive of small files in 25 directories; `archive` names it without suffix."""
    source = archive.with_suffix(".d")
    make_files(source, seed=seed, files=files, directories=25)
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as out:
        for name in sorted(os.listdir(source)):
            out.add(source / name, name)
