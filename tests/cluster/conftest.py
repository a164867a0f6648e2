"""A real cluster for tests: how to use it.

    make test-cluster                            everything, after building what is missing
    pytest tests/cluster -k name                 some of it (needs root)
    python -m tests.cluster up                   a cluster that stays, for many runs:
    eval "$(python -m tests.cluster env)"        ... use it (DEVBOX_TEST_CLUSTER), and kubectl
    python -m tests.cluster down                 ... and remove it

Fixtures, each started when first used:

`cluster`        (session) the cluster: API server with its defaults, which chooses v5. As its
                 administrator: `.create/.get/.merge/.delete`, `.http`. As others:
                 `.kubeconfig("owner", by="token")` -> path (or by "certificate", "exec",
                 "token-file", "none"), `.tokens[user]`, `.credential_plugin(user)`; the users are
                 in `users.py`. `.api.restart()`, `.restart_containerd()`, `.restart_kubelet()`
                 return when all is ready again.
`v4_api`         (session) a second API server for the same objects, which knows no v5; pass
                 `server=v4_api.url` to `.kubeconfig`, or `api=v4_api` to `box.exec`.
`any_api`        one after the other: both.
`make_box`       `make_box("posix", read_only_root=True, ...)` -> `Box`: a plain pod with the name,
                 labels and container of a box; images are in `tests/node/images.py`, options in
                 `pods.plain_pod`. Running in 1 to 2 s, removed after the test.
`box`            (module) one of these for tests that leave it as it is. `.workspace` is its project
                 directory on this machine; `.exec(...)` a raw stream, `.run(...)` a `Result`;
                 `.delete_pod()`, `.kill_container()`, `.processes()`, `.wait()`.
`controller`     (session) plays the Devbox controller (v1alpha2) for all namespaces; see there.
`make_devbox`    `make_devbox(image="posix", env=[...])` -> `Box` of a Devbox custom resource.
                 `controller.set_state(box.namespace, box.name, "Paused")`, `.wait_for_phase(...)`.
                 After `box.delete_pod()` the controller makes a new pod: `box.wait()`.
`old_controller` (session) a cluster of its own that serves v1alpha1 only: `old_controller.cluster`.
`make_old_devbox` as `make_devbox`, there.
`noexec`         a directory on which nothing can be executed: `make_box(noexec_tmp=noexec)`.
`path_to_api`    a `FaultProxy` before the API server: `.kubeconfig(server=path_to_api.url)`.
"""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster import binaries
from tests.cluster.boxes import Box
from tests.cluster.cluster import NAMESPACE, ApiServer, Cluster
from tests.cluster.controller import DevboxController
from tests.cluster.pods import plain_pod
from tests.node import images
from tests.support.faults import FaultProxy

V4_ONLY = {"TranslateStreamCloseWebsocketRequests": False}
MakeBox = Callable[..., Box]
_numbers = itertools.count(os.getpid() * 1000)


class ApiPath(FaultProxy):
    """A fault proxy before an API server, whose certificate fits its address."""

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Build outside of any test's time limit, and skip where that cannot begin."""
    ours = [item for item in items if item.path.is_relative_to(Path(__file__).parent)]
    # The longest module first, so that two processes end at the same time.
    items.sort(key=lambda item: item.path.name != "test_mount.py")
    if not ours or config.option.collectonly:
        return
    try:
        binaries.build()
    except binaries.NoModulesError as error:
        for item in ours:
            item.add_marker(pytest.mark.skip(reason=str(error)))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if existing := os.environ.get("DEVBOX_TEST_CLUSTER"):
        attached = Cluster.attach(Path(existing))
        yield attached
        attached.http.close()
        return
    started = Cluster.start("tests")
    yield started
    started.close()


@pytest.fixture(scope="session")
def v4_api(cluster: Cluster) -> Iterator[ApiServer]:
    server = cluster.extra_api_server(f"kube-apiserver-v4-{os.getpid()}", V4_ONLY)
    yield server
    server.stop()


@pytest.fixture(params=["v5", "v4"])
def any_api(request: pytest.FixtureRequest, cluster: Cluster) -> ApiServer:
    if request.param == "v5":
        return cluster.api
    server: ApiServer = request.getfixturevalue("v4_api")
    return server


@pytest.fixture(scope="session")
def controller(cluster: Cluster) -> Iterator[DevboxController]:
    with DevboxController(cluster) as running:
        yield running


