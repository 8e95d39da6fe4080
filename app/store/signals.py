"""
Signals as their owner reads them. They are written by ``app/store/screening.py`` alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from app.store import queries
from app.store.pool import Connection
from app.store.rows import PAGE_BYTES_MAX, Page, page_of, rows_of, with_next

_QUERIES = queries.load("signals")


@dataclass(frozen=True, kw_only=True)
class Signal:
    id: int
    trader_id: UUID
    symbol: str
    timeframe: str
    triggered_at: datetime
    price: float
    shown: dict[str, Any]
    screened_at: datetime
    created_at: datetime
    late: bool
    forming: bool


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which signals; None: all. ``since`` compares with ``created_at``, ``first`` and ``last`` (inclusive) with ``triggered_at``."""

    trader_id: UUID | None = None
    symbol: str | None = None
    since: datetime | None = None
    first: datetime | None = None
    last: datetime | None = None


async def list_signals(
    connection: Connection,
    user_id: UUID,
    wanted: Wanted,
    *,
    is_newest_first: bool = False,
    after: tuple[datetime, int] | None = None,
    limit: int,
    bytes_max: int = PAGE_BYTES_MAX,
) -> Page[Signal]:
    """At most *limit* of the user's signals in order of creation, behind *after*: the ``(created_at, id)`` where the last page ended."""
    after_at, after_id = after or (None, 0)
    parameters = {
        "user_id": user_id,
        "trader_id": wanted.trader_id,
        "symbol": wanted.symbol,
        "since": wanted.since,
        "from": wanted.first,
        "until": wanted.last,
        "after_at": after_at,
        "after_id": after_id,
        "limit": limit,
        "bytes_max": bytes_max,
    }
    query = "list_newest_signals" if is_newest_first else "list_signals"
    async with connection.cursor(row_factory=rows_of(with_next(Signal))) as cursor:
        await cursor.execute(_QUERIES[query], parameters)
        return page_of(await cursor.fetchall())
