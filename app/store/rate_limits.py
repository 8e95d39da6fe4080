"""
Calls of users counted over all replicas: at most so many in *any* window of a length, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from app.store import queries
from app.store.pool import Connection
from app.store.rows import rows_of

_QUERIES = queries.load("rate_limits")


@dataclass(frozen=True)
class Limit:
    """At most ``max_calls`` of a kind in any ``window``."""

    kind: str
    max_calls: int
    window: timedelta


LIFECYCLE = Limit("lifecycle", 10, timedelta(seconds=60))
SAVE = Limit("save", 60, timedelta(seconds=60))
PREVIEW = Limit("preview", 30, timedelta(seconds=60))


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a call may go on; ``retry_after`` is zero when it may, ``reset_after`` when the whole limit is free again."""

    allowed: bool
    remaining: int
    retry_after: timedelta
    reset_after: timedelta


@dataclass(frozen=True, kw_only=True)
class Left:
    remaining: int
    reset_after: timedelta


async def allow_call(
    connection: Connection, user_id: UUID, limit: Limit, *, now: datetime | None = None
) -> Verdict:
    """Count a call, or refuse it; a refused call is not counted. *now*: for tests, the database's clock when None."""
    async with connection.cursor(row_factory=rows_of(Verdict)) as cursor:
        await cursor.execute(_QUERIES["allow_call"], _parameters(user_id, limit, now))
        verdict = await cursor.fetchone()
    assert verdict is not None  # noqa: S101 a function with OUT parameters returns one row
    return verdict


async def calls_left(
    connection: Connection, user_id: UUID, limit: Limit, *, now: datetime | None = None
) -> Left:
    """What ``allow_call`` would find, without counting a call."""
    async with connection.cursor(row_factory=rows_of(Left)) as cursor:
        await cursor.execute(_QUERIES["calls_left"], _parameters(user_id, limit, now))
        left = await cursor.fetchone()
    assert left is not None  # noqa: S101 a function with OUT parameters returns one row
    return left


def _parameters(user_id: UUID, limit: Limit, now: datetime | None) -> dict[str, object]:
    return {
        "user_id": user_id,
        "kind": limit.kind,
        "max_calls": limit.max_calls,
        "window": limit.window,
        "now": now,
    }
