"""Making a box from a template."""

from __future__ import annotations

import difflib
import logging

import anyio

from sealos_devbox._async.service import BoxDetail, BoxRecord, ControlPlane, Service
from sealos_devbox._planning.spec import BoxRequest
from sealos_devbox._planning.templates import check_image
from sealos_devbox.errors import (
    BoxExistsError,
    BoxNotFoundError,
    DeadlineExceededError,
    NotFoundError,
    ServerError,
)

__all__ = ["make_box", "note_template"]

_log = logging.getLogger(__name__)

_POLL = 0.5


async def make_box(service: Service, name: str, request: BoxRequest, timeout: float) -> BoxRecord:
    """Make a box and return its record, once the service can describe it.

    Looks first whether there is one: what is there after a failure is then known to be new.
    """
    with anyio.move_on_after(timeout):
        control = await service.control()
        offered = [template.runtime for template in await control.templates()]
        spec = request.spec(name, offered)
        if await _exists(control, name):
            raise BoxExistsError(f"There is a box {name!r} already.", hop="control-plane")
        try:
            notes = await control.create(spec)
        except NotFoundError as error:
            near = difflib.get_close_matches(spec.template.runtime, offered, n=3)
            if near and not error.hint:
                error.hint = f"Did you mean {' or '.join(map(repr, near))}?"
            raise
        for note in notes:
            _log.warning("box %s: %s", name, note)
        record = await service.record(await _described(control, name))
        record.template = spec.template
        record.notes = tuple(notes)
        return record
    raise DeadlineExceededError(
        f"Making the box {name!r} took longer than {timeout:g} s.",
        hop="control-plane",
        hint=f"It may be there all the same: get({name!r}) or delete({name!r}).",
    )


def note_template(record: BoxRecord) -> None:
    """Say so when the template is not all of what was asked for, its version included."""
    if record.template is None or record.detail is None:
        return
    record.template = check_image(record.template, record.detail.info.image)
    if record.template.note:
        _log.warning("box %s: %s", record.name, record.template.note)


async def _exists(control: ControlPlane, name: str) -> bool:
    try:
        await control.detail(name)
    except BoxNotFoundError:
        return False
    return True


async def _described(control: ControlPlane, name: str) -> BoxDetail:
    """Ask until the service can say what it made: parts of it come a moment later."""
    while True:
        try:
            return await control.detail(name, full=True)
        except (BoxNotFoundError, ServerError) as error:
            _log.debug("box %s is not described yet: %s", name, error)
        await anyio.sleep(_POLL)
