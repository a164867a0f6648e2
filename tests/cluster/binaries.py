"""Kubernetes and etcd, built from the Go module proxy and kept in the user's cache directory.

The published module of Kubernetes requires its own parts at v0.0.0, so `kubernetes/go.mod` names
their real versions; with `kubernetes/go.sum` every build has the same sources. Cold, it takes six
to eight minutes of two cores and 2 GB.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from tests.node.cache import cache_directory, making

MODULE = Path(__file__).parent / "kubernetes"
PROGRAMS = {
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kubelet": "k8s.io/kubernetes/cmd/kubelet",
    "etcd": "go.etcd.io/etcd/server/v3",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
}


class NoModulesError(Exception):
    """There is no Go here that is new enough, or the modules cannot be had."""


@cache
def version() -> str:
    """The version of Kubernetes that `kubernetes/go.mod` names."""
    found = re.search(r"k8s\.io/kubernetes (v1\.\S+)", (MODULE / "go.mod").read_text())
    assert found
    return found[1]


def directory() -> Path:
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return cache_directory() / f"kubernetes-{version()}-linux-{machine}"


def are_built() -> bool:
    return directory().exists()


def build() -> Path:
    """Build what is not there yet and return the directory of the programs.

    Several callers at once share one build. Raises NoModulesError when it cannot begin.
    """
    with making(directory()) as aside:
        if aside:
            source = aside / ".source"
            source.mkdir()
            for name in ("go.mod", "go.sum"):
                shutil.copy(MODULE / name, source)
            say(f"fetching the sources of Kubernetes {version()}")
            fetch(source)
            for name, package in PROGRAMS.items():
                say(f"building {name}; all of it takes 6 to 8 minutes, once")
                flags = ["-trimpath", "-ldflags", linker_flags()]
                go(source, "build", *flags, "-o", aside / name, package)
            shutil.rmtree(source)
    return directory()


def say(text: str) -> None:
    print(f"cluster: {text}", file=sys.stderr, flush=True)


def download(module: str, version: str) -> Path:
    """Where Go has the sources of one module, after fetching them if need be."""
    with tempfile.TemporaryDirectory() as empty:
        try:
            answer = go(
                Path(empty), "mod", "download", "-json", f"{module}@{version}", capture=True
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise NoModulesError(why(error)) from error
    return Path(json.loads(answer)["Dir"])


def fetch(source: Path) -> None:
    """Download what the programs are made of; listing their packages does."""
    try:
        go(source, "list", "-deps", *PROGRAMS.values(), capture=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise NoModulesError(why(error)) from error


def why(error: OSError | subprocess.CalledProcessError) -> str:
    """Why Go did not fetch something, in a sentence."""
    if isinstance(error, OSError):
        return f"Go cannot be run here: {error}"
    said = f"{error.stderr or ''}{error.stdout or ''}"
    if '"Error":' in said:
        said = json.loads(said[said.index("{") :])["Error"]
    lines = said.strip().splitlines() or ["it does not say why"]
    return f"Go modules cannot be had here: {lines[-1]}"


def linker_flags() -> str:
    """Without these, it calls itself v0.0.0-master."""
    major, minor = version().removeprefix("v").split(".")[:2]
    values = {"gitVersion": version(), "gitMajor": major, "gitMinor": minor}
    package = "k8s.io/component-base/version"
    return " ".join(["-s -w", *(f"-X {package}.{key}={it}" for key, it in values.items())])


def go(source: Path, *arguments: object, capture: bool = False) -> str:
    """Run Go in the module; a Go that is too old fetches the one that `go.mod` asks for."""
    from tools.build_helper import find_go

    settings = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "auto", "GOWORK": "off"}
    done = subprocess.run(
        ["nice", "-n", "19", str(find_go() or "go"), *map(str, arguments)],
        cwd=source,
        env=os.environ | settings,
        stdin=subprocess.DEVNULL,
        capture_output=capture,
        text=True,
        check=True,
    )
    return done.stdout if capture else ""
