"""The ledger of slots: ``sql/queries/slots.sql``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from app.store import queries
from app.store.pool import Connection
from app.store.rows import rows_of

_SQL = queries.load("slots")
MISSING_NAMES_MAX = 20  # enough for a person to see a pattern; the number says the rest


@dataclass(frozen=True, slots=True)
class ClosedSlot:
    """How a slot ended. ``state`` is complete or outage; ``missing`` the symbols without a candle, each with its reason."""

    slot: datetime
    state: str
    expected: int
    missing: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None


async def next_closed(connection: Connection, after: datetime, limit: int) -> list[tuple[datetime, str]]:
    """
    Slots after *after* that can be accounted for, oldest first, none beyond one that is still open: [(slot,
    state)].
    """
    return [
        (row[0], row[1])
        for row in await (
            await connection.execute(_SQL["next_closed_slots"], {"after": after, "limit": limit})
        ).fetchall()
    ]


async def oldest_open(connection: Connection, after: datetime, through: datetime) -> datetime | None:
    """The first slot after *after* and through *through* that is still open."""
    parameters = {"after": after, "through": through}
    row = await (await connection.execute(_SQL["oldest_open_slot"], parameters)).fetchone()
    return row[0] if row else None


async def newest_closed(connection: Connection) -> datetime | None:
    row = await (await connection.execute(_SQL["newest_closed_slot"])).fetchone()
    return row[0] if row else None


async def open_due(connection: Connection) -> int:
    """Open the minute boundaries the market's clock has passed; returns how many were new."""
    return (await connection.execute(_SQL["open_due_slots"])).rowcount


async def close(connection: Connection, closed: Sequence[ClosedSlot]) -> int:
    """Record how slots ended; returns how many were not closed before."""
    parameters: dict[str, Any] = {
        "slots": [s.slot for s in closed],
        "states": [s.state for s in closed],
        "expected": [s.expected for s in closed],
        "missing_counts": [len(s.missing) for s in closed],
        "missing": [
            json.dumps({name: s.missing[name] for name in sorted(s.missing)[:MISSING_NAMES_MAX]})
            for s in closed
        ],
        "reasons": [s.reason for s in closed],
    }
    return (await connection.execute(_SQL["close_slots"], parameters)).rowcount


async def close_open(connection: Connection, before: datetime, reason: str) -> None:
    """Slots that are still open before *before* become outages."""
    await connection.execute(_SQL["close_open_slots"], {"before": before, "reason": reason})


@dataclass(frozen=True, slots=True)
class LedgerCounts:
    newest_closed: datetime | None
    market_time: datetime | None
    open: int
    outage: int


async def counts(connection: Connection) -> LedgerCounts:
    row = await (await connection.execute(_SQL["slot_counts"])).fetchone()
    return LedgerCounts(*row) if row else LedgerCounts(None, None, 0, 0)


async def prune(connection: Connection, *, before: datetime, limit: int) -> int:
    """Drop at most *limit* slots before an instant, at least a day old; returns how many."""
    return (await connection.execute(_SQL["prune_slots"], {"before": before, "limit": limit})).rowcount


@dataclass(frozen=True, kw_only=True)
class SlotState:
    """complete, outage (with its reason) or open."""

    state: str
    reason: str | None
    missing_reason: str | None  # why the symbol that was asked about has no candle in it


async def find(connection: Connection, slot: datetime, symbol: str) -> SlotState | None:
    """The ledger's row, as far as it concerns *symbol*; None for a slot older than the ledger, or still to come."""
    async with connection.cursor(row_factory=rows_of(SlotState)) as cursor:
        await cursor.execute(_SQL["find_slot"], {"slot": slot, "symbol": symbol})
        return await cursor.fetchone()


class Unscreened(NamedTuple):
    """A slot that live screening passed over: for every symbol (None) or for one."""

    symbol: str | None
    slot: datetime


async def unscreened(connection: Connection, first: datetime, last: datetime) -> list[Unscreened]:
    """
    What live screening passed over between two slots, both included: outages, and candles that came too late.
    """
    rows = await (await connection.execute(_SQL["unscreened"], {"first": first, "last": last})).fetchall()
    return [Unscreened(row[0], row[1].astimezone(UTC)) for row in rows]


@dataclass(frozen=True, kw_only=True)
class LedgerSlot:
    """A row of the ledger. ``closed_at`` is the database's clock; None while it is open."""

    slot: datetime
    state: str
    closed_at: datetime | None


async def list_between(connection: Connection, after: datetime, through: datetime) -> list[LedgerSlot]:
    """The slots with *after* < slot ≤ *through*, oldest first."""
    async with connection.cursor(row_factory=rows_of(LedgerSlot)) as cursor:
        await cursor.execute(_SQL["slots_between"], {"after": after, "through": through})
        return await cursor.fetchall()


async def see_one_snapshot(connection: Connection) -> None:
    """Let the transaction that just began see one moment in all its statements, and write nothing."""
    await connection.execute(_SQL["one_snapshot"])
