"""Faults that tests of clients ask for, and the engine's own routes."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sealos_devbox.server.run import Served, ServeError, ServeOptions, serve, serving
from sealos_devbox.server.settings import EngineSettings

TOKEN = "sesame-of-the-tests"
V1 = "/api/v1/devbox"


@pytest.fixture(params=["asyncio", "trio"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    settings = EngineSettings(tmp_path, token=TOKEN, admin=True, sample_seconds=3600)
    with serving(settings, ServeOptions(backend=request.param)) as served:
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=served.url, headers={"Authorization": TOKEN}, trust_env=False
    ) as client:
        yield client


def ask_for(client: httpx.Client, **fault: Any) -> None:
    assert client.post("/_engine/faults", json=fault).status_code == 204


def test_every_kind(client: httpx.Client) -> None:
    ask_for(client, kind="status", status=429, headers={"Retry-After": "3"}, times=2)
    for _ in range(2):
        answer = client.get(V1)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
    assert client.get(V1).status_code == 200

    ask_for(client, kind="page", status=502)
    page = client.get(V1)
    assert (page.status_code, page.headers["content-type"]) == (502, "text/html")
    assert "nginx" in page.text

    ask_for(client, kind="cut", bytes=5)
    with pytest.raises(httpx.RemoteProtocolError):
        client.get(V1)

    ask_for(client, kind="short", bytes=5)
    assert client.get(V1).text == '{"cod'

    ask_for(client, kind="slow", bytes=10, seconds=0.01)
    started = time.monotonic()
    assert client.get(V1).json()["code"] == 200
    assert time.monotonic() - started > 0.04

    ask_for(client, kind="latency", seconds=0.1)
    started = time.monotonic()
    assert client.get(V1).status_code == 200
    assert time.monotonic() - started > 0.1

    # Carried out, and answered as a failure: what makes a repeated create a conflict.
    ask_for(client, kind="after", status=500, method="POST", path=V1)
    body = {"name": "b", "runtime": "go", "resource": {"cpu": 1, "memory": 1}}
    assert client.post(V1, json=body).status_code == 500
    assert client.post(V1, json=body).status_code == 409
    told = client.get("/_engine/faults").json()
    assert told["waiting"] == []
    assert len(told["hits"]) == 8


def test_a_fault_waits_for_what_it_fits(client: httpx.Client) -> None:
    ask_for(client, kind="status", status=503, path=f"{V1}/x.*", times=None)
    assert client.get(V1).status_code == 200
    for _ in range(3):
        assert client.get(f"{V1}/xy").status_code == 503
    assert client.delete("/_engine/faults").status_code == 204
    assert client.get(f"{V1}/xy").status_code == 404
    for wrong in ({"kind": "none"}, {"kind": "cut", "path": "("}, {"kind": "cut", "what": 1}):
        assert client.post("/_engine/faults", json=wrong).status_code == 400


def test_the_engines_own_routes_need_the_token(served: Served, client: httpx.Client) -> None:
    for path in ("/_engine/faults", "/openapi.json", "/openapi-agent.json"):
        assert client.get(path).status_code == 200
        assert client.get(path, headers={"Authorization": "wrong"}).status_code == 401


def test_every_documented_route_needs_a_credential(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    asked = 0
    for path, item in document["paths"].items():
        for method in item:
            address = path.replace("{name}", "none").replace("{tag}", "v1")
            answer = client.request(method, address, headers={"Authorization": ""})
            assert answer.status_code in (401, 403, 500), (method, path)
            assert answer.json().get("data") is None
            asked += 1
    assert asked > 35


def test_faults_are_off_by_default(tmp_path: Path) -> None:
    settings = EngineSettings(tmp_path, token=TOKEN, sample_seconds=3600)
    with serving(settings) as served:
        answer = httpx.get(f"{served.url}/_engine/faults", headers={"Authorization": TOKEN})
        assert answer.status_code == 404


def test_where_it_listens(tmp_path: Path) -> None:
    settings = EngineSettings(tmp_path)
    with pytest.raises(ServeError, match="without TLS"):
        serve(settings, ServeOptions(host="0.0.0.0"))
    with pytest.raises(ServeError, match="its key"):
        serve(settings, ServeOptions(certificate=tmp_path / "c"))
    with serving(settings) as served:
        assert served.url.startswith("http://127.0.0.1:")
        assert served.token_file is not None
        assert served.token_file.stat().st_mode & 0o777 == 0o600
        assert served.kubeconfig.stat().st_mode & 0o777 == 0o600
        port = int(served.url.rpartition(":")[2])
        with pytest.raises(ServeError, match="Cannot listen"):
            serve(settings, ServeOptions(port=port))
        first = served.token_file.read_text()
    with serving(settings) as served:
        assert served.token_file is not None
        assert served.token_file.read_text() == first


def test_tls(tmp_path: Path) -> None:
    import ssl

    import trustme

    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "pem")
    authority.cert_pem.write_to_path(tmp_path / "ca")
    options = ServeOptions(certificate=tmp_path / "pem", key=tmp_path / "pem")
    with serving(EngineSettings(tmp_path / "data", token=TOKEN), options) as served:
        assert served.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(tmp_path / "ca"))
        answer = httpx.get(served.url + V1, headers={"Authorization": TOKEN}, verify=context)
        assert answer.status_code == 200
