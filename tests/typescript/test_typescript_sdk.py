"""The public TypeScript SDK against the engine, unchanged."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
# What the script may use, and this test shows: one of each of these, and more of most.
KINDS = {
    "createDevbox", "getDevbox", "start", "pause", "restart", "shutdown", "delete",
    "writeFile, raw", "readFile", "listFiles", "uploadFiles", "downloadFiles, tar.gz",
    "searchFiles", "findInFiles", "replaceInFiles", "execSync", "executeCommand", "getPorts",
    "getMonitorData", "createRelease", "listReleases", "deployRelease", "deleteRelease",
}  # fmt: skip


@pytest.fixture(scope="module")
def installed() -> Path:
    """A directory with the script and what the lock names; installed once for each lock."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node is not installed")
    lock = (HERE / "package-lock.json").read_bytes()
    cache = REPOSITORY / "build" / "typescript" / hashlib.sha256(lock).hexdigest()[:16]
    if not cache.exists():
        fresh = cache.with_name(f"{cache.name}-{os.getpid()}")
        fresh.mkdir(parents=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, fresh)
        subprocess.run(
            ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
            cwd=fresh,
            check=True,
            timeout=300,
        )
        try:
            fresh.rename(cache)
        except OSError:
            shutil.rmtree(fresh)  # another run was faster
    return cache


@pytest.mark.slow
@pytest.mark.timeout(320)  # 7 s where nothing else runs
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_real_client_that_nobody_here_wrote(
    installed: Path, tmp_path: Path, backend: str
) -> None:
    # Beside what it imports, where node looks for it.
    script = installed / f"script-{os.getpid()}.mjs"
    shutil.copy(HERE / "script.mjs", script)
    namespaces = ["-mn"] if os.geteuid() == 0 else ["-rmn"]
    try:
        result = subprocess.run(
            [
                *("unshare", *namespaces, "--"),
                *(sys.executable, HERE / "inside.py", script, tmp_path, backend),
            ],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY / "sdk")},
            capture_output=True,
            text=True,
            timeout=300,
        )
    finally:
        script.unlink()
    assert result.returncode == 0, result.stdout + result.stderr
    calls = json.loads((tmp_path / "calls.json").read_text())
    assert len(calls) >= 40
    assert set(calls) >= KINDS
