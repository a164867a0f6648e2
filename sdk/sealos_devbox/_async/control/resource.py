"""Changing a box's object in the cluster, for what the REST API has no field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from sealos_devbox._async.control.http import ControlHttp
from sealos_devbox.errors import (
    AccessDeniedError,
    BoxNotFoundError,
    CapabilityError,
    InvalidRequestError,
    NotFoundError,
    ServiceError,
)
from sealos_devbox.secret import Secret

__all__ = ["ClusterResource", "EngineResource", "NoCustomResource"]

_GROUP = "devbox.sealos.io"
_VERSIONS = ("v1alpha2", "v1alpha1")
"""Of the custom resource, the current one first."""
_MERGE_PATCH = "application/merge-patch+json"


class NoCustomResource:
    """For a credential that is no kubeconfig."""

    async def check(self) -> None:
        """Raise CapabilityError."""
        raise CapabilityError(
            "The size of the storage and the environment of a box can be changed only on its "
            "object in the cluster, and the credential is no kubeconfig.",
            hint="Use a kubeconfig whose cluster can be reached from here.",
        )

    async def patch(self, name: str, body: Mapping[str, Any]) -> None:
        """Raise CapabilityError."""
        del name, body
        await self.check()


class ClusterResource:
    """Through the cluster's API server, with the rights that the kubeconfig gives."""

    def __init__(
        self,
        *,
        text: Secret | None,
        paths: tuple[str, ...],
        context: str | None,
        namespace: str | None,
    ) -> None:
        self._text = text
        self._paths = paths
        self._context = context
        self._namespace = namespace

    async def check(self) -> None:
        """Raise AccessDeniedError unless the user may change boxes."""
        async with await self._open() as access:
            if not await access.may(
                self._namespace or access.namespace, "patch", "devboxes", group=_GROUP
            ):
                raise self._denied()

    async def patch(self, name: str, body: Mapping[str, Any]) -> None:
        """Apply a merge patch to the object of a box."""
        from sealos_devbox._transport.kube.access import resource_path

        async with await self._open() as access:
            namespace = self._namespace or access.namespace
            for version in _VERSIONS:
                path = resource_path("devboxes", namespace, name, group=f"{_GROUP}/{version}")
                try:
                    await access.patch(path, body)
                except AccessDeniedError:
                    raise self._denied() from None
                except (BoxNotFoundError, NotFoundError):
                    continue  # no such box, or no such version of the resource
                return
        raise BoxNotFoundError(f"There is no box {name!r} in the cluster.", hop="cluster")

    async def _open(self) -> Any:  # noqa: ANN401 - KubernetesAccess, imported when it is needed
        try:
            from sealos_devbox._transport.kube.access import KubernetesAccess
            from sealos_devbox._transport.kube.kubeconfig import KubeconfigSource
        except ModuleNotFoundError as error:
            raise CapabilityError(
                f"Reaching the cluster needs the package {error.name}, which is not installed.",
                hint="Install it with: pip install 'sealos-devbox[cluster]'",
            ) from None
        source = KubeconfigSource(
            paths=self._paths,
            text=None if self._text is None else self._text.reveal(),
            context=self._context,
        )
        return await KubernetesAccess.load(source)

    def _denied(self) -> AccessDeniedError:
        return AccessDeniedError(
            "The size of the storage and the environment of a box are changed on its object in the "
            "cluster, and this user may not change that.",
            hop="cluster",
        )


class EngineResource:
    """Through the embedded engine, which serves the cluster's API beside the control plane's."""

    def __init__(self, http: ControlHttp, namespace: str) -> None:
        self._http = http
        self._namespace = namespace

    async def check(self) -> None:
        """Do nothing: who may use the engine may do this."""

    async def patch(self, name: str, body: Mapping[str, Any]) -> None:
        """Apply a merge patch to the object of a box."""
        answer = await self._http.send(
            "PATCH",
            f"/apis/{_GROUP}/{_VERSIONS[0]}/namespaces/{self._namespace}/devboxes/"
            f"{quote(name, safe='')}",
            what=f"Changing the box {name!r}",
            route=f"/apis/{_GROUP}/{_VERSIONS[0]}/namespaces/{{namespace}}/devboxes/{{name}}",
            json=body,
            content_type=_MERGE_PATCH,
            repeatable=True,
        )
        if answer.status == 404 and not answer.json:
            raise CapabilityError("This engine does not serve the cluster's API.", hop="cluster")
        if answer.status == 404:
            raise BoxNotFoundError(f"There is no box {name!r}.", hop="cluster", status=404)
        if answer.status >= 300:
            kind = InvalidRequestError if answer.status < 500 else ServiceError
            said = answer.decoded() if answer.json else None
            text = said.get("message") if isinstance(said, dict) else None
            raise kind(
                f"Changing the box {name!r}: {text or f'HTTP {answer.status}'}.",
                hop="cluster",
                status=answer.status,
            )
