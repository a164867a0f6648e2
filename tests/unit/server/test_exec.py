"""`pods/exec` and the cluster's objects, over sockets, with clients of other libraries."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
import websockets.sync.client
from kubernetes import client, config
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection
from websockets.typing import Subprotocol

from sealos_devbox.server.engine import Engine
from sealos_devbox.server.run import Served, ServeOptions, serving
from sealos_devbox.server.settings import EngineSettings
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

V4, V5 = Subprotocol("v4.channel.k8s.io"), Subprotocol("v5.channel.k8s.io")


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    settings = EngineSettings(
        tmp_path_factory.mktemp("engine"), start_seconds=0, commit_seconds=0, sample_seconds=0.05
    )
    with serving(settings, ServeOptions(backend=request.param)) as served:
        engine: Engine = served.app.state.engine
        engine.store.create("my-box")
        yield served
        for box in engine.boxes():
            engine.processes.kill(box.uid)


def workspace(served: Served) -> Path:
    return served.app.state.engine.box("my-box").workspace


def headers(served: Served) -> dict[str, str]:
    return {"Authorization": f"Bearer {served.app.state.engine.token}"}


def connect(
    served: Served,
    *command: str,
    protocols: list[Subprotocol] | None = None,
    pod: str = "my-box",
    token: str | None = None,
    **query: str,
) -> ClientConnection:
    streams = {"stdin": "true", "stdout": "true", "stderr": "1", **query}
    parameters = urlencode([*(("command", part) for part in command), *streams.items()])
    path = f"/api/v1/namespaces/ns-devbox/pods/{pod}/exec?{parameters}"
    given = headers(served) if token is None else {"Authorization": f"Bearer {token}"}
    return websockets.sync.client.connect(
        served.url.replace("http", "ws") + path,
        subprotocols=[V5, V4] if protocols is None else protocols,
        additional_headers=given,
        max_size=None,
        proxy=None,
    )


def collect(connection: ClientConnection) -> tuple[dict[int, bytes], dict[str, Any]]:
    """Read to the end; returns what came on each channel, and the status."""
    said: dict[int, bytes] = {1: b"", 2: b"", 3: b""}
    with pytest.raises(ConnectionClosed) as caught:  # noqa: PT012 - any of them may be the last
        while True:
            message = connection.recv(timeout=30)
            assert isinstance(message, bytes)
            assert len(message) <= 32_769
            said[message[0]] += message[1:]
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1000
    return said, json.loads(said[3])


def test_a_command(served: Served) -> None:
    with connect(served, "bash", "-c", "pwd; echo bad >&2; exit 7") as connection:
        assert connection.subprotocol == V5
        assert connection.recv() == b"\x01"
        said, status = collect(connection)
    assert said[1] == f"{workspace(served)}\n".encode()
    assert said[2] == b"bad\n"
    assert status["reason"] == "NonZeroExitCode"
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "7"}]


def test_success_and_what_cannot_be_started(served: Served) -> None:
    with connect(served, "true", protocols=[V4]) as connection:
        assert connection.subprotocol == V4
        assert collect(connection)[1] == {"metadata": {}, "status": "Success"}
    with connect(served, "no-such-program") as connection:
        status = collect(connection)[1]
    assert (status["reason"], status["code"]) == ("InternalError", 500)
    assert "no-such-program" in status["message"]
    with connect(served, "bash", "-c", "kill -9 $$") as connection:
        assert collect(connection)[1]["details"]["causes"][0]["message"] == "137"


def test_half_close_is_of_v5_only(served: Served) -> None:
    data = os.urandom(3_000_000)
    with connect(served, "bash", "-c", "cat; echo end >&2") as connection:
        for start in range(0, len(data), 100_000):
            connection.send(b"\0" + data[start : start + 100_000])
        connection.send(b"\0")  # empty: not the end
        connection.send(b"\xff\x00")
        said, status = collect(connection)
    assert said[1] == data
    assert said[2] == b"end\n"
    assert status["status"] == "Success"
    with connect(served, "bash", "-c", "head -c 3; echo", protocols=[V4]) as connection:
        connection.recv()
        connection.send(b"\xff\x00")
        connection.send("\0abc")
        assert collect(connection)[0][1] == b"abc\n"


def test_a_close_of_another_length_ends_the_connection(served: Served) -> None:
    with connect(served, "sleep", "60") as connection:
        connection.recv()
        connection.send(b"\xff\x00\x00")
        with pytest.raises(ConnectionClosed):
            connection.recv(timeout=10)


def test_large_messages_both_ways(served: Served) -> None:
    with connect(served, "wc", "-c") as connection:
        connection.send(b"\0" + bytes(20_000_000))
        connection.send(b"\xff\x00")
        assert collect(connection)[0][1] == b"20000000\n"
    with connect(served, "head", "-c", "5000000", "/dev/zero") as connection:
        said, status = collect(connection)
    assert len(said[1]) == 5_000_000
    assert status["status"] == "Success"


def test_a_terminal(served: Served) -> None:
    with connect(served, "bash", "-c", "tty; read x; stty size; echo $x", tty="true") as connection:
        connection.send(b'\x04{"Width":100,"Height":30}')
        connection.send(b"\0typed\n")
        said = collect(connection)[0]
    assert b"/dev/pts/" in said[1]
    assert b"30 100\r\n" in said[1]
    assert said[1].endswith(b"typed\r\n")


def test_a_process_outlives_its_client_but_not_its_box(served: Served) -> None:
    script = "trap '' HUP; echo $$ > pid; exec sleep 60"
    with connect(served, "bash", "-c", script) as connection:
        connection.recv()
        pid = workspace(served) / "pid"
        wait_until(lambda: pid.exists() and pid.read_text().strip())
    number = int(pid.read_text())
    os.kill(number, 0)
    with connect(served, "bash", "-c", "cat; touch cat-ended") as connection:
        connection.recv()
    wait_until((workspace(served) / "cat-ended").exists)
    boxes = f"{served.url}/apis/devbox.sealos.io/v1alpha2/namespaces/ns-devbox/devboxes/my-box"
    merge = {**headers(served), "Content-Type": "application/merge-patch+json"}
    for state in ("Paused", "Running"):
        patched = httpx.patch(boxes, headers=merge, content=json.dumps({"spec": {"state": state}}))
        assert patched.json()["status"]["phase"] == state
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [
        ({"pod": "none"}, 404, "not found"),
        ({"container": "other"}, 400, "not valid"),
        ({"token": "wrong-wrong"}, 401, "Unauthorized"),
        ({"stdin": "0", "stdout": "0", "stderr": "0"}, 400, "at least 1 of"),
        ({"protocols": [Subprotocol("channel.k8s.io")]}, 403, "subprotocols"),
    ],
)
def test_refusals_are_readable(
    served: Served, change: dict[str, Any], status: int, text: str
) -> None:
    with pytest.raises(InvalidStatus) as caught:
        connect(served, "true", **change)
    response = caught.value.response
    assert response.status_code == status
    body = json.loads(response.body or b"")
    assert (body["kind"], body["code"]) == ("Status", status)
    assert text in body["message"]


def test_exec_without_upgrade(served: Served) -> None:
    url = f"{served.url}/api/v1/namespaces/ns-devbox/pods/my-box/exec?command=true"
    answer = httpx.post(url, headers=headers(served))
    assert (answer.status_code, answer.json()["message"]) == (400, "Upgrade request required")


def test_the_kubernetes_client_with_the_engines_own_kubeconfig(served: Served) -> None:
    api = config.new_client_from_config(str(served.kubeconfig))
    with api:
        core = client.CoreV1Api(api)
        selector = "app.kubernetes.io/name=my-box,app.kubernetes.io/part-of=devbox"
        [pod] = core.list_namespaced_pod("ns-devbox", label_selector=selector).items
        assert pod.status.phase == "Running"
        assert pod.spec.containers[0].name == "my-box"
        assert core.list_namespaced_pod("ns-devbox", label_selector="app=x").items == []
        custom = client.CustomObjectsApi(api)
        where = ("devbox.sealos.io", "v1alpha2", "ns-devbox", "devboxes")
        [listed] = custom.list_namespaced_custom_object(*where)["items"]
        box = custom.get_namespaced_custom_object(*where, "my-box")
        assert listed == box
        assert box["status"]["phase"] == "Running"
        secret = core.read_namespaced_secret("my-box", "ns-devbox")
        assert set(secret.data) >= {"SEALOS_DEVBOX_JWT_SECRET"}
        review = client.V1SelfSubjectAccessReview(
            spec=client.V1SelfSubjectAccessReviewSpec(
                resource_attributes=client.V1ResourceAttributes(
                    namespace="ns-devbox", verb="create", resource="pods", subresource="exec"
                )
            )
        )
        answer = client.AuthorizationV1Api(api).create_self_subject_access_review(review)
        assert answer.status.allowed is True
        with pytest.raises(client.ApiException) as caught:
            core.list_namespaced_pod("elsewhere")
        assert caught.value.status == 403


def test_changing_the_custom_resource(served: Served) -> None:
    url = f"{served.url}/apis/devbox.sealos.io/v1alpha2/namespaces/ns-devbox/devboxes/my-box"
    merge = {**headers(served), "Content-Type": "application/merge-patch+json"}

    def patch(spec: Any) -> httpx.Response:
        return httpx.patch(url, headers=merge, content=json.dumps({"spec": spec}))

    spec = {
        "storageLimit": "20Gi",
        "resource": {"cpu": "500m", "memory": "1Gi"},
        "config": {"env": [{"name": "A", "value": "b"}]},
    }
    changed = patch(spec).json()["spec"]
    assert changed["storageLimit"] == "20Gi"
    assert changed["resource"] == {"cpu": "500m", "memory": "1024Mi"}
    assert changed["config"]["env"] == [{"name": "A", "value": "b"}]
    with connect(served, "bash", "-c", "echo $A") as connection:
        assert collect(connection)[0][1] == b"b\n"
    for wrong in (
        {"state": "Gone"},
        {"storageLimit": "much"},
        {"image": "x"},
        {"resource": {"cpu": 0}},
    ):
        refused = patch(wrong)
        assert (refused.status_code, refused.json()["reason"]) == (422, "Invalid")
    assert httpx.patch(url, headers=headers(served), content=b"{}").status_code == 415
    wrong_version = url.replace("v1alpha2", "v1alpha1")
    assert httpx.get(wrong_version, headers=headers(served)).status_code == 404


def test_sampling_goes_on_by_itself(served: Served) -> None:
    engine: Engine = served.app.state.engine
    box = engine.box("my-box")
    with connect(served, "bash", "-c", "while :; do :; done") as connection:
        connection.recv()
        wait_until(
            lambda: any(sample.cpu > 1 for sample in engine.metrics.series(box.uid, 0, 2e9)),
            timeout=30,
        )
        assert engine.processes.kill(box.uid) >= 1
    assert any(sample.memory > 0 for sample in engine.metrics.series(box.uid, 0, 2e9))
