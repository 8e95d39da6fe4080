"""
How traders stand: ``sql/queries/trader_state.sql``. First what their users do and read, then what machines
do.

What machines do takes leases, ``(trader_id, epoch)``: a row of another epoch belongs to somebody else and
stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from app.domain.health import MarketFacts
from app.domain.lifecycle import PASSING, TraderState
from app.errors import Kind, Refused
from app.store import queries
from app.store.markets import with_facts
from app.store.pool import Connection
from app.store.refusals import refusal_of, translated
from app.store.rows import batched, rows_of

_SQL = queries.load("trader_state")

FIRST_ID = UUID(int=0)
Lease = tuple[UUID, int]  # (trader_id, epoch)


@dataclass(frozen=True, kw_only=True)
class TraderStatus:
    trader_id: UUID
    user_id: UUID
    state: str
    version: int
    reason: str | None
    last_error: str | None
    error_count: int
    retry_at: datetime | None
    signal_count: int
    last_signal_at: datetime | None
    signals_today: int
    flooding_since: datetime | None
    signals_per_day: int | None
    started_at: datetime | None
    stopped_at: datetime | None
    machine_id: str | None
    screened_through: datetime | None
    facts: MarketFacts

    @property
    def is_passing(self) -> bool:
        return TraderState(self.state) in PASSING


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one trader of a call about several: how it stands, and why it was refused if it was."""

    trader_id: UUID
    status: TraderStatus | None
    refused: Refused | None


async def start_trader(
    connection: Connection, trader_id: UUID, *, active_traders_max: int | None
) -> TraderStatus:
    """
    Ask for a trader to run; one that is starting or running already is left alone.

    Raises:
        Refused: no such trader, the state does not allow it, or a quota is full.
    """
    return await _change(
        connection, "start_trader", {"trader_id": trader_id, "active_traders_max": active_traders_max}
    )


async def stop_trader(connection: Connection, trader_id: UUID) -> TraderStatus:
    """
    Ask for a trader to stop; one that is stopping or stopped already is left alone.

    Raises:
        Refused: no such trader.
    """
    return await _change(connection, "stop_trader", {"trader_id": trader_id})


async def start_traders(
    connection: Connection,
    user_id: UUID,
    trader_ids: Sequence[UUID] | None,
    *,
    active_traders_max: int | None,
) -> list[Outcome]:
    """
    Ask for several of the user's traders to run, None: for all that do not. An id that is none of the user's
    is NOT_FOUND.
    """
    parameters = {
        "user_id": user_id,
        "trader_ids": None if trader_ids is None else list(trader_ids),
        "active_traders_max": active_traders_max,
    }
    cursor = await connection.execute(_SQL["start_traders"], parameters)
    refusals = {
        trader: None if code is None else refusal_of(code, message, detail)
        for trader, code, message, detail in await cursor.fetchall()
    }
    return await _outcomes(connection, user_id, trader_ids, refusals)


async def stop_traders(
    connection: Connection, user_id: UUID, trader_ids: Sequence[UUID] | None
) -> list[Outcome]:
    """
    Ask for several of the user's traders to stop, None: for all that run. An id that is none of the user's is
    NOT_FOUND.
    """
    parameters = {"user_id": user_id, "trader_ids": None if trader_ids is None else list(trader_ids)}
    cursor = await connection.execute(_SQL["stop_traders"], parameters)
    return await _outcomes(connection, user_id, trader_ids, {row[0]: None for row in await cursor.fetchall()})


async def _outcomes(
    connection: Connection,
    user_id: UUID,
    asked: Sequence[UUID] | None,
    refusals: Mapping[UUID, Refused | None],
) -> list[Outcome]:
    ids = list(refusals) if asked is None else list(dict.fromkeys(asked))
    async with connection.cursor(row_factory=rows_of(with_facts(TraderStatus))) as cursor:
        await cursor.execute(_SQL["list_statuses"], {"user_id": user_id, "trader_ids": ids})
        statuses = {status.trader_id: status for status in await cursor.fetchall()}
    return [
        Outcome(
            trader_id=one,
            status=statuses.get(one),
            refused=refusals.get(one)
            if one in statuses
            else Refused(Kind.NOT_FOUND, f"You have no trader {one}."),
        )
        for one in ids
    ]


