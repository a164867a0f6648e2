"""The SDK's way into a test cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sealos_devbox._transport.kube.access import KubernetesAccess
from sealos_devbox._transport.kube.exec_channel import ExecTarget
from sealos_devbox._transport.kube.kubeconfig import KubeconfigSource
from tests.cluster.boxes import Box


@asynccontextmanager
async def access_as(
    box: Box, user: str = "owner", by: str = "token", **settings: object
) -> AsyncIterator[KubernetesAccess]:
    path = box.cluster.kubeconfig(user, by, **settings)  # type: ignore[arg-type]
    async with await KubernetesAccess.load(KubeconfigSource(paths=(str(path),))) as access:
        yield access


def target(box: Box) -> ExecTarget:
    return ExecTarget(box.namespace, box.pod()["metadata"]["name"], box.name)
