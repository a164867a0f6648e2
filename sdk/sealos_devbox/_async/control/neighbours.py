"""What is asked of others than the control plane's own routes: agents, the template market."""

from __future__ import annotations

import builtins
from collections.abc import Sequence

from sealos_devbox._async.control.http import ControlHttp
from sealos_devbox._async.control.lineage import field_of
from sealos_devbox._planning import payloads
from sealos_devbox._planning.answers import Answer, v1_data
from sealos_devbox.errors import ProtocolError, ServiceError, TransportError
from sealos_devbox.models import Runtime, Template
from sealos_devbox.secret import Secret

__all__ = ["agent_health", "runtimes"]


async def agent_health(http: ControlHttp, url: str, token: Secret | None) -> str | None:
    """Ask an agent: None when it is well. Only an engine that trusts nobody wants its token."""
    try:
        answer: Answer = await http.get_foreign(f"{url}/health")
        if answer.status == 401 and token is not None:
            answer = await http.get_foreign(f"{url}/health", token)
    except TransportError as error:
        return str(error)
    if answer.status != 200 or not answer.json:
        text = answer.body[:100].decode("utf-8", "replace").strip()
        return f"HTTP {answer.status}{f': {text}' if text.isprintable() and text else ''}"
    try:
        status = field_of(answer.decoded(), "healthStatus")
    except ProtocolError as error:
        return str(error)
    return None if status == "ok" else f"it says {status!r}"


async def runtimes(http: ControlHttp, templates: Sequence[Template]) -> builtins.list[Runtime]:
    """Return the runtimes of the templates, with what the template market says of them."""
    known: dict[str, Runtime] = {}
    try:
        answer = await http.send(
            "GET",
            "/api/templateRepository/listOfficial",
            what="Listing the runtimes",
            repeatable=True,
        )
        data = v1_data(answer)
        lists = data.values() if isinstance(data, dict) else [data]
        for one in lists:
            if isinstance(one, builtins.list):
                for runtime in payloads.items(one, payloads.runtime):
                    known.setdefault(runtime.name, runtime)
    except (ServiceError, ProtocolError):
        pass  # a route of the web interface, which promises nothing
    return [known.get(template.runtime) or Runtime(template.runtime) for template in templates]
