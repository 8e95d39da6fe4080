"""
The OpenAPI 3.1 document, from the same table that routes.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import msgspec

from app.errors import STATUS, Kind
from app.http import delivery_shapes, shapes
from app.http.endpoints import NUMBER, Endpoint

TITLE = "Vyx"
DESCRIPTION = (
    "A multi-tenant crypto screener: users' Python filters over every closed candle, exactly one signal per match. "
    "Refusals are RFC 9457 problems; their `type` ends in a stable kind."
)

_ID = {"type": "string", "format": "uuid"}
_NUMBER = {"type": "integer", "minimum": 1}


def document(endpoints: Sequence[Endpoint], version: str) -> dict[str, Any]:
    """The document as plain JSON values."""
    types: list[Any] = [shapes.Problem, shapes.TraderEvent, delivery_shapes.Delivery]
    types += [t for e in endpoints for t in (e.body, e.returns, e.query) if t is not None]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(map(id, types), schemas, strict=True))
    paths: dict[str, Any] = {}
    for endpoint in endpoints:
        operation = _operation(endpoint, schema_of, components)
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = operation
    for query in {id(e.query): e.query for e in endpoints if e.query is not None}.values():
        components.pop(query.__name__, None)  # said as parameters already
    return {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": version, "description": DESCRIPTION},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _operation(endpoint: Endpoint, schema_of: dict[int, Any], components: dict[str, Any]) -> dict[str, Any]:
    summary, _, description = (inspect.getdoc(endpoint.handler) or "").partition("\n")
    operation: dict[str, Any] = {
        "operationId": endpoint.handler.__name__,
        "summary": summary.strip(),
        "parameters": _parameters(endpoint, schema_of, components),
        "responses": {str(endpoint.status): _success(endpoint, schema_of), **_refusals(endpoint)},
    }
    if description.strip():
        operation["description"] = description.strip()
    if endpoint.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema_of[id(endpoint.body)]}},
        }
    if endpoint.needs_user:
        operation["security"] = [{"bearer": []}]
    return operation


def _parameters(
    endpoint: Endpoint, schema_of: dict[int, Any], components: dict[str, Any]
) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": _NUMBER if name == NUMBER else _ID}
        for name in endpoint.path_parameters
    ]
    if endpoint.query is not None:
        schema = components[schema_of[id(endpoint.query)]["$ref"].rsplit("/", 1)[1]]
        required = schema.get("required", [])
        parameters += [
            {"name": name, "in": "query", "required": name in required, "schema": of_name}
            for name, of_name in schema["properties"].items()
        ]
    return parameters


def _success(endpoint: Endpoint, schema_of: dict[int, Any]) -> dict[str, Any]:
    if endpoint.status == 204:  # no content
        return {"description": "Done"}
    schema = {"type": "string"} if endpoint.returns is None else schema_of[id(endpoint.returns)]
    return {"description": "Done", "content": {endpoint.media_type: {"schema": schema}}}


def _refusals(endpoint: Endpoint) -> dict[str, Any]:
    kinds = set(endpoint.refusals)
    statuses: dict[int, set[Kind]] = {}
    if endpoint.needs_user:
        kinds |= {Kind.UNAUTHORIZED, Kind.UNAVAILABLE, Kind.TIMEOUT}
    if endpoint.counts_as_read:
        kinds.add(Kind.RATE_LIMITED)
    if endpoint.query is not None or endpoint.body is not None:
        kinds.add(Kind.REQUEST_INVALID)
    if endpoint.body is not None:
        kinds.add(Kind.PAYLOAD_TOO_LARGE)
        statuses[400] = {Kind.REQUEST_INVALID}
    for kind in kinds:
        statuses.setdefault(STATUS[kind], set()).add(kind)
    return {
        str(status): {
            "description": "Refused: " + ", ".join(sorted(of_status)),
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status, of_status in sorted(statuses.items())
    }
