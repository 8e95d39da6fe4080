"""Pairs: ``sql/queries/symbols.sql``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from app.store import queries
from app.store.pool import Connection
from app.store.rows import rows_of

_SQL = queries.load("symbols")


@dataclass(frozen=True, slots=True)
class Pair:
    """
    Attributes:
        trading: The exchange lists it, and it is within the limits of the universe.
        screened: Its history is whole: slots wait for its candle.
        waits_for: What a pair without whole history waits for; tried again in *retry_in_s*.
    """

    symbol_id: int
    symbol: str
    trading: bool
    screened: bool
    waits_for: str | None
    retry_in_s: float | None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A pair as users see it."""

    symbol: str
    base: str
    quote: str
    trading: bool
    screened: bool
    listed_at: datetime
    halted_at: datetime | None
    reason: str | None


async def list_universe(connection: Connection) -> list[Pair]:
    """Every pair ever seen, by symbol_id, which is the order of the panel's rows."""
    return [Pair(*row) for row in await (await connection.execute(_SQL["list_universe"])).fetchall()]


async def put_listed(
    connection: Connection, listed: Sequence[tuple[str, str, str]], reasons: Mapping[str, str]
) -> None:
    """Today's (symbol, base, quote) of the exchange; pairs missing from it no longer trade, for these *reasons* by name."""
    names = [symbol for symbol, _, _ in listed]
    parameters = {
        "symbols": names,
        "bases": [base for _, base, _ in listed],
        "quotes": [quote for _, _, quote in listed],
    }
    await connection.execute(_SQL["put_symbols"], parameters)
    await connection.execute(_SQL["end_trading"], {"symbols": names, "reasons": json.dumps(dict(reasons))})


async def screen(connection: Connection, symbol_ids: Sequence[int]) -> None:
    """The history of these pairs is whole; panels read it with the next slot."""
    await connection.execute(_SQL["screen_pairs"], {"symbol_ids": list(symbol_ids)})


async def let_wait(connection: Connection, symbol_id: int, reason: str, retry_s: float) -> None:
    """A trading pair is not screened yet; it is tried again in *retry_s*."""
    parameters = {"symbol_id": symbol_id, "reason": reason, "retry_s": retry_s}
    await connection.execute(_SQL["let_wait"], parameters)


async def list_symbols(connection: Connection) -> list[Listing]:
    """Every pair ever screened, by name."""
    async with connection.cursor(row_factory=rows_of(Listing)) as cursor:
        return await (await cursor.execute(_SQL["list_symbols"])).fetchall()


async def unknown_symbols(connection: Connection, symbols: Iterable[str]) -> list[str]:
    """Those the market does not have, by name; none while it has no symbols at all."""
    cursor = await connection.execute(_SQL["unknown_symbols"], {"symbols": list(symbols)})
    return [row[0] for row in await cursor.fetchall()]


async def symbol_exists(connection: Connection, symbol: str) -> bool:
    row = await (await connection.execute(_SQL["symbol_exists"], {"symbol": symbol})).fetchone()
    return row is not None and bool(row[0])


async def symbols_in_order(connection: Connection, symbols: Sequence[str] | None) -> list[str]:
    """Those of *symbols* (None: all) that the market knows, in the order of a panel's rows."""
    parameters = {"symbols": None if symbols is None else list(symbols)}
    return [
        row[0] for row in await (await connection.execute(_SQL["symbols_in_order"], parameters)).fetchall()
    ]
