"""containerd and runc inside an enclosure, as a node of a cluster runs them."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from tests.node import images
from tests.node.enclosure import Enclosure, EnclosureError
from tests.support.waiting import wait_until

T = TypeVar("T")

PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "busybox": "busybox-static",
    "/usr/lib/cni/loopback": "containernetworking-plugins",
}
"""What has to be on the machine, and the Debian package that brings it."""

RUNTIME = "devbox-runc"
"""The runtime handler's name in production; here another name for runc."""

# restrict_oom_score_adj: pause containers want a score that only CAP_SYS_RESOURCE allows.
CONFIG = """\
version = 2
root = "{d}/root"
state = "{d}/state"
[grpc]
  address = "{d}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{d}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{runtime}]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{runtime}.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{d}/cni-bin"
    conf_dir = "{d}/cni"
"""

# Nobody dials a pod: exec goes through the runtime. So a pod gets an interface that leads nowhere,
# both ends of it in the pod's own network namespace, and the machine's network stays untouched.
NETWORK_PLUGIN = """\
#!/bin/sh
case $CNI_COMMAND in
ADD)
    nsenter --net="$CNI_NETNS" ip link add "$CNI_IFNAME" type veth peer name nowhere &&
    nsenter --net="$CNI_NETNS" ip address add 10.88.0.2/32 dev "$CNI_IFNAME" &&
    nsenter --net="$CNI_NETNS" ip link set "$CNI_IFNAME" up || exit 1
    cat <<END
{"cniVersion": "0.4.0",
 "interfaces": [{"name": "$CNI_IFNAME", "sandbox": "$CNI_NETNS"}],
 "ips": [{"version": "4", "address": "10.88.0.2/32", "interface": 0}]}
END
    ;;
VERSION)
    echo '{"cniVersion": "0.4.0", "supportedVersions": ["0.3.1", "0.4.0"]}'
    ;;
esac
"""


def install() -> None:
    """Install the Debian packages that are missing, as `tools/setup.sh` does for its own."""
    missing = [package for thing, package in PACKAGES.items() if not shutil.which(thing)]
    if not missing:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        names = " ".join(missing)
        raise EnclosureError(f"Please install what these Debian packages contain: {names}")
    # Where a service manager runs, it would start a containerd that nobody here talks to.
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    install = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    for command in (["apt-get", "update"], install):
        subprocess.run(command, env=quiet, stdin=subprocess.DEVNULL, check=True, timeout=600)


class Containerd:
    """The daemon, its socket `address` and its images."""

    def __init__(self, enclosure: Enclosure) -> None:
        self.enclosure = enclosure
        self.address = enclosure.directory / "containerd.sock"

    def start(self) -> None:
        directory = self.enclosure.directory
        if not (directory / "containerd.toml").exists():
            self._configure()
        self.enclosure.spawn("containerd", ["containerd", "-c", directory / "containerd.toml"])
        wait_for(
            lambda: self.ctr("version", check=False).returncode == 0,
            "containerd",
            lambda: self.enclosure.log("containerd"),
        )

    def stop(self, signal_number: int = signal.SIGTERM) -> None:
        """End the daemon; containers go on, as they do on a node."""
        self.enclosure.stop("containerd", signal_number)

    def restart(self, signal_number: int = signal.SIGKILL) -> None:
        self.stop(signal_number)
        self.start()

    def ctr(
        self, *arguments: object, check: bool = True, timeout: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        """Run containerd's own command line in the namespace that Kubernetes uses."""
        command = ["ctr", "--address", self.address, "--namespace", "k8s.io"]
        return self.enclosure.run(*command, *arguments, check=check, timeout=timeout)

    def import_images(self, archive: Path) -> None:
        """Load an archive of `images.py`; returns when the CRI part knows what it holds."""
        self.ctr("images", "import", "--snapshotter", self._snapshotter, archive)
        wanted = {images.reference(name) for name in images.IMAGES}

        def known() -> bool:
            listed = self.ctr("images", "ls", "-q", 'labels."io.cri-containerd.image"==managed')
            return wanted <= set(listed.stdout.decode().split())

        wait_for(known, "an imported image", lambda: self.enclosure.log("containerd"))

    def _configure(self) -> None:
        directory = self.enclosure.directory
        (directory / "containerd.toml").write_text(
            CONFIG.format(
                d=directory,
                pause=images.reference("pause"),
                runtime=RUNTIME,
                snapshotter=self._snapshotter,
            )
        )
        plugins = directory / "cni-bin"
        plugins.mkdir()
        (plugins / "loopback").symlink_to("/usr/lib/cni/loopback")
        (plugins / "nowhere").write_text(NETWORK_PLUGIN)
        (plugins / "nowhere").chmod(0o755)
        (directory / "cni").mkdir()
        network = {"cniVersion": "0.4.0", "name": "nowhere", "plugins": [{"type": "nowhere"}]}
        (directory / "cni" / "10-nowhere.conflist").write_text(json.dumps(network))

    @cached_property
    def _snapshotter(self) -> str:
        return "overlayfs" if self._has_overlay() else "native"

    def _has_overlay(self) -> bool:
        """An overlay cannot lie on an overlay, which is what a container's `/tmp` may be."""
        trial = self.enclosure.directory / "overlay"
        for name in ("lower", "upper", "work", "merged"):
            (trial / name).mkdir(parents=True)
        options = f"lowerdir={trial}/lower,upperdir={trial}/upper,workdir={trial}/work"
        mount = ["mount", "-t", "overlay", "overlay", "-o", options, trial / "merged"]
        works = self.enclosure.run(*mount, check=False).returncode == 0
        if works:
            self.enclosure.run("umount", trial / "merged")
        shutil.rmtree(trial)
        return works


def wait_for(
    condition: Callable[[], T], what: str, explain: Callable[[], str], timeout: float = 60
) -> T:
    """Return the first true value of `condition`; at the deadline add what `explain` says."""
    try:
        return wait_until(condition, timeout=timeout, interval=0.05, what=what)[0]
    except AssertionError as error:
        raise EnclosureError(f"{error}\n{explain()}") from None
