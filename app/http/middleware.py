"""
Around every request: its id, security headers, one log line, one count. Pure ASGI: Starlette's own base class buffers streams.
"""

from __future__ import annotations

import re
import time
import uuid
from typing import Any

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http import problems
from app.http.metrics import Metrics

_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (
        b"content-security-policy",
        (
            b"default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self';"
            b" frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
        ),
    ),
)

_log = structlog.get_logger("vyx.http")


class Envelope:
    """
    Outermost. Takes ``X-Request-Id`` when it is a plain one, makes one otherwise, and gives it back.

    The log line has the path but never the query or a header: tokens stay out of logs.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        began_at = time.perf_counter()
        status = 500

        is_body_read = not _announces_body(scope)

        async def note_body(*, _receive: Receive = receive) -> Message:
            nonlocal is_body_read
            message = await _receive()
            is_body_read = is_body_read or not message.get("more_body", False)
            return message

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = _with_headers(message["headers"], request_id)
                if not is_body_read:
                    headers.append((b"connection", b"close"))  # nobody is going to read it
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, note_body, send_with_headers)
        finally:
            self._record(scope, status, time.perf_counter() - began_at)

    def _record(self, scope: Scope, status: int, duration_s: float) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.requests.labels(method=method, route=route, status=str(status)).inc()
        if not route.endswith("/stream"):
            self._metrics.request_duration.labels(method=method, route=route).observe(duration_s)
        # health is asked every few seconds by whoever watches: only an answer that says no is news
        say = _log.debug if route.startswith("/health") and status < 400 else _log.info
        say(
            "request",
            method=method,
            route=route,
            path=scope["path"],
            status=status,
            ms=round(duration_s * 1000, 1),
        )


class Guard:
    """Innermost but for the routes: whatever escapes them becomes a 500 problem, which CORS and the envelope then dress."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_started = False

        async def note_start(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self._app(scope, receive, note_start)
        except ClientDisconnect:
            return
        except Exception:
            _log.exception("request failed outside its endpoint", path=scope["path"])
            if has_started:
                raise  # half an answer cannot be taken back: the server cuts the connection
            await problems.internal_error()(scope, receive, send)


_METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"})


def _request_id(scope: Scope) -> str:
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"").decode(
        "latin-1"
    )
    return given if _GIVEN_ID.match(given) else uuid.uuid4().hex


def _announces_body(scope: Scope) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0") != b"")
        for name, value in scope["headers"]
    )


def _with_headers(headers: Any, request_id: str) -> list[tuple[bytes, bytes]]:
    given = list(headers)
    names = {name.lower() for name, _ in given}
    given.append((b"x-request-id", request_id.encode()))
    given += [(name, value) for name, value in _SECURITY_HEADERS if name not in names]
    if b"cache-control" not in names:
        given.append((b"cache-control", b"no-store"))
    return given
