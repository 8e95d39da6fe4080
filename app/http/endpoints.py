"""
An endpoint said once: its route, validation, answer and its place in OpenAPI all follow from one ``Endpoint``.

Decided here: how a request becomes a call and its result an answer. Not decided here: which endpoints there are
(``application.py``) and what each refusal looks like (``problems.py``).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from app.errors import Kind, Refused
from app.http import problems
from app.http.auth import Caller, bearer_token
from app.http.service import Service

BODY_BYTES_MAX = 256 * 1024
REQUEST_S_MAX = 15.0  # more than the longest `Prefer: wait` and a save together; streams end by other rules
DEPTH_MAX = 64  # of a JSON body; ours are three deep

_log = structlog.get_logger(__name__)
_encode = msgspec.json.Encoder().encode
NUMBER = "number"  # the one path parameter that is no id
_NUMBER = re.compile(r"[1-9][0-9]{0,17}\Z")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z", re.IGNORECASE)


@dataclass(frozen=True)
class Call:
    """A request that has been checked: what a handler gets beside its declared parameters."""

    service: Service
    request: Request
    caller: Caller | None

    @property
    def user_id(self) -> UUID:
        assert self.caller is not None  # noqa: S101 only of endpoints with auth
        return self.caller.user_id


@dataclass(frozen=True)
class Answer:
    """A result with headers, or with another status than the endpoint's."""

    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int | None = None


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """
    One method of one path.

    Args:
        handler: Called with the ``Call``, the path's ids as UUID by name, ``query`` and ``body`` where declared. Returns what
            ``returns`` says, an ``Answer``, or a ready ``Response``.
        returns: Type of the JSON answer; None: no content, or a media type of its own.
        refusals: Kinds it can answer with, beside those that follow from auth, query and body.
        counts_as_read: Whether the user's read limit counts it.
    """

    method: str
    path: str
    handler: Callable[..., Awaitable[Any]]
    returns: Any = None
    status: int = 200
    body: Any = None
    query: type[msgspec.Struct] | None = None
    refusals: tuple[Kind, ...] = ()
    needs_user: bool = True
    counts_as_read: bool = False
    media_type: str = "application/json"
    time_limit_s: float | None = REQUEST_S_MAX

    @property
    def path_parameters(self) -> list[str]:
        return re.findall(r"{(\w+)}", self.path)


class Resource:
    """All methods of one path, as an ASGI application: so that 405 names every allowed method and OPTIONS is answered."""

    def __init__(self, service: Service, endpoints: Iterable[Endpoint]) -> None:
        self._service = service
        self._by_method = {endpoint.method: endpoint for endpoint in endpoints}
        if "GET" in self._by_method:
            self._by_method["HEAD"] = self._by_method["GET"]
        self._allow = ", ".join(sorted({*self._by_method, "OPTIONS"}))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        response = await self._answer(request)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        endpoint = self._by_method.get(request.method)
        if endpoint is not None:
            return await answer(self._service, endpoint, request)
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"allow": self._allow})
        refused = Refused(
            Kind.REQUEST_INVALID,
            f"{request.method} is not possible here; allowed: {self._allow}.",
            status=405,
            allow=self._allow,
        )
        self._service.metrics.refused(refused.kind)
        return problems.respond(refused)


def routes(service: Service, endpoints: Iterable[Endpoint]) -> list[Route]:
    """One route per path, in the table's order."""
    by_path: dict[str, list[Endpoint]] = {}
    for endpoint in endpoints:
        by_path.setdefault(endpoint.path, []).append(endpoint)
    return [Route(path, Resource(service, of_path)) for path, of_path in by_path.items()]


async def answer(service: Service, endpoint: Endpoint, request: Request) -> Response:
    """The response to a request of this endpoint; every refusal and every bug becomes one too."""
    try:
        async with asyncio.timeout(endpoint.time_limit_s):
            return await _perform(service, endpoint, request)
    except ClientDisconnect:
        return Response(status_code=499)  # nobody reads it; the log tells it from a success
    except Exception as error:  # noqa: BLE001 the border: what is no refusal is logged with its traceback below
        refused = problems.refusal_of(error)
        if refused is None:
            _log.exception("request failed", route=endpoint.path)
            return problems.internal_error()
        if refused is not error:
            _log.warning("request refused by its circumstances", kind=refused.kind, error=repr(error))
        service.metrics.refused(refused.kind)
        return problems.respond(refused)


