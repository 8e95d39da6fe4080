"""Pairs: ``sql/queries/symbols.sql``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from app.store import queries
from app.store.pool import Connection
from app.store.rows import rows_of

_SQL = queries.load("symbols")


@dataclass(frozen=True, slots=True)
class Pair:
    symbol_id: int
    symbol: str
    trading: bool


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A pair as users see it."""

    symbol: str
    base: str
    quote: str
    trading: bool


async def list_universe(connection: Connection) -> list[Pair]:
    """Every pair ever seen, by symbol_id, which is the order of the panel's rows."""
    return [Pair(*row) for row in await (await connection.execute(_SQL["list_universe"])).fetchall()]


async def put_listed(connection: Connection, listed: Sequence[tuple[str, str, str]]) -> None:
    """Today's (symbol, base, quote) of the exchange; pairs missing from it no longer trade."""
    names = [symbol for symbol, _, _ in listed]
    parameters = {
        "symbols": names,
        "bases": [base for _, base, _ in listed],
        "quotes": [quote for _, _, quote in listed],
    }
    await connection.execute(_SQL["put_symbols"], parameters)
    await connection.execute(_SQL["end_trading"], {"symbols": names})


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
