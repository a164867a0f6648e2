"""Boxes of a real cluster, mounted: work goes on whatever becomes of the pod and of the way."""

from __future__ import annotations

import os
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.boxes import Box
from tests.cluster.cluster import Cluster
from tests.support.accounts import ROOT
from tests.support.commands import run
from tests.support.faults import Fault
from tests.support.mounts import MountedBox
from tests.support.waiting import wait_until

Mount = Callable[..., MountedBox]

MAKEFILE = """\
MAKEFLAGS += --no-builtin-rules
PARTS := $(addprefix part-,$(shell seq 40))
program: $(PARTS)
\tcat $^ > $@
part-%: source
\tsleep 0.01; sed s/word/$*/ source > $@
"""


@pytest.fixture
def mount() -> Iterator[Mount]:
    made: list[MountedBox] = []

    def start(box: Box, *options: str, kubeconfig: Path | None = None) -> MountedBox:
        one = MountedBox(ROOT, name=box.name, plain=False)
        made.append(one)
        one.box = box.workspace
        one.environment |= {"DEVBOX_EMBEDDED": "0"}
        path = kubeconfig or box.cluster.kubeconfig("owner")
        one.devboxfs("mount", "--kubeconfig", path, *options, one.name, one.mount)
        return one

    yield start
    complaints = []
    for one in made:
        log = one.log_tail()
        found = one.close()
        complaints += [*found, log] if found else []
    assert not complaints, "\n".join(complaints)


def archive(path: Path, files: int) -> dict[str, bytes]:
    """Write a tar archive of many small files; returns what is in it."""
    contents = {}
    source = path.parent / f"{path.name}-source"
    for number in range(files):
        name = f"many/{number % 40}/file-{number}"
        contents[name] = b"%d " % number * (number % 700)
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(contents[name])
    with tarfile.open(path, "w") as tar:
        tar.add(source / "many", "many")
    return contents


def tree(top: Path) -> dict[str, bytes]:
    """All files, but for what the helper keeps for itself beside them."""
    return {
        str(path.relative_to(top)): path.read_bytes()
        for path in top.rglob("*")
        if path.is_file() and not path.relative_to(top).parts[0].startswith(".devbox-helper")
    }


def mounted(box: MountedBox, *argv: str | os.PathLike[str], **options: object):
    return run(*argv, cwd=box.mount, env=box.environment, **{"timeout": 100, **options})


def repository(box: MountedBox) -> Path:
    """A bare repository beside the mount, with a project that can be built."""
    bare, work = box.scratch / "project.git", box.scratch / "work"
    run("git", "init", "-q", "--bare", bare, env=box.environment)
    run("git", "clone", "-q", bare, work, env=box.environment)
    (work / "Makefile").write_text(MAKEFILE)
    (work / "source").write_text("a word\n" * 100)
    run("git", "add", ".", cwd=work, env=box.environment)
    run("git", "commit", "-q", "-m", "First", cwd=work, env=box.environment)
    run("git", "push", "-q", "origin", "HEAD", cwd=work, env=box.environment)
    return bare


@pytest.mark.timeout(240)
def test_clone_build_and_unpack_while_the_pod_is_replaced(make_devbox, mount: Mount) -> None:
    box = make_devbox("posix")
    local = mount(box)
    assert local.status()["link"]["rung"] == "helper"
    mounted(local, "git", "clone", "-q", repository(local), "project")
    mounted(local, "make", "-s", "-j4", "-C", "project")
    contents = archive(local.scratch / "many.tar", 2000)
    first = box.pod()["metadata"]["uid"]
    with subprocess.Popen(["tar", "xf", local.scratch / "many.tar"], cwd=local.mount) as tar:
        # As soon as some of it has arrived, and long before all of it.
        wait_until(lambda: (box.workspace / "many").exists(), timeout=60)
        box.delete_pod()
        assert tar.wait(100) == 0
    box.wait()
    assert box.pod()["metadata"]["uid"] != first
    local.sync(timeout=100)
    assert local.status()["link"]["connections"] >= 2
    assert not local.status()["conflicts"]
    in_box = tree(box.workspace / "many")
    assert in_box == {name.removeprefix("many/"): data for name, data in contents.items()}
    assert tree(local.mount / "many") == in_box
    program = b"".join(b"a %d\n" % number * 100 for number in range(1, 41))
    assert (box.workspace / "project" / "program").read_bytes() == program
    mounted(local, "git", "-C", "project", "fsck", "--strict")
    said = mounted(local, "git", "-C", "project", "status", "--porcelain").stdout
    made = [b"?? part-%d" % number for number in range(1, 41)]
    assert sorted(said.splitlines()) == sorted([b"?? program", *made])
    owners = {path.stat().st_uid for path in (box.workspace / "many").rglob("*")}
    assert owners == {1000}


