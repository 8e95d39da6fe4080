"""The one market of a database and its clock: ``sql/queries/markets.sql``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from app.store import queries
from app.store.pool import Connection

_SQL = queries.load("markets")


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
