"""What an explanation needs to know of a trader and its past: ``sql/queries/explain.sql``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from app.store import queries
from app.store.pool import Connection
from app.store.rows import rows_of

_SQL = queries.load("explain")


@dataclass(frozen=True, kw_only=True)
class ExplainedTrader:
    """``plan`` is JSON text as stored: untrusted, validate it."""

    user_id: UUID
    filter: str
    plan: str
    plan_hash: str
    symbols: list[str] | None
    frequency: Any
    state: str
    last_error: str | None
    screened_through: datetime | None

    @property
    def cooldown_s(self) -> float | None:
        return float(self.frequency["cooldown_s"]) if isinstance(self.frequency, dict) else None


@dataclass(frozen=True, kw_only=True)
class SlotState:
    state: str
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class StoredSignal:
    triggered_at: datetime
    plan_hash: str


async def find_trader(connection: Connection, trader_id: UUID) -> ExplainedTrader | None:
    """The trader, whoever owns it."""
    async with connection.cursor(row_factory=rows_of(ExplainedTrader)) as cursor:
        await cursor.execute(_SQL["explained_trader"], {"trader_id": trader_id})
        return await cursor.fetchone()


async def find_slot(connection: Connection, slot: datetime) -> SlotState | None:
    """The ledger's row; None for a slot older than the ledger, or still to come."""
    async with connection.cursor(row_factory=rows_of(SlotState)) as cursor:
        await cursor.execute(_SQL["slot_state"], {"slot": slot})
        return await cursor.fetchone()


async def is_covered(connection: Connection, trader_id: UUID, slot: datetime) -> bool:
    """Whether some machine accounted for this trader's slot."""
    parameters = {"trader_id": trader_id, "slot": slot}
    row = await (await connection.execute(_SQL["covering_lease"], parameters)).fetchone()
    return row is not None and bool(row[0])


async def signals_around(
    connection: Connection, trader_id: UUID, symbol: str, slot: datetime, *, reach_s: float
) -> list[StoredSignal]:
    """The signal at the slot, if any, and the newest one within *reach_s* before it; newest first."""
    parameters = {"trader_id": trader_id, "symbol": symbol, "slot": slot, "reach_s": reach_s}
    async with connection.cursor(row_factory=rows_of(StoredSignal)) as cursor:
        await cursor.execute(_SQL["signals_around"], parameters)
        return await cursor.fetchall()
