"""Requests to an API server: TLS, proxies, credentials that change, refusals that can be read."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import pytest
import trustme

from sealos_devbox._transport.kube.access import KubernetesAccess, resource_path
from sealos_devbox._transport.kube.exec_channel import ExecTarget, open_exec_channel
from sealos_devbox._transport.kube.kubeconfig import KubeconfigSource
from sealos_devbox._transport.kube.pods import find_box
from sealos_devbox.errors import (
    AccessDeniedError,
    AuthenticationError,
    BoxNotFoundError,
    BoxStateError,
    CapabilityError,
    ConfigurationError,
    ConnectError,
    DevboxError,
    NotFoundError,
    RateLimitedError,
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

TARGET = ExecTarget("ns-test", "box", "box")
AUTHORITY = trustme.CA()


def server_context(name: str, client: trustme.CA | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert(name).configure_cert(context)
    if client is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        client.configure_trust(context)
    return context


def trusted(**more: Any) -> dict[str, Any]:
    data = base64.b64encode(AUTHORITY.cert_pem.bytes()).decode()
    return {"certificate-authority-data": data, **more}


@asynccontextmanager
async def access_to(
    server: ExecServer, cluster: dict[str, Any] | None = None, **user: Any
) -> AsyncIterator[KubernetesAccess]:
    text = kubeconfig(server.url, cluster, **(user or {"token": "secret"}))
    async with await KubernetesAccess.load(KubeconfigSource(text=text)) as access:
        yield access


async def echo(access: KubernetesAccess) -> None:
    async with open_exec_channel(access, TARGET, ["cat"]) as channel:
        await channel.send(b"hello")
        assert await channel.receive() == b"hello"


def version(request: Received) -> Any:
    return answer_json({"gitVersion": "v1"}) if request.path.endswith("/version") else None


async def test_over_tls():
    async with (
        exec_server(server_context("127.0.0.1")) as server,
        access_to(server, trusted()) as access,
    ):
        await echo(access)


async def test_a_server_that_nobody_vouches_for():
    async with exec_server(server_context("127.0.0.1")) as server, access_to(server) as access:
        with pytest.raises(ConnectError, match="CERTIFICATE_VERIFY_FAILED") as caught:
            await access.get("/version")
    assert "certificate-authority" in caught.value.hint
    assert not caught.value.retryable


async def test_a_server_under_another_name():
    async with exec_server(server_context("api.internal")) as server:
        async with access_to(server, trusted()) as access:
            with pytest.raises(ConnectError):
                await access.get("/version")
        named = trusted(**{"tls-server-name": "api.internal"})
        async with access_to(server, named) as access:
            await echo(access)
        async with access_to(server, {"insecure-skip-tls-verify": True}) as access:
            await echo(access)


async def test_a_client_certificate():
    clients = trustme.CA()
    pair = clients.issue_cert("me@example.com")
    user = {
        "client-certificate-data": base64.b64encode(pair.cert_chain_pems[0].bytes()).decode(),
        "client-key-data": base64.b64encode(pair.private_key_pem.bytes()).decode(),
    }
    async with exec_server(server_context("127.0.0.1", clients)) as server:
        async with access_to(server, trusted(), **user) as access:
            await echo(access)
        async with access_to(server, trusted()) as access:
            with pytest.raises(ConnectError):
                await access.get("/version")


@asynccontextmanager
async def connect_proxy(refuse: bytes = b"") -> AsyncIterator[tuple[str, list[bytes]]]:
    """A proxy that knows CONNECT; yields its address and the heads of the requests."""
    heads: list[bytes] = []

    async def pump(source: anyio.abc.ByteStream, sink: anyio.abc.ByteStream) -> None:
        try:
            while True:
                await sink.send(await source.receive())
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            await sink.aclose()

    async def handle(client: anyio.abc.SocketStream) -> None:
        async with client:
            head = b""
            while b"\r\n\r\n" not in head:
                head += await client.receive()
            heads.append(head)
            if refuse:
                await client.send(refuse)
                return
            host, _, port = head.split()[1].decode().partition(":")
            async with await anyio.connect_tcp(host, int(port)) as there:
                await client.send(b"HTTP/1.1 200 OK\r\n\r\n")
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(pump, client, there)
                    tasks.start_soon(pump, there, client)

    listener: Any = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    tasks = anyio.create_task_group()
    await tasks.__aenter__()
    tasks.start_soon(listener.serve, handle)
    try:
        yield f"127.0.0.1:{port}", heads
    finally:
        tasks.cancel_scope.cancel()
        await tasks.__aexit__(None, None, None)
        with anyio.CancelScope(shield=True):
            await listener.aclose()


async def test_through_a_proxy_with_another_name_for_the_server():
    """httpcore forgets the name on its way through a proxy."""
    async with (
        connect_proxy() as (address, heads),
        exec_server(server_context("api.internal")) as server,
    ):
        settings = {"proxy-url": f"http://me:pass@{address}", "tls-server-name": "api.internal"}
        async with access_to(server, trusted(**settings)) as access:
            await echo(access)
    assert heads[0].startswith(b"CONNECT 127.0.0.1:")
    assert b"Proxy-Authorization: Basic " in heads[0]
    assert b"Bearer" not in b"".join(heads)


async def test_a_proxy_that_refuses():
    refuse = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    async with (
        connect_proxy(refuse) as (address, _),
        exec_server(server_context("127.0.0.1")) as server,
    ):
        settings = {"proxy-url": f"http://me:s3cret@{address}"}
        async with access_to(server, trusted(**settings)) as access:
            with pytest.raises(
                ConnectError, match=f"The proxy http://{address} does not"
            ) as caught:
                await access.get("/version")
    assert "407" in str(caught.value)
    assert "s3cret" not in str(caught.value)


async def test_a_proxy_of_a_kind_that_is_not_known():
    async with exec_server() as server:
        with pytest.raises(ConfigurationError, match="gopher"):
            async with access_to(server, {"proxy-url": "gopher://x:1"}):
                pytest.fail("made")


async def test_a_token_that_is_refused_is_fetched_again(tmp_path):
    token = tmp_path / "token"
    token.write_text("old\n")

    def respond(request: Received) -> Any:
        if request.headers.get("authorization") != "Bearer new":
            token.write_text("new\n")
            return status(401, "Unauthorized")
        return version(request)

    async with exec_server() as server, access_to(server, tokenFile=str(token)) as access:
        server.respond = respond
        assert await access.get("/version") == {"gitVersion": "v1"}
        assert len(server.received) == 2
        await echo(access)


async def test_a_credential_that_stays_refused():
    async with exec_server() as server, access_to(server) as access:
        server.respond = lambda request: status(401, "Unauthorized")
        with pytest.raises(AuthenticationError, match="Unauthorized") as caught:
            await access.get("/version")
        assert caught.value.hop == "cluster"
        with pytest.raises(AuthenticationError):
            await echo(access)
        assert len(server.received) == 2, "the same token is not tried twice"


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (status(403, 'pods "box" is forbidden'), AccessDeniedError, "is forbidden"),
        (status(404, 'pods "box" not found'), NotFoundError, "not found"),
        (status(429, "slow down"), RateLimitedError, "slow down"),
        (status(500, "error dialing backend: EOF"), ServerError, "dialing backend"),
        ((502, {"Server": "nginx"}, b"<h1>Bad Gateway</h1>"), ConnectError, "nginx.*HTTP 502"),
        (
            (200, {"Content-Type": "text/html"}, b"<html>"),
            ConnectError,
            "passes? WebSockets on|HTTP 200",
        ),
        ((403, {"Server": "waf", "Content-Type": "text/plain"}, b"No!"), ConnectError, "waf.*No!"),
        (status(400, "Upgrade request required"), ConnectError, "Upgrade request required"),
        ((101, {"Sec-WebSocket-Accept": "x"}, b""), DevboxError, "no WebSocket"),
    ],
)
async def test_what_refuses_an_upgrade_is_named(answer, kind, words):
    async with exec_server() as server, access_to(server) as access:
        server.respond = lambda request: answer if request.path.endswith("/exec") else None
        with pytest.raises(kind, match=words):
            await echo(access)


async def test_a_long_list_comes_in_pages():
    def respond(request: Received) -> Any:
        query = dict(request.query)
        page = int(query.get("continue", "0"))
        more = {"continue": str(page + 1)} if page < 2 else {}
        return answer_json({"metadata": more, "items": [{"page": page}]})

    async with exec_server() as server, access_to(server) as access:
        server.respond = respond
        assert await access.list("/api/v1/x") == [{"page": 0}, {"page": 1}, {"page": 2}]


async def test_changing_objects():
    async with exec_server() as server, access_to(server) as access:
        server.respond = lambda request: answer_json({"kind": "Devbox"})
        path = resource_path("devboxes", "ns", "a b", group="devbox.sealos.io/v1alpha2")
        await access.patch(path, {"spec": {"state": "Paused"}})
        await access.post(path, {"x": 1})
        await access.delete(path)
    changed, made, removed = server.received
    assert changed.path == "/apis/devbox.sealos.io/v1alpha2/namespaces/ns/devboxes/a%20b"
    assert changed.headers["content-type"] == "application/merge-patch+json"
    assert json.loads(changed.body) == {"spec": {"state": "Paused"}}
    assert (made.method, json.loads(made.body)) == ("POST", {"x": 1})
    assert removed.method == "DELETE"


async def test_a_connection_that_went_stale_is_no_error():
    async with exec_server() as server, access_to(server) as access:
        answers = 0

        def respond(request: Received) -> Any:
            nonlocal answers
            answers += 1
            if answers == 2:
                raise anyio.EndOfStream
            return version(request)

        server.respond = respond
        for _ in range(2):
            assert await access.get("/version") == {"gitVersion": "v1"}
    assert answers == 3


def pod(name: str = "box-1", phase: str = "Running", **more: Any) -> dict[str, Any]:
    metadata = {"name": name, "uid": f"uid-{name}", "creationTimestamp": more.pop("made", "1")}
    if more.pop("going", False):
        metadata["deletionTimestamp"] = "2"
    containers = [{"name": more.pop("container", "box"), "workingDir": "/w"}]
    return {
        "metadata": metadata,
        "spec": {"containers": containers},
        "status": {"phase": phase, **more},
    }


def world(pods: list[dict[str, Any]], devbox: Any = None, version: str = "v1alpha2") -> Any:
    group = "/apis/devbox.sealos.io"

    def respond(request: Received) -> Any:
        if request.path == group:
            return answer_json({"versions": [{"version": version}]}) if version else None
        if request.path.startswith(f"{group}/{version}/") and version:
            return answer_json(devbox) if devbox else status(404, "not found")
        if request.path.startswith(group):
            return 404, {"Content-Type": "text/plain"}, b"404 page not found\n"
        if request.path.endswith("/pods"):
            return answer_json({"items": pods})
        return None

    return respond


def box_object(state: str = "Running", **config: str) -> dict[str, Any]:
    return {"metadata": {"uid": "u"}, "spec": {"state": state, "config": config}}


@pytest.mark.parametrize("version", ["v1alpha2", "v1alpha1", ""])
async def test_the_pod_of_a_box(version):
    pods = [
        pod("old", made="1"),
        pod("going", made="3", going=True),
        pod("new", made="2"),
        pod("done", "Succeeded", made="4"),
    ]
    devbox = box_object(user="jane", workingDir="/v") if version else None
    async with exec_server() as server, access_to(server) as access:
        server.respond = world(pods, devbox, version)
        found = await find_box(access, "ns-test", "box")
    assert found.target == ExecTarget("ns-test", "new", "box")
    assert found.uid == "uid-new"
    assert found.working_directory == "/w"
    if version:
        assert found.devbox is not None
        assert (found.devbox.version, found.devbox.user) == (version, "jane")
    [listed] = [it for it in server.received if it.path.endswith("/pods")]
    assert dict(listed.query)["labelSelector"] == (
        "app.kubernetes.io/name=box,app.kubernetes.io/part-of=devbox"
    )


PULLING = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}


@pytest.mark.parametrize(
    ("pods", "devbox", "kind", "words"),
    [
        ([], None, BoxNotFoundError, "There is no box 'box' in 'ns-test'"),
        ([], box_object("Paused"), BoxStateError, "is paused"),
        ([], box_object("Stopped"), BoxStateError, "is stopped"),
        ([], box_object("Shutdown"), BoxStateError, "is shut down"),
        ([], box_object(), BoxStateError, "does not run yet"),
        ([pod(going=True)], box_object(), BoxStateError, "is being removed"),
        (
            [pod(phase="Pending", containerStatuses=[PULLING])],
            box_object(),
            BoxStateError,
            "ImagePullBackOff: no such image",
        ),
        (
            [pod(phase="Pending", conditions=[{"status": "False", "message": "0/3 nodes"}])],
            box_object(),
            BoxStateError,
            "0/3 nodes",
        ),
        ([pod(phase="Failed", reason="Evicted")], box_object(), BoxStateError, "Failed.*Evicted"),
        ([pod(container="other")], box_object(), CapabilityError, "no container 'box'.*other"),
    ],
)
async def test_why_a_box_has_no_pod(pods, devbox, kind, words):
    async with exec_server() as server, access_to(server) as access:
        server.respond = world(pods, devbox)
        with pytest.raises(kind, match=words):
            await find_box(access, "ns-test", "box")
