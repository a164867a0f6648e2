"""Container images for test boxes, made of this machine's own files in a second or two.

An image is a list of layers, a layer a table of paths; what is written is the OCI image layout as a
tar archive, which `ctr images import` takes. Nothing is fetched.

| image | has |
|---|---|
| `posix` | bash, GNU coreutils and findutils, tar, gzip, grep, sed, util-linux; runs as root |
| `posix-python` | the same and python3 |
| `posix-user` | as `posix`, and runs as the user `devbox` |
| `posix-nobash` | as `posix`, with dash as the only shell |
| `posix-notar` | as `posix-nobash`, and without tar |
| `busybox` | busybox and all its applets, tar and sh among them; no bash |
| `bare` | one static executable, `/bin/sleep`: no shell, nothing to run |
| `pause` | the same, for the sandbox of a pod |

All but the last two have the user `devbox` (1000), its home and an empty `/home/devbox/project`.
"""

import hashlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.node.cache import cache_directory, making

USER = 1000
HOME = "/home/devbox"
PROJECT = f"{HOME}/project"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), "unknown")
FOREVER = ["/bin/sleep", "2147483647"]


@dataclass(frozen=True)
class Entry:
    """A directory unless it has `content`, a `source` to copy or a `target` to point to."""

    source: str = ""
    content: bytes | None = None
    target: str = ""
    mode: int = 0o755
    owner: int = 0


Layer = dict[str, Entry]


@dataclass(frozen=True)
class Image:
    """Layers from the lowest up, and what runs in them."""

    layers: tuple[str, ...]
    user: str = "root"
    command: list[str] = field(default_factory=lambda: FOREVER)


SYSTEM = ("skeleton", "posix")
IMAGES = {
    "posix": Image((*SYSTEM, "tar", "bash")),
    "posix-python": Image((*SYSTEM, "tar", "bash", "python")),
    "posix-user": Image((*SYSTEM, "tar", "bash"), user="devbox"),
    "posix-nobash": Image((*SYSTEM, "tar")),
    "posix-notar": Image(SYSTEM),
    "busybox": Image(("busybox", "applets")),
    "bare": Image(("bare",)),
    "pause": Image(("bare",)),
}


def reference(name: str) -> str:
    """What a pod calls the image."""
    if name not in IMAGES:
        raise KeyError(f"No image {name!r}, but {', '.join(IMAGES)}.")
    return f"localhost/devbox/{name}:test"


def archive() -> Path:
    """The archive with all images, made unless there is one of the same packages."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    # Whatever dpkg installs or removes rewrites this file.
    status = os.stat("/var/lib/dpkg/status")
    digest.update(f"{status.st_size} {status.st_mtime_ns} {python()}".encode())
    target = cache_directory() / f"images-{digest.hexdigest()[:16]}"
    with making(target) as directory:
        if directory:
            write_archive(directory / "images.tar", make_layers())
    for other in target.parent.glob("images-*"):
        if other != target:
            shutil.rmtree(other, ignore_errors=True)
    return target / "images.tar"


# ------------------------------------------------------------------------------------- layers


def make_layers() -> dict[str, Layer]:
    busybox = shutil.which("busybox") or "/bin/busybox"
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    applets = [name for name in listed.stdout.split() if name != "busybox"]
    return {
        "skeleton": merged_usr() | accounts("/bin/bash"),
        "posix": programs("coreutils", "findutils", "grep", "sed", "gzip", "util-linux", "dash")
        | {"/usr/bin/sh": Entry(target="dash")},
        "tar": programs("tar"),
        "bash": programs("bash"),
        "python": interpreter(),
        "busybox": {"/bin": Entry(), "/bin/busybox": Entry(source=busybox)} | accounts("/bin/sh"),
        "applets": {f"/bin/{name}": Entry(target="busybox") for name in applets},
        "bare": {"/bin": Entry(), "/bin/sleep": Entry(source=busybox)},
    }


def merged_usr() -> Layer:
    """Directories of a Debian, whose `/bin` and `/lib` are links into `/usr`."""
    layer = {f"/usr/{name}": Entry() for name in ("bin", "sbin", "lib", "lib64", "share")}
    links = ("bin", "sbin", "lib", "lib64")
    return {"/usr": Entry()} | layer | {f"/{name}": Entry(target=f"usr/{name}") for name in links}


def accounts(shell: str) -> Layer:
    def text(content: str, mode: int = 0o644) -> Entry:
        return Entry(content=content.encode(), mode=mode)

    return {
        "/etc": Entry(),
        "/etc/passwd": text(
            f"root:x:0:0:root:/root:{shell}\ndevbox:x:{USER}:{USER}:devbox:{HOME}:{shell}\n"
        ),
        "/etc/group": text(f"root:x:0:\ndevbox:x:{USER}:\n"),
        "/etc/profile": text("export PROFILE_WAS_READ=1\n"),
        "/root": Entry(mode=0o700),
        "/tmp": Entry(mode=0o1777),
        "/home": Entry(),
        HOME: Entry(mode=0o770, owner=USER),
        PROJECT: Entry(owner=USER),
    }


# These ask PAM, whose modules and settings are not in the images.
NOT_COPIED = {"su", "runuser", "login", "chfn", "chsh", "newgrp", "sulogin"}


def programs(*packages: str) -> Layer:
    """The executables of Debian packages, with the libraries that they load."""
    command = ["dpkg-query", "--listfiles", *packages]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    layer: Layer = {}
    for line in sorted(set(listed.stdout.splitlines())):
        path = Path(line)
        in_place = re.fullmatch(r"/(usr/)?s?bin/[^/]+", line) and path.name not in NOT_COPIED
        if in_place and path.is_file() and os.access(path, os.X_OK):
            layer[canonical(path)] = Entry(source=str(path.resolve()))
    return layer | libraries(entry.source for entry in layer.values())


def python() -> Path:
    """The system's Python, else the one in use."""
    system = shutil.which("python3", path="/usr/bin:/usr/local/bin:/bin")
    return Path(system or sys.executable).resolve()


