"""Pairs: ``sql/queries/symbols.sql``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.store import queries
from app.store.pool import Connection

_SQL = queries.load("symbols")


@dataclass(frozen=True, slots=True)
class Pair:
    symbol_id: int
    symbol: str
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
