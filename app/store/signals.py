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
from app.store.rows import rows_of

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


async def list_signals(
    connection: Connection,
    user_id: UUID,
    *,
    trader_id: UUID | None = None,
    since: datetime | None = None,
    after: tuple[datetime, int] | None = None,
    limit: int,
) -> list[Signal]:
    """
    At most *limit* of the user's signals in order of creation, oldest first.

    Only those created at or after *since*, and behind *after*: the ``(created_at, id)`` where the last page ended.
    """
    after_at, after_id = after or (None, 0)
    query = "list_signals" if trader_id is None else "list_signals_of_trader"
    parameters = {
        "user_id": user_id,
        "trader_id": trader_id,
        "since": since,
        "after_at": after_at,
        "after_id": after_id,
        "limit": limit,
    }
    async with connection.cursor(row_factory=rows_of(Signal)) as cursor:
        await cursor.execute(_QUERIES[query], parameters)
        return await cursor.fetchall()
