"""What the feeder of the market is doing: ``sql/queries/market_progress.sql``."""

from __future__ import annotations

from app.store import queries
from app.store.pool import Connection

_SQL = queries.load("market_progress")


async def put(
    connection: Connection, stage: str, reason: str | None, *, done: int = 0, total: int = 0
) -> None:
    """Say what the feeder does: starting, held, history (*done* of *total* requests) or live."""
    parameters = {"stage": stage, "reason": reason, "done": done, "total": total}
    await connection.execute(_SQL["put_progress"], parameters)
