"""
The one fenced transaction in which a machine accounts for a slot: ``sql/queries/screening.sql``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from app.store import queries
from app.store.pool import Connection, Pool
from app.store.refusals import translated
from app.store.rows import batched

_SQL = queries.load("screening")
BATCH_ROWS_MAX = 1000  # one unnest: 95k rows/s; larger batches only lengthen the transaction


@dataclass(frozen=True, slots=True)
class Match:
    """A symbol that matched at a slot, ready to become a signal. ``shown`` is JSON text."""

    trader_id: UUID
    epoch: int
    symbol: str
    timeframe: str
    price: float
    shown: str
    plan_hash: str
    forming: bool
    cooldown_s: float | None


Lease = tuple[UUID, int]  # (trader_id, epoch)


@asynccontextmanager
async def fenced(pool: Pool, boot_id: int) -> AsyncIterator[Connection]:
    """
    A transaction of this machine: bounded, so that it cannot hide the machine from the reaper, and refused once it was reaped.

    Raises:
        Fenced: the boot is dead; nothing was written.
    """
    async with pool.connection() as connection, connection.transaction():
        with translated():
            await connection.execute(_SQL["limit_transaction"])
            await connection.execute(_SQL["fence"], {"boot_id": boot_id})
            yield connection


async def keep_signal_partition(connection: Connection, slot: datetime) -> None:
    await connection.execute(_SQL["keep_signal_partition"], {"slot": slot})


async def insert_signals(
    connection: Connection, boot_id: int, slot: datetime, screened_at: datetime, matches: Sequence[Match]
) -> int:
    """Insert what is new among *matches*, in batches; returns how many signals there are now that were not there before."""
    ordered = sorted(matches, key=lambda match: (match.trader_id, match.symbol))
    inserted = 0
    for start in range(0, len(ordered), BATCH_ROWS_MAX):
        batch = ordered[start : start + BATCH_ROWS_MAX]
        parameters: dict[str, Any] = {
            "boot_id": boot_id,
            "slot": slot,
            "screened_at": screened_at,
            "trader_ids": [m.trader_id for m in batch],
            "epochs": [m.epoch for m in batch],
            "symbols": [m.symbol for m in batch],
            "timeframes": [m.timeframe for m in batch],
            "prices": [m.price for m in batch],
            "shown": [m.shown for m in batch],
            "plan_hashes": [m.plan_hash for m in batch],
            "forming": [m.forming for m in batch],
            "cooldowns_s": [m.cooldown_s for m in batch],
        }
        counts = await (await connection.execute(_SQL["insert_signals"], parameters)).fetchall()
        inserted += sum(row[0] for row in counts)
    return inserted


async def position(connection: Connection, boot_id: int) -> datetime | None:
    """The last slot this boot has accounted for; None for a boot that never was."""
    row = await (await connection.execute(_SQL["position"], {"boot_id": boot_id})).fetchone()
    return row[0] if row else None


async def advance_machine(connection: Connection, boot_id: int, slot: datetime, previous: datetime) -> bool:
    """Record that everything up to *slot* is accounted for; False when this boot no longer stands at *previous*."""
    cursor = await connection.execute(
        _SQL["advance_machine"], {"boot_id": boot_id, "slot": slot, "previous": previous}
    )
    return await cursor.fetchone() is not None


async def put_in_step(connection: Connection, boot_id: int, slot: datetime, leases: Sequence[Lease]) -> None:
    """These traders have been screened through *slot*, where the machine stands: they follow it from here."""
    for batch in batched(leases):
        await connection.execute(_SQL["put_in_step"], _of(boot_id, slot, batch))


async def advance_traders(
    connection: Connection, boot_id: int, slot: datetime, leases: Sequence[Lease]
) -> None:
    """These traders, still behind the machine, have been screened through *slot*."""
    for batch in batched(leases):
        await connection.execute(_SQL["advance_traders"], _of(boot_id, slot, batch))


def _of(boot_id: int, slot: datetime, leases: Sequence[Lease]) -> dict[str, Any]:
    return {
        "boot_id": boot_id,
        "slot": slot,
        "trader_ids": [t for t, _ in leases],
        "epochs": [e for _, e in leases],
    }
