"""v1 of the older lineage: flat routes beside those that both have (contract, 5).

The envelope says how a call went; HTTP always says 200.
"""

from __future__ import annotations

import dataclasses
import uuid
from functools import partial
from typing import Annotated, Any, Literal

from anyio import to_thread
from msgspec import Meta, Struct

from sealos_devbox.server.control import boxes, forms, v1
from sealos_devbox.server.control import v1_values as values
from sealos_devbox.server.control.envelope import Failure, envelope_schema
from sealos_devbox.server.engine import Box
from sealos_devbox.server.operations import Answer, Call, Invalid, Operation, Parameter
from sealos_devbox.server.record import ReleaseRecord, State
from sealos_devbox.server.refusals import Refusal
from sealos_devbox.server.templates import FLAT_NAMES, RUNTIMES_R

__all__ = ["OPERATIONS"]

BASE = v1.BASE
Storage = Annotated[int, Meta(ge=1)]


class ResourceForm(Struct):
    """Sizes of a new box, with the storage that only this lineage takes."""

    cpu: forms.Cpu
    memory: forms.Memory
    storage: Storage = 20


class CreateForm(Struct):
    """A new box."""

    name: forms.BoxName
    runtime: Annotated[str, Meta(extra_json_schema={"enum": sorted(RUNTIMES_R)})]
    resource: ResourceForm
    ports: list[forms.NewPortForm] = []


class FlatCreateForm(Struct, rename="camel"):
    """A new box, in millicores and Mi."""

    name: forms.BoxName
    runtime_name: Annotated[str, Meta(extra_json_schema={"enum": sorted(FLAT_NAMES)})]
    cpu: Annotated[int, Meta(ge=100, le=32000)] = 2000
    memory: Annotated[int, Meta(ge=100, le=65536)] = 4096
    storage: Storage = 20


class LifecycleForm(Struct, rename="camel"):
    """What a box is to do."""

    devbox_name: str
    action: Literal["start", "stop", "restart", "shutdown"]


class PortCreateForm(Struct, rename="camel"):
    """A port to open."""

    devbox_name: str
    port: forms.PortNumber
    protocol: Literal["HTTP", "GRPC", "WS"] = "HTTP"


class PortRemoveForm(Struct, rename="camel"):
    """A port to close."""

    devbox_name: str
    port: forms.PortNumber


class ReleaseForm(Struct, rename="camel"):
    """A new release."""

    devbox_name: str
    tag: forms.Tag
    release_des: str = ""


async def _make(
    call: Call,
    name: str,
    runtime: str,
    *,
    cpu: float,
    memory: float,
    storage: int,
    ports: list[forms.NewPortForm],
) -> boxes.Created:
    repository = call.engine.templates.find(runtime)
    if repository is None:
        raise Failure(404, "Runtime not found or not available")
    try:
        created = await to_thread.run_sync(
            partial(
                boxes.create,
                call.engine,
                name,
                repository,
                cpu=cpu,
                memory=memory,
                env=[],
                ports=ports,
                autostart=False,
            )
        )
    except Refusal as refusal:
        if refusal.status == 409:
            raise Failure(409, "Devbox already exists") from None
        raise

    def set_storage() -> None:
        with call.engine.changing(name) as box:
            box.record.storage_limit = f"{storage}Gi"

    await to_thread.run_sync(set_storage)
    return created


async def create(call: Call) -> values.CreatedBox:
    """Make a box."""
    form: CreateForm = call.body
    if form.runtime not in RUNTIMES_R:
        raise Invalid(["runtime"], "Invalid enum value")
    forms.check_choices(forms.ResourceForm(form.resource.cpu, form.resource.memory))
    created = await _make(
        call,
        form.name,
        form.runtime,
        cpu=form.resource.cpu,
        memory=form.resource.memory,
        storage=form.resource.storage,
        ports=form.ports,
    )
    return v1.created_box(call, created)


async def create_flat(call: Call) -> dict[str, Any]:
    """Make a box, in millicores and Mi."""
    form: FlatCreateForm = call.body
    if form.runtime_name not in FLAT_NAMES:
        raise Invalid(["runtimeName"], "Invalid enum value")
    created = await _make(
        call,
        form.name,
        FLAT_NAMES[form.runtime_name],
        cpu=form.cpu / 1000,
        memory=form.memory / 1024,
        storage=form.storage,
        ports=[],
    )
    return _access(call, created.box)


def _access(call: Call, box: Box) -> dict[str, Any]:
    return {
        "name": box.name,
        "sshPort": values.node_port(box),
        "base64PrivateKey": values.encoded_key(box),
        "userName": "devbox",
        "workingDir": str(box.workspace),
        "domain": values.ssh_host(call.engine),
    }


async def list_flat(call: Call) -> list[dict[str, Any]]:
    """All boxes: no more than their names."""
    return [
        {
            "id": box.uid,
            "name": box.name,
            "createTime": values.iso(box.stored.created.timestamp()),
        }
        for box in await to_thread.run_sync(call.engine.boxes)
    ]


