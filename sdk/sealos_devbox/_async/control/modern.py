"""The current lineage: v1, and v2alpha where that is better.

Made by v1: nearly everything, for it is what the service's own clients use. By v2alpha: metrics
(v1's are a hundred times too large), sizes that v1 has no choice for, when a box was made, and
looking at a box whose template is gone from the region's database.

One file although it is long: the calls of one lineage, each a few lines about one route. What it
shares with the older one is in lineage.py.
"""

from __future__ import annotations

import builtins
import dataclasses
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sealos_devbox._async.control.boundary import (
    changing_state,
    create_once,
    missing_route,
    of_box,
)
from sealos_devbox._async.control.http import ControlHttp
from sealos_devbox._async.control.lineage import (
    AMBIGUOUS,
    CustomResource,
    field_of,
    same_ports,
    unreliable,
)
from sealos_devbox._async.control.neighbours import agent_health, runtimes
from sealos_devbox._async.service import BoxDetail
from sealos_devbox._planning import bodies, metrics, payloads
from sealos_devbox._planning.addresses import agent_address, box_path
from sealos_devbox._planning.answers import bare_data, v1_data, v2_data
from sealos_devbox._planning.quantities import check_resources
from sealos_devbox._planning.spec import BoxSpec
from sealos_devbox.errors import (
    AuthenticationError,
    BoxNotFoundError,
    DevboxError,
    NotFoundError,
    ProtocolError,
    ServerError,
    ServiceError,
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

__all__ = ["ModernControl"]

_V1 = "/api/v1/devbox"
_V2 = "/api/v2alpha/devbox"


class ModernControl:
    """The calls of the current lineage."""

    description = "the control plane, v1 and v2alpha"

    def __init__(self, http: ControlHttp, resource: CustomResource, *, agents: bool = True) -> None:
        """Speak through `http`; `agents`: whether the addresses of agents lead anywhere."""
        self._http = http
        self._resource = resource
        self.has_agents = agents
        self._agent_at = self._agent_address if agents else None

    # -- boxes -------------------------------------------------------------------------------------

    async def list(self) -> builtins.list[BoxInfo]:
        """Return the boxes whose template the region has: neither v1 nor v2alpha lists others."""
        try:
            answer = await self._v1("GET", _V1, "Listing the boxes", repeatable=True)
        except ServerError as error:
            if not await self._renewed(error):
                raise
            answer = await self._v1("GET", _V1, "Listing the boxes", repeatable=True)
        found: builtins.list[BoxInfo] = payloads.items(answer, payloads.v1_list)
        return found

    async def detail(self, name: str, *, full: bool = False) -> BoxDetail:
        """Return one box."""
        what = f"Looking at the box {name!r}"
        try:
            with of_box(name):
                item = await self._v1(
                    "GET", f"{_V1}/{box_path(name)}", what, f"{_V1}/{{name}}", repeatable=True
                )
        except ServerError as error:
            if "Template not found" not in str(error):
                if not await self._renewed(error):
                    raise
                return await self.detail(name, full=full)
            return BoxDetail(payloads.v2_detail(await self._v2_detail(name), self._agent_at))
        info = payloads.v1_detail(item, self._agent_at)
        if full:
            info = await self._completed(name, info)
        return BoxDetail(info, payloads.agent_token(item))

    async def create(self, spec: BoxSpec) -> builtins.list[str]:
        """Make a box."""
        if spec.storage is not None:
            await self._resource.check()  # before there is a box
        by_v1 = bodies.v1_takes(spec.cpu, spec.memory)
        if not by_v1:
            check_resources(spec.cpu, spec.memory, any_value=bodies.v2_takes(spec))

        async def post() -> builtins.list[str]:
            what = f"Making the box {spec.name!r}"
            if by_v1:
                data = await self._v1(
                    "POST", _V1, what, json=bodies.v1_create(spec), repeatable=False
                )
                return _port_errors(data)
            answer = await self._http.send(
                "POST", _V2, what=what, json=bodies.v2_create(spec), repeatable=False
            )
            v2_data(answer)
            return []

        notes = await create_once(spec, post, lambda: self._exists(spec.name))
        if spec.storage is not None:
            await self.set_storage(spec.name, spec.storage)
        return notes

    async def delete(self, name: str) -> None:
        """Ask that it goes."""
        answer = await self._http.send(
            "DELETE",
            f"{_V1}/{box_path(name)}/delete",
            what=f"Deleting the box {name!r}",
            route=f"{_V1}/{{name}}/delete",
            repeatable=True,
        )
        try:
            with of_box(name):
                v1_data(answer)
        except BoxNotFoundError:
            if answer.attempts == 1:
                raise
            # The attempt before did it.

    # -- what changes its state --------------------------------------------------------------------

    async def start(self, name: str) -> None:
        """Ask that it runs."""
        await self._lifecycle(name, "start", "Starting")

    async def pause(self, name: str) -> None:
        """Ask that it stops."""
        await self._lifecycle(name, "pause", "Pausing")

    async def shutdown(self, name: str) -> None:
        """Ask that it stops and gives its network up."""
        await self._lifecycle(name, "shutdown", "Shutting down")

    async def _lifecycle(self, name: str, action: str, doing: str) -> None:
        with changing_state(name):
            await self._box_call(
                "POST", name, f"/{action}", f"{doing} the box {name!r}", json={}, repeatable=True
            )

    # -- its settings ------------------------------------------------------------------------------

    async def set_resources(self, name: str, cpu: float | None, memory: int | None) -> None:
        """Change its limits."""
        what = f"Changing the limits of the box {name!r}"
        if bodies.v1_takes(cpu, memory):
            present = (await self.detail(name)).info.resources
            full = (cpu or present.cpu, memory or present.memory)
            if bodies.v1_takes(*full):
                body = {"resource": bodies.v1_resource(*full)}
                await self._box_call("PATCH", name, "", what, json=body, repeatable=True)
                return
        check_resources(cpu, memory, any_value=True)
        answer = await self._http.send(
            "PATCH",
            f"{_V2}/{box_path(name)}",
            what=what,
            route=f"{_V2}/{{name}}",
            json={"quota": bodies.v2_quota(cpu, memory)},
            repeatable=True,
        )
        with of_box(name):
            v2_data(answer)

    async def set_ports(
        self, name: str, ports: Sequence[PortRequest | Port]
    ) -> builtins.list[Port]:
        """Make these its ports. Not atomic: after an error some may have been changed."""
        try:
            data = await self._box_call(
                "PUT",
                name,
                "/ports",
                f"Changing the ports of the box {name!r}",
                json={"ports": bodies.v1_ports(ports)},
                repeatable=False,
                or_else=NotFoundError,
            )
        except AMBIGUOUS:
            # Repeating it would make new ports twice: see what became of it.
            present = (await self.detail(name)).info.ports
            if same_ports(present, ports):
                return list(present)
            raise
        found: builtins.list[Port] = payloads.items(field_of(data, "ports"), payloads.port_of)
        return found

    async def autostart(self, name: str, command: str | None) -> None:
        """Have a command run in it."""
        body = {} if command is None else {"execCommand": command}
        what = f"Setting the autostart of the box {name!r}"
        await self._box_call("POST", name, "/autostart", what, json=body, repeatable=True)

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
        return list((await self.detail(name)).info.pods)

    async def metrics(
        self, name: str, start: datetime, end: datetime, step: float, *, allow_shared: bool
    ) -> Metrics:
        """Return what it used."""
        names = [info.name for info in await self.list()]
        if name not in names:
            await self.detail(name)  # says that it does not exist, if so
        shared = metrics.shared_with(name, names)
        if shared and not allow_shared:
            raise unreliable(name, shared)
        params = {
            "start": str(round(start.timestamp())),
            "end": str(round(end.timestamp())),
            "step": metrics.step_text(step),
        }
        what = f"Asking for the metrics of the box {name!r}"
        tail = f"/{box_path(name)}/monitor"
        answer = await self._http.send(
            "GET",
            _V2 + tail,
            what=what,
            route=f"{_V2}/{{name}}/monitor",
            params=params,
            repeatable=True,
        )
        try:
            found = metrics.samples(v2_data(answer), factor=1.0)
        except NotFoundError as error:
            if not missing_route(error):
                raise BoxNotFoundError(f"There is no box {name!r}.", hop=error.hop) from None
            answer = await self._http.send(
                "GET",
                _V1 + tail,
                what=what,
                route=f"{_V1}/{{name}}/monitor",
                params=params,
                repeatable=True,
            )
            with of_box(name):
                found = metrics.samples(bare_data(answer), factor=0.01)
        return Metrics(start, end, step, tuple(found), shared)

    async def agent_health(self, detail: BoxDetail) -> str | None:
        """Ask the box's agent: None when it is well, else what is wrong."""
        if detail.info.agent_url is None:
            return "its address is not known"
        return await agent_health(self._http, detail.info.agent_url, detail.agent_token)

    # -- releases ----------------------------------------------------------------------------------

    async def releases(self, name: str) -> builtins.list[Release]:
        """Return its releases, newest first."""
        what = f"Listing the releases of the box {name!r}"
        data = await self._box_call("GET", name, "/release", what, repeatable=True)
        found: builtins.list[Release] = payloads.items(data, payloads.release)
        return found

    async def create_release(self, name: str, tag: str, description: str) -> None:
        """Ask for a release."""
        body = {"tag": tag, "releaseDes": description}
        what = f"Making the release {tag!r} of the box {name!r}"
        try:
            await self._box_call("POST", name, "/release", what, json=body, repeatable=False)
        except AMBIGUOUS:
            if not any(release.tag == tag for release in await self.releases(name)):
                raise

    async def delete_release(self, name: str, tag: str) -> None:
        """Remove a release."""
        answer = await self._http.send(
            "DELETE",
            f"{_V1}/{box_path(name)}/release/{box_path(tag)}",
            what=f"Deleting the release {tag!r} of the box {name!r}",
            route=f"{_V1}/{{name}}/release/{{tag}}",
            repeatable=True,
        )
        try:
            v1_data(answer)
        except NotFoundError:
            if answer.attempts == 1:
                raise

    async def deploy_release(self, name: str, tag: str) -> Deployment:
        """Run a release as an application."""
        data = await self._box_call(
            "POST",
            name,
            f"/release/{box_path(tag)}/deploy",
            f"Deploying the release {tag!r} of the box {name!r}",
            json={},
            repeatable=False,
            or_else=NotFoundError,
        )
        domains = field_of(data, "publicDomains")
        hosts = [one.get("host") for one in domains or () if isinstance(one, dict)]
        return Deployment(
            name=str(field_of(data, "appName") or ""),
            kind="deployment",
            tag=tag,
            domains=tuple(host for host in hosts if isinstance(host, str) and host),
        )

    async def deployments(self, name: str) -> builtins.list[Deployment]:
        """Return the applications that run its releases."""
        what = f"Listing the deployments of the box {name!r}"
        data = await self._box_call("GET", name, "/deploy", what, repeatable=True)
        found: builtins.list[Deployment] = payloads.items(data, payloads.deployment)
        return found

    # -- templates ---------------------------------------------------------------------------------

    async def templates(self) -> builtins.list[Template]:
        """Return what boxes can be made from."""
        data = await self._v1("GET", f"{_V1}/templates", "Listing the templates", repeatable=True)
        found: builtins.list[Template] = payloads.items(data, payloads.template)
        return found

    async def runtimes(self) -> builtins.list[Runtime]:
        """Return what is known of the kinds of templates."""
        return await runtimes(self._http, await self.templates())

    # -- requests ----------------------------------------------------------------------------------

    async def _v1(
        self,
        method: str,
        path: str,
        what: str,
        route: str = "",
        *,
        json: Any = None,  # noqa: ANN401 - any JSON value
        repeatable: bool,
    ) -> Any:  # noqa: ANN401 - what the route answers
        answer = await self._http.send(
            method, path, what=what, route=route, json=json, repeatable=repeatable
        )
        return v1_data(answer)

    async def _box_call(
        self,
        method: str,
        name: str,
        tail: str,
        what: str,
        *,
        json: Any = None,  # noqa: ANN401 - any JSON value
        repeatable: bool,
        or_else: type[DevboxError] = BoxNotFoundError,
    ) -> Any:  # noqa: ANN401 - what the route answers
        """Ask something of one box; `or_else`: what "not found" is about, if not the box alone."""
        path = f"{_V1}/{box_path(name)}{tail}"
        route = f"{_V1}/{{name}}{tail}"
        if or_else is BoxNotFoundError:
            with of_box(name):
                return await self._v1(method, path, what, route, json=json, repeatable=repeatable)
        return await self._v1(method, path, what, route, json=json, repeatable=repeatable)

    async def _v2_detail(self, name: str) -> Any:  # noqa: ANN401 - what the route answers
        answer = await self._http.send(
            "GET",
            f"{_V2}/{box_path(name)}",
            what=f"Looking at the box {name!r}",
            route=f"{_V2}/{{name}}",
            repeatable=True,
        )
        with of_box(name):
            return v2_data(answer)

    async def _completed(self, name: str, info: BoxInfo) -> BoxInfo:
        """Add what only v2alpha says; a service that does not have it says no more than v1."""
        try:
            more = payloads.v2_detail(await self._v2_detail(name), self._agent_at)
        except (ServiceError, ProtocolError, BoxNotFoundError):
            return info
        return dataclasses.replace(info, created_at=more.created_at)

    def _agent_address(self, unique_id: str) -> str:
        return agent_address(self._http.credentials.endpoint, unique_id)

    async def _exists(self, name: str) -> bool:
        """Whether there is such a box, however incomplete."""
        try:
            await self.detail(name)
        except BoxNotFoundError:
            return any(info.name == name for info in await self.list())
        except ServerError:
            # A part of it is not there yet, which the list does not need.
            return any(info.name == name for info in await self.list())
        return True

    async def _renewed(self, error: ServerError) -> bool:
        """Look whether a 500 of these routes means that the credential is not accepted.

        They answer so to one that is not; listing releases answers 403. Returns whether there is
        another credential by now, and raises AuthenticationError when there is none.
        """
        if error.hop != "control-plane":
            return False
        before = self._http.credentials.header
        answer = await self._http.send(
            "GET",
            f"{_V1}/x/release",
            what="Checking the credential",
            route=f"{_V1}/{{name}}/release",
            repeatable=False,
        )
        try:
            v1_data(answer)
        except AuthenticationError as said:
            raise AuthenticationError(
                "The control plane does not accept the credential.",
                status=said.status,
                request_id=said.request_id,
            ) from None
        except ServiceError:
            pass  # it is accepted, which is all that was asked
        return self._http.credentials.header != before


def _port_errors(data: object) -> builtins.list[str]:
    failed = field_of(data, "portErrors")
    return [
        f"Port {one.get('port')} was not opened: {one.get('error')}"
        for one in failed or ()
        if isinstance(one, dict)
    ]