async def _perform(service: Service, endpoint: Endpoint, request: Request) -> Response:
    caller = await _caller(service, endpoint, request) if endpoint.needs_user else None
    _check_declared_length(request)
    parameters: dict[str, Any] = {
        name: _path_value(name, request.path_params[name]) for name in endpoint.path_parameters
    }
    if endpoint.query is not None:
        parameters["query"] = _query(request, endpoint.query)
    if endpoint.body is not None:
        parameters["body"] = decode_body(await _read_body(request), endpoint.body)
    result = await endpoint.handler(Call(service, request, caller), **parameters)
    if isinstance(result, Response):
        return result
    if not isinstance(result, Answer):
        result = Answer(result)
    return Response(
        _encode(result.body),
        result.status or endpoint.status,
        dict(result.headers),
        media_type=endpoint.media_type,
    )


async def _caller(service: Service, endpoint: Endpoint, request: Request) -> Caller:
    caller = await service.verifier.verify(bearer_token(request.headers))
    structlog.contextvars.bind_contextvars(user_id=str(caller.user_id))
    await service.users.check(caller.user_id)
    if endpoint.counts_as_read:
        service.reads.count(caller.user_id)
    return caller


def _path_value(name: str, text: str) -> UUID | int:
    """What a path names: a version by its number, everything else by its id."""
    if name != NUMBER:
        return _path_id(text)
    if not _NUMBER.match(text):
        raise Refused(Kind.NOT_FOUND, f"There is nothing called {text[:80]!r}: versions are numbers.")
    return int(text)


def _path_id(text: str) -> UUID:
    if not _UUID.match(text):
        raise Refused(Kind.NOT_FOUND, f"There is nothing called {text[:80]!r}: ids are UUIDs.")
    return UUID(text)


def _query(request: Request, shape: type[msgspec.Struct]) -> msgspec.Struct:
    pairs = request.query_params.multi_items()
    given = dict(pairs)
    if len(given) != len(pairs):
        raise Refused(Kind.REQUEST_INVALID, "A query parameter is given twice.")
    for name in {"since", "until", "at"} & given.keys():
        given[name] = given[name].replace(" ", "+")  # an offset's + that nobody escaped
    try:
        return msgspec.convert(given, shape, strict=False)
    except msgspec.ValidationError as error:
        raise Refused(Kind.REQUEST_INVALID, f"Query: {error}.") from None


def _check_declared_length(request: Request) -> None:
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and (len(declared) > 10 or int(declared) > BODY_BYTES_MAX):
        raise _too_large()


async def _read_body(request: Request) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > BODY_BYTES_MAX:
            raise _too_large()
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large() -> Refused:
    return Refused(Kind.PAYLOAD_TOO_LARGE, f"A request body has at most {BODY_BYTES_MAX // 1024} KiB.")


def decode_body(raw: bytes, shape: Any) -> Any:
    """
    A JSON body as *shape*. A float with an integral value stands for the integer, as in JSON Schema.

    Raises:
        Refused: 400 when it is no JSON at all, 422 when it is not of that shape.
    """
    try:
        document = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(Kind.REQUEST_INVALID, f"The body is not JSON: {error}.", status=400) from None
    try:
        return msgspec.convert(_with_integers(document, DEPTH_MAX), shape)
    except msgspec.ValidationError as error:
        raise Refused(Kind.REQUEST_INVALID, f"Body: {error}.") from None


def _with_integers(value: Any, depth: int) -> Any:
    if depth == 0:
        raise Refused(Kind.REQUEST_INVALID, f"The body is nested more than {DEPTH_MAX} deep.")
    if (
        isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    ):  # beyond, a float names no one integer
        return int(value)
    if isinstance(value, list):
        return [_with_integers(item, depth - 1) for item in value]
    if isinstance(value, dict):
        return {name: _with_integers(item, depth - 1) for name, item in value.items()}
    return value
