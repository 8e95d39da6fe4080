"""
Which slots were accounted for, as the leases and the ledger tell it.
"""

from __future__ import annotations

from uuid import UUID

from app.domain.coverage import Gap, Pause, Range
from app.store import queries
from app.store.pool import Connection
from app.store.rows import rows_of

_QUERIES = queries.load("coverage")


async def read_coverage(
    connection: Connection, trader_id: UUID
) -> tuple[list[Range], list[Gap], list[Pause]]:
    """
    A trader's ranges of complete slots (oldest first), the outage slots inside its leases, and when it was stopped.

    Pauses come without those whose market time is unknown (a database without a market).
    """
    parameters = {"trader_id": trader_id}
    async with connection.cursor(row_factory=rows_of(Range)) as cursor:
        ranges = await (await cursor.execute(_QUERIES["covered_spans"], parameters)).fetchall()
    async with connection.cursor(row_factory=rows_of(Gap)) as gaps:
        outages = await (await gaps.execute(_QUERIES["outages_in_leases"], parameters)).fetchall()
    async with connection.cursor(row_factory=rows_of(Pause)) as stops:
        pauses = await (await stops.execute(_QUERIES["pauses"], parameters)).fetchall()
    return ranges, outages, pauses
