"""What several of the contract's implementations need."""

import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with busybox's applets: the tools of a small box."""
    program = shutil.which("busybox")
    assert program, "tools/setup.sh installs busybox"
    tools = tmp_path_factory.mktemp("tools")
    subprocess.run([program, "--install", "-s", tools], check=True)
    return tools