def _asked(call: Call) -> str:
    name = call.query.get("devboxName", "")
    if not name:
        raise Failure(400, "Devbox name is required")
    return str(name)


async def get_flat(call: Call) -> dict[str, Any]:
    """One box."""
    box = await _box(call, _asked(call))
    shown = values.detail(call.engine, box)
    return {
        "id": box.uid,
        "status": box.phase,
        "createTime": values.iso(box.stored.created.timestamp()),
        "imageName": box.record.image,
        "cpu": box.record.cpu_millis,
        "memory": box.record.memory_mib,
        "networks": shown.ports,
        **_access(call, box),
    }


async def _box(call: Call, name: str) -> Box:
    try:
        return await to_thread.run_sync(call.engine.box, name)
    except Refusal:
        raise Failure(404, "Devbox not found") from None


async def delete_flat(call: Call) -> str:
    """Remove a box with everything in it."""
    await to_thread.run_sync(call.engine.delete, _asked(call))
    return "success delete devbox"


async def lifecycle(call: Call) -> str:
    """Start, stop, restart or shut down a box."""
    form: LifecycleForm = call.body
    await _box(call, form.devbox_name)
    if form.action == "restart":
        if not await to_thread.run_sync(call.engine.restart, form.devbox_name):
            raise Failure(500, "Max retries reached while waiting for the devbox to stop")
    else:
        states: dict[str, State] = {"start": "Running", "stop": "Stopped", "shutdown": "Shutdown"}
        await to_thread.run_sync(call.engine.set_state, form.devbox_name, states[form.action])
    return f"success {form.action} devbox"


async def create_port(call: Call) -> values.PortItem:
    """Open a port."""
    form: PortCreateForm = call.body

    def change() -> values.PortItem:
        with call.engine.changing(form.devbox_name) as box:
            wanted = forms.NewPortForm(number=form.port, protocol=form.protocol)
            port = boxes.new_port(call.engine, box.name, box.record, wanted)
            box.record.ports.append(port)
            return values.port_item(call.engine, box, port)

    return await to_thread.run_sync(change)


async def remove_port(call: Call) -> str:
    """Close a port."""
    form: PortRemoveForm = call.body

    def change() -> bool:
        with call.engine.changing(form.devbox_name) as box:
            before = len(box.record.ports)
            box.record.ports = [port for port in box.record.ports if port.number != form.port]
            return len(box.record.ports) < before

    if not await to_thread.run_sync(change):
        raise Failure(404, "Port not found")
    return "success remove port"


async def create_release(call: Call) -> str:
    """Make a release, which stays Pending until the box is stopped."""
    form: ReleaseForm = call.body
    release = ReleaseRecord(
        uid=str(uuid.uuid4()),
        tag=form.tag,
        description=form.release_des,
        created=call.engine.clock(),
    )
    await to_thread.run_sync(v1.add_release, call, release, form.devbox_name)
    return "success create release"


async def list_releases(call: Call) -> list[values.ReleaseItem]:
    """The releases of a box, newest first."""
    box = await _box(call, _asked(call))
    ordered = sorted(box.record.releases, key=lambda release: release.created, reverse=True)
    return [values.release_item(box, release) for release in ordered]


_NAME = (Parameter("devboxName", {"type": "string"}, required=True),)


def _operation(
    method: str,
    path: str,
    handler: Any,  # noqa: ANN401 - a handler, whatever it answers
    answer: Any,  # noqa: ANN401 - any type
    **more: Any,  # noqa: ANN401 - of Operation
) -> Operation:
    # A failure has no data of the success's shape, and the same status.
    schema = {"anyOf": [envelope_schema(forms.schema_of(answer)), envelope_schema({})]}
    summary = (handler.__doc__ or "").strip().splitlines()[0]
    return Operation(method, BASE + path, handler, summary, {200: Answer(schema)}, **more)


def _folded(operation: Operation) -> Operation:
    """Describe an operation of both lineages as this one answers it."""
    schemas = [answer.body for _, answer in sorted(operation.answers.items())]
    return dataclasses.replace(operation, answers={200: Answer({"anyOf": schemas})})


OPERATIONS = (
    _operation("POST", "", create, values.CreatedBox, body=CreateForm),
    _operation("POST", "/create", create_flat, dict[str, Any], body=FlatCreateForm),
    _operation("GET", "/list", list_flat, list[dict[str, Any]]),
    _operation("GET", "/get", get_flat, dict[str, Any], parameters=_NAME),
    _operation("DELETE", "/delete", delete_flat, str, parameters=_NAME, group="first"),
    _operation("POST", "/lifecycle", lifecycle, str, body=LifecycleForm, group="first"),
    _operation("POST", "/ports/create", create_port, values.PortItem, body=PortCreateForm),
    _operation("POST", "/ports/remove", remove_port, str, body=PortRemoveForm),
    _operation("POST", "/release", create_release, str, body=ReleaseForm, group="first"),
    _operation(
        "GET", "/releases", list_releases, list[values.ReleaseItem], parameters=_NAME, group="first"
    ),
    *(_folded(operation) for operation in v1.LIFECYCLE),
)