@pytest.mark.timeout(180)
def test_the_api_server_is_restarted(make_devbox, cluster: Cluster, mount: Mount) -> None:
    box = make_devbox("posix")
    local = mount(box)
    (local.mount / "before").write_bytes(b"before")
    cluster.api.restart()
    (local.mount / "after").write_bytes(b"after")
    local.sync(timeout=100)
    assert tree(box.workspace) == {"before": b"before", "after": b"after"}
    (box.workspace / "theirs").write_bytes(b"theirs")
    wait_until(lambda: (local.mount / "theirs").exists(), timeout=30)


@pytest.mark.timeout(180)
def test_two_boxes_at_once(make_devbox, mount: Mount) -> None:
    boxes = [make_devbox("posix"), make_devbox("busybox")]
    mounts = [mount(box) for box in boxes]
    contents = archive(mounts[0].scratch / "many.tar", 300)
    failures: list[BaseException] = []

    def work(local: MountedBox, number: int) -> None:
        try:
            mounted(local, "tar", "xf", mounts[0].scratch / "many.tar")
            (local.mount / "own").write_bytes(b"%d" % number)
            local.sync()
        except BaseException as failure:  # noqa: BLE001 - told in the main thread
            failures.append(failure)

    threads = [
        threading.Thread(target=work, args=(local, number)) for number, local in enumerate(mounts)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for number, box in enumerate(boxes):
        assert tree(box.workspace) == {**contents, "own": b"%d" % number}


@pytest.mark.timeout(180)
def test_a_cluster_without_version_5(make_devbox, v4_api, mount: Mount) -> None:
    box = make_devbox("posix")
    local = mount(box, kubeconfig=box.cluster.kubeconfig("owner", server=v4_api.url))
    contents = archive(local.scratch / "many.tar", 200)
    mounted(local, "tar", "xf", local.scratch / "many.tar")
    local.sync()
    assert tree(box.workspace) == contents


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", ["cut", "reset", "black-hole"])
def test_a_bad_path(make_devbox, path_to_api, mount: Mount, kind: str) -> None:
    """Mount, meet a fault in the middle of a transfer, and again at once after it."""
    box = make_devbox("posix")
    path_to_api.delay = 0.02
    kubeconfig = box.cluster.kubeconfig("owner", server=path_to_api.url)
    local = mount(box, kubeconfig=kubeconfig)
    contents = archive(local.scratch / "many.tar", 300)
    path_to_api.plan(Fault(kind, "up", after=30_000))
    path_to_api.inflict(kind)
    mounted(local, "tar", "xf", local.scratch / "many.tar")
    local.sync(timeout=150)
    assert tree(box.workspace) == contents
    assert tree(local.mount) == contents
    assert not local.status()["conflicts"]
    path_to_api.heal()


@pytest.mark.timeout(180)
def test_by_plain_exec(make_devbox, mount: Mount) -> None:
    """Nothing of ours in the box, which has not even tar."""
    box = make_devbox("posix-notar")
    local = mount(box, "--transport", "exec", "--allow-weak")
    contents = archive(local.scratch / "many.tar", 100)
    mounted(local, "tar", "xf", local.scratch / "many.tar")
    local.sync()
    assert tree(box.workspace) == contents
    assert {path.stat().st_uid for path in (box.workspace / "many").rglob("*")} == {1000}
    (box.workspace / "theirs").write_bytes(b"theirs")
    wait_until(lambda: (local.mount / "theirs").exists(), timeout=30)


def test_a_box_that_is_not_there(make_devbox, mount: Mount) -> None:
    box = make_devbox("posix")
    with pytest.raises(AssertionError, match="no-such-box"):
        mount(Box(box.cluster, box.namespace, "no-such-box", box.workspace))
