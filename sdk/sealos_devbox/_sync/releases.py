# Generated from _async/releases.py by sdk/tools/generate_sync.py (make generate).
"""The releases of a box: images made of it, and applications that run them."""

from __future__ import annotations

import builtins

from sealos_devbox._async.releases import AsyncReleases
from sealos_devbox._sync._portal import Portal
from sealos_devbox.models import Deployment, Release

__all__ = ["Releases"]


class Releases:
    """The releases of a box."""

    def __init__(self, portal: Portal, asynchronous: AsyncReleases) -> None:
        self._portal = portal
        self._async = asynchronous

    def list(self) -> builtins.list[Release]:
        """Return the releases, newest first."""
        return self._portal.call(self._async.list)

    def create(
        self, tag: str, description: str = "", *, stop_box: bool = False, timeout: float = 1200.0
    ) -> Release:
        """Make a release of what is in the box.

        The service makes it when the box is stopped next, and until then it is pending: this call
        returns at once. With `stop_box` the box is stopped now, the release is waited for, and the
        box is started again if it ran; all of that within `timeout` seconds.
        """
        return self._portal.call(
            self._async.create, tag, description, stop_box=stop_box, timeout=timeout
        )

    def wait(self, tag: str, *, timeout: float = 900.0) -> Release:
        """Wait until a release is no longer pending, and return it, successful or failed."""
        return self._portal.call(self._async.wait, tag, timeout=timeout)

    def delete(self, tag: str) -> None:
        """Remove a release; raises NotFoundError when there is none."""
        self._portal.call(self._async.delete, tag)

    def deploy(self, tag: str) -> Deployment:
        """Run a successful release as an application, with 2 cores and 2 GiB."""
        return self._portal.call(self._async.deploy, tag)

    def deployments(self) -> builtins.list[Deployment]:
        """Return the applications that run releases of this box."""
        return self._portal.call(self._async.deployments)
