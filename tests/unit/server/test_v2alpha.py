"""v2alpha of the control plane: the same boxes in other words."""

import math
from typing import Any

import httpx
import pytest

from sealos_devbox.server.engine import Engine
from tests.unit.server.conftest import Clock

V2 = "/api/v2alpha/devbox"
FORM = {"name": "my-box", "runtime": "django", "quota": {"cpu": 1.5, "memory": 3}}


async def create(client: httpx.AsyncClient, **more: Any) -> None:
    answer = await client.post(V2, json={**FORM, **more})
    assert (answer.status_code, answer.json()) == (202, {"name": "my-box", "status": "creating"})


async def detail(client: httpx.AsyncClient) -> dict[str, Any]:
    answer = await client.get(f"{V2}/my-box")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_life(client: httpx.AsyncClient, clock: Clock) -> None:
    await create(client, env=[{"name": "A", "value": "b"}], autostart=True)
    assert (await detail(client))["status"] == "pending"
    clock.pass_by(1)
    shown = await detail(client)
    assert (shown["status"], shown["upTime"]) == ("running", "0h0m1s")
    assert shown["quota"] == {"cpu": 1.5, "memory": 3}
    assert shown["ssh"]["port"] == 2233
    assert "agentServer" not in shown
    assert shown["operationalStatus"]["network"]["uniqueID"].count("-") == 2
    [port] = shown["ports"]
    assert (port["number"], port["protocol"]) == (8000, "http")
    [item] = (await client.get(V2)).json()
    assert (item["status"], item["quota"]) == ("running", {"cpu": 1.5, "memory": 3})
    for verb, body in (("pause", {}), ("start", None), ("shutdown", {})):
        clock.pass_by(20)
        answer = await client.post(f"{V2}/my-box/{verb}", json=body)
        assert (answer.status_code, answer.content) == (204, b"")
    key = (await client.get(f"{V2}/my-box/privatekey")).json()["privateKey"]
    assert key.startswith("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert (await client.delete(f"{V2}/my-box")).status_code == 204
    assert (await client.delete(f"{V2}/my-box")).status_code == 204
    gone = await client.get(f"{V2}/my-box")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "NOT_FOUND")


async def test_restart(client: httpx.AsyncClient, engine: Engine, clock: Clock) -> None:
    object.__setattr__(engine.settings, "commit_seconds", 0.0)
    await create(client)
    clock.pass_by(1)
    assert (await client.post(f"{V2}/my-box/restart", json={})).status_code == 204
    assert (await detail(client))["status"] == "pending"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"runtime": "kylin"}, "runtime"),
        ({"quota": {"cpu": 0.05, "memory": 1}}, "quota.cpu"),
        ({"quota": {"cpu": 1, "memory": 33}}, "quota.memory"),
        ({"ports": [{"number": 0}]}, "ports[0].number"),
        ({"ports": [{"number": 80, "protocol": "HTTP"}]}, "ports[0].protocol"),
    ],
)
async def test_create_refuses(client: httpx.AsyncClient, change: Any, field: str) -> None:
    answer = await client.post(V2, json={**FORM, **change})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("validation_error", "INVALID_PARAMETER")
    assert error["details"][0]["field"] == field


async def test_create_again(client: httpx.AsyncClient) -> None:
    await create(client)
    again = await client.post(V2, json=FORM)
    assert (again.status_code, again.json()["error"]["code"]) == (409, "ALREADY_EXISTS")


async def test_patch(client: httpx.AsyncClient) -> None:
    await create(client)
    body = {"quota": {"cpu": 0.7}, "ports": [{"number": 90, "protocol": "ws", "isPublic": False}]}
    assert (await client.patch(f"{V2}/my-box", json=body)).status_code == 204
    shown = await detail(client)
    assert math.isclose(shown["quota"]["cpu"], 0.7)
    assert shown["quota"]["memory"] == 3
    [port] = shown["ports"]
    assert (port["number"], port["protocol"], "publicAddress" in port) == (90, "ws", False)


async def test_a_release_stops_the_box_and_starts_it_again(
    client: httpx.AsyncClient, clock: Clock
) -> None:
    await create(client)
    clock.pass_by(1)
    answer = await client.post(f"{V2}/my-box/releases", json={"tag": "v1"})
    assert (answer.status_code, answer.json()["name"]) == (202, "my-box-v1")
    assert (await detail(client))["status"] == "stopping"
    clock.pass_by(10)
    assert (await detail(client))["status"] == "pending"
    clock.pass_by(1)
    assert (await detail(client))["status"] == "running"
    [release] = (await client.get(f"{V2}/my-box/releases")).json()
    assert release["status"]["value"] == "Success"
    assert "createdAt" in release
    assert (await client.post(f"{V2}/my-box/releases/v1/deploy")).status_code == 204
    assert (await client.post(f"{V2}/my-box/releases/v2/deploy")).status_code == 404
    [deployed] = (await client.get(f"{V2}/my-box/deployments")).json()
    assert deployed["tag"] == "v1"
    for _ in range(2):
        assert (await client.delete(f"{V2}/my-box/releases/v1")).status_code == 204


async def test_credentials_and_bodies(client: httpx.AsyncClient) -> None:
    for path, status in (("", 500), ("/my-box", 500), ("/templates", 401)):
        answer = await client.get(V2 + path, headers={"Authorization": "wrong"})
        assert answer.status_code == status
        assert "message" in answer.json()["error"]
    await create(client)
    assert (await client.post(f"{V2}/my-box/pause")).status_code == 400
    assert len((await client.get(f"{V2}/templates")).json()) > 40
    assert (await client.get(f"{V2}/my-box/monitor")).status_code == 200
