"""Whether the cluster holds something against a workspace's account."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import anyio

from sealos_devbox._planning.arrears import QUOTA, read_arrears
from sealos_devbox._transport.kube.access import KubernetesAccess, resource_path
from sealos_devbox.errors import AccessDeniedError, DevboxError, NotFoundError
from sealos_devbox.models import Arrears

__all__ = ["find_arrears"]


async def find_arrears(access: KubernetesAccess, namespace: str) -> Arrears | None:
    """Read the namespace and its quotas, two requests at once; None where nothing is wrong.

    What the user may not read counts as not there. Raises ConnectError, and what else is said.
    """
    found: dict[str, dict[str, Any]] = {}
    failures: list[DevboxError] = []

    async def read(what: str, path: str) -> None:
        try:
            found[what] = await access.get(path)
        except (AccessDeniedError, NotFoundError):
            pass
        except DevboxError as error:
            failures.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read, "namespace", f"/api/v1/namespaces/{quote(namespace, safe='')}")
        tasks.start_soon(read, "quota", resource_path("resourcequotas", namespace, QUOTA))
    arrears = read_arrears(found.get("namespace"), found.get("quota"))
    if arrears is None and failures:
        raise failures[0]
    return arrears
