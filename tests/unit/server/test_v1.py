"""v1 of the control plane, its state machine and its quirks."""

import base64
import json
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from sealos_devbox.server.engine import Engine
from sealos_devbox.server.processes import MARK
from tests.unit.server.conftest import TOKEN, Clock

V1 = "/api/v1/devbox"
FORM = {"name": "my-box", "runtime": "python", "resource": {"cpu": 1, "memory": 2}}


async def create(client: httpx.AsyncClient, **more: Any) -> dict[str, Any]:
    answer = await client.post(V1, json={**FORM, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


async def detail(client: httpx.AsyncClient, name: str = "my-box") -> dict[str, Any]:
    answer = await client.get(f"{V1}/{name}")
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def kubeconfig(token: str) -> str:
    return (
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n"
        "contexts: [{name: c, context: {cluster: k, user: u, namespace: ns-a}}]\n"
        f"clusters: [{{name: k, cluster: {{server: 'https://x'}}}}]\n"
        f"users: [{{name: u, user: {{token: '{token}'}}}}]\n"
    )


def sleeper(environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(["sleep", "60"], env=environment)


async def test_create_answers_what_the_service_answers(client: httpx.AsyncClient) -> None:
    created = await create(client, ports=[{"number": 8000}], env=[{"name": "MODE", "value": "x"}])
    assert created["sshPort"] == 2233
    assert base64.b64decode(created["base64PrivateKey"]).startswith(b"-----BEGIN OPENSSH")
    assert created["summary"] == {"totalPorts": 1, "successfulPorts": 1, "failedPorts": 0}
    assert created["ports"][0]["privateAddress"] == "http://my-box.ns-devbox:8000"
    assert "portErrors" not in created


async def test_a_box_runs_after_a_while_and_has_no_agent_before(
    client: httpx.AsyncClient, clock: Clock
) -> None:
    await create(client, env=[{"name": "MODE", "value": "dev"}])
    before = await detail(client)
    assert before["status"] == "Pending"
    assert before["agentServer"]["url"] == ""
    clock.pass_by(1)
    after = await detail(client)
    assert after["status"] == "Running"
    assert after["agentServer"]["url"].count("-") == 2
    assert len(base64.b64decode(after["agentServer"]["token"])) == 32
    assert after["resources"] == {"cpu": 1, "memory": 2}
    assert after["env"] == [{"name": "MODE", "value": "dev"}]
    assert after["ssh"]["port"] == 0
    listed = (await client.get(V1)).json()["data"]
    assert [item["resources"] for item in listed] == [{"cpu": 1000, "memory": 2048}]


async def test_some_ports_fail_with_201(client: httpx.AsyncClient) -> None:
    answer = await client.post(V1, json={**FORM, "ports": [{"number": 80}, {"number": 80}]})
    assert answer.status_code == answer.json()["code"] == 201
    data = answer.json()["data"]
    assert data["summary"] == {"totalPorts": 2, "successfulPorts": 1, "failedPorts": 1}
    assert data["portErrors"][0]["port"] == 80


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"name": "My-Box"}, ["name"]),
        ({"name": ""}, ["name"]),
        ({"resource": {"cpu": 3, "memory": 2}}, ["resource", "cpu"]),
        ({"resource": {"cpu": 1, "memory": 3}}, ["resource", "memory"]),
        ({"env": {"A": "b"}}, ["env"]),
        ({"env": [{"name": "A", "value": ""}]}, ["env", 0]),
        ({"ports": [{"number": 70000}]}, ["ports", 0, "number"]),
    ],
)
async def test_create_refuses(client: httpx.AsyncClient, change: Any, path: list[Any]) -> None:
    answer = await client.post(V1, json={**FORM, **change})
    assert answer.status_code == 400
    assert answer.json()["message"] == "Invalid request body"
    assert answer.json()["data"][0]["path"] == path
    assert (await client.get(V1)).json()["data"] == []


