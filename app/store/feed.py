"""
The feed's table side: the two halves of a poll, and the rows of a span. How they fit together is
``app/http/feed.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from app.store import queries
from app.store.pool import Connection
from app.store.rows import in_utc

_SQL = queries.load("feed")


class Entry(NamedTuple):
    """A change of a trader's state (``to_state`` is not None) or a signal (``symbol`` is not None)."""

    id: int
    user_id: UUID
    trader_id: UUID
    from_state: str | None
    to_state: str | None
    reason: str | None
    version: int | None
    at: datetime | None
    symbol: str | None
    timeframe: str | None
    triggered_at: datetime | None
    price: float | None
    shown: dict[str, Any] | None
    screened_at: datetime | None
    created_at: datetime | None
    late: bool | None
    forming: bool | None


async def greatest_visible_id(connection: Connection) -> int:
    """The newest id anyone can see now; 0 for an empty feed."""
    row = await (await connection.execute(_SQL["greatest_visible_id"])).fetchone()
    assert row is not None  # noqa: S101 an aggregate without group by returns one row
    return int(row[0])


async def feed_writers(connection: Connection) -> frozenset[str]:
    """Virtual transaction ids of those who hold the feed's shared lock."""
    cursor = await connection.execute(_SQL["feed_writers"])
    return frozenset(row[0] for row in await cursor.fetchall())


async def read_feed(
    connection: Connection, user_ids: Iterable[UUID], *, after: int, through: int, limit: int
) -> list[Entry]:
    """At most *limit* entries of these users with ``after < id <= through``, by id."""
    cursor = await connection.execute(
        _SQL["read_feed"],
        {"user_ids": list(user_ids), "after": after, "through": through, "limit": limit},
    )
    return [Entry(*map(in_utc, row)) for row in await cursor.fetchall()]


async def cursor_exists(connection: Connection, user_id: UUID, cursor: int) -> bool:
    """Whether *cursor* is the id of a row of this user."""
    row = await (
        await connection.execute(_SQL["cursor_exists"], {"user_id": user_id, "cursor": cursor})
    ).fetchone()
    return row is not None and bool(row[0])


async def feed_floor(connection: Connection) -> int:
    """Ids at or below it have been pruned."""
    row = await (await connection.execute(_SQL["feed_floor"])).fetchone()
    return 0 if row is None else int(row[0])


async def prune_events(
    connection: Connection, *, before: datetime, leases_before: datetime, limit: int
) -> int:
    """
    Drop at most *limit* trader events before an instant, and raise the feed's floor to the newest of them; returns how many.

    Starts and stops since *leases_before* stay: the coverage of kept leases needs them.
    """
    parameters = {"before": before, "leases_before": leases_before, "limit": limit}
    row = await (await connection.execute(_SQL["prune_events"], parameters)).fetchone()
    return int(row[0]) if row else 0
