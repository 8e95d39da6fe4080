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

_SQL = queries.load("rate_limits")


@dataclass(frozen=True)
class Limit:
    """At most ``max_calls`` of a kind in any ``window``."""

    kind: str
    max_calls: int
    window: timedelta


LIFECYCLE = Limit("lifecycle", 10, timedelta(seconds=60))
# A script that saves a library of filters passes; a loop gone wild does not.
SAVE = Limit("save", 600, timedelta(seconds=60))
DELIVERY_TEST = Limit("delivery test", 20, timedelta(seconds=60))
PREVIEW = Limit("preview", 30, timedelta(seconds=60))


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """
    Whether a call may go on.

    ``retry_after`` is zero when it may, ``reset_after`` when the whole limit is free again. ``owner_id`` is
    the user of the trader that was asked about; None when there is no such trader.
    """

    allowed: bool
    remaining: int
    retry_after: timedelta
    reset_after: timedelta
    owner_id: UUID | None


@dataclass(frozen=True, kw_only=True)
class Left:
    remaining: int
    reset_after: timedelta


async def allow_call(
    connection: Connection, user_id: UUID, limit: Limit, *, trader_id: UUID | None = None
) -> Verdict:
    """Count a call, about a trader or none, or refuse it; a refused call is not counted."""
    async with connection.cursor(row_factory=rows_of(Verdict)) as cursor:
        await cursor.execute(_SQL["allow_call"], {**_parameters(user_id, limit), "trader_id": trader_id})
        verdict = await cursor.fetchone()
    assert verdict is not None  # noqa: S101 a function with OUT parameters returns one row
    return verdict


async def calls_left(connection: Connection, user_id: UUID, limit: Limit) -> Left:
    """What ``allow_call`` would find, without counting a call."""
    async with connection.cursor(row_factory=rows_of(Left)) as cursor:
        await cursor.execute(_SQL["calls_left"], _parameters(user_id, limit))
        left = await cursor.fetchone()
    assert left is not None  # noqa: S101 a function with OUT parameters returns one row
    return left


def _parameters(user_id: UUID, limit: Limit) -> dict[str, object]:
    return {
        "user_id": user_id,
        "kind": limit.kind,
        "max_calls": limit.max_calls,
        "window": limit.window,
        "now": None,  # the database's clock
    }


async def prune(connection: Connection, *, before: datetime, limit: int) -> int:
    """Drop at most *limit* users' counted calls that ended before an instant; returns how many."""
    return (await connection.execute(_SQL["prune_calls"], {"before": before, "limit": limit})).rowcount
