"""How far each kind of row was pruned: ``sql/queries/prunings.sql``."""

from __future__ import annotations

from datetime import datetime

from app.domain.retention import Clocks
from app.store import queries
from app.store.pool import Connection
from app.store.rows import rows_of

_SQL = queries.load("prunings")


async def read_clocks(connection: Connection) -> Clocks:
    async with connection.cursor(row_factory=rows_of(Clocks)) as cursor:
        await cursor.execute(_SQL["clocks"])
        clocks = await cursor.fetchone()
    assert clocks is not None  # noqa: S101 a select without from returns one row
    return clocks


async def begin(connection: Connection, kind: str, before: datetime) -> None:
    """State that rows of *kind* before an instant may be gone from now on."""
    await connection.execute(_SQL["begin_pruning"], {"kind": kind, "before": before})


async def count(connection: Connection, kind: str, rows: int) -> None:
    await connection.execute(_SQL["count_pruned"], {"kind": kind, "rows": rows})


async def audited_from(connection: Connection) -> datetime | None:
    """Market time from which on everything that an audit compares is kept; None: nothing was ever pruned."""
    row = await (await connection.execute(_SQL["audited_from"])).fetchone()
    return row[0] if row else None
