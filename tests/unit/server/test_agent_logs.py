"""The agent's WebSocket: logs of processes and sessions."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets.sync.client
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection

from sealos_devbox.server.engine import Box, Engine
from sealos_devbox.server.run import Served, ServeOptions, serving
from sealos_devbox.server.settings import EngineSettings
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(params=["asyncio", "trio"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    settings = EngineSettings(tmp_path, start_seconds=0, sample_seconds=3600)
    with serving(settings, ServeOptions(backend=request.param)) as served:
        engine: Engine = served.app.state.engine
        engine.store.create("my-box")
        yield served
        engine.processes.kill(engine.box("my-box").uid)


@pytest.fixture
def box(served: Served) -> Box:
    engine: Engine = served.app.state.engine
    return engine.box("my-box")


def connect(served: Served, box: Box, token: str) -> ClientConnection:
    return websockets.sync.client.connect(
        f"{served.url.replace('http', 'ws')}/box/{box.record.unique_id}/agent/ws",
        additional_headers={"Authorization": f"Bearer {token}"},
        proxy=None,
    )


def test_following_a_process(served: Served, box: Box) -> None:
    agent = httpx.Client(
        base_url=f"{served.url}/box/{box.record.unique_id}/agent",
        headers={"Authorization": f"Bearer {box.record.secret}"},
        trust_env=False,
    )
    script = "echo one; echo two >&2; while [ ! -e go ]; do sleep 0.01; done; echo three"
    body = {"command": "bash", "args": ["-c", script], "cwd": "."}
    with agent, connect(served, box, box.record.secret) as socket:
        started = agent.post("/api/v1/process/exec", json=body).json()
        target = {"type": "process", "targetId": started["processId"]}
        logs = f"/api/v1/process/{started['processId']}/logs"
        wait_until(lambda: len(agent.get(logs).json()["logs"]) == 2)

        def send(action: str, **more: Any) -> None:
            socket.send(json.dumps({"action": action, **target, **more}))

        def receive() -> dict[str, Any]:
            told: dict[str, Any] = json.loads(socket.recv(timeout=10))
            return told

        for ignored in ("{", "{}", '{"action":"dance"}'):
            socket.send(ignored)
        send("subscribe", options={"tail": 5, "levels": ["stdout"]})
        history = receive()
        assert (history["log"]["content"], history["isHistory"]) == ("one\n", True)
        assert receive()["action"] == "subscribed"
        send("subscribe")
        assert receive() == {"status": 1400, "message": "Subscription already exists"}
        send("list")
        [listed] = receive()["subscriptions"]
        assert listed["id"] == f"process:{started['processId']}"
        (box.workspace / "go").touch()
        live = receive()
        assert (live["log"]["content"], live["isHistory"]) == ("three\n", False)
        assert (live["sequence"], live["log"]["level"]) == (0, "stdout")
        send("unsubscribe")
        assert receive()["action"] == "unsubscribed"
        send("unsubscribe")
        assert receive()["message"] == "Subscription not found"
        socket.send(json.dumps({"action": "subscribe", "type": "session", "targetId": "none"}))
        assert receive()["message"] == "Target not found"


def test_a_stranger_is_refused(served: Served, box: Box) -> None:
    with pytest.raises(InvalidStatus) as caught:
        connect(served, box, "wrong")
    assert caught.value.response.status_code == 401


def test_following_a_log_as_events(served: Served, box: Box) -> None:
    headers = {"Authorization": f"Bearer {box.record.secret}"}
    address = f"{served.url}/box/{box.record.unique_id}/agent/api/v1/process"
    body = {"command": "bash", "args": ["-c", "echo one; sleep 60"], "cwd": "."}
    started = httpx.post(f"{address}/exec", json=body, headers=headers).json()
    url = f"{address}/{started['processId']}/logs?stream=true"
    with httpx.stream("GET", url, headers=headers, timeout=20) as stream:
        assert next(stream.iter_lines()) == "data: [stdout] one"
