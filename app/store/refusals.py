"""
Refusals of the database, by SQLSTATE, in the words of ``app.errors``. The codes are raised in ``sql/migrations``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

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
        match error.sqlstate:
            case "VX404":
                raise Refused(Kind.NOT_FOUND, message) from error
            case "VX409":
                raise Refused(
                    Kind.TRANSITION_NOT_ALLOWED, message, state=error.diag.message_detail
                ) from error
            case "VX403":
                raise Refused(
                    Kind.QUOTA_EXCEEDED, message, **json.loads(error.diag.message_detail or "{}")
                ) from error
            case "VX503":
                raise Refused(Kind.SERVICE_FULL, message, retry_after_s=60) from error
            case "VX422":
                raise Refused(Kind.REQUEST_INVALID, message) from error
            case "VXFEN":
                raise Fenced(message) from error
            case _:
                raise
