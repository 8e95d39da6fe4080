"""
An endpoint said once: its route, validation, answer and its place in OpenAPI all follow from one
``Endpoint``.

Decided here: how a request becomes a call and its result an answer. Not decided here: which endpoints there
are (``application.py``) and what each refusal looks like (``problems.py``).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

import msgspec
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from app.errors import Kind, Refused
from app.http import idempotency, problems, shapes
from app.http.api_key_auth import KEY_PREFIX
from app.http.auth import Caller, bearer_token
from app.http.service import Service

BODY_BYTES_MAX = 256 * 1024
REQUEST_S_MAX = 15.0  # more than the longest `Prefer: wait` and a save together; streams end by other rules
DEPTH_MAX = 64  # of a JSON body; ours are three deep

_log = structlog.get_logger(__name__)
_encode = msgspec.json.Encoder().encode
_DATE = re.compile(r"\d{4}-\d\d-\d\d[Tt ]")
_FIRST, _LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2999, 12, 31, tzinfo=UTC)
_Struct = TypeVar("_Struct")
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
        handler: Called with the ``Call``, the path's ids as UUID by name, ``query`` and ``body`` where
            declared. Returns what ``returns`` says, an ``Answer``, or a ready ``Response``.
        returns: Type of the JSON answer; None: no content, or a media type of its own.
        refusals: Kinds it can answer with, beside those that follow from auth, query and body.
        counts_as_read: Whether the user's read limit counts it.
        needs: The scope that an API key needs; None: ``read`` for GET, ``trade`` for what changes something.
        accepts: Request headers that mean something here, beside those that follow from the method.
        also_gives: Media types of files that it answers with where Accept prefers one.
        has_secret: Whether the answer holds what is shown only once: no copy of it is kept for an
        Idempotency-Key.
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
    has_secret: bool = False
    accepts: tuple[str, ...] = ()
    also_gives: tuple[str, ...] = ()
    needs: shapes.Scope | None = None
    media_type: str = "application/json"
    time_limit_s: float | None = REQUEST_S_MAX

    @property
    def scope(self) -> shapes.Scope:
        return self.needs or (shapes.Scope.READ if self.method == "GET" else shapes.Scope.TRADE)

    @property
    def path_parameters(self) -> list[str]:
        return re.findall(r"{(\w+)}", self.path)


class Resource:
    """
    All methods of one path, as an ASGI application: so that 405 names every allowed method and OPTIONS is
    answered.
    """

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
    return await _as_response(service, endpoint, lambda: _perform(service, endpoint, request))


async def _as_response(
    service: Service, endpoint: Endpoint, work: Callable[[], Awaitable[Response]]
) -> Response:
    try:
        async with asyncio.timeout(endpoint.time_limit_s):
            return await work()
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
    query = _query(request, endpoint.query or shapes.NoQuery)
    if endpoint.query is not None:
        parameters["query"] = query
    raw = b""
    if endpoint.body is not None:
        raw = await _read_body(request)
        parameters["body"] = decode_body(raw, endpoint.body)
    call = Call(service, request, caller)
    if endpoint.method != "POST" or caller is None:
        return await _respond(endpoint, call, parameters)
    return await idempotency.once(
        service.pool,
        caller.user_id,
        request,
        raw,
        lambda: _as_response(service, endpoint, lambda: _respond(endpoint, call, parameters)),
        is_kept=not endpoint.has_secret,
    )


async def _respond(endpoint: Endpoint, call: Call, parameters: dict[str, Any]) -> Response:
    result = await endpoint.handler(call, **parameters)
    if isinstance(result, Response):
        return result
    if not isinstance(result, Answer):
        result = Answer(result)
    status = result.status or endpoint.status
    content = _encode(result.body)
    headers = dict(result.headers)
    if endpoint.method == "GET" and endpoint.counts_as_read and status == 200:
        # weak: the same whether compressed or not
        headers["etag"] = f'W/"{hashlib.sha256(content).hexdigest()[:32]}"'
        if _is_known(call.request, headers["etag"]):
            return Response(status_code=304, headers=headers)
    return Response(content, status, headers, media_type=endpoint.media_type)


def _is_known(request: Request, etag: str) -> bool:
    """Whether the client has this answer already (If-None-Match, RFC 9110, 13.1.2)."""
    known = ",".join(request.headers.getlist("if-none-match"))
    return known.strip() == "*" or etag in (one.strip() for one in known.split(","))


async def _caller(service: Service, endpoint: Endpoint, request: Request) -> Caller:
    token = bearer_token(request.headers)
    if token.startswith(KEY_PREFIX):
        caller = await service.keys.verify(token)
    else:
        caller = await service.verifier.verify(token)
    structlog.contextvars.bind_contextvars(user_id=str(caller.user_id))
    await service.users.check(caller.user_id)
    if not caller.may(endpoint.scope):
        raise Refused(
            Kind.FORBIDDEN, f"This needs a key with the scope {endpoint.scope}, which this one does not have."
        )
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
    for name in {"since", "from", "to", "until", "at"} & given.keys():
        given[name] = given[name].replace(" ", "+")  # an offset's + that nobody escaped
        if not _DATE.match(given[name]):  # a lone number would be taken for seconds since 1970
            raise Refused(Kind.REQUEST_INVALID, f"Query: {name} is an instant such as 2026-01-31T12:00:00Z.")
    try:
        return _in_utc(msgspec.convert(given, shape, strict=False))
    except msgspec.ValidationError as error:
        raise Refused(Kind.REQUEST_INVALID, f"Query: {error}.") from None


def _in_utc(value: _Struct) -> _Struct:
    """
    Its instants in UTC, between 1970 and 2999: there is no market outside, and arithmetic cannot leave the
    calendar.

    Raises:
        Refused: an instant that has no UTC, such as the first hour of the year 1 at +14:00.
    """
    for name in value.__struct_fields__ if isinstance(value, msgspec.Struct) else ():
        instant = getattr(value, name)
        if isinstance(instant, datetime):
            try:
                setattr(value, name, min(max(instant.astimezone(UTC), _FIRST), _LAST))
            except OverflowError:
                raise Refused(Kind.REQUEST_INVALID, f"{name}: this instant does not exist in UTC.") from None
    return value


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
        json.loads(raw, object_pairs_hook=_without_repetition)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(Kind.REQUEST_INVALID, f"The body is not JSON: {error}.", status=400) from None
    try:
        return _in_utc(msgspec.convert(_with_integers(document, DEPTH_MAX), shape))
    except msgspec.ValidationError as error:
        raise Refused(Kind.REQUEST_INVALID, f"Body: {error}.") from None


def _without_repetition(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; which of two members of a name counts is for no reader to guess."""
    given = dict(members)
    if len(given) != len(members):
        names = [name for name, _ in members]
        twice = next(name for name in given if names.count(name) > 1)
        raise Refused(Kind.REQUEST_INVALID, f"Body: {twice[:80]!r} is given twice.")
    return given


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
