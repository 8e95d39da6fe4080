"""Machines and leases: ``sql/queries/machines.sql``. Refusals are translated; a buried machine meets :class:`app.errors.Fenced`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from app.store import queries
from app.store.pool import Connection
from app.store.refusals import translated

_SQL = queries.load("machines")


@dataclass(frozen=True, slots=True)
class Beat:
    """What a heartbeat brings back. ``total`` counts starting and running traders of all machines, ``unowned`` those among them
    nobody holds, ``mine`` those this machine holds.
    """

    ok: bool
    state: str | None
    alive: int
    total: int
    unowned: int
    mine: int
    newest_closed: datetime | None


@dataclass(frozen=True, slots=True)
class Reaped:
    boot_id: int
    machine_id: str
    freed: int


async def _row(connection: Connection, name: str, **parameters: Any) -> tuple[Any, ...]:
    with translated():
        row = await (await connection.execute(_SQL[name], parameters)).fetchone()
    if row is None:
        raise RuntimeError(f"{name} returns a row by construction")
    return tuple(row)


async def register(connection: Connection, machine_id: str) -> tuple[int, datetime]:
    """A new boot on the direct *connection*, its session lock taken; returns (boot_id, screened_through)."""
    boot_id, screened_through = await _row(connection, "register_machine", machine_id=machine_id)
    await _row(connection, "lock_machine", boot_id=boot_id)
    return boot_id, screened_through


async def resume(connection: Connection, boot_id: int) -> bool:
    """Take the session lock again on a new direct connection; False when this boot was buried meanwhile."""
    return bool((await _row(connection, "resume_machine", boot_id=boot_id))[0])


async def beat(connection: Connection, boot_id: int, owned: int) -> Beat:
    return Beat(*await _row(connection, "beat", boot_id=boot_id, owned=owned))


async def reap(connection: Connection, *, ttl_s: float, grace_s: float) -> list[Reaped]:
    rows = await (await connection.execute(_SQL["reap"], {"ttl_s": ttl_s, "grace_s": grace_s})).fetchall()
    return [Reaped(*row) for row in rows]


async def claim(connection: Connection, boot_id: int, n: int) -> int:
    """Take up to *n* free traders; returns how many."""
    return int((await _row(connection, "claim", boot_id=boot_id, n=n))[0])


async def release(connection: Connection, boot_id: int, trader_ids: list[UUID]) -> int:
    """Give these traders back (stopping ones become stopped); the slot in hand must be finished."""
    return int((await _row(connection, "release", boot_id=boot_id, trader_ids=trader_ids))[0])


async def leave(connection: Connection, boot_id: int) -> int:
    """Give everything back and end this boot."""
    return int((await _row(connection, "leave", boot_id=boot_id))[0])


async def retry_due(connection: Connection) -> int:
    return int((await _row(connection, "retry_due"))[0])


async def stop_beyond_tiers(connection: Connection) -> int:
    """Stop the newest traders of users whose tier was lowered below what runs; returns how many."""
    return int((await _row(connection, "stop_beyond_tiers"))[0])


async def try_ingest_lock(connection: Connection) -> bool:
    """Become the one feeder of market data, as long as the direct *connection* lives."""
    return bool((await _row(connection, "try_ingest_lock"))[0])


async def live_boots(connection: Connection) -> list[int]:
    return [row[0] for row in await (await connection.execute(_SQL["live_boots"])).fetchall()]


async def dead_letters(connection: Connection) -> int:
    """How many jobs failed for good and were not redelivered."""
    return int((await _row(connection, "dead_letters"))[0])


async def cancel_jobs_of_the_dead(connection: Connection) -> None:
    await connection.execute(_SQL["cancel_jobs_of_the_dead"], {})
