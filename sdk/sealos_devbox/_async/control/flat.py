"""The older lineage: flat routes, HTTP 200 for everything, no agent.

It has the routes below ``/{name}`` too, but neither list nor detail there, and no v2alpha to rely
on. What it cannot do is refused before anything is sent.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sealos_devbox._async.control.boundary import changing_state, create_once, of_box, web_route
from sealos_devbox._async.control.http import ControlHttp
from sealos_devbox._async.control.lineage import AMBIGUOUS, CustomResource, unreliable
from sealos_devbox._async.service import BoxDetail
from sealos_devbox._planning import bodies, metrics, payloads
from sealos_devbox._planning.addresses import box_path
from sealos_devbox._planning.answers import v1_data
from sealos_devbox._planning.quantities import check_resources
from sealos_devbox._planning.spec import BoxSpec
from sealos_devbox._planning.templates import V1_OLD_RUNTIMES
from sealos_devbox.errors import (
    AlreadyExistsError,
    BoxNotFoundError,
    CapabilityError,
    NotFoundError,
)
from sealos_devbox.models import (
    BoxInfo,
    Deployment,
    EnvVar,
    Metrics,
    Pod,
    Port,
    PortRequest,
    Release,
    Runtime,
    Template,
)

__all__ = ["FlatControl"]

_V1 = "/api/v1/devbox"


class FlatControl:
    """The calls of the older lineage."""

    description = "the control plane, older flat routes"
    has_agents = False

    def __init__(self, http: ControlHttp, resource: CustomResource) -> None:
        self._http = http
        self._resource = resource

    # -- boxes -------------------------------------------------------------------------------------

    async def list(self) -> builtins.list[BoxInfo]:
        """Return all boxes. Neither state nor size is known by it."""
        data = await self._call("GET", "/list", "Listing the boxes", repeatable=True)
        found: builtins.list[BoxInfo] = payloads.items(data, payloads.flat_list)
        return found

    async def detail(self, name: str, *, full: bool = False) -> BoxDetail:
        """Return one box; there is nothing more to have."""
        del full
        with of_box(name):
            data = await self._call(
                "GET",
                "/get",
                f"Looking at the box {name!r}",
                params={"devboxName": name},
                repeatable=True,
            )
        if data is None:
            raise BoxNotFoundError(f"There is no box {name!r}.", hop="control-plane")
        return BoxDetail(payloads.flat_detail(data))

    async def create(self, spec: BoxSpec) -> builtins.list[str]:
        """Make a box, and open its ports."""
        if spec.env:
            await self._resource.check()
        runtime = spec.template.runtime
        what = f"Making the box {spec.name!r}"
        if spec.by_name:
            raise CapabilityError(
                "This region makes no boxes of a template that is named: it has a closed list.",
                hint="Name the runtime instead.",
            )
        by_template = runtime in V1_OLD_RUNTIMES and bodies.v1_takes(spec.cpu, spec.memory)
        if not by_template and runtime not in bodies.FLAT_RUNTIMES:
            check_resources(spec.cpu, spec.memory, any_value=False)
            raise CapabilityError(f"This region makes no boxes of {runtime!r}.")

        async def post() -> builtins.list[str]:
            if by_template:
                body = bodies.old_create(spec)
                await self._call("POST", "", what, json=body, repeatable=False)
            else:
                body = bodies.flat_create(spec)
                await self._call("POST", "/create", what, json=body, repeatable=False)
            return []

        notes = await create_once(spec, post, lambda: self._exists(spec.name))
        if spec.ports and not by_template:
            await self.set_ports(spec.name, spec.ports)
        if spec.env:
            await self.set_env(spec.name, spec.env)
        if spec.autostart:
            await self.autostart(spec.name, None)
        return notes

    async def delete(self, name: str) -> None:
        """Ask that it goes."""
        answer = await self._http.send(
            "DELETE",
            f"{_V1}/delete",
            what=f"Deleting the box {name!r}",
            params={"devboxName": name},
            repeatable=True,
        )
        try:
            with of_box(name):
                v1_data(answer)
        except BoxNotFoundError:
            if answer.attempts == 1:
                raise

    async def start(self, name: str) -> None:
        """Ask that it runs."""
        await self._lifecycle(name, "start", "Starting")

    async def pause(self, name: str) -> None:
        """Ask that it stops."""
        await self._lifecycle(name, "stop", "Pausing")

    async def shutdown(self, name: str) -> None:
        """Ask that it stops and gives its network up."""
        await self._lifecycle(name, "shutdown", "Shutting down")

    async def _lifecycle(self, name: str, action: str, doing: str) -> None:
        body = {"devboxName": name, "action": action}
        with changing_state(name):
            await self._call(
                "POST", "/lifecycle", f"{doing} the box {name!r}", json=body, repeatable=True
            )

    # -- its settings ------------------------------------------------------------------------------

    async def set_resources(self, name: str, cpu: float | None, memory: int | None) -> None:
        """Change its limits, to one of the choices."""
        present = (await self.detail(name)).info.resources
        check_resources(cpu, memory, any_value=False)
        body = {"resource": bodies.v1_resource(cpu or present.cpu, memory or present.memory)}
        what = f"Changing the limits of the box {name!r}"
        with of_box(name):
            await self._call("PATCH", f"/{box_path(name)}", what, json=body, repeatable=True)

    async def set_ports(
        self, name: str, ports: Sequence[PortRequest | Port]
    ) -> builtins.list[Port]:
        """Make these its ports, one request for each that differs."""
        if any(port.custom_domain or not port.public for port in ports):
            raise CapabilityError("This region's ports are public, and have no domains of yours.")
        present = {port.number: port for port in (await self.detail(name)).info.ports}
        wanted = {port.number: port for port in ports}
        what = f"Changing the ports of the box {name!r}"
        for number, old in present.items():
            new = wanted.get(number)
            if new is None or new.protocol != old.protocol:
                body: dict[str, Any] = {"devboxName": name, "port": number}
                try:
                    await self._call("POST", "/ports/remove", what, json=body, repeatable=True)
                except NotFoundError:
                    continue  # an attempt before did it
        for number, new in wanted.items():
            found = present.get(number)
            if found is None or found.protocol != new.protocol:
                body = {"devboxName": name, "port": number, "protocol": new.protocol.upper()}
                try:
                    await self._call("POST", "/ports/create", what, json=body, repeatable=True)
                except AlreadyExistsError:
                    continue
        return list((await self.detail(name)).info.ports)

    async def autostart(self, name: str, command: str | None) -> None:
        """Have a command run in it."""
        body = {} if command is None else {"execCommand": command}
        what = f"Setting the autostart of the box {name!r}"
        with of_box(name):
            await self._call(
                "POST", f"/{box_path(name)}/autostart", what, json=body, repeatable=True
            )

    async def check_resource(self) -> None:
        """Raise what changing its object in the cluster would."""
        await self._resource.check()

    async def set_storage(self, name: str, storage: int) -> None:
        """Change the limit of its root file system."""
        await self._resource.patch(name, bodies.storage_patch(storage))

    async def set_env(self, name: str, env: Sequence[EnvVar]) -> None:
        """Replace its environment."""
        await self._resource.patch(name, bodies.env_patch(env))

    # -- what is in it -----------------------------------------------------------------------------

    async def pods(self, name: str) -> builtins.list[Pod]:
        """Return its pods."""
        answer = await self._http.send(
            "GET",
            "/api/getDevboxPodsByDevboxName",
            what=f"Listing the pods of the box {name!r}",
            params={"name": name},
            repeatable=True,
        )
        with web_route("which pods a box has"):
            data = v1_data(answer)
        found: builtins.list[Pod] = payloads.items(data, payloads.pod_from_kubernetes)
        return found

    async def metrics(
        self, name: str, start: datetime, end: datetime, step: float, *, allow_shared: bool
    ) -> Metrics:
        """Return what it used, from the web interface's route."""
        names = [info.name for info in await self.list()]
        if name not in names:
            raise BoxNotFoundError(f"There is no box {name!r}.")
        shared = metrics.shared_with(name, names)
        if shared and not allow_shared:
            raise unreliable(name, shared)
        figures = []
        for key in ("average_cpu", "average_memory"):
            answer = await self._http.send(
                "GET",
                "/api/monitor/getMonitorData",
                what=f"Asking for the metrics of the box {name!r}",
                params={
                    "queryName": name,
                    "queryKey": key,
                    "start": str(round(start.timestamp() * 1000)),
                    "end": str(round(end.timestamp() * 1000)),
                    "step": metrics.step_text(step),
                },
                repeatable=True,
            )
            with web_route("what a box used"):
                figures.append(v1_data(answer))
        found = metrics.merged_series(*figures, factor=0.01)
        return Metrics(start, end, step, tuple(found), shared)

    async def agent_health(self, detail: BoxDetail) -> str | None:
        """Say that there is none."""
        del detail
        return "boxes of this region have no agent"

    # -- releases ----------------------------------------------------------------------------------

    async def releases(self, name: str) -> builtins.list[Release]:
        """Return its releases, newest first."""
        data = await self._call(
            "GET",
            "/releases",
            f"Listing the releases of the box {name!r}",
            params={"devboxName": name},
            repeatable=True,
        )
        found: builtins.list[Release] = payloads.items(data, payloads.release)
        return found

    async def create_release(self, name: str, tag: str, description: str) -> None:
        """Ask for a release."""
        body = {"devboxName": name, "tag": tag, "releaseDes": description}
        what = f"Making the release {tag!r} of the box {name!r}"
        try:
            with of_box(name):
                await self._call("POST", "/release", what, json=body, repeatable=False)
        except AMBIGUOUS:
            if not any(release.tag == tag for release in await self.releases(name)):
                raise

    async def delete_release(self, name: str, tag: str) -> None:
        """Remove a release."""
        path = f"/{box_path(name)}/release/{box_path(tag)}"
        what = f"Deleting the release {tag!r} of the box {name!r}"
        await self._call("DELETE", path, what, repeatable=False)

    async def deploy_release(self, name: str, tag: str) -> Deployment:
        """Run a release as an application."""
        path = f"/{box_path(name)}/release/{box_path(tag)}/deploy"
        what = f"Deploying the release {tag!r} of the box {name!r}"
        data = await self._call("POST", path, what, json={}, repeatable=False)
        app = data.get("appName") if isinstance(data, dict) else None
        return Deployment(name=str(app or ""), kind="deployment", tag=tag)

    async def deployments(self, name: str) -> builtins.list[Deployment]:
        """Refuse: it has no such route."""
        del name
        raise CapabilityError("This region does not say what runs the releases of a box.")

    # -- templates ---------------------------------------------------------------------------------

    async def templates(self) -> builtins.list[Template]:
        """Return what boxes can be made from: a closed list, for there is no route that says it."""
        return [Template(runtime) for runtime in sorted({*V1_OLD_RUNTIMES, *bodies.FLAT_RUNTIMES})]

    async def runtimes(self) -> builtins.list[Runtime]:
        """Return the names of the templates."""
        return [Runtime(template.runtime) for template in await self.templates()]

    # -- requests ----------------------------------------------------------------------------------

    async def _call(
        self,
        method: str,
        tail: str,
        what: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Any = None,  # noqa: ANN401 - any JSON value
        repeatable: bool,
    ) -> Any:  # noqa: ANN401 - what the route answers
        answer = await self._http.send(
            method, f"{_V1}{tail}", what=what, params=params, json=json, repeatable=repeatable
        )
        return v1_data(answer)

    async def _exists(self, name: str) -> bool:
        return any(info.name == name for info in await self.list())
