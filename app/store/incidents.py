"""What machines found wrong with their own state: ``sql/queries/incidents.sql``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from app.store import queries
from app.store.pool import Connection
from app.store.rows import rows_of

_SQL = queries.load("incidents")

Kind = Literal["audit mismatch", "position moved", "matches without a lease"]


@dataclass(frozen=True, kw_only=True)
class RecomputingMachine:
    """A live machine that computes every slot from the candles alone, since *mismatches* were found on it."""

    machine_id: str
    mismatches: int


async def insert(
    connection: Connection,
    kind: Kind,
    boot_id: int,
    message: str,
    *,
    trader_id: UUID | None = None,
    slot: datetime | None = None,
) -> None:
    """Record what was found, in a sentence for whoever runs the service."""
    parameters = {"kind": kind, "boot_id": boot_id, "trader_id": trader_id, "slot": slot, "message": message}
    await connection.execute(_SQL["insert_incident"], parameters)


async def recomputing_machines(connection: Connection) -> list[RecomputingMachine]:
    async with connection.cursor(row_factory=rows_of(RecomputingMachine)) as cursor:
        await cursor.execute(_SQL["recomputing_machines"])
        return await cursor.fetchall()


async def prune(connection: Connection, *, before: datetime, limit: int) -> int:
    """Drop at most *limit* incidents found before an instant, none of a live machine; returns how many."""
    return (await connection.execute(_SQL["prune_incidents"], {"before": before, "limit": limit})).rowcount