async def _change(connection: Connection, query: str, parameters: dict[str, object]) -> TraderStatus:
    async with connection.cursor(row_factory=rows_of(with_facts(TraderStatus))) as cursor:
        with translated():
            await cursor.execute(_SQL[query], parameters)
        status = await cursor.fetchone()
    assert status is not None  # noqa: S101 the functions return a row or raise
    return status


async def find_status(connection: Connection, trader_id: UUID) -> TraderStatus | None:
    """The run state of a trader, whoever owns it."""
    async with connection.cursor(row_factory=rows_of(with_facts(TraderStatus))) as cursor:
        await cursor.execute(_SQL["find_status"], {"trader_id": trader_id})
        return await cursor.fetchone()


async def list_active(
    connection: Connection, user_id: UUID, *, after_id: UUID = FIRST_ID, limit: int
) -> list[TraderStatus]:
    """At most *limit* of the user's starting and running traders with an id above *after_id*, by id."""
    async with connection.cursor(row_factory=rows_of(with_facts(TraderStatus))) as cursor:
        await cursor.execute(_SQL["list_active"], {"user_id": user_id, "after_id": after_id, "limit": limit})
        return await cursor.fetchall()


@dataclass(frozen=True, slots=True)
class OwnedTrader:
    """A lease as the database has it. ``resume_after`` is the last slot accounted for when it began."""

    trader_id: UUID
    epoch: int
    revision: int
    state: str
    resume_after: datetime
    in_step: bool


@dataclass(frozen=True, slots=True)
class OwnedChanges:
    """
    What changed since an earlier horizon: ours as they are now, and traders that are not (or no longer) ours.

    ``horizon`` is what the next question begins with; a row may come again then. ``owned``
    counts all of ours. A trader that was deleted is among neither: only the count tells.
    """

    horizon: str
    owned: int
    ours: list[OwnedTrader]
    others: list[UUID]


async def owned_changes(connection: Connection, boot_id: int, since: str | None) -> OwnedChanges:
    """
    What changed *since* an earlier horizon; None: nothing but the horizon and the count.

    Costs what changed, and the count: 15 ms of the server for 100,000 traders owned.
    """
    parameters = {"boot_id": boot_id, "since": since}
    rows = await (await connection.execute(_SQL["owned_changes"], parameters)).fetchall()
    changed = [row[2:] for row in rows if row[2] is not None]
    return OwnedChanges(
        horizon=rows[0][0],
        owned=rows[0][1],
        ours=[OwnedTrader(*row[:-1]) for row in changed if row[-1]],
        others=[row[0] for row in changed if not row[-1]],
    )


async def list_owned(connection: Connection, boot_id: int) -> list[OwnedTrader]:
    return [
        OwnedTrader(*row)
        for row in await (await connection.execute(_SQL["list_owned"], {"boot_id": boot_id})).fetchall()
    ]


async def mark_running(connection: Connection, boot_id: int, leases: Sequence[Lease]) -> int:
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
        "messages": [_storable(f.message[:2000]) for f in failures],
    }
    return (await connection.execute(_SQL["fail_traders"], parameters)).rowcount


def _storable(text: str) -> str:
    """Text that Postgres takes: a filter's own error may hold a NUL or half a surrogate pair."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


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


async def retry_due(connection: Connection, n: int) -> int:
    """Start up to *n* traders in error whose time has come; returns how many."""
    row = await (await connection.execute(_SQL["retry_due"], {"n": n})).fetchone()
    assert row is not None  # noqa: S101 a function returns a row
    return int(row[0])


async def start_all_of(connection: Connection, user_id: UUID) -> None:
    """Start every stopped trader of a user."""
    with translated():
        await connection.execute(_SQL["start_all_of"], {"user_id": user_id})


async def count_by_state(connection: Connection) -> dict[str, int]:
    return dict(await (await connection.execute(_SQL["count_by_state"])).fetchall())
