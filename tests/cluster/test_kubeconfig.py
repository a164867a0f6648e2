"""Each way to prove who one is, against a real API server."""

from __future__ import annotations

import anyio
import anyio.to_thread
import pytest

from sealos_devbox._transport.kube.access import KubernetesAccess
from sealos_devbox._transport.kube.exec_channel import missing_exec_rights, open_exec_channel
from sealos_devbox._transport.kube.kubeconfig import KubeconfigSource, load_credentials
from sealos_devbox.errors import AuthenticationError, ConfigurationError, ConnectError
from tests.cluster.access import access_as, target
from tests.cluster.cluster import SERVER_NAME


async def echo(access, box) -> None:
    async with open_exec_channel(access, target(box), ["cat"]) as channel:
        await channel.send(b"hello")
        assert await channel.receive() == b"hello"


@pytest.mark.parametrize("by", ["token", "certificate", "exec", "token-file"])
async def test_every_kind_of_proof(box, any_api, by):
    async with access_as(box, by=by, server=any_api.url) as access:
        await echo(access, box)


async def test_a_service_account(box, tmp_path):
    """What a pod finds in its own file system."""
    cluster = box.cluster
    (tmp_path / "token").write_text(cluster.service_account_token("robot"))
    (tmp_path / "namespace").write_text(box.namespace)
    (tmp_path / "ca.crt").write_bytes((cluster.directory / "pki" / "ca.crt").read_bytes())
    environ = {
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": str(cluster.api.port),
    }
    credentials = await anyio.to_thread.run_sync(
        lambda: load_credentials(
            KubeconfigSource(in_cluster=True), environment=environ, service_account=tmp_path
        )
    )
    async with KubernetesAccess(credentials) as access:
        assert access.namespace == box.namespace
        await echo(access, box)


async def test_a_plugin_is_run_again_when_its_token_has_expired(box):
    cluster = box.cluster
    plugin = cluster.credential_plugin("owner")
    plugin.answer(cluster.tokens["owner"], lifetime=1)
    before = plugin.runs
    async with access_as(box, by="exec") as access:
        await echo(access, box)
        await echo(access, box)
        assert plugin.runs > before + 1
        plugin.answer(cluster.tokens["owner"])
        await echo(access, box)


async def test_a_token_that_was_revoked_is_fetched_again(box):
    """The server says 401; the plugin has another one by then."""
    cluster = box.cluster
    plugin = cluster.credential_plugin("owner")
    plugin.answer("no longer good")
    try:
        async with access_as(box, by="exec") as access:
            with pytest.raises(AuthenticationError):
                await access.get("/version/")
            plugin.answer(cluster.tokens["owner"])
            await echo(access, box)
    finally:
        plugin.answer(cluster.tokens["owner"])


async def test_a_plugin_that_fails(box):
    plugin = box.cluster.credential_plugin("owner")
    plugin.answer(failure="the card is not in the reader")
    try:
        with pytest.raises(ConfigurationError, match="the card is not in the reader"):
            async with access_as(box, by="exec"):
                pytest.fail("went on as nobody")
    finally:
        plugin.answer(box.cluster.tokens["owner"])


@pytest.mark.parametrize(
    ("settings", "works"),
    [
        ({"tls-server-name": SERVER_NAME}, True),
        ({"tls-server-name": "other.internal"}, False),
        ({"insecure-skip-tls-verify": True, "certificate-authority": None}, True),
        ({"certificate-authority": None}, False),
    ],
)
async def test_whom_to_trust(box, settings, works):
    async with access_as(box, cluster_settings=settings) as access:
        if works:
            await echo(access, box)
        else:
            with pytest.raises(ConnectError, match="cannot be reached") as caught:
                await echo(access, box)
            assert "certificate-authority" in caught.value.hint


@pytest.mark.parametrize(
    ("user", "missing"),
    [
        ("owner", []),
        ("developer", ["get", "create"]),
        ("exec-get", ["create"]),
        ("exec-create", ["get"]),
    ],
)
async def test_what_a_preflight_finds(box, user, missing):
    async with access_as(box, user) as access:
        assert await missing_exec_rights(access, box.namespace) == missing


async def test_requests_are_few(box):
    """A credential that is good is not asked for again."""
    plugin = box.cluster.credential_plugin("owner")
    plugin.answer(box.cluster.tokens["owner"], lifetime=3600)
    async with access_as(box, by="exec") as access:
        before = plugin.runs
        for _ in range(2):
            await access.get(f"/api/v1/namespaces/{box.namespace}/pods/{box.name}")
        assert plugin.runs == before
