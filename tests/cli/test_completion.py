"""Shell completion: of commands, options, and names that the service knows."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import User


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts(user: User, shell: str) -> None:
    assert "_DEVBOXFS_COMPLETE" in user.does("completion", shell)


def complete(user: User, line: str) -> list[str]:
    words = line.split(" ")
    done = user.spawn(
        env={
            "_DEVBOXFS_COMPLETE": "bash_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
        }
    )
    return [item.partition(",")[2] for item in done.stdout.splitlines() if item]


def test_names_of_boxes_and_profiles(member: User, box: str) -> None:
    assert complete(member, "devboxfs box show wo") == [box]
    assert complete(member, "devboxfs metrics wo") == [box]
    service = " ".join(member.service)
    assert complete(member, f"devboxfs box pause {service} w") == [box]
    assert complete(member, "devboxfs box list --profile d") == ["default"]
    assert complete(member, "devboxfs box sta") == ["start"]


def test_a_service_that_does_not_answer_completes_nothing(user: User) -> None:
    line = "devboxfs box show --endpoint http://127.0.0.1:9 --kubeconfig /nonexistent w"
    assert complete(user, line) == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_in_bash(member: User, box: str, tmp_path: Path) -> None:
    program = tmp_path / "devboxfs"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m devboxfs "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(devboxfs completion bash)"\n'
        "COMP_WORDS=(devboxfs box show wo)\nCOMP_CWORD=3\n"
        '_devboxfs_completion devboxfs\necho "${COMPREPLY[@]}"\n'
    )
    environment = {**member.environment, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout == f"{box}\n", done.stderr
