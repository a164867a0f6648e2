"""v1 of the current lineage (control-plane.md 4)."""

from __future__ import annotations

import uuid
from functools import partial
from typing import Any

from anyio import to_thread

from sealos_devbox.server.control import boxes, forms
from sealos_devbox.server.control import v1_values as values
from sealos_devbox.server.control.envelope import Bare, Failure, envelope_schema
from sealos_devbox.server.operations import Answer, Call, Invalid, Operation, Parameter
from sealos_devbox.server.record import ReleaseRecord, State
from sealos_devbox.server.refusals import Refusal
from sealos_devbox.server.templates import Repository

__all__ = ["LIFECYCLE", "OPERATIONS"]


BASE = "/api/v1/devbox"


async def list_boxes(call: Call) -> list[values.ListItem]:
    """All boxes whose template the region still has."""
    found = await to_thread.run_sync(call.engine.boxes)
    return [
        values.list_item(box)
        for box in found
        if call.engine.templates.by_template(box.record.template_uid) is not None
    ]


def _repository(call: Call, form: forms.CreateForm) -> Repository:
    # `isRuntimeName` compares with the repository's name instead, which is the same text here.
    found = call.engine.templates.find(form.runtime)
    if found is None:
        raise Failure(404, "Runtime not found or not available")
    return found


async def create(call: Call) -> Bare:
    """Make a box."""
    form: forms.CreateForm = call.body
    forms.check_choices(form.resource)
    forms.check_env(form.env)
    repository = _repository(call, form)
    try:
        created = await to_thread.run_sync(
            partial(
                boxes.create,
                call.engine,
                form.name,
                repository,
                cpu=form.resource.cpu,
                memory=form.resource.memory,
                env=form.env,
                ports=form.ports,
                autostart=form.autostart,
            )
        )
    except Refusal as refusal:
        if refusal.status == 409:
            raise Failure(409, "Devbox already exists") from None
        raise
    answer = created_box(call, created)
    if form.autostart:
        answer.autostarted = True
    return Bare(answer, 201 if created.failed else 200, wrapped=True)


def created_box(call: Call, created: boxes.Created) -> values.CreatedBox:
    """Describe a box that was made."""
    box = created.box
    ports = [values.port_item(call.engine, box, port) for port in box.record.ports]
    failed = [values.PortError(number, error) for number, error in created.failed]
    answer = values.CreatedBox(
        name=box.name,
        ssh_port=(
            values.SSH_GATE_PORT if box.record.network == "SSHGate" else values.node_port(box)
        ),
        base64_private_key=values.encoded_key(box),
        user_name="devbox",
        working_dir=str(box.workspace),
        domain=values.ssh_host(call.engine),
        ports=ports,
        summary=values.Summary(len(ports) + len(failed), len(ports), len(failed)),
    )
    if failed:
        answer.port_errors = failed
    return answer


async def detail(call: Call) -> values.Detail:
    """One box."""
    box = await to_thread.run_sync(call.engine.box, call.name)
    if call.engine.templates.by_template(box.record.template_uid) is None:
        raise Failure(500, "Template not found")
    return values.detail(call.engine, box)


async def patch(call: Call) -> dict[str, Any]:
    """Change sizes and ports."""
    form: forms.PatchForm = call.body
    result: dict[str, Any] = {}
    if form.resource is not None:
        forms.check_choices(form.resource)
    await to_thread.run_sync(call.engine.box, call.name)
    if form.resource is not None:
        cpu, memory = form.resource.cpu, form.resource.memory
        box = await to_thread.run_sync(
            partial(boxes.set_resource, call.engine, call.name, cpu=cpu, memory=memory)
        )
        result["resource"] = {
            "name": box.name,
            "resource": {"cpu": cpu, "memory": memory},
            "k8sResource": {
                "cpu": f"{box.record.cpu_millis}m",
                "memory": f"{box.record.memory_mib}Mi",
            },
            "status": box.phase,
            "updatedAt": values.iso(call.engine.clock()),
        }
    if form.ports is not None:
        result["ports"] = await _ports(call, form.ports)
    return result


async def put_ports(call: Call) -> dict[str, Any]:
    """Make the ports of a box what the body says."""
    return {"ports": await _ports(call, call.body.ports)}


async def _ports(call: Call, wanted: list[forms.PortForm]) -> list[values.PortItem]:
    ports = await to_thread.run_sync(boxes.set_ports, call.engine, call.name, wanted)
    box = await to_thread.run_sync(call.engine.box, call.name)
    return [values.port_item(call.engine, box, port) for port in ports]


async def delete(call: Call) -> str:
    """Remove a box with everything in it."""
    await to_thread.run_sync(call.engine.delete, call.name)
    return "success delete devbox"


