"""Boxes by a kubeconfig alone: where no control plane can be reached, the cluster is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from sealos_devbox import (
    Arrears,
    AsyncDevbox,
    BoxNotFoundError,
    ConfigurationError,
    ConnectError,
    DevboxConfig,
    ServerError,
)
from tests.fakes.exec_server import (
    ExecServer,
    Received,
    answer_json,
    exec_server,
    kubeconfig,
    status,
)

UIDS = {"one": "uid-1", "two": "uid-2"}
BOXES = "/apis/devbox.sealos.io/v1alpha2/namespaces/ns-test/devboxes"
PODS = "/api/v1/namespaces/ns-test/pods"


@pytest.fixture
async def server() -> AsyncIterator[ExecServer]:
    async with exec_server() as server:
        server.respond = cluster
        yield server


def devbox(name: str) -> dict[str, object]:
    return {"metadata": {"name": name, "uid": UIDS[name]}, "spec": {}}


def cluster(request: Received):
    name = request.path.removeprefix(BOXES + "/")
    if request.path == "/apis/devbox.sealos.io":
        return answer_json({"versions": [{"version": "v1alpha2"}]})
    if "/namespaces/ns-other/" in request.path:
        return answer_json({"items": []})
    if request.path == BOXES:
        return answer_json({"items": [devbox(name) for name in reversed(UIDS)]})
    if request.path.startswith(BOXES) and name in UIDS:
        return answer_json(devbox(name))
    return status(404, "not found", "NotFound")


def without_boxes(request: Received):
    if "devboxes" in request.path or request.path == "/apis/devbox.sealos.io":
        return status(403, "forbidden", "Forbidden")
    assert request.path == PODS
    selector = dict(request.query)["labelSelector"]
    items = [{"metadata": {"name": "pod", "labels": {"app.kubernetes.io/name": "one"}}}]
    return answer_json({"items": items if "name=two" not in selector else []})


def client(server: ExecServer, **settings: object) -> AsyncDevbox:
    text = kubeconfig(server.url, token="secret")
    return AsyncDevbox(DevboxConfig(api_key=text, **settings))  # type: ignore[arg-type]


async def test_the_cluster_knows_names_and_identities(server):
    async with client(server) as devbox:
        assert [(box.name, box.uid) for box in await devbox.list()] == [
            ("one", "uid-1"),
            ("two", "uid-2"),
        ]
        box = await devbox.get("two")
        assert (box.name, box.uid) == ("two", "uid-2")
        assert "ns-test" in box.location
        with pytest.raises(BoxNotFoundError, match="'three'"):
            await devbox.get("three")


async def test_who_may_not_read_boxes_finds_them_by_their_pods(server):
    server.respond = without_boxes
    async with client(server) as devbox:
        assert [(box.name, box.uid) for box in await devbox.list()] == [("one", "ns-test.one")]
        assert (await devbox.get("one")).uid == "ns-test.one"
        with pytest.raises(BoxNotFoundError):
            await devbox.get("two")


async def test_another_namespace(server):
    async with client(server, namespace="ns-other") as devbox:
        assert await devbox.list() == []
    assert any("/namespaces/ns-other/" in request.path for request in server.received)


async def test_what_needs_a_control_plane_says_that_there_is_none(server):
    async with client(server) as devbox:
        box = await devbox.get("one")
        with pytest.raises(ConfigurationError, match="cannot be derived"):
            await box.pause()


@pytest.mark.slow
async def test_a_control_plane_that_was_named_is_not_replaced(server):
    async with client(server, api_url="http://127.0.0.1:1") as devbox:
        with pytest.raises(ConnectError):
            await devbox.get("one")
    assert server.received == []


NAMESPACE = "/api/v1/namespaces/ns-test"
QUOTA = f"{NAMESPACE}/resourcequotas/debt-limit0"
MARKED = {"metadata": {"annotations": {"debt.sealos/status": "SuspendCompleted"}}}


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        ({NAMESPACE: MARKED, QUOTA: {}}, Arrears("SuspendCompleted", no_pods=True)),
        ({NAMESPACE: MARKED, QUOTA: 403}, Arrears("SuspendCompleted")),
        ({NAMESPACE: MARKED, QUOTA: 500}, Arrears("SuspendCompleted")),
        ({NAMESPACE: 403, QUOTA: {}}, Arrears("", no_pods=True)),
        ({NAMESPACE: {"metadata": {}}, QUOTA: 404}, None),
        ({NAMESPACE: 403, QUOTA: 403}, None),
        ({NAMESPACE: 404, QUOTA: 404}, None),
    ],
)
async def test_arrears_are_what_may_be_read_of_them(server, objects, expected):
    def respond(request: Received):
        found = objects[request.path]
        return status(found, "refused") if isinstance(found, int) else answer_json(found)

    server.respond = respond
    async with client(server) as devbox:
        assert await devbox.arrears() == expected
    assert len(server.received) == 2


async def test_arrears_of_a_cluster_that_fails_are_not_known(server):
    server.respond = lambda request: status(500, "etcd is away")
    async with client(server) as devbox:
        with pytest.raises(ServerError, match="etcd"):
            await devbox.arrears()


async def test_arrears_need_a_kubeconfig(server):
    token = DevboxConfig(api_url=server.url, api_key="a-token-that-is-no-kubeconfig")
    async with AsyncDevbox(token) as devbox:
        assert await devbox.arrears() is None
    assert server.received == []


async def test_arrears_of_the_embedded_engine(tmp_path):
    async with AsyncDevbox(DevboxConfig(embedded=True, data_dir=tmp_path)) as devbox:
        assert await devbox.arrears() is None