async def test_names_and_runtimes_that_are_taken_or_unknown(client: httpx.AsyncClient) -> None:
    await create(client)
    again = await client.post(V1, json=FORM)
    assert (again.status_code, again.json()["message"]) == (409, "Devbox already exists")
    unknown = await client.post(V1, json={**FORM, "name": "b", "runtime": "cobol"})
    assert unknown.status_code == 404
    assert unknown.json()["message"] == "Runtime not found or not available"


@pytest.mark.parametrize("verb", ["pause", "restart", "shutdown"])
async def test_some_calls_want_an_empty_object(client: httpx.AsyncClient, verb: str) -> None:
    await create(client)
    assert (await client.post(f"{V1}/my-box/{verb}")).status_code == 500
    assert (await client.post(f"{V1}/my-box/{verb}", content=b"x")).status_code == 500


async def test_stopping_takes_a_commit_during_which_nothing_starts(
    client: httpx.AsyncClient, clock: Clock
) -> None:
    await create(client)
    clock.pass_by(1)
    assert (await client.post(f"{V1}/my-box/pause", json={})).status_code == 200
    assert (await detail(client))["status"] == "Stopping"
    refused = await client.post(f"{V1}/my-box/start")
    assert (refused.status_code, refused.json()["message"]) == (422, "HTTP request failed")
    assert "commit" in refused.json()["data"]
    before = (await detail(client))["operationalStatus"]["contentID"]
    clock.pass_by(10)
    after = await detail(client)
    assert after["status"] == "Stopped"
    assert after["operationalStatus"]["contentID"] != before
    assert (await client.post(f"{V1}/my-box/pause", json={})).status_code == 200
    assert (await client.post(f"{V1}/my-box/start")).status_code == 200
    assert (await detail(client))["status"] == "Pending"


async def test_restart_that_gives_up_leaves_the_box_stopped(
    client: httpx.AsyncClient, engine: Engine, clock: Clock
) -> None:
    object.__setattr__(engine.settings, "restart_seconds", 0.0)
    await create(client)
    clock.pass_by(1)
    answer = await client.post(f"{V1}/my-box/restart", json={})
    assert answer.status_code == 500
    assert answer.json()["message"].startswith("Max retries reached")
    clock.pass_by(10)
    assert (await detail(client))["status"] == "Stopped"
    assert (await client.post(f"{V1}/my-box/restart", json={})).status_code == 200
    assert (await detail(client))["status"] == "Pending"


async def test_shutdown(client: httpx.AsyncClient, clock: Clock) -> None:
    await create(client)
    clock.pass_by(1)
    await client.post(f"{V1}/my-box/shutdown", json={})
    assert (await detail(client))["status"] == "Shutting"
    clock.pass_by(10)
    assert (await detail(client))["status"] == "Shutdown"


async def test_ports_that_are_not_named_are_deleted(client: httpx.AsyncClient) -> None:
    ports = (await create(client, ports=[{"number": 80}, {"number": 81}]))["ports"]
    wanted = [{"portName": ports[0]["portName"], "protocol": "WS"}, {"number": 82}]
    answer = await client.put(f"{V1}/my-box/ports", json={"ports": wanted})
    assert [(p["number"], p["protocol"]) for p in answer.json()["data"]["ports"]] == [
        (80, "WS"),
        (82, "HTTP"),
    ]
    shown = (await detail(client))["ports"]
    assert shown[0]["publicAddress"].startswith("wss://")
    assert [port["number"] for port in shown] == [80, 82]
    missing = await client.put(f"{V1}/my-box/ports", json={"ports": [{"portName": "port-x"}]})
    assert (missing.status_code, missing.json()["data"]["type"]) == (404, "PORT_NOT_FOUND")


async def test_a_taken_port_is_a_conflict_and_what_came_before_stays(
    client: httpx.AsyncClient,
) -> None:
    await create(client)
    wanted = {"ports": [{"number": 90}, {"number": 90}]}
    answer = await client.put(f"{V1}/my-box/ports", json=wanted)
    assert (answer.status_code, answer.json()["data"]["type"]) == (409, "PORT_CONFLICT")
    assert [port["number"] for port in (await detail(client))["ports"]] == [90]


