"""Which lineage a control plane is of: by what its routes answer, never by a version string."""

from __future__ import annotations

from sealos_devbox._async.control.boundary import missing_route
from sealos_devbox._async.control.flat import FlatControl
from sealos_devbox._async.control.http import ControlHttp
from sealos_devbox._async.control.lineage import CustomResource
from sealos_devbox._async.control.modern import ModernControl
from sealos_devbox._async.service import ControlPlane
from sealos_devbox.errors import NotFoundError, ProtocolError

__all__ = ["find_control"]


async def find_control(http: ControlHttp, resource: CustomResource) -> ControlPlane:
    """Return the client for the lineage that answers.

    The current one lists boxes at ``/api/v1/devbox``, where the older one has only POST. Raises
    ProtocolError when neither answers, and what was refused otherwise.
    """
    modern = ModernControl(http, resource)
    try:
        await modern.list()
    except NotFoundError as error:
        if not missing_route(error):
            raise
        flat = FlatControl(http, resource)
        try:
            await flat.list()
        except NotFoundError as also:
            if not missing_route(also):
                raise
            raise ProtocolError(
                f"{http.credentials.endpoint} is no Devbox control plane.",
                hop="gateway",
                status=also.status,
                request_id=also.request_id,
                hint="The endpoint is https://devbox.<domain>.",
            ) from None
        return flat
    return modern