async def _state(call: Call, state: State) -> None:
    await to_thread.run_sync(call.engine.set_state, call.name, state)


async def start(call: Call) -> dict[str, str]:
    """Ask for a running box."""
    await _state(call, "Running")
    return {"message": "success start devbox", "devboxName": call.name}


async def pause(call: Call) -> dict[str, Any]:
    """Ask for a stopped box, in spite of the name."""
    await _state(call, "Stopped")
    return {"message": "success pause devbox", "devboxName": call.name, "updatedIngresses": 0}


async def restart(call: Call) -> str:
    """Stop a box and start it."""
    if not await to_thread.run_sync(call.engine.restart, call.name):
        raise Failure(500, "Max retries reached while waiting for the devbox to stop")
    return "success restart devbox"


async def shutdown(call: Call) -> str:
    """Stop a box and give its network back."""
    await _state(call, "Shutdown")
    return "success shutdown devbox"


async def autostart(call: Call) -> dict[str, Any]:
    """Run a command once the box runs."""
    command = (call.body.exec_command if call.body else None) or boxes.DEFAULT_AUTOSTART

    def change() -> None:
        with call.engine.changing(call.name) as box:
            box.record.autostart = command

    await to_thread.run_sync(change)
    await to_thread.run_sync(call.engine.box, call.name)  # runs it, if the box runs
    name = call.name
    return {
        "devboxName": name,
        "autostartCreated": True,
        "jobRecreated": False,
        "resources": [
            f"{name}-executor",
            f"{name}-executor-role",
            f"{name}-executor-binding",
            f"{name}-exec-job",
        ],
    }


async def list_releases(call: Call) -> list[values.ReleaseItem]:
    """The releases of a box, newest first."""
    box = await to_thread.run_sync(call.engine.box, call.name)
    ordered = sorted(box.record.releases, key=lambda release: release.created, reverse=True)
    return [values.release_item(box, release) for release in ordered]


async def create_release(call: Call) -> dict[str, str]:
    """Make a release, which stays Pending until the box is stopped."""
    form: forms.ReleaseForm = call.body
    release = ReleaseRecord(
        uid=str(uuid.uuid4()),
        tag=form.tag,
        description=form.release_des,
        created=call.engine.clock(),
    )
    await to_thread.run_sync(add_release, call, release)
    return {
        "devboxName": call.name,
        "tag": form.tag,
        "image": f"registry.invalid/{call.engine.settings.namespace}/{call.name}:{form.tag}",
        "releaseDes": form.release_des,
        "createdAt": values.iso(release.created),
    }


def add_release(call: Call, release: ReleaseRecord, name: str | None = None) -> None:
    """Write a release of a box down; raises Failure when the tag is taken."""
    with call.engine.changing(call.name if name is None else name) as box:
        if any(each.tag == release.tag for each in box.record.releases):
            raise Failure(409, "Release with this tag already exists")
        box.record.releases.append(release)


def remove_release(call: Call) -> bool:
    """Forget a release; False when there is none."""
    tag = call.request.path_params["tag"]
    with call.engine.changing(call.name) as box:
        before = len(box.record.releases)
        box.record.releases = [each for each in box.record.releases if each.tag != tag]
        return len(box.record.releases) < before


async def delete_release(call: Call) -> dict[str, str]:
    """Remove a release."""
    if not await to_thread.run_sync(remove_release, call):
        raise Failure(404, "Release not found")
    return {
        "devboxName": call.name,
        "tag": call.request.path_params["tag"],
        "message": "Release deleted successfully",
        "deletedAt": values.iso(call.engine.clock()),
    }


async def deploy_release(call: Call) -> dict[str, Any]:
    """Make an application of a release."""
    tag = call.request.path_params["tag"]
    deployment = await to_thread.run_sync(boxes.deploy, call.engine, call.name, tag)
    if deployment is None:
        raise Failure(500, "request error", f"Release {tag} is not successful or does not exist")
    return {
        "message": "success deploy devbox release",
        "appName": deployment.name,
        "publicDomains": [{"host": deployment.host, "port": deployment.port}],
    }


async def list_deployments(call: Call) -> list[values.DeployedApp]:
    """The applications that were made of the releases of a box."""
    box = await to_thread.run_sync(call.engine.box, call.name)
    return [
        values.DeployedApp(each.name, "deployment", each.tag) for each in box.record.deployments
    ]


async def private_key(call: Call) -> dict[str, str]:
    """The SSH key of a box."""
    box = await to_thread.run_sync(call.engine.box, call.name)
    return {"privateKey": values.encoded_key(box), "encoding": "base64"}


async def monitor(call: Call) -> Bare:
    """Use over time; percent, times 100."""
    return Bare(await monitor_points(call, 100.0))


