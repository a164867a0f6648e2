"""What a real API server lets users read of an account in arrears."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from devboxfs import doctor
from sealos_devbox import Arrears, AsyncDevbox, DevboxConfig
from tests.cluster.cluster import Cluster

NOTHING = {"limits.cpu": "0", "limits.memory": "0", "requests.storage": "0"}


@pytest.fixture(scope="module")
def suspended(cluster: Cluster) -> Iterator[str]:
    """A workspace as the service leaves it when its account is in arrears."""
    name = cluster.make_namespace(f"ns-arrears-{os.getpid()}")
    mark = {"metadata": {"annotations": {"debt.sealos/status": "SuspendCompleted"}}}
    cluster.merge(f"/api/v1/namespaces/{name}", mark)
    quota = {"metadata": {"name": "debt-limit0"}, "spec": {"hard": NOTHING}}
    cluster.create(f"/api/v1/namespaces/{name}/resourcequotas", quota)
    yield name
    cluster.delete(f"/api/v1/namespaces/{name}/resourcequotas/debt-limit0")
    cluster.merge(
        f"/api/v1/namespaces/{name}", {"metadata": {"annotations": {"debt.sealos/status": None}}}
    )


def config(cluster: Cluster, user: str, namespace: str) -> DevboxConfig:
    return DevboxConfig(kubeconfig=cluster.kubeconfig(user, namespace=namespace))


@pytest.mark.parametrize(
    ("user", "found"),
    [
        ("owner", Arrears("SuspendCompleted", no_pods=True)),
        # These may read neither namespaces nor quotas.
        ("developer", None),
        ("stranger", None),
    ],
)
async def test_who_may_read_it_is_told(cluster, suspended, user, found):
    async with AsyncDevbox(config(cluster, user, suspended)) as devbox:
        assert await devbox.arrears() == found


async def test_a_workspace_that_is_well(cluster, suspended):
    del suspended  # another one
    async with AsyncDevbox(config(cluster, "owner", "ns-test")) as devbox:
        assert await devbox.arrears() is None


async def test_the_doctor_says_what_to_do(cluster, suspended):
    found = await doctor.examine(config(cluster, "owner", suspended), None, lambda check: None)
    [line] = [check for check in found.checks if check.name == "arrears"]
    assert "is marked 'SuspendCompleted', and a quota of nothing" in line.text
    assert line.state == "warning"
