"""The traders one machine owns: ``sql/queries/roster.sql``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from psycopg.types.json import Jsonb

from app.store import queries
from app.store.pool import Connection

_SQL = queries.load("roster")


@dataclass(frozen=True, slots=True)
class Entry:
    """A lease as the database has it. ``resume_after`` is the last slot accounted for when it began."""

    trader_id: UUID
    epoch: int
    revision: int
    state: str
    resume_after: datetime
    in_step: bool


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """What to screen. ``plan`` is JSON text as stored: untrusted, validate it and hold its content against ``plan_hash``."""

    trader_id: UUID
    user_id: UUID
    plan: str
    plan_hash: str
    symbols: list[str] | None
    frequency: Literal["every_bar", "on_enter"] | dict[str, float]
    filter: str


async def digest(connection: Connection, boot_id: int) -> tuple[int, int]:
    """(number, hash) of this machine's traders, leases, revisions and states; equal means nothing to do."""
    row = await (await connection.execute(_SQL["roster_digest"], {"boot_id": boot_id})).fetchone()
    return (row[0], row[1]) if row else (0, 0)


async def roster(connection: Connection, boot_id: int) -> list[Entry]:
    return [
        Entry(*row)
        for row in await (await connection.execute(_SQL["roster"], {"boot_id": boot_id})).fetchall()
    ]


async def plans(connection: Connection, trader_ids: Sequence[UUID]) -> list[StoredPlan]:
    rows = await (await connection.execute(_SQL["plans"], {"trader_ids": list(trader_ids)})).fetchall()
    return [StoredPlan(*row) for row in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recompiled:
    """A plan made anew from the filter of a trader's *revision*."""

    trader_id: UUID
    revision: int
    plan: bytes
    plan_hash: str
    plan_summary: dict[str, Any]


async def store_recompiled(connection: Connection, recompiled: Recompiled) -> bool:
    """Put a recompiled plan in place of the old one; False when another filter was saved meanwhile. The revision rises."""
    parameters = {
        "trader_id": recompiled.trader_id,
        "revision": recompiled.revision,
        "plan": recompiled.plan.decode(),
        "plan_hash": recompiled.plan_hash,
        "plan_summary": Jsonb(recompiled.plan_summary),
    }
    return (await connection.execute(_SQL["store_recompiled"], parameters)).rowcount == 1


async def mark_running(connection: Connection, boot_id: int, leases: Sequence[tuple[UUID, int]]) -> int:
    parameters = {"boot_id": boot_id, "trader_ids": [t for t, _ in leases], "epochs": [e for _, e in leases]}
    return (await connection.execute(_SQL["mark_running"], parameters)).rowcount


@dataclass(frozen=True, slots=True)
class Failure:
    """A trader that cannot go on, and why, in a sentence for its owner."""

    trader_id: UUID
    epoch: int
    reason: str
    message: str


async def fail(connection: Connection, boot_id: int, failures: Sequence[Failure]) -> int:
    parameters: dict[str, Any] = {
        "boot_id": boot_id,
        "trader_ids": [f.trader_id for f in failures],
        "epochs": [f.epoch for f in failures],
        "reasons": [f.reason for f in failures],
        "messages": [f.message[:2000] for f in failures],
    }
    return (await connection.execute(_SQL["fail_traders"], parameters)).rowcount
