"""Running real programs, each with a deadline."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest


def run(
    *argv: str | os.PathLike[str],
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 60,
    check: bool = True,
    stdin: bytes = b"",
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end; raises AssertionError when it fails or takes longer than
    `timeout` seconds.

    The program has a process group of its own, which is killed as a whole. One that cannot be
    killed (it is inside a dead mount) is left behind after 5 more seconds rather than waited
    for.
    """
    command = [os.fspath(part) for part in argv]
    child = subprocess.Popen(
        command,
        cwd=cwd,
        env=None if env is None else dict(env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, err = child.communicate(stdin, timeout=timeout)
    except subprocess.TimeoutExpired as late:
        kill_group(child)
        said = b"".join(part for part in (late.stdout, late.stderr) if part)
        raise AssertionError(f"{command} did not end within {timeout} s.\n{shown(said)}") from None
    except BaseException:
        kill_group(child)
        raise
    done = subprocess.CompletedProcess(command, child.returncode, out, err)
    if check and done.returncode != 0:
        raise AssertionError(f"{command} ended with {done.returncode}.\n{shown(out)}{shown(err)}")
    return done


def kill_group(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    for stream in (child.stdin, child.stdout, child.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(timeout=5)


def shown(output: bytes, limit: int = 4000) -> str:
    """The end of what a program printed, for a failure's message."""
    text = output.decode(errors="backslashreplace")
    return text if len(text) <= limit else "..." + text[-limit:]


def need(program: str) -> str:
    """Skip the test where `program` is not installed."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def clean_environment(home: Path) -> dict[str, str]:
    """An environment for programs on a mount that knows nothing of the machine it runs on."""
    kept = ("PATH", "TZ", "LD_LIBRARY_PATH")
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        # Daemons write their share of what `make coverage` measures.
        **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")},
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "LC_ALL": "C.UTF-8",
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_CACHE_HOME": str(home / "xdg-cache"),
        "XDG_DATA_HOME": str(home / "xdg-data"),
        "XDG_STATE_HOME": str(home / "xdg-state"),
        "XDG_RUNTIME_DIR": str(home / "run"),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": str(home / "gitconfig"),
        "npm_config_cache": str(home / "npm"),
        "npm_config_update_notifier": "false",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
