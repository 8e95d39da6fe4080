"""What corrected candles would have changed: ``sql/queries/signal_revisions.sql``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

from app.domain.timeframes import TIMEFRAMES
from app.store import queries
from app.store.pool import Connection
from app.store.rows import rows_of

_SQL = queries.load("signal_revisions")
_LENGTHS = {"timeframes": list(TIMEFRAMES), "seconds": list(TIMEFRAMES.values())}


@dataclass(frozen=True, kw_only=True)
class CorrectedSlot:
    """A slot at which bars of *symbols* close that were corrected; *newest* is the last correction seen."""

    slot: datetime
    symbols: list[str]
    newest: int


@dataclass(frozen=True, kw_only=True)
class ScreenedTrader:
    """A trader that was screened at a slot. ``plan`` is JSON text as stored: untrusted, validate it."""

    trader_id: UUID
    user_id: UUID
    plan: str
    symbols: list[str] | None
    frequency: Any

    @property
    def cooldown_s(self) -> float:
        return float(self.frequency["cooldown_s"]) if isinstance(self.frequency, dict) else 0.0


async def next_corrected(connection: Connection, limit: int) -> list[CorrectedSlot]:
    """At most *limit* slots with corrections that have not been screened again, oldest first."""
    async with connection.cursor(row_factory=rows_of(CorrectedSlot)) as cursor:
        await cursor.execute(_SQL["next_corrected_slots"], {**_LENGTHS, "limit": limit})
        return await cursor.fetchall()


async def mark(connection: Connection, corrected: CorrectedSlot) -> None:
    """The slot has been screened again for these corrections."""
    parameters = {"slot": corrected.slot, "symbols": corrected.symbols, "newest": corrected.newest}
    await connection.execute(_SQL["mark_screened_again"], {**_LENGTHS, **parameters})


async def traders_at(
    connection: Connection, slot: datetime, symbols: Sequence[str], *, after_id: UUID, limit: int
) -> list[ScreenedTrader]:
    """A page of the traders screened at *slot* for any of *symbols*, by id, after *after_id*."""
    parameters = {"slot": slot, "symbols": list(symbols), "after_id": after_id, "limit": limit}
    async with connection.cursor(row_factory=rows_of(ScreenedTrader)) as cursor:
        await cursor.execute(_SQL["traders_screened_at"], parameters)
        return await cursor.fetchall()


async def signals_near(
    connection: Connection, trader: ScreenedTrader, slot: datetime, symbols: Sequence[str]
) -> tuple[set[str], set[str]]:
    """Symbols with a signal at *slot*, and those with one within the cooldown before it."""
    parameters = {
        "trader_id": trader.trader_id,
        "symbols": list(symbols),
        "slot": slot,
        "cooldown_s": trader.cooldown_s,
    }
    rows = await (await connection.execute(_SQL["signals_near"], parameters)).fetchall()
    at = {symbol for symbol, when in rows if when.astimezone(UTC) == slot}
    return at, {symbol for symbol, when in rows if when.astimezone(UTC) < slot}


async def put(
    connection: Connection, trader: ScreenedTrader, slot: datetime, kinds: Mapping[str, str]
) -> None:
    """Report the symbols of *kinds* as missing or new."""
    parameters = {
        "trader_id": trader.trader_id,
        "user_id": trader.user_id,
        "slot": slot,
        "symbols": list(kinds),
        "kinds": list(kinds.values()),
    }
    await connection.execute(_SQL["put_revisions"], parameters)


async def find(
    connection: Connection, trader_id: UUID, symbol: str, slot: datetime
) -> Literal["missing", "new"] | None:
    """missing, new, or None: whether corrected candles would change the trader's signal."""
    parameters = {"trader_id": trader_id, "symbol": symbol, "slot": slot}
    row = await (await connection.execute(_SQL["find_revision"], parameters)).fetchone()
    return row[0] if row else None


async def prune(connection: Connection, *, before: datetime, limit: int) -> int:
    """Drop at most *limit* reports about signals before an instant; returns how many."""
    return (await connection.execute(_SQL["prune_revisions"], {"before": before, "limit": limit})).rowcount
