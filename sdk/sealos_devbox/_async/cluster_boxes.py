"""Boxes as the cluster knows them, for who has a kubeconfig and no control plane to reach.

Names, identities and ways to the files come from the Devbox objects, or from the pods' labels where
these may not be read. Everything else is the control plane's.
"""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from sealos_devbox._async.service import BoxRecord
from sealos_devbox._planning.kubeconfig import is_kubeconfig, unquoted
from sealos_devbox.config import RemoteSettings
from sealos_devbox.errors import BoxNotFoundError, CapabilityError
from sealos_devbox.models import Arrears
from sealos_devbox.secret import Secret

if TYPE_CHECKING:
    from sealos_devbox._transport.kube.access import KubernetesAccess

__all__ = ["ClusterBoxes"]


class ClusterBoxes:
    """The boxes of one namespace."""

    def __init__(self, settings: RemoteSettings) -> None:
        self._settings = settings

    @staticmethod
    def possible(settings: RemoteSettings) -> bool:
        """Whether the cluster may be asked: nothing else was named, and the credential is for it.

        A control plane that was named and cannot be reached is an error.
        """
        return settings.endpoint is None and ClusterBoxes.named(settings)

    @staticmethod
    def named(settings: RemoteSettings) -> bool:
        """Whether the credential is for a cluster."""
        return bool(settings.kubeconfig) or ClusterBoxes._text(settings) is not None

    @property
    def kubeconfig_text(self) -> Secret | None:
        """The kubeconfig, where it is in no file."""
        return self._text(self._settings)

    async def get(self, name: str) -> BoxRecord:
        """Return a box; raises BoxNotFoundError, AccessDeniedError and what else is said."""
        for record in await self._find(name):
            return record
        raise BoxNotFoundError(f"There is no box {name!r} in the cluster.", hop="cluster")

    async def list(self) -> builtins.list[BoxRecord]:
        """Return the boxes, by name."""
        return await self._find(None)

    async def arrears(self) -> Arrears | None:
        """Return what is held against the workspace's account; None where nothing shows it."""
        async with self._access() as (access, namespace):
            from sealos_devbox._transport.kube.arrears import find_arrears

            return await find_arrears(access, namespace)

    async def _find(self, name: str | None) -> builtins.list[BoxRecord]:
        async with self._access() as (access, namespace):
            from sealos_devbox._transport.kube.pods import list_boxes

            found = await list_boxes(access, namespace, name)
            return [self._record(access, namespace, *box) for box in sorted(found.items())]

    @asynccontextmanager
    async def _access(self) -> AsyncIterator[tuple[KubernetesAccess, str]]:
        """Lend a way to the API server, and the namespace."""
        try:
            from sealos_devbox._transport.kube.access import KubernetesAccess
            from sealos_devbox._transport.kube.kubeconfig import KubeconfigSource
        except ModuleNotFoundError as error:
            raise CapabilityError(
                f"Reaching the cluster needs the package {error.name}, which is not installed.",
                hint="Install it with: pip install 'sealos-devbox[cluster]'",
            ) from None
        source = KubeconfigSource(
            paths=tuple(map(str, self._settings.kubeconfig)),
            text=None if self.kubeconfig_text is None else self.kubeconfig_text.reveal(),
            context=self._settings.context,
        )
        async with await KubernetesAccess.load(source) as access:
            yield access, self._settings.namespace or access.namespace

    def _record(
        self, access: KubernetesAccess, namespace: str, name: str, uid: str | None
    ) -> BoxRecord:
        return BoxRecord(
            name=name,
            # Names are unique in a namespace.
            uid=uid or f"{namespace}.{name}",
            location=f"the cluster {access.server}, namespace {namespace}, box {name}",
        )

    @staticmethod
    def _text(settings: RemoteSettings) -> Secret | None:
        if settings.api_key is None:
            return None
        text = unquoted(settings.api_key.reveal().strip())
        return Secret(text) if is_kubeconfig(text) else None
