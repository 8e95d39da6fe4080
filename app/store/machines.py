"""
Machines and how far each has come: ``sql/queries/machines.sql``.

Refusals are translated; a dead machine meets :class:``app.errors.Fenced``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from app.store import queries
from app.store.pool import Connection, Pool
from app.store.refusals import translated
from app.store.rows import rows_of

_SQL = queries.load("machines")


@dataclass(frozen=True, slots=True)
class Beat:
    """What a heartbeat brings back; ``ok`` is False for a machine that is dead."""

    ok: bool
    state: str | None
    newest_closed: datetime | None


@dataclass(frozen=True, slots=True)
class Reaped:
    """A machine that was found dead; ``freed`` of its traders are to be claimed."""

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
    """Take the session lock again on a new direct connection; False when this boot was reaped meanwhile."""
    return bool((await _row(connection, "resume_machine", boot_id=boot_id))[0])


async def beat(connection: Connection, boot_id: int, owned: int, progress: Mapping[str, Any]) -> Beat:
    """Renew the heartbeat and report *progress*; one row is written, however many traders there are."""
    return Beat(*await _row(connection, "beat", boot_id=boot_id, owned=owned, progress=Jsonb(progress)))


async def lock_work(connection: Connection, boot_id: int) -> None:
    """Mark the direct *connection* as the one of this boot's work; earlier ones of the boot are ended."""
    await _row(connection, "lock_work", boot_id=boot_id)


async def end_sessions(connection: Connection, boot_id: int) -> None:
    """End the direct connections of this boot, and with them its session locks."""
    await _row(connection, "end_sessions", boot_id=boot_id)


async def check(connection: Connection) -> int:
    """Compare what is kept with what it is kept of, and put right what differs; returns the number of repairs. Costs O(traders)."""
    return int((await _row(connection, "check"))[0])


async def reap(connection: Connection, boot_id: int, *, ttl_s: float, grace_s: float) -> list[Reaped]:
    """End silent machines on behalf of *boot_id*, in one update each."""
    parameters = {"boot_id": boot_id, "ttl_s": ttl_s, "grace_s": grace_s}
    rows = await (await connection.execute(_SQL["reap"], parameters)).fetchall()
    return [Reaped(*row) for row in rows]


async def leave(connection: Connection, boot_id: int) -> int:
    """End this boot; what it owned is free at once. Returns how many traders there are to claim."""
    return int((await _row(connection, "leave", boot_id=boot_id))[0])


async def try_ingest_lock(connection: Connection) -> bool:
    """Become the one feeder of market data, as long as the direct *connection* lives."""
    return bool((await _row(connection, "try_ingest_lock"))[0])


async def give_ingest_lock_back(connection: Connection) -> None:
    """Stop being the feeder; harmless for who is none."""
    await _row(connection, "give_ingest_lock_back")


async def live_boots(connection: Connection) -> list[int]:
    return [row[0] for row in await (await connection.execute(_SQL["live_boots"])).fetchall()]


@asynccontextmanager
async def fenced(pool: Pool, boot_id: int) -> AsyncIterator[Connection]:
    """
    A transaction of this machine: bounded, so that it cannot hide the machine from the reaper, and refused
    once it was reaped.

    Raises:
        Fenced: the boot is dead; nothing was written.
    """
    async with pool.connection() as connection, connection.transaction():
        with translated():
            await connection.execute(_SQL["limit_transaction"])
            await connection.execute(_SQL["fence"], {"boot_id": boot_id})
            yield connection


async def position(connection: Connection, boot_id: int) -> datetime | None:
    """The last slot this boot has accounted for; None for a boot that never was."""
    row = await (await connection.execute(_SQL["position"], {"boot_id": boot_id})).fetchone()
    return row[0] if row else None


async def advance_machine(connection: Connection, boot_id: int, slot: datetime, previous: datetime) -> bool:
    """
    Record that everything up to *slot* is accounted for; False when this boot no longer stands at *previous*.
    """
    cursor = await connection.execute(
        _SQL["advance_machine"], {"boot_id": boot_id, "slot": slot, "previous": previous}
    )
    return await cursor.fetchone() is not None


async def move_back(connection: Connection, boot_id: int, slot: datetime) -> None:
    """Let this boot stand no further than *slot*, whatever its row says. Expects its fenced transaction."""
    await connection.execute(_SQL["move_back"], {"boot_id": boot_id, "slot": slot})


async def drain(connection: Connection, machine_id: str) -> None:
    """
    Ask a machine to leave its traders to others.

    Raises:
        Refused: there is no such machine.
    """
    with translated():
        await connection.execute(_SQL["drain"], {"machine": machine_id})


@dataclass(frozen=True, kw_only=True)
class MachineOverview:
    """
    A machine that lives or died within the hour. ``lag_s`` is market time between it and the newest closed
    slot.
    """

    machine_id: str
    boot_id: int
    state: str
    heartbeat_age_s: float | None
    screened_through: datetime | None
    lag_s: float | None
    traders: int


async def list_overview(connection: Connection) -> list[MachineOverview]:
    async with connection.cursor(row_factory=rows_of(MachineOverview)) as cursor:
        return await (await cursor.execute(_SQL["machine_overview"])).fetchall()


async def prune(connection: Connection, *, before: datetime, limit: int) -> int:
    """Drop at most *limit* boots that died before an instant and that no row names; returns how many."""
    return (await connection.execute(_SQL["prune_machines"], {"before": before, "limit": limit})).rowcount
