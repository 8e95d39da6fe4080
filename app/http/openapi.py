"""
The OpenAPI 3.1 document, from the same table that routes.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from typing import Any

import msgspec

from app.errors import STATUS, Kind
from app.http import delivery_shapes, shapes
from app.http.endpoints import NUMBER, Endpoint
from app.http.openapi_examples import EXAMPLES
from app.http.problems import TYPE_PREFIX

TITLE = "Vyx"
DESCRIPTION = (
    "A multi-tenant crypto screener: users' Python filters over every closed candle, exactly one signal per match. "
    "Refusals are RFC 9457 problems; their `type` ends in a stable kind."
)

_ID = {"type": "string", "format": "uuid"}
_NUMBER = {"type": "integer", "minimum": 1}


TAGS = {
    "traders": "Traders: save, start, stop, and how they stand.",
    "filters": "Filters, without saving them.",
    "signals": "Signals: lists, files, and the stream.",
    "delivery": "Where signals are sent, and what became of each.",
    "account": "Who you are to the service: tier, keys, everything of yours.",
    "market": "Pairs and candles.",
    "service": "How the service stands, and its documents.",
}
_TAG_OF = {
    "traders": "traders",
    "execute-filter": "filters",
    "check": "filters",
    "signals": "signals",
    "stream": "signals",
    "destinations": "delivery",
    "deliveries": "delivery",
    "me": "account",
    "keys": "account",
    "tiers": "account",
    "market": "market",
}
_STREAM_EVENTS: dict[str, Any] = {
    "signal": shapes.Signal,
    "trader": shapes.TraderEvent,
    "delivery": delivery_shapes.Delivery,
    "reset": shapes.Reset,
    "bye": shapes.Bye,
}
_REQUEST_HEADERS = {
    "Prefer": ("`wait=N`: wait up to N seconds, at most 10, for the end of a passing state.", "wait=5"),
    "Last-Event-ID": ("Resume after this event.", "4711"),
    "Idempotency-Key": (
        "Sent again with the same key within 24 hours, the request is answered as the first time and nothing is done twice.",
        "8e03978e-40d5-43dd-bc93-6894a57f9324",
    ),
    "If-None-Match": ("The ETag of an answer that you have: 304 when it is still the same.", 'W/"5d41402a"'),
}
_ANSWER_HEADERS = {
    "ETag": "Names this answer; send it back as If-None-Match.",
    "Location": "Where it is.",
    "Idempotency-Replayed": "`true` when this is the answer of an earlier request with the same Idempotency-Key.",
    "Preference-Applied": "How long it was prepared to wait.",
    "Retry-After": "Seconds after which to try again.",
    "WWW-Authenticate": "Why the token was not accepted.",
    "X-Request-Id": "Names this request in our logs.",
}


def document(endpoints: Sequence[Endpoint], version: str) -> dict[str, Any]:
    """The document as plain JSON values."""
    types: list[Any] = [shapes.Problem, *_STREAM_EVENTS.values()]
    types += [t for e in endpoints for t in (e.body, e.returns, e.query) if t is not None]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(map(id, types), schemas, strict=True))
    paths: dict[str, Any] = {}
    for endpoint in endpoints:
        operation = _operation(endpoint, schema_of, components)
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = operation
    for query in {id(e.query): e.query for e in endpoints if e.query is not None}.values():
        components.pop(query.__name__, None)  # said as parameters already
    _require_what_is_always_sent(components, [t for e in endpoints if (t := e.returns) is not None])
    _tell_defaults(components, [e.body for e in endpoints if e.body is not None])
    components["Problem"]["properties"]["type"] = _problem_types()
    components["StreamEvent"] = _stream_event(schema_of)
    for name, example in EXAMPLES.items():
        components[name]["examples"] = [example]
    return {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": version, "description": DESCRIPTION},
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "A signed-in user's access token, or an API key (`vyx_…`) with the scope that the operation names.",
                }
            },
        },
    }


def _require_what_is_always_sent(components: dict[str, Any], answers: Sequence[Any]) -> None:
    """
    A member of an answer that has a default is sent all the same: only what may be left out altogether is
    optional.
    """
    waiting = [msgspec.inspect.type_info(answer) for answer in answers]
    seen: set[type] = set()
    while waiting:
        info = waiting.pop()
        if isinstance(info, msgspec.inspect.StructType):
            if info.cls in seen:
                continue
            seen.add(info.cls)
            if info.cls.__name__ in components and not info.forbid_unknown_fields:
                fields = msgspec.structs.fields(info.cls)
                always = [f.encode_name for f in fields if f.default is not msgspec.UNSET]
                components[info.cls.__name__]["required"] = always
            waiting += [f.type for f in info.fields]
        elif isinstance(info, msgspec.inspect.UnionType):
            waiting += info.types
        elif isinstance(info, msgspec.inspect.ListType):
            waiting.append(info.item_type)
        elif isinstance(info, msgspec.inspect.DictType):
            waiting.append(info.value_type)


def _tell_defaults(components: dict[str, Any], bodies: Sequence[Any]) -> None:
    """Of a request's members: generators take one with a `default` for one that is always there, and would ask for it."""
    for body in bodies:
        for member in components[body.__name__]["properties"].values():
            if "default" in member:
                default = json.dumps(member.pop("default"))
                member["description"] = f"{member.get('description', '')} Default: {default}.".strip()


