"""
The market as readers see it: its clock, its pairs, its closed candles. Written by the ingest's stores, never here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from app.store import queries
from app.store.pool import Connection
from app.store.rows import rows_of

_QUERIES = queries.load("market_read")


@dataclass(frozen=True, kw_only=True)
class Pair:
    symbol: str
    base: str
    quote: str
    trading: bool


@dataclass(frozen=True, kw_only=True)
class Candle:
    """A closed candle; prices and volume in quote and base currency."""

    open_time: datetime
    open: float
    high: float
    low: float
    close: float
    volume: float


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What anyone may know about the whole service."""

    market_source: str | None
    speed: float | None
    market_at: datetime | None
    market_ended: bool
    newest_slot: datetime | None
    machines_alive: int
    lag_s: float


async def list_symbols(connection: Connection) -> list[Pair]:
    async with connection.cursor(row_factory=rows_of(Pair)) as cursor:
        return await (await cursor.execute(_QUERIES["list_symbols"])).fetchall()


async def unknown_symbols(connection: Connection, symbols: Iterable[str]) -> list[str]:
    """Those the market does not have, by name; none while it has no symbols at all."""
    cursor = await connection.execute(_QUERIES["unknown_symbols"], {"symbols": list(symbols)})
    return [row[0] for row in await cursor.fetchall()]


async def symbol_exists(connection: Connection, symbol: str) -> bool:
    row = await (await connection.execute(_QUERIES["symbol_exists"], {"symbol": symbol})).fetchone()
    return row is not None and bool(row[0])


async def list_candles(
    connection: Connection, symbol: str, timeframe: str, *, until: datetime | None, limit: int
) -> list[Candle]:
    """The newest *limit* closed candles that opened before *until* (None: now), oldest first."""
    async with connection.cursor(row_factory=rows_of(Candle)) as cursor:
        await cursor.execute(
            _QUERIES["list_candles"],
            {"symbol": symbol, "timeframe": timeframe, "until": until, "limit": limit},
        )
        return await cursor.fetchall()


async def summary(connection: Connection) -> Summary:
    async with connection.cursor(row_factory=rows_of(Summary)) as cursor:
        row = await (await cursor.execute(_QUERIES["summary"])).fetchone()
    assert row is not None  # noqa: S101 left joins from a one-row table
    return row