async def test_patch(client: httpx.AsyncClient) -> None:
    await create(client)
    answer = await client.patch(f"{V1}/my-box", json={"resource": {"cpu": 2, "memory": 4}})
    assert answer.json()["data"]["resource"]["k8sResource"] == {"cpu": "2000m", "memory": "4096Mi"}
    assert (await detail(client))["resources"] == {"cpu": 2, "memory": 4}
    refused = await client.patch(f"{V1}/my-box", json={"resource": {"cpu": 3, "memory": 4}})
    assert refused.status_code == 400


async def test_a_release_waits_for_the_box_to_be_stopped(
    client: httpx.AsyncClient, clock: Clock
) -> None:
    await create(client)
    clock.pass_by(1)
    assert (await client.post(f"{V1}/my-box/release", json={"tag": "v1"})).status_code == 200
    assert (await client.post(f"{V1}/my-box/release", json={"tag": "v1"})).status_code == 409
    clock.pass_by(60)
    [pending] = (await client.get(f"{V1}/my-box/release")).json()["data"]
    assert pending["status"]["value"] == "Pending"
    assert pending["description"] == "release notes"
    early = await client.post(f"{V1}/my-box/release/v1/deploy")
    assert (early.status_code, early.json()["message"]) == (500, "request error")
    await client.post(f"{V1}/my-box/pause", json={})
    clock.pass_by(10)
    [done] = (await client.get(f"{V1}/my-box/release")).json()["data"]
    assert done["status"]["value"] == "Success"
    assert done["image"].endswith("/my-box:v1")
    deployed = (await client.post(f"{V1}/my-box/release/v1/deploy")).json()["data"]
    [app] = (await client.get(f"{V1}/my-box/deploy")).json()["data"]
    assert app == {"name": deployed["appName"], "resourceType": "deployment", "tag": "v1"}
    assert (await client.delete(f"{V1}/my-box/release/v1")).status_code == 200
    gone = await client.delete(f"{V1}/my-box/release/v1")
    assert (gone.status_code, gone.json()["message"]) == (404, "Release not found")


async def test_pausing_and_deleting_kill_what_runs_in_the_box(
    client: httpx.AsyncClient, engine: Engine, clock: Clock
) -> None:
    await create(client)
    clock.pass_by(1)
    box = engine.box("my-box")
    children = [sleeper(engine.environment(box)) for _ in range(2)]
    bystander = sleeper({**engine.environment(box), MARK: "another"})
    try:
        await client.post(f"{V1}/my-box/pause", json={})
        assert [child.wait(10) for child in children] == [-9, -9]
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


async def test_autostart_runs_once_the_box_runs(
    client: httpx.AsyncClient, engine: Engine, clock: Clock
) -> None:
    await create(client)
    answer = await client.post(
        f"{V1}/my-box/autostart", json={"execCommand": "echo started > marker"}
    )
    assert answer.json()["data"]["resources"][-1] == "my-box-exec-job"
    marker = engine.box("my-box").workspace / "marker"
    assert not marker.exists()
    clock.pass_by(1)
    await detail(client)
    from tests.support.waiting import wait_until

    wait_until(lambda: marker.exists() and marker.read_text() == "started\n")
    marker.unlink()
    await detail(client)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "", 500, "Internal server error"),
        ("GET", "/my-box", 500, "Internal server error"),
        ("POST", "/my-box/pause", 500, "Internal server error"),
        ("POST", "/my-box/start", 403, "credential error"),
        ("POST", "/my-box/restart", 403, "credential error"),
        ("DELETE", "/my-box/delete", 403, "credential error"),
        ("GET", "/my-box/monitor", 403, "credential error"),
        ("GET", "/templates", 500, "Internal server error"),
    ],
)
async def test_a_bad_credential_looks_different_everywhere(
    client: httpx.AsyncClient, method: str, path: str, status: int, message: str
) -> None:
    for header in ("", "wrong", f"Bearer {TOKEN}x", quote(kubeconfig("wrong"), safe="")):
        answer = await client.request(method, V1 + path, headers={"Authorization": header})
        assert (answer.status_code, answer.json()["message"]) == (status, message)


