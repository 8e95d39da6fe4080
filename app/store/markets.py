"""The one market of a database and its clock: ``sql/queries/markets.sql``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from app.domain.health import MarketFacts
from app.store import queries
from app.store.pool import Connection
from app.store.rows import rows_of

_SQL = queries.load("markets")
_FACTS = tuple(field.name for field in fields(MarketFacts))

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Market:
    """market time = anchor_market_at + (wall − anchor_wall_at) × speed, never past ends_at."""

    source: str
    speed: float
    anchor_market_at: datetime
    anchor_wall_at: datetime
    ends_at: datetime | None
    market_time: datetime
    newest_slot: datetime | None
    wall_time: datetime
    chosen_by_auto: bool


async def find(connection: Connection) -> Market | None:
    row = await (await connection.execute(_SQL["the_market"])).fetchone()
    return Market(*row) if row else None


async def put(
    connection: Connection,
    *,
    source: str,
    speed: float,
    anchor_market_at: datetime,
    anchor_wall_at: datetime,
    ends_at: datetime | None,
    chosen_by_auto: bool = False,
) -> None:
    """Name the market of a database that has none; an existing one stays."""
    await connection.execute(
        _SQL["put_market"],
        {
            "source": source,
            "chosen_by_auto": chosen_by_auto,
            "speed": speed,
            "anchor_market_at": anchor_market_at,
            "anchor_wall_at": anchor_wall_at,
            "ends_at": ends_at,
        },
    )


async def anchor(connection: Connection, *, speed: float) -> None:
    """Let the market go on from where the ledger stands, at *speed*, from now."""
    await connection.execute(_SQL["anchor_market"], {"speed": speed})


async def jump(connection: Connection, at: datetime) -> None:
    """Let the market go on at *at*, from now."""
    await connection.execute(_SQL["jump"], {"at": at})


async def forget_simulated(connection: Connection, demo: UUID) -> bool:
    """
    Remove a simulated market that nobody named, with all that was screened on it.

    False, and nothing happens, when it was named, when anybody but *demo* lives here, or when its time runs ahead of ours.
    """
    row = await (await connection.execute(_SQL["forget_simulated_market"], {"demo": demo})).fetchone()
    return row is not None and bool(row[0])


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What anyone may know about the whole service."""

    market_source: str | None
    facts: MarketFacts
    newest_slot: datetime | None
    machines_alive: int
    lag_s: float
    recomputing: list[str]
    mismatches: int
    overdue: list[str]
    silent: list[str]


async def summary(connection: Connection) -> Summary:
    async with connection.cursor(row_factory=rows_of(with_facts(Summary))) as cursor:
        row = await (await cursor.execute(_SQL["summary"])).fetchone()
    assert row is not None  # noqa: S101 left joins from a one-row table
    return row


@dataclass(frozen=True, slots=True)
class Ledger:
    """
    Where the market stands: its source, how many slots are open and outages, and what health is derived from.
    """

    market: str | None
    open: int
    outage: int
    facts: MarketFacts


async def ledger(connection: Connection) -> Ledger:
    async with connection.cursor(row_factory=rows_of(with_facts(Ledger))) as cursor:
        row = await (await cursor.execute(_SQL["ledger"])).fetchone()
    assert row is not None  # noqa: S101 the view has one row
    return row


def with_facts(make: Callable[..., T]) -> Callable[..., T]:
    """Takes the market's columns out of a row: they belong to the same snapshot, not to the trader."""

    def row(**columns: Any) -> T:
        return make(facts=MarketFacts(**{name: columns.pop(name) for name in _FACTS}), **columns)

    return row
