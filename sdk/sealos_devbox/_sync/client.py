# Generated from _async/client.py by sdk/tools/generate_sync.py (make generate).
"""The client: boxes by name."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from sealos_devbox._async.client import AsyncDevbox
from sealos_devbox._sync._portal import Portal
from sealos_devbox._sync.box import Box
from sealos_devbox.config import DevboxConfig
from sealos_devbox.models import Arrears, EnvVar, Port, PortRequest, Runtime, Template

__all__ = ["Devbox"]


class Devbox:
    """The boxes of one service, which is the one that the configuration means.

    Use it as ``with Devbox() as devbox:``; the end of the block closes the connections
    of its boxes. Nothing is sent before the first call. Raises ConfigurationError when the service
    that is meant cannot be told, CapabilityError when it is ruled out.
    """

    def __init__(self, config: DevboxConfig | None = None) -> None:
        self._async = AsyncDevbox(config)
        self._portal = Portal(self._async)

    @property
    def service(self) -> str:
        """Which service this is, for people to read."""
        return self._async.service

    @property
    def is_embedded(self) -> bool:
        """Whether this is the embedded engine, whose boxes are directories of this machine."""
        return self._async.is_embedded

    @property
    def reason(self) -> str:
        """Why this service was chosen, for people to read."""
        return self._async.reason

    def create(
        self,
        name: str | None = None,
        *,
        language: str | None = None,
        runtime: str | None = None,
        template: str | None = None,
        cpu: float | str | None = None,
        memory: int | str | None = None,
        storage: int | str | None = None,
        ports: Sequence[int | PortRequest | Port] = (),
        env: Mapping[str, str] | Sequence[EnvVar] | None = None,
        autostart: bool = False,
        wait: bool = True,
        timeout: float = 300.0,
    ) -> Box:
        """Make a box; raises BoxExistsError when there is one of that name.

        `runtime` names a template of the region, ``"python"`` or ``"python:3.11"``; `language` is
        enough too. A region has one version of each template, so the nearest is taken, and when it
        is not what was asked for, the log and `template` of the box say so. `template` takes none
        but the one of that name, also one that `templates` does not list. Without all three, the
        embedded engine makes a box that is an empty directory.

        `cpu` is in cores or as ``"500m"``, by default 1; `memory` and `storage` in bytes or as
        ``"2Gi"``, by default 2 GiB and what the service gives. Regions take cpu 0.1, 0.2, 0.5, 1,
        2, 4, 8, 16 and memory 0.1, 0.5, 1, 2, 4, 8, 16, 32 GiB, and for most runtimes anything
        between 0.1 and 32. What a region does not have is ValueError, with what is nearest.
        `storage` is set on the box's object in the cluster, where
        the credential allows it; else an error is raised before anything is made.

        With `wait`, returns when the box can be used. Raises DeadlineExceededError after `timeout`
        seconds; the box may be there all the same. A failed request is repeated only after looking
        whether the box was made. Leaving the block of a box that this made deletes it.
        """
        return Box(
            self._portal,
            self._portal.call(
                self._async.create,
                name,
                language=language,
                runtime=runtime,
                template=template,
                cpu=cpu,
                memory=memory,
                storage=storage,
                ports=ports,
                env=env,
                autostart=autostart,
                wait=wait,
                timeout=timeout,
            ),
        )

    def get(self, name: str) -> Box:
        """Return the box of that name; raises BoxNotFoundError when there is none."""
        return Box(self._portal, self._portal.call(self._async.get, name))

    def get_or_create(
        self,
        name: str,
        *,
        language: str | None = None,
        runtime: str | None = None,
        template: str | None = None,
        cpu: float | str | None = None,
        memory: int | str | None = None,
        storage: int | str | None = None,
        ports: Sequence[int | PortRequest | Port] = (),
        env: Mapping[str, str] | Sequence[EnvVar] | None = None,
        autostart: bool = False,
        wait: bool = True,
        timeout: float = 300.0,
    ) -> Box:
        """Return the box of that name, which is made if need be; of two callers, both get it.

        What is asked for besides the name is for a box that has to be made, see `create`: one that
        there is stays as it is, stopped too. Leaving the block of this box does not delete it.
        """
        return Box(
            self._portal,
            self._portal.call(
                self._async.get_or_create,
                name,
                language=language,
                runtime=runtime,
                template=template,
                cpu=cpu,
                memory=memory,
                storage=storage,
                ports=ports,
                env=env,
                autostart=autostart,
                wait=wait,
                timeout=timeout,
            ),
        )

    def delete(self, name: str, *, wait: bool = True, timeout: float = 120.0) -> None:
        """Remove a box with all its files; raises BoxNotFoundError when there is none."""
        self._portal.call(self._async.delete, name, wait=wait, timeout=timeout)

    def list(self) -> builtins.list[Box]:
        """Return the boxes, by name.

        A region lists no box whose template it has no longer; `get` finds that by its name.
        """
        return [Box(self._portal, item) for item in self._portal.call(self._async.list)]

    def arrears(self) -> Arrears | None:
        """Return what the cluster holds against a workspace whose account is in arrears.

        None where nothing shows it: there is nothing, or the credential is no kubeconfig, or may
        not read it. Two requests at once, to the cluster's API server; raises ConnectError when
        that cannot be reached.
        """
        return self._portal.call(self._async.arrears)

    def templates(self) -> builtins.list[Template]:
        """Return what the region makes boxes from: one template of each runtime."""
        return self._portal.call(self._async.templates)

    def runtimes(self) -> builtins.list[Runtime]:
        """Return the runtimes of the region's templates, with what is known of them."""
        return self._portal.call(self._async.runtimes)

    def close(self) -> None:
        """Close all connections; further calls raise RuntimeError. Done at exit if not before."""
        self._portal.close()

    def __enter__(self) -> Self:
        self._portal.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._portal.close()
