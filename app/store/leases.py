"""Who screens which trader, now and in the past: ``sql/queries/leases.sql``. Refusals are translated."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app.domain.coverage import Gap, Pause, Range
from app.store import queries
from app.store.pool import Connection
from app.store.refusals import translated
from app.store.rows import rows_of

_SQL = queries.load("leases")


@dataclass(frozen=True, slots=True)
class Shares:
    """
    What a fair share is made of. ``total`` counts starting and running traders of all machines, ``unowned``
    those among them that no living machine holds, ``mine`` those this machine holds, ``alive`` the machines that may claim.
    """

    state: str | None
    alive: int
    total: int
    unowned: int
    mine: int


async def read_shares(connection: Connection, boot_id: int) -> Shares:
    """Kept numbers: nothing is counted for it."""
    row = await (await connection.execute(_SQL["shares"], {"boot_id": boot_id})).fetchone()
    assert row is not None  # noqa: S101 a function returns a row
    return Shares(*row)


async def fold_counts(connection: Connection) -> None:
    """Add up the changes of the kept numbers of traders, once there are many."""
    await connection.execute(_SQL["fold_counts"])


async def claim(connection: Connection, boot_id: int, n: int) -> int:
    """
    Take up to *n* free traders; returns how many.

    Raises:
        Fenced: the boot is dead.
    """
    return await _count(connection, "claim", {"boot_id": boot_id, "n": n})


async def release(connection: Connection, boot_id: int, trader_ids: list[UUID]) -> int:
    """
    Give these traders back (stopping ones become stopped); the current slot must be finished.

    Raises:
        Fenced: the boot is dead.
    """
    return await _count(connection, "release", {"boot_id": boot_id, "trader_ids": trader_ids})


async def settle(connection: Connection, n: int) -> int:
    """Stop up to *n* traders that were being stopped when their machine died; returns how many."""
    return await _count(connection, "settle", {"n": n})


async def _count(connection: Connection, query: str, parameters: dict[str, object]) -> int:
    with translated():
        row = await (await connection.execute(_SQL[query], parameters)).fetchone()
    assert row is not None  # noqa: S101 a function returns a row
    return int(row[0])


async def read_coverage(
    connection: Connection, trader_id: UUID
) -> tuple[list[Range], list[Gap], list[Pause]]:
    """
    A trader's ranges of complete slots (oldest first), the outage slots inside its leases, and when it was
    stopped.

    Pauses come without those whose market time is unknown (a database without a market).
    """
    parameters = {"trader_id": trader_id}
    async with connection.cursor(row_factory=rows_of(Range)) as cursor:
        ranges = await (await cursor.execute(_SQL["covered_spans"], parameters)).fetchall()
    async with connection.cursor(row_factory=rows_of(Gap)) as gaps:
        outages = await (await gaps.execute(_SQL["outages_in_leases"], parameters)).fetchall()
    async with connection.cursor(row_factory=rows_of(Pause)) as stops:
        pauses = await (await stops.execute(_SQL["pauses"], parameters)).fetchall()
    return ranges, outages, pauses


@dataclass(frozen=True, kw_only=True)
class Lacking:
    """A slot that was screened while *symbols* (at most 20 of *count*) had no candle, each with its reason."""

    slot: datetime
    symbols: dict[str, str]
    count: int


async def read_lacking(connection: Connection, trader_id: UUID, *, limit: int) -> list[Lacking]:
    """The newest *limit* slots that a trader was screened in without some of its symbols, newest first."""
    async with connection.cursor(row_factory=rows_of(Lacking)) as cursor:
        await cursor.execute(_SQL["lacking_in_leases"], {"trader_id": trader_id, "limit": limit})
        return await cursor.fetchall()


async def is_covered(connection: Connection, trader_id: UUID, slot: datetime) -> bool:
    """Whether some machine accounted for this trader's slot."""
    parameters = {"trader_id": trader_id, "slot": slot}
    row = await (await connection.execute(_SQL["covering_lease"], parameters)).fetchone()
    return row is not None and bool(row[0])


async def prune(connection: Connection, *, before: datetime, limit: int) -> int:
    """Drop at most *limit* leases that ended before an instant, at least a day ago; returns how many."""
    return (await connection.execute(_SQL["prune_leases"], {"before": before, "limit": limit})).rowcount
