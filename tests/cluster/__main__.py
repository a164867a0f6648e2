"""Start and stop a cluster by hand.

python -m tests.cluster build              build the programs, once
python -m tests.cluster up [NAME]          start a cluster, print its directory and settings
python -m tests.cluster status             the clusters that run
python -m tests.cluster env [NAME]         shell commands: KUBECONFIG, PATH with kubectl and ctr
python -m tests.cluster down [NAME|--all]  stop one, remove it, and what crashed ones left
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from tests.cluster import binaries
from tests.cluster.cluster import Cluster
from tests.node.containerd import install
from tests.node.enclosure import PREFIX, Enclosure, EnclosureError, enclosures, is_alive, sweep


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("command", choices=["build", "possible", "up", "status", "env", "down"])
    parser.add_argument("name", nargs="?", default="by-hand")
    parser.add_argument("--all", action="store_true", help="down: also those of running tests")
    options = parser.parse_args()
    try:
        match options.command:
            case "build":
                print(binaries.build())
            case "possible":
                if reason := why_not():
                    print(reason)
                    sys.exit(1)
            case "up":
                up(options.name)
            case "status":
                status()
            case "env":
                environment(find(options.name))
            case "down":
                down(enclosures() if options.all else [find(options.name)])
    except (EnclosureError, binaries.NoModulesError) as error:
        sys.exit(str(error))


def why_not() -> str:
    """Why no cluster can run on this machine, or nothing."""
    if os.geteuid() != 0:
        return "only root may run containers."
    arguments = ["--mount", "--pid", "--fork", "--mount-proc", "--propagation", "private"]
    trial = ["unshare", *arguments, "mount", "-t", "tmpfs", "tmpfs", "/run"]
    done = subprocess.run(trial, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return f"no mount and process namespaces: {done.stderr.strip()}"
    try:
        install()
        if not binaries.are_built():
            binaries.download("k8s.io/kubernetes", binaries.version())
    except (EnclosureError, subprocess.CalledProcessError, binaries.NoModulesError) as error:
        return str(error)
    return ""


def up(name: str) -> None:
    if any(is_alive(directory) for directory in named(name)):
        sys.exit(f"A cluster {name!r} is running.")
    environment(Cluster.start(name, stay=True).directory)


def status() -> None:
    for directory in enclosures():
        state = ", ".join(Enclosure.attach(directory).running()) if is_alive(directory) else "dead"
        print(f"{directory}: {state}")


def environment(directory: Path) -> None:
    cluster = Cluster.attach(directory)
    print(f"export KUBECONFIG={cluster.kubeconfig('owner')}")
    print(f"export DEVBOX_TEST_CLUSTER={directory}")
    print(f"export CONTAINERD_ADDRESS={cluster.containerd.address} CONTAINERD_NAMESPACE=k8s.io")
    print(f'export PATH="{binaries.directory()}:$PATH"')


def down(directories: list[Path]) -> None:
    for directory in directories:
        if is_alive(directory):
            Cluster.attach(directory).close()
    sweep()


def named(name: str) -> list[Path]:
    return [path for path in enclosures() if path.name.startswith(f"{PREFIX}{name}-")]


def find(name: str) -> Path:
    found = [directory for directory in named(name) if is_alive(directory)]
    if not found:
        raise EnclosureError(f"No cluster {name!r} is running: python -m tests.cluster up {name}")
    return found[0]


if __name__ == "__main__":
    main()
