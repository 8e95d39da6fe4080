"""
What can be refused, and whose fault it is.

One exception type, a small set of kinds, one table kind → HTTP status. Adapters translate foreign errors into these at
their border: SQL by SQLSTATE in ``app/store/refusals.py``, the exchange's in ``app/market/client.py``.
The command line prints ``str(error)`` as its one sentence and leaves with ``exit_code``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """The end of a problem's ``type``; stable, clients key on it."""

    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not-found"
    FILTER_INVALID = "filter-invalid"
    REQUEST_INVALID = "request-invalid"
    QUOTA_EXCEEDED = "quota-exceeded"
    TRANSITION_NOT_ALLOWED = "transition-not-allowed"
    RATE_LIMITED = "rate-limited"
    BUSY = "busy"
    PAYLOAD_TOO_LARGE = "payload-too-large"
    SERVICE_FULL = "service-full"
    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"


STATUS: dict[Kind, int] = {
    Kind.UNAUTHORIZED: 401,
    Kind.FORBIDDEN: 403,
    Kind.NOT_FOUND: 404,
    Kind.FILTER_INVALID: 422,
    Kind.REQUEST_INVALID: 422,
    Kind.QUOTA_EXCEEDED: 403,
    Kind.TRANSITION_NOT_ALLOWED: 409,
    Kind.RATE_LIMITED: 429,
    Kind.BUSY: 429,
    Kind.PAYLOAD_TOO_LARGE: 413,
    Kind.SERVICE_FULL: 503,
    Kind.UNAVAILABLE: 503,
    Kind.TIMEOUT: 504,
}


class Refused(Exception):
    """
    The service understood, and says no. Nothing has changed.

    Args:
        kind: Which refusal; decides the HTTP status.
        detail: One sentence for the person: what is wrong and what to do.
        status: Another status of the same kind (400 for a body that is no JSON at all).
        members: What a program needs to know, such as ``limit`` and ``used``.
    """

    def __init__(self, kind: Kind, detail: str, *, status: int | None = None, **members: Any) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.status = status if status is not None else STATUS[kind]
        self.members = members


class CommandFailed(Exception):
    """What was asked for on the command line failed; the text is the one sentence to print."""

    exit_code = 1


class SettingInvalid(CommandFailed):
    """A setting is wrong or contradicts another one; the text names the variable."""

    exit_code = 2


class NotTrusted(Exception):
    """The machine has not renewed its heartbeat lately: others may be about to own its traders, so it pauses."""


class Fenced(Exception):
    """The machine was reaped: others own its traders, and nothing it holds may be written."""
