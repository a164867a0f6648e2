"""The OpenAPI documents, made from the tables that make the routes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from sealos_devbox.server.agent.routes import AgentRoute
from sealos_devbox.server.control.forms import NAME_PATTERN
from sealos_devbox.server.operations import Operation

__all__ = ["agent_document", "control_document"]

_TAG_PATTERN = "^[a-zA-Z0-9][-a-zA-Z0-9_.]*$"
_PATH_SCHEMAS: dict[str, dict[str, Any]] = {
    "name": {"type": "string", "minLength": 1, "maxLength": 63, "pattern": NAME_PATTERN},
    "tag": {"type": "string", "minLength": 1, "maxLength": 128, "pattern": _TAG_PATTERN},
}


def control_document(title: str, operations: Iterable[Operation]) -> dict[str, Any]:
    """Describe operations of the control plane."""
    operations = list(operations)
    kinds = {
        id(kind): kind for operation in operations for kind in _types(operation) if kind is not None
    }
    unique = list(kinds.values())
    schemas, components = msgspec.json.schema_components(
        unique, ref_template="#/components/schemas/{name}"
    )
    by_type = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        item = paths.setdefault(operation.path, {})
        item[operation.method.lower()] = _describe(operation, by_type, components)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": "1",
            "description": "What the embedded engine serves, quirks of the real service included.",
        },
        "security": [{"kubeconfig": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "kubeconfig": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "A percent-encoded kubeconfig, or the engine's token.",
                }
            },
        },
    }


_AGENT_ENVELOPE = {
    "type": "object",
    "required": ["status"],
    "properties": {"status": {"type": "integer"}, "message": {"type": "string"}},
}
_REFUSALS = {
    400: "The query or the JSON cannot be read.",
    413: "The body is too large.",
    415: "The body is not declared as JSON.",
    422: "The JSON is not what the route takes.",
}


def agent_document(routes: Iterable[AgentRoute]) -> dict[str, Any]:
    """Describe the agent of a box."""
    routes = list(routes)
    kinds = [each.body for each in routes if not isinstance(each.body, str | None)]
    schemas, components = msgspec.json.schema_components(
        kinds, ref_template="#/components/schemas/{name}"
    )
    by_type = {id(kind): schema for kind, schema in zip(kinds, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for each in routes:
        described = _describe_agent(each, by_type)
        paths.setdefault(each.path, {})[each.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Devbox agent",
            "version": "0.1.0",
            "description": "Every box has one, at devbox-<uniqueID>-agent.<domain>; the engine "
            "serves it below /box/<uniqueID>/agent as well.",
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _describe_agent(route: AgentRoute, by_type: dict[int, dict[str, Any]]) -> dict[str, Any]:
    summary = (route.handler.__doc__ or "").strip().splitlines()[0]
    described: dict[str, Any] = {
        "summary": summary,
        "operationId": "_".join([route.method.lower(), *re.findall(r"\w+", route.path)]),
        "parameters": [
            {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
            for _ in re.findall(r"\{id\}", route.path)
        ]
        + [
            {
                "name": each.name,
                "in": "query",
                "required": each.required,
                "schema": dict(each.schema),
            }
            for each in route.parameters
        ],
    }
    if route.body == "multipart/form-data":
        files = {"type": "array", "items": {"type": "string", "format": "binary"}}
        form = {"schema": {"type": "object", "properties": {"files": files}}}
        described["requestBody"] = {"required": True, "content": {route.body: form}}
    elif route.body is not None:
        content = {"application/json": {"schema": by_type[id(route.body)]}}
        described["requestBody"] = {"required": True, "content": content}
    success: dict[str, Any] = {"application/json": {"schema": _AGENT_ENVELOPE}}
    if route.media != "application/json":
        success[route.media] = {}
    responses: dict[str, Any] = {
        "200": {
            "description": "Done, or not: `status` says it, 0 is success.",
            "content": success,
        },
        "401": {"description": "The token is missing or wrong."},
    }
    for status, text in _REFUSALS.items():
        responses[str(status)] = {"description": text, "content": {"text/plain": {}}}
    described["responses"] = responses
    return described


def _types(operation: Operation) -> list[Any]:
    found = [operation.body]
    found += [a.body for a in operation.answers.values() if not isinstance(a.body, dict)]
    return found


def _describe(
    operation: Operation, by_type: dict[int, dict[str, Any]], components: dict[str, Any]
) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": _identifier(operation),
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": _PATH_SCHEMAS[name]}
            for name in re.findall(r"\{(\w+)\}", operation.path)
        ]
        + [
            {
                "name": parameter.name,
                "in": "query",
                "required": parameter.required,
                "schema": dict(parameter.schema),
            }
            for parameter in operation.parameters
        ],
        "responses": {},
    }
    if operation.body is not None:
        described["requestBody"] = {
            "required": operation.body_mode == "required",
            "content": {"application/json": {"schema": by_type[id(operation.body)]}},
        }
    for status, answer in sorted(operation.answers.items()):
        response: dict[str, Any] = {"description": answer.text or _meaning(status)}
        if answer.body is not None:
            schema = answer.body if isinstance(answer.body, dict) else by_type[id(answer.body)]
            response["content"] = {answer.media: {"schema": _hoisted(schema, components)}}
        described["responses"][str(status)] = response
    return described


def _hoisted(schema: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    """Move a schema's own definitions to the document's components."""

    def walk(value: Any) -> Any:  # noqa: ANN401 - JSON
        if isinstance(value, dict):
            for name, definition in value.get("$defs", {}).items():
                components.setdefault(name, walk(definition))
            copied = {key: walk(inner) for key, inner in value.items() if key != "$defs"}
            reference = copied.get("$ref")
            if isinstance(reference, str):
                copied["$ref"] = reference.replace("#/$defs/", "#/components/schemas/")
            return copied
        if isinstance(value, list):
            return [walk(inner) for inner in value]
        return value

    result: dict[str, Any] = walk(schema)
    return result


def _identifier(operation: Operation) -> str:
    words = re.findall(r"\w+", operation.path.removeprefix("/api/"))
    return "_".join([operation.method.lower(), *words])


def _meaning(status: int) -> str:
    if status < 300:
        return "Done."
    return {
        400: "The request is not what the route takes.",
        401: "The credential is missing or wrong.",
        403: "The credential is missing or wrong.",
        404: "There is no such box, runtime or release.",
        409: "The name, tag or port is taken.",
        422: "The cluster refused, for example because a commit is going on.",
        500: "Also a wrong credential, and a body that is not JSON.",
    }[status]
