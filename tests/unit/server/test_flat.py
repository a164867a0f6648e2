"""The older lineage: HTTP always says 200, and the routes are flat."""

from typing import Any

import httpx
import pytest

from sealos_devbox.server.engine import Engine
from sealos_devbox.server.settings import EngineSettings
from tests.unit.server.conftest import TOKEN, Clock

V1 = "/api/v1/devbox"


@pytest.fixture
def settings(tmp_path: Any) -> EngineSettings:
    return EngineSettings(
        tmp_path / "data", token=TOKEN, lineage="R", start_seconds=1, commit_seconds=10
    )


async def ask(client: httpx.AsyncClient, method: str, path: str, **more: Any) -> Any:
    answer = await client.request(method, V1 + path, **more)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_the_probe(client: httpx.AsyncClient) -> None:
    assert (await client.get(V1)).status_code == 405
    assert (await client.get(f"{V1}/templates")).status_code in (404, 405)
    assert (await client.get("/api/v2alpha/devbox/my-box/monitor")).status_code == 404


async def test_a_life(client: httpx.AsyncClient, engine: Engine, clock: Clock) -> None:
    body = {"name": "my-box", "runtimeName": "Python", "cpu": 1000, "memory": 2048}
    made = await ask(client, "POST", "/create", json=body)
    assert made["code"] == 200
    assert 30000 <= made["data"]["sshPort"] < 32768
    assert (await ask(client, "POST", "/create", json=body))["code"] == 409
    clock.pass_by(1)
    [listed] = (await ask(client, "GET", "/list"))["data"]
    assert set(listed) == {"id", "name", "createTime"}
    query = {"params": {"devboxName": "my-box"}}
    shown = (await ask(client, "GET", "/get", **query))["data"]
    assert (shown["status"], shown["cpu"], shown["memory"]) == ("Running", 1000, 2048)
    port = {"devboxName": "my-box", "port": 8080}
    assert (await ask(client, "POST", "/ports/create", json=port))["data"]["number"] == 8080
    assert (await ask(client, "POST", "/ports/create", json=port))["code"] == 409
    assert (await ask(client, "POST", "/ports/remove", json=port))["code"] == 200
    assert (await ask(client, "POST", "/ports/remove", json=port))["code"] == 404
    release = {"devboxName": "my-box", "tag": "v1"}
    assert (await ask(client, "POST", "/release", json=release))["code"] == 200
    stop = {"devboxName": "my-box", "action": "stop"}
    assert (await ask(client, "POST", "/lifecycle", json=stop))["code"] == 200
    refused = await ask(client, "POST", "/lifecycle", json={**stop, "action": "start"})
    assert refused["code"] == 422
    clock.pass_by(10)
    [done] = (await ask(client, "GET", "/releases", **query))["data"]
    assert done["status"]["value"] == "Success"
    assert engine.box("my-box").record.storage_limit == "20Gi"
    assert (await ask(client, "POST", "/my-box/start"))["code"] == 200
    assert (await ask(client, "DELETE", "/delete", **query))["code"] == 200
    assert (await ask(client, "GET", "/get", **query))["code"] == 404


async def test_create_of_both_lineages(client: httpx.AsyncClient, engine: Engine) -> None:
    body = {"name": "b", "runtime": "go", "resource": {"cpu": 1, "memory": 2, "storage": 30}}
    assert (await ask(client, "POST", "", json=body))["code"] == 200
    assert engine.box("b").record.storage_limit == "30Gi"
    other = {**body, "name": "c", "runtime": "node.js"}
    assert (await ask(client, "POST", "", json=other))["code"] == 400


async def test_errors_are_in_the_body(client: httpx.AsyncClient) -> None:
    stranger = {"headers": {"Authorization": "wrong"}}
    assert (await ask(client, "GET", "/list", **stranger))["code"] == 500
    assert (await ask(client, "POST", "/none/start", **stranger))["code"] == 403
    assert (await ask(client, "POST", "/none/start"))["code"] == 404
    assert (await ask(client, "POST", "/lifecycle", json={}))["code"] == 400