def interpreter() -> Layer:
    """A Python with the standard library, where it is on this machine."""
    executable = python()
    asked = subprocess.run(
        [executable, "-c", "import sysconfig; print(sysconfig.get_path('stdlib'))"],
        capture_output=True,
        text=True,
        check=True,
        env={},
    )
    standard_library = Path(asked.stdout.strip())
    layer = {canonical(executable): Entry(source=str(executable))}
    if canonical(executable) != "/usr/bin/python3":
        layer["/usr/bin/python3"] = Entry(target=canonical(executable))
    left_out = {"__pycache__", "test", "tests", "idlelib", "ensurepip", "lib2to3", "pydoc_data"}
    left_out |= {"site-packages", "dist-packages", "tkinter", "turtledemo"}
    for top, directories, files in os.walk(standard_library):
        directories[:] = [
            name for name in directories if name not in left_out and not name.startswith("config-")
        ]
        for name in files:
            path = Path(top, name)
            if path.exists():
                mode = path.stat().st_mode & 0o777
                layer[canonical(path)] = Entry(source=str(path.resolve()), mode=mode)
    objects = [it.source for it in layer.values() if re.search(r"\.so$", it.source)]
    return layer | libraries([str(executable), *objects])


def libraries(objects: Iterable[str]) -> Layer:
    """What the dynamic loader finds for these executables, and the loader itself."""
    listed = subprocess.run(
        ["ldd", *objects], capture_output=True, text=True, check=False, env={"LC_ALL": "C"}
    )
    paths = re.findall(r"(/\S+) \(0x", listed.stdout)
    return {canonical(Path(path)): Entry(source=os.path.realpath(path)) for path in set(paths)}


def canonical(path: Path) -> str:
    """The path with its directories' links followed, so that /bin and /usr/bin are one place."""
    return str(path.parent.resolve() / path.name)


# ------------------------------------------------------------------------------------ archive


def write_archive(path: Path, layers: dict[str, Layer]) -> None:
    """Write all images as one OCI image layout."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as output:
        written: set[str] = set()

        def add(name: str, content: bytes) -> None:
            if name not in written:
                written.add(name)
                information = tarfile.TarInfo(name)
                information.size = len(content)
                output.addfile(information, io.BytesIO(content))

        def blob(content: bytes, media_type: str) -> dict[str, object]:
            digest = hashlib.sha256(content).hexdigest()
            add(f"blobs/sha256/{digest}", content)
            return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

        prefix = "application/vnd.oci.image"
        packed = {
            name: blob(pack(layer), f"{prefix}.layer.v1.tar") for name, layer in layers.items()
        }
        index = []
        for name, image in IMAGES.items():
            its_layers = [packed[layer] for layer in image.layers]
            config = {
                "architecture": ARCHITECTURE,
                "os": "linux",
                "config": {
                    "User": image.user if image.user != "root" else "",
                    "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                    "Cmd": image.command,
                },
                # Layers are stored as they are, so a layer's digest is that of its content.
                "rootfs": {"type": "layers", "diff_ids": [it["digest"] for it in its_layers]},
            }
            manifest = {
                "schemaVersion": 2,
                "mediaType": f"{prefix}.manifest.v1+json",
                "config": blob(json.dumps(config).encode(), f"{prefix}.config.v1+json"),
                "layers": its_layers,
            }
            described = blob(json.dumps(manifest).encode(), f"{prefix}.manifest.v1+json")
            described["annotations"] = {"io.containerd.image.name": reference(name)}
            index.append(described)
        add("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        add("index.json", json.dumps({"schemaVersion": 2, "manifests": index}).encode())


def pack(layer: Layer) -> bytes:
    """A layer as a tar archive, the same for the same files."""
    result = io.BytesIO()
    with tarfile.open(fileobj=result, mode="w", format=tarfile.PAX_FORMAT) as output:
        for path, entry in sorted(layer.items()):
            information = tarfile.TarInfo(path.lstrip("/"))
            information.mode = entry.mode
            information.uid = information.gid = entry.owner
            if entry.target:
                information.type = tarfile.SYMTYPE
                information.linkname = entry.target
                output.addfile(information)
            elif entry.source or entry.content is not None:
                content = Path(entry.source).read_bytes() if entry.source else entry.content
                assert content is not None
                information.size = len(content)
                output.addfile(information, io.BytesIO(content))
            else:
                information.type = tarfile.DIRTYPE
                output.addfile(information)
    return result.getvalue()