async def test_a_kubeconfig_is_a_credential(client: httpx.AsyncClient) -> None:
    as_json = json.dumps(
        {
            "current-context": "b",
            "contexts": [
                {"name": "a", "context": {"user": "nobody"}},
                {"name": "b", "context": {"user": "u"}},
            ],
            "users": [{"name": "u", "user": {"token": TOKEN}}],
        }
    )
    for text in (kubeconfig(TOKEN), as_json):
        answer = await client.get(V1, headers={"Authorization": quote(text, safe="")})
        assert answer.status_code == 200


async def test_monitor_is_a_hundred_times_too_large_and_averages_boxes(
    client: httpx.AsyncClient, engine: Engine, clock: Clock
) -> None:
    for name in ("my-box", "mynah"):
        await create(client, name=name)
    clock.pass_by(1)
    box, other = engine.box("my-box"), engine.box("mynah")
    from sealos_devbox.server.processes import Usage

    start = clock.now
    for cpu in (0.0, 6.0):
        usage = {box.uid: Usage(cpu, 2**30, 1), other.uid: Usage(cpu / 2, 0, 1)}
        engine.processes.usage = lambda usage=usage: usage  # type: ignore[method-assign]
        engine.metrics.sample([box, other])
        clock.pass_by(10)
    query = {"start": start, "end": start + 10, "step": "10s"}
    answer = await client.get(f"{V1}/my-box/monitor", params=query)
    assert [(point["timestamp"], point["cpu"], point["memory"]) for point in answer.json()] == [
        (int(start), 0.0, 2500.0),
        (int(start) + 10, 4500.0, 2500.0),
    ]
    backwards = {"start": clock.now * 1000, "end": start * 1000}
    refused = await client.get(f"{V1}/my-box/monitor", params=backwards)
    assert refused.status_code == 400
    assert refused.json()["message"] == "Start timestamp must be earlier than end timestamp"


async def test_templates(client: httpx.AsyncClient) -> None:
    found = {
        t["runtime"]: t["config"] for t in (await client.get(f"{V1}/templates")).json()["data"]
    }
    assert len(found) > 40
    assert found["django"]["appPorts"][0]["port"] == 8000
    assert found["python"]["workingDir"] == "/home/devbox/project"


async def test_boxes_are_the_same_for_a_second_engine(
    client: httpx.AsyncClient, engine: Engine, clock: Clock
) -> None:
    await create(client, ports=[{"number": 80}])
    clock.pass_by(1)
    again = Engine(engine.settings, clock=clock)
    assert again.box("my-box").record == engine.box("my-box").record
    assert again.by_unique_id(engine.box("my-box").record.unique_id) is not None


async def test_a_box_that_another_program_made_is_a_box(
    client: httpx.AsyncClient, engine: Engine
) -> None:
    engine.store.create("plain")
    shown = await detail(client, "plain")
    assert shown["status"] == "Running"
    assert await detail(client, "plain") == shown


async def test_the_page_of_an_unknown_address(client: httpx.AsyncClient) -> None:
    answer = await client.get(f"{V1}/a/b/c")
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")
    assert (await client.put(V1)).status_code == 405


def test_the_key_is_one_that_openssh_reads(tmp_path: Path) -> None:
    from sealos_devbox.server.ssh_keys import generate, public_bytes

    # RFC 8032, section 7.1, test 1.
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    expected = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert public_bytes(seed).hex() == expected
    private, public = generate("box")
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_ssh_private_key,
    )

    key = load_ssh_private_key(private.encode(), None)
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    assert public == f"{line} box"


async def test_whole_numbers_and_line_breaks(client: httpx.AsyncClient) -> None:
    body = (
        b'{"name":"b","runtime":"go","resource":{"cpu":1.0,"memory":2},"ports":[{"number":80.0}]}'
    )
    assert (await client.post(V1, content=body)).status_code == 200
    answer = await client.post(f"{V1}/b%0A/start")
    assert (answer.status_code, answer.json()["message"]) == (404, "HTTP request failed")
