"""
Every refusal as an RFC 9457 problem, whatever raised it.

Decided here: which HTTP answer each foreign error becomes. The kinds and their status are ``app/errors.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import psycopg
import structlog
from psycopg_pool import PoolClosed, PoolTimeout
from starlette.responses import Response

from app.errors import Kind, Refused

TYPE_PREFIX = "https://vyx.dev/problems/"
RETRY_SOON_S = 1

_TITLES: dict[Kind, str] = {
    Kind.UNAUTHORIZED: "Not signed in",
    Kind.FORBIDDEN: "Not yours",
    Kind.NOT_FOUND: "Not found",
    Kind.FILTER_INVALID: "The filter does not compile",
    Kind.REQUEST_INVALID: "Invalid request",
    Kind.QUOTA_EXCEEDED: "Quota exceeded",
    Kind.TRANSITION_NOT_ALLOWED: "Not possible in this state",
    Kind.RATE_LIMITED: "Too many requests",
    Kind.BUSY: "Too much of yours at once",
    Kind.PAYLOAD_TOO_LARGE: "Payload too large",
    Kind.SERVICE_FULL: "The service is full",
    Kind.UNAVAILABLE: "Unavailable for the moment",
    Kind.TIMEOUT: "Took too long",
}

_RETRIED = (Kind.RATE_LIMITED, Kind.BUSY, Kind.SERVICE_FULL, Kind.UNAVAILABLE)


class Unauthorized(Refused):
    """No, or no acceptable, token. *challenge* is what WWW-Authenticate adds to ``Bearer``."""

    def __init__(self, detail: str, *, challenge: str = "") -> None:
        super().__init__(Kind.UNAUTHORIZED, detail)
        self.challenge = challenge


def retry_after_s(seconds: float) -> int:
    """Whole seconds for Retry-After, rounded up; at least 1."""
    return max(1, math.ceil(seconds))


def respond(refused: Refused) -> Response:
    """The answer that says *refused*, with the headers its kind asks for."""
    headers: dict[str, str] = {}
    document = describe(refused)
    if "retry_after_s" in document:
        headers["retry-after"] = str(document["retry_after_s"])
    if isinstance(refused, Unauthorized):
        headers["www-authenticate"] = f"Bearer {refused.challenge}".strip()
    if allow := document.pop("allow", None):
        headers["allow"] = allow
    return _problem(document, headers)


def describe(refused: Refused) -> dict[str, Any]:
    """The problem document of a refusal."""
    members = dict(refused.members)
    if refused.kind in _RETRIED or "retry_after_s" in members:
        members["retry_after_s"] = retry_after_s(members.get("retry_after_s", RETRY_SOON_S))
    return {
        "type": f"{TYPE_PREFIX}{refused.kind}",
        "title": _TITLES[refused.kind],
        "status": refused.status,
        "detail": refused.detail,
        **members,
    }


def internal_error() -> Response:
    """What is said when it is our fault; the log has the rest under the same request id."""
    return _problem(
        {
            "type": "about:blank",
            "title": "Internal error",
            "status": 500,
            "detail": "This is our fault, and it has been logged.",
        },
        {},
    )


def _problem(document: dict[str, Any], headers: Mapping[str, str]) -> Response:
    body = {**document, "request_id": structlog.contextvars.get_contextvars().get("request_id")}
    return Response(
        msgspec.json.encode(body), document["status"], dict(headers), media_type="application/problem+json"
    )


_UNREACHABLE = (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout, PoolClosed)


def refusal_of(error: Exception) -> Refused | None:
    """What a foreign error means to a client; None when it is a bug of ours."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, psycopg.errors.IntegrityError | psycopg.DataError):
        return _refusal_of_value(error)
    if isinstance(error, psycopg.errors.QueryCanceled | TimeoutError):
        return Refused(Kind.TIMEOUT, "It took too long and was given up.")
    if isinstance(error, _UNREACHABLE):
        return Refused(Kind.UNAVAILABLE, "The database cannot be reached at the moment; try again.")
    return None


def _refusal_of_value(error: psycopg.Error) -> Refused | None:
    """The schema refuses a value that the request's shape let through."""
    constraint = error.diag.constraint_name or ""
    if isinstance(error, psycopg.errors.ForeignKeyViolation) and constraint.endswith("user_id_fkey"):
        return unknown_user()
    if isinstance(error, psycopg.errors.CheckViolation):
        return Refused(Kind.REQUEST_INVALID, f"Refused because {constraint.replace('_', ' ')}.")
    if isinstance(error, psycopg.DataError):
        return Refused(Kind.REQUEST_INVALID, f"A value cannot be stored: {error.diag.message_primary}.")
    return None


def unknown_user() -> Unauthorized:
    return Unauthorized(
        "The token is valid, but its user does not exist in this database (auth.users has no such row); sign up or sign in again.",
        challenge='error="invalid_token", error_description="the user does not exist"',
    )
