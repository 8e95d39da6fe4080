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
from app.store.rows import batched

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


@dataclass(frozen=True, slots=True)
class Changes:
    """
    What changed since an earlier horizon: ours as they are now, and traders that are not (or no longer) ours.

    ``horizon`` is what the next question begins with; some of what is told now is told again then. ``owned`` counts all of ours.
    A trader that was deleted is among neither: only the count tells.
    """

    horizon: str
    owned: int
    ours: list[Entry]
    others: list[UUID]


async def changes(connection: Connection, boot_id: int, since: str | None) -> Changes:
    """
    What changed *since* an earlier horizon; None: nothing but the horizon and the count.

    Costs what changed, and the count: 15 ms of the server for 100,000 traders owned.
    """
    parameters = {"boot_id": boot_id, "since": since}
    rows = await (await connection.execute(_SQL["roster_changes"], parameters)).fetchall()
    changed = [row[2:] for row in rows if row[2] is not None]
    return Changes(
        horizon=rows[0][0],
        owned=rows[0][1],
        ours=[Entry(*row[:-1]) for row in changed if row[-1]],
        others=[row[0] for row in changed if not row[-1]],
    )


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
    running = 0
    for batch in batched(leases):
        parameters = {
            "boot_id": boot_id,
            "trader_ids": [t for t, _ in batch],
            "epochs": [e for _, e in batch],
        }
        running += (await connection.execute(_SQL["mark_running"], parameters)).rowcount
    return running


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