async def monitor_points(call: Call, factor: float) -> list[values.MonitorPoint]:
    """Return the series that a query asks for; raises Failure when it asks for none."""
    try:
        end = forms.moment(call.query["end"], "end") if "end" in call.query else None
        start = forms.moment(call.query["start"], "start") if "start" in call.query else None
        step = forms.duration(call.query.get("step", "2m"))
    except Invalid as problem:
        issue = {"code": "custom", "path": problem.path, "message": problem.message}
        raise Failure(400, "Invalid request parameters", [issue]) from None
    end = call.engine.clock() if end is None else end
    start = end - 3 * 3600 if start is None else start
    if start >= end:
        raise Failure(400, "Start timestamp must be earlier than end timestamp")
    if not forms.is_name(call.name):
        raise Failure(400, "Invalid devbox name format")
    points = await to_thread.run_sync(boxes.bucketed, call.engine, call.name, start, end, step)
    return [values.monitor_point(*point, factor) for point in points]


async def templates(call: Call) -> list[values.TemplateItem]:
    """The runtimes of the region."""
    return [values.TemplateItem(each.name, each.config) for each in call.engine.templates]


def _ok(kind: Any) -> dict[int, Answer]:  # noqa: ANN401 - any type
    return {200: Answer(envelope_schema(forms.schema_of(kind)))}


def _failing(*codes: int) -> dict[int, Answer]:
    return {code: Answer(envelope_schema({})) for code in (*codes, 500)}


MONITOR_PARAMETERS = (
    Parameter("start", {"type": "number", "minimum": 0, "maximum": 4e12}),
    Parameter("end", {"type": "number", "minimum": 0, "maximum": 4e12}),
    Parameter("step", {"type": "string", "pattern": "^[1-9][0-9]{0,2}(ms|[smhd])$"}),
)


def _operation(
    method: str,
    path: str,
    handler: Any,  # noqa: ANN401 - a handler, whatever it answers
    answer: Any,  # noqa: ANN401 - any type
    *codes: int,
    group: str = "second",
    **more: Any,  # noqa: ANN401 - of Operation
) -> Operation:
    return Operation(
        method,
        BASE + path,
        handler,
        (handler.__doc__ or "").strip().splitlines()[0],
        {**_ok(answer), **_failing(*codes)},
        group=group,
        **more,
    )


Text = dict[str, Any]
LIFECYCLE = (
    _operation("DELETE", "/{name}/delete", delete, str, 403, 404, group="first"),
    _operation("POST", "/{name}/start", start, Text, 403, 404, 422, group="first"),
    _operation("POST", "/{name}/pause", pause, Text, 400, 404, 422, body=forms.Nothing),
    _operation(
        "POST", "/{name}/restart", restart, str, 400, 403, 404, 422,
        group="first", body=forms.Nothing,
    ),
    _operation(
        "POST", "/{name}/shutdown", shutdown, str, 400, 403, 404, 422,
        group="first", body=forms.Nothing,
    ),
    _operation("PUT", "/{name}/ports", put_ports, Text, 400, 404, 409, body=forms.PortsForm),
    _operation(
        "POST", "/{name}/autostart", autostart, Text, 400, 404,
        body=forms.AutostartForm, body_mode="optional",
    ),
    _operation(
        "GET", "/{name}/release", list_releases, list[values.ReleaseItem], 403, 404,
        group="first",
    ),
    _operation(
        "POST", "/{name}/release", create_release, Text, 400, 403, 404, 409,
        group="first", body=forms.ReleaseForm,
    ),
    _operation("DELETE", "/{name}/release/{tag}", delete_release, Text, 403, 404, group="first"),
    _operation(
        "POST", "/{name}/release/{tag}/deploy", deploy_release, Text, 403, 404, group="first"
    ),
    _operation("PATCH", "/{name}", patch, Text, 400, 404, 409, 422, body=forms.PatchForm),
)  # fmt: skip
"""What both lineages have."""

OPERATIONS = (
    _operation("GET", "", list_boxes, list[values.ListItem]),
    _operation("POST", "", create, values.CreatedBox, 201, 400, 404, 409, body=forms.CreateForm),
    _operation("GET", "/templates", templates, list[values.TemplateItem], public=True),
    _operation("GET", "/{name}", detail, values.Detail, 404),
    *LIFECYCLE,
    _operation("GET", "/{name}/deploy", list_deployments, list[values.DeployedApp], 404),
    _operation("GET", "/{name}/privatekey", private_key, Text, 404),
    Operation(
        "GET",
        BASE + "/{name}/monitor",
        monitor,
        "Use over time; percent, times 100.",
        {200: Answer(list[values.MonitorPoint]), **_failing(400, 403)},
        group="first",
        parameters=MONITOR_PARAMETERS,
    ),
)
