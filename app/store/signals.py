"""
Signals: ``sql/queries/signals.sql``. Machines write them, inside :func:``app.store.machines.fenced``; their
owners read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from app.store import queries
from app.store.pool import Connection
from app.store.rows import PAGE_BYTES_MAX, Page, page_of, rows_of, with_next

_SQL = queries.load("signals")
BATCH_ROWS_MAX = 1000  # one unnest: 95k rows/s; larger batches only lengthen the transaction


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
    """
    At most *limit* of the user's signals in order of creation, behind *after*: the ``(created_at, id)`` where
    the last page ended.
    """
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
        await cursor.execute(_SQL[query], parameters)
        return page_of(await cursor.fetchall())


@dataclass(frozen=True, slots=True)
class Match:
    """A symbol that matched at a slot, ready to become a signal. ``shown`` is JSON text."""

    trader_id: UUID
    epoch: int
    symbol: str
    timeframe: str
    price: float
    shown: str
    plan_hash: str
    forming: bool
    cooldown_s: float | None


async def keep_signal_partition(connection: Connection, slot: datetime) -> None:
    await connection.execute(_SQL["keep_signal_partition"], {"slot": slot})


async def insert_signals(
    connection: Connection, boot_id: int, slot: datetime, screened_at: datetime, matches: Sequence[Match]
) -> int:
    """
    Insert what is new among *matches*, in batches; returns how many signals there are now that were not there
    before.
    """
    ordered = sorted(matches, key=lambda match: (match.trader_id, match.symbol))
    inserted = 0
    for start in range(0, len(ordered), BATCH_ROWS_MAX):
        batch = ordered[start : start + BATCH_ROWS_MAX]
        parameters: dict[str, Any] = {
            "boot_id": boot_id,
            "slot": slot,
            "screened_at": screened_at,
            "trader_ids": [m.trader_id for m in batch],
            "epochs": [m.epoch for m in batch],
            "symbols": [m.symbol for m in batch],
            "timeframes": [m.timeframe for m in batch],
            "prices": [m.price for m in batch],
            "shown": [m.shown for m in batch],
            "plan_hashes": [m.plan_hash for m in batch],
            "forming": [m.forming for m in batch],
            "cooldowns_s": [m.cooldown_s for m in batch],
        }
        counts = await (await connection.execute(_SQL["insert_signals"], parameters)).fetchall()
        inserted += sum(row[0] for row in counts)
    return inserted


@dataclass(frozen=True, kw_only=True)
class StoredSignal:
    """When a signal was, and the version of the filter it is of."""

    triggered_at: datetime
    plan_hash: str


async def list_around(
    connection: Connection, trader_id: UUID, symbol: str, slot: datetime, *, reach_s: float
) -> list[StoredSignal]:
    """The signal at the slot, if any, and the newest one within *reach_s* before it; newest first."""
    parameters = {"trader_id": trader_id, "symbol": symbol, "slot": slot, "reach_s": reach_s}
    async with connection.cursor(row_factory=rows_of(StoredSignal)) as cursor:
        await cursor.execute(_SQL["signals_around"], parameters)
        return await cursor.fetchall()
