"""What the README says of a user's first ten minutes, as it stands there."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import clean_environment

README = Path(__file__).parents[2] / "README.md"


def commands() -> list[str]:
    _, _, rest = README.read_text().partition("\n## The first ten minutes\n")
    lines = rest.partition("```sh\n")[2].partition("```")[0].splitlines()
    return [line.partition("  #")[0].strip() for line in lines]


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A user with a home directory, the command in their PATH, and an engine that is theirs."""
    for name in ("tmp", "bin"):
        (tmp_path / name).mkdir()
    program = tmp_path / "bin" / "devboxfs"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m devboxfs "$@"\n')
    program.chmod(0o755)
    found = clean_environment(tmp_path)
    found["HOME"] = str(tmp_path)
    found["PATH"] = f"{program.parent}:{found['PATH']}"
    for name in [name for name in found if name.startswith(("XDG_", "DEVBOX_"))]:
        del found[name]
    with subprocess.Popen(
        [program, "serve", "--port", "0"], stdout=subprocess.PIPE, text=True, env=found, cwd="/"
    ) as engine:
        try:
            assert engine.stdout is not None
            found["ENGINE"] = engine.stdout.readline().split(" serves ")[1].partition(";")[0]
            yield found
            subprocess.run(
                [program, "umount", "--force", tmp_path / "hello"],
                env=found,
                capture_output=True,
                check=False,
                timeout=60,
            )
        finally:
            engine.terminate()


@pytest.mark.fuse
@pytest.mark.timeout(400)
def test_the_first_ten_minutes(environment: dict[str, str], tmp_path: Path) -> None:
    assert len(commands()) == 12
    said: dict[str, str] = {}
    ends = time.monotonic() + 350
    for command in commands():
        line = command.replace("http://127.0.0.1:9750", environment["ENGINE"])
        done = subprocess.run(
            ["sh", "-c", line],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=max(ends - time.monotonic(), 1),
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        said[command] = done.stdout
        if " main.py" in command and "devboxfs run" in command:
            assert done.stdout == "hello from the box\n"
    login, templates, create, wait, _, mount, *_ = said.values()
    assert "takes the credential; there are 0 boxes" in login
    assert "python" in templates
    assert create.startswith("hello is ")
    assert wait == "hello is ready.\n"
    assert "hello is mounted on" in mount
    plot = said["devboxfs metrics hello --since 10m"]
    assert "┤" in plot
    assert plot.splitlines()[-1].startswith("memory")
    assert said["devboxfs box pause hello"] == "hello is stopped.\n"
    assert said["devboxfs box delete hello --yes"] == "hello is deleted.\n"
    assert not os.path.ismount(tmp_path / "hello")