def _problem_types() -> dict[str, Any]:
    return {"type": "string", "enum": [*(f"{TYPE_PREFIX}{kind}" for kind in Kind), "about:blank"]}


def _stream_event(schema_of: dict[int, Any]) -> dict[str, Any]:
    """
    What a client has of one event: its name, its data, and the id to resume after, which ``bye`` has not.
    """
    return {
        "title": "StreamEvent",
        "description": "One event of the stream: the lines `event`, `data` (JSON) and `id`.",
        "oneOf": [
            {
                "type": "object",
                "properties": {
                    "event": {"const": name},
                    "id": {"type": "string"},
                    "data": schema_of[id(shape)],
                },
                "required": ["event", "data"] if name == "bye" else ["event", "id", "data"],
            }
            for name, shape in _STREAM_EVENTS.items()
        ],
    }


def _operation(endpoint: Endpoint, schema_of: dict[int, Any], components: dict[str, Any]) -> dict[str, Any]:
    summary, _, description = (inspect.getdoc(endpoint.handler) or "").partition("\n\n")
    operation: dict[str, Any] = {
        "operationId": endpoint.handler.__name__,
        "tags": [_tag(endpoint)],
        "summary": " ".join(summary.split()),
        "parameters": _parameters(endpoint, schema_of, components),
        "responses": {str(endpoint.status): _success(endpoint, schema_of), **_refusals(endpoint)},
    }
    if description.strip():
        operation["description"] = " ".join(description.split())
    if endpoint.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema_of[id(endpoint.body)]}},
        }
    if _has_etag(endpoint):
        operation["responses"]["304"] = {
            "description": "The answer that you have",
            "headers": _headers("ETag"),
        }
    if endpoint.needs_user:
        operation["security"] = [{"bearer": []}]
        operation["x-scope"] = endpoint.scope.value
    return operation


def _tag(endpoint: Endpoint) -> str:
    return _TAG_OF.get(endpoint.path.removeprefix("/api/v1/").split("/")[0], "service")


def _has_etag(endpoint: Endpoint) -> bool:
    return endpoint.method == "GET" and endpoint.counts_as_read


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
    headers = list(endpoint.accepts)
    if endpoint.method == "POST" and endpoint.needs_user:
        headers.append("Idempotency-Key")
    if _has_etag(endpoint):
        headers.append("If-None-Match")
    for name in headers:
        text, example = _REQUEST_HEADERS[name]
        parameters.append(
            {
                "name": name,
                "in": "header",
                "required": False,
                "description": text,
                "schema": {"type": "string"},
                "example": example,
            }
        )
    return parameters


def _headers(*names: str) -> dict[str, Any]:
    return {
        name: {"description": _ANSWER_HEADERS[name], "schema": {"type": "string"}}
        for name in (*names, "X-Request-Id")
    }


def _success(endpoint: Endpoint, schema_of: dict[int, Any]) -> dict[str, Any]:
    names = ["ETag"] if _has_etag(endpoint) else []
    if endpoint.method == "POST" and endpoint.needs_user:
        names.append("Idempotency-Replayed")
    if endpoint.status in (201, 202):
        names.append("Location")
    if "Prefer" in endpoint.accepts:
        names.append("Preference-Applied")
    answer: dict[str, Any] = {"description": "Done", "headers": _headers(*names)}
    if endpoint.status == 204:  # no content
        return answer
    if endpoint.media_type == "text/event-stream":
        schema: dict[str, Any] = {"type": "string", "x-event": {"$ref": "#/components/schemas/StreamEvent"}}
    else:
        schema = {"type": "string"} if endpoint.returns is None else schema_of[id(endpoint.returns)]
    content = {endpoint.media_type: {"schema": schema}}
    content |= {media_type: {"schema": {"type": "string"}} for media_type in endpoint.also_gives}
    return {**answer, "content": content}


def _refusals(endpoint: Endpoint) -> dict[str, Any]:
    kinds = {*endpoint.refusals, Kind.REQUEST_INVALID}
    statuses: dict[int, set[Kind]] = {}
    if endpoint.needs_user:
        kinds |= {Kind.UNAUTHORIZED, Kind.FORBIDDEN, Kind.UNAVAILABLE, Kind.TIMEOUT}
    if endpoint.counts_as_read:
        kinds.add(Kind.RATE_LIMITED)
    if endpoint.body is not None:
        kinds.add(Kind.PAYLOAD_TOO_LARGE)
        statuses[400] = {Kind.REQUEST_INVALID}
    for kind in kinds:
        statuses.setdefault(STATUS[kind], set()).add(kind)
    return {str(status): _refusal(status, of_status) for status, of_status in sorted(statuses.items())}


def _refusal(status: int, kinds: set[Kind]) -> dict[str, Any]:
    names = {401: ("WWW-Authenticate",), 409: ("Retry-After",), 429: ("Retry-After",), 503: ("Retry-After",)}
    return {
        "description": "Refused: " + ", ".join(sorted(kinds)),
        "headers": _headers(*names.get(status, ())),
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
