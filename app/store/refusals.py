"""
Refusals of the database, by SQLSTATE, in the words of ``app.errors``. The codes are raised in
``sql/migrations``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from app.domain.lifecycle import TraderState
from app.errors import Fenced, Kind, Refused


@contextmanager
def translated() -> Iterator[None]:
    """
    Raises:
        Refused: the statement was refused by a rule of ours (VX404 VX409 VX403 VX503 VX422).
        Fenced: this machine's boot row is dead (VXFEN).
    """
    try:
        yield
    except psycopg.Error as error:
        message = error.diag.message_primary or str(error)
        if error.sqlstate == "VXFEN":
            raise Fenced(message) from error
        refused = refusal_of(error.sqlstate or "", message, error.diag.message_detail or "")
        if refused is None:
            raise
        raise refused from error


def refusal_of(code: str, message: str, detail: str) -> Refused | None:
    """What a SQLSTATE of ours means; None for any other."""
    if code == "VX409":
        if detail == TraderState.STOPPING:
            return still_stopping()
        return Refused(Kind.TRANSITION_NOT_ALLOWED, message, state=detail)
    if code == "VX403":
        return Refused(Kind.QUOTA_EXCEEDED, message, **json.loads(detail or "{}"))
    if code == "VX503":
        return Refused(Kind.SERVICE_FULL, message, retry_after_s=60)
    kind = {"VX404": Kind.NOT_FOUND, "VX422": Kind.REQUEST_INVALID}.get(code)
    return None if kind is None else Refused(kind, message)


def still_stopping() -> Refused:
    """It finishes the slot in hand: a matter of a second or two."""
    return Refused(
        Kind.TRANSITION_NOT_ALLOWED,
        "The trader is still stopping; start it in a moment, or send Prefer: wait=10.",
        state=TraderState.STOPPING,
        retry_after_s=1,
    )