@pytest.fixture(scope="session")
def old_controller() -> Iterator[DevboxController]:
    cluster = Cluster.start("old")
    try:
        with DevboxController(cluster, "v1alpha1") as running:
            yield running
    finally:
        cluster.close()


@pytest.fixture
def make_box(cluster: Cluster) -> Iterator[MakeBox]:
    yield from boxes(cluster)


@pytest.fixture(scope="module")
def box(cluster: Cluster) -> Iterator[Box]:
    maker = boxes(cluster)
    yield next(maker)("posix-python")
    next(maker, None)


@pytest.fixture
def make_devbox(controller: DevboxController) -> Iterator[MakeBox]:
    yield from devboxes(controller)


@pytest.fixture
def make_old_devbox(old_controller: DevboxController) -> Iterator[MakeBox]:
    yield from devboxes(old_controller)


@pytest.fixture
def noexec(cluster: Cluster) -> str:
    directory = cluster.directory / "noexec" / f"tmp-{next(_numbers)}"
    cluster.enclosure.run("mkdir", "-m", "1777", directory)
    return str(directory)


@pytest.fixture
def path_to_api(cluster: Cluster) -> Iterator[ApiPath]:
    with ApiPath(("127.0.0.1", cluster.api.port)) as proxy:
        yield proxy


@contextlib.contextmanager
def box_of_a_contract(
    cluster: Cluster, image: str, *, sees_processes: bool = False
) -> Iterator[Box]:
    """A box that has its workspace under the name that it has on this machine.

    A contract looks at it from outside; `sees_processes`: at the processes as well.
    """
    name = f"contract-{image}-{next(_numbers)}"
    workspace = cluster.directory / "volumes" / name
    workspace.mkdir()
    pod = plain_pod(name, image, workspace=str(workspace))
    [container] = pod["spec"]["containers"]
    container["volumeMounts"][0]["mountPath"] = container["workingDir"] = str(workspace)
    pod["spec"]["hostPID"] = sees_processes
    box = Box(cluster, NAMESPACE, name, workspace)
    cluster.create(box.pods, pod)
    box.wait()
    try:
        yield box
    finally:
        cluster.delete(f"{box.pods}/{name}")


def boxes(cluster: Cluster) -> Iterator[MakeBox]:
    """Yield a function that makes plain boxes, and remove what it made."""
    made: list[Box] = []

    def make(image: str = "posix", *, wait: bool = True, **options: object) -> Box:
        name = f"box-{next(_numbers)}"
        workspace = cluster.directory / "volumes" / name
        workspace.mkdir()
        os.chown(workspace, images.USER, images.USER)
        pod = plain_pod(name, image, workspace=str(workspace), **options)  # type: ignore[arg-type]
        box = Box(cluster, NAMESPACE, name, workspace)
        cluster.create(box.pods, pod)
        made.append(box)
        if wait:
            box.wait()
        return box

    yield make
    for box in made:
        cluster.delete(f"{box.pods}/{box.name}")


def devboxes(controller: DevboxController) -> Iterator[MakeBox]:
    """Yield a function that makes Devbox custom resources, and remove what it made."""
    cluster = controller.cluster
    made: list[Box] = []

    def make(
        image: str = "posix",
        *,
        state: str = "Running",
        wait: bool = True,
        spec: dict[str, object] | None = None,
        **config: object,
    ) -> Box:
        """`spec` adds to the resource's spec, further keywords to its `config`."""
        name = f"my-box-{next(_numbers)}"
        is_new = controller.version == "v1alpha2"
        wanted = {
            "state": state,
            "image": images.reference(image),
            "templateID": "0d6a8f0e-1111-2222-3333-444455556666",
            "resource": {"cpu": "1000m", "memory": "2048Mi"},
            "network": {"type": "SSHGate" if is_new else "NodePort", "extraPorts": []},
            "config": config,
            **({"storageLimit": "10Gi", "runtimeClassName": "devbox-runtime"} if is_new else {}),
            **(spec or {}),
        }
        value = {
            "apiVersion": f"devbox.sealos.io/{controller.version}",
            "kind": "Devbox",
            "metadata": {"name": name},
            "spec": wanted,
        }
        cluster.create(controller.path(NAMESPACE), value)
        box = Box(cluster, NAMESPACE, name, controller.workspace(NAMESPACE, name))
        made.append(box)
        if wait and state == "Running":
            box.wait()
            controller.wait_for_phase(NAMESPACE, name, "Running")
        return box

    yield make
    for box in made:
        cluster.delete(controller.path(box.namespace, box.name))
