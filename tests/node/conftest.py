"""A container runtime for tests, without Kubernetes: how to use it.

    make test-node                    all of them
    pytest tests/node -k name         some (needs root)

`containerd`     (session) Debian's containerd and runc in an enclosure, with the images loaded;
                 `.restart()`, `.ctr(...)`, `.enclosure.run(...)`.
`runtime`        (session) the same through CRI: `.start(name, image, ...)` -> container ID,
                 `.exec_url(container, *command)`, `.exec_sync(container, *command)`.
`start`          `start("posix", read_only_root=True, ...)` -> `Container` with its `.workspace`;
                 `.exec(...)` opens a raw stream at containerd's own streaming server, which knows
                 v4 only; `.run(...)` -> `Result`; `.url(...)` for a transport under test.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.binaries import NoModulesError
from tests.node import cri, images
from tests.node.containerd import Containerd, install
from tests.node.enclosure import Enclosure
from tests.node.exec_stream import V4, V5, ExecStream, Result

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Container:
    """A running container; `workspace` is the directory that it has as its project."""

    runtime: cri.Runtime
    id: str
    workspace: Path

    def url(self, *command: str, stdin: bool = True, tty: bool = False) -> str:
        return self.runtime.exec_url(self.id, *command, stdin=stdin, tty=tty)

    def exec(
        self,
        *command: str,
        subprotocols: tuple[str, ...] = (V5, V4),
        stdin: bool = True,
        tty: bool = False,
    ) -> ExecStream:
        return ExecStream.open(self.url(*command, stdin=stdin, tty=tty), subprotocols=subprotocols)

    def run(self, *command: str) -> Result:
        with self.exec(*command, stdin=False) as stream:
            return stream.rest()


Start = Callable[..., Container]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Generate outside of any test's time limit, and skip where that cannot begin."""
    ours = [item for item in items if item.path.is_relative_to(Path(__file__).parent)]
    if not ours or config.option.collectonly:
        return
    try:
        cri.stubs()
    except NoModulesError as error:
        for item in ours:
            item.add_marker(pytest.mark.skip(reason=str(error)))
    else:
        install()
        images.archive()


@pytest.fixture(scope="session")
def containerd() -> Iterator[Containerd]:
    enclosure = Enclosure.start("node")
    try:
        daemon = Containerd(enclosure)
        daemon.start()
        daemon.import_images(images.archive())
        yield daemon
        daemon.stop()
    finally:
        enclosure.close()


@pytest.fixture(scope="session")
def runtime(containerd: Containerd) -> Iterator[cri.Runtime]:
    runtime = cri.Runtime(containerd.address)
    yield runtime
    runtime.close()


@pytest.fixture(scope="module")
def start(runtime: cri.Runtime, containerd: Containerd) -> Start:
    def start(image: str = "posix", *, noexec_tmp: bool = False, **options: object) -> Container:
        name = f"box-{next(_numbers)}"
        workspace = containerd.enclosure.directory / "volumes" / name
        workspace.mkdir(parents=True)
        os.chown(workspace, images.USER, images.USER)
        mounts = {workspace: images.PROJECT}
        if noexec_tmp:
            mounts[containerd.enclosure.directory / "noexec"] = "/tmp"
        identifier = runtime.start(
            name,
            image,
            mounts=mounts,
            working_directory=images.PROJECT,
            **options,  # type: ignore[arg-type]
        )
        return Container(runtime, identifier, workspace)

    return start
