"""The releases of a box: images made of it, and applications that run them."""

from __future__ import annotations

import builtins

import anyio

from sealos_devbox._async.lifecycle import Lifecycle
from sealos_devbox._async.service import BoxRecord, Service
from sealos_devbox.errors import DeadlineExceededError, NotFoundError
from sealos_devbox.models import BoxState, Deployment, Release

__all__ = ["AsyncReleases"]

_POLL = 1.0


class AsyncReleases:
    """The releases of a box."""

    def __init__(self, service: Service, record: BoxRecord) -> None:
        self._service = service
        self._record = record

    async def list(self) -> builtins.list[Release]:
        """Return the releases, newest first."""
        return await (await self._service.control()).releases(self._record.name)

    async def create(
        self, tag: str, description: str = "", *, stop_box: bool = False, timeout: float = 1200.0
    ) -> Release:
        """Make a release of what is in the box.

        The service makes it when the box is stopped next, and until then it is pending: this call
        returns at once. With `stop_box` the box is stopped now, the release is waited for, and the
        box is started again if it ran; all of that within `timeout` seconds.
        """
        if not tag:
            raise ValueError("a release needs a tag")
        control = await self._service.control()
        name = self._record.name
        if not stop_box:
            await control.create_release(name, tag, description)
            return await self._get(tag)
        life = Lifecycle(self._record, control, _never)
        deadline = anyio.current_time() + timeout
        ran = (await control.detail(name)).info.state in (BoxState.RUNNING, BoxState.PENDING)
        await control.create_release(name, tag, description)
        if ran:
            await life.pause(wait=True, timeout=deadline - anyio.current_time())
        release = await self.wait(tag, timeout=deadline - anyio.current_time())
        if ran:
            await life.start(wait=True, timeout=max(deadline - anyio.current_time(), 60.0))
        return release

    async def wait(self, tag: str, *, timeout: float = 900.0) -> Release:
        """Wait until a release is no longer pending, and return it, successful or failed."""
        with anyio.move_on_after(timeout):
            while True:
                release = await self._get(tag)
                if release.state != "pending":
                    return release
                await anyio.sleep(_POLL)
        raise DeadlineExceededError(
            f"The release {tag!r} of {self._record.name!r} was not ready after {timeout:g} s.",
            hop="control-plane",
            hint="It is made when the box is stopped.",
        )

    async def delete(self, tag: str) -> None:
        """Remove a release; raises NotFoundError when there is none."""
        await (await self._service.control()).delete_release(self._record.name, tag)

    async def deploy(self, tag: str) -> Deployment:
        """Run a successful release as an application, with 2 cores and 2 GiB."""
        return await (await self._service.control()).deploy_release(self._record.name, tag)

    async def deployments(self) -> builtins.list[Deployment]:
        """Return the applications that run releases of this box."""
        return await (await self._service.control()).deployments(self._record.name)

    async def _get(self, tag: str) -> Release:
        for release in await self.list():
            if release.tag == tag:
                return release
        raise NotFoundError(f"The box {self._record.name!r} has no release {tag!r}.")


async def _never() -> None:
    """Stand for a connection where none is asked for."""
