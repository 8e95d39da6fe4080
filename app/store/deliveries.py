"""
The outbox: ``sql/queries/deliveries.sql``. Statements and rows; what they mean is ``app/delivery``.

``now`` is the database's clock where it is None; tests pass an instant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from psycopg.types.json import Jsonb

from app.store import queries
from app.store.pool import Connection
from app.store.rows import rows_of

_SQL = queries.load("deliveries")

Key = tuple[int, UUID]  # (source_id, destination_id)


@dataclass(frozen=True, kw_only=True)
class ReadyRow:
    """A destination with something due; its queue is locked until the transaction ends."""

    destination_id: UUID
    user_id: UUID
    kind: str
    enabled: bool
    quiet_hours: dict[str, str] | None
    digest: dict[str, Any] | None
    rate: dict[str, Any] | None
    last_digest_at: datetime
    paced_until: datetime
    failures: int
    service_key: str | None
    first_signal_at: datetime | None
    has_untold: bool
    due_count: int
    now: datetime


@dataclass(frozen=True, kw_only=True)
class LeasedRow:
    """A delivery whose attempt has begun; the signal's columns are None where it is about something else, or its signal is gone."""

    source_id: int
    destination_id: UUID
    user_id: UUID
    event: str
    attempts: int
    notice: dict[str, Any] | None
    remaining_s: float
    kind: str
    preset: str | None
    template: str | None
    key_id: str
    sealed: bytes
    trader_id: UUID | None
    trader_name: str | None
    signal_id: int | None
    symbol: str | None
    timeframe: str | None
    triggered_at: datetime | None
    price: float | None
    shown: dict[str, Any] | None
    screened_at: datetime | None
    created_at: datetime | None
    late: bool | None
    forming: bool | None


@dataclass(frozen=True, kw_only=True)
class DigestRow:
    """A signal that a digest tells of."""

    digest_id: int
    is_late: bool
    trader_id: UUID
    trader_name: str
    id: int
    symbol: str
    timeframe: str
    triggered_at: datetime
    price: float
    shown: dict[str, Any]
    screened_at: datetime
    created_at: datetime
    late: bool
    forming: bool


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What came of one attempt. ``ago_s``: since the answer; ``took_s``: from the beginning of the attempt to it."""

    source_id: int
    destination_id: UUID
    token: UUID
    state: str
    delay_s: float
    status: int | None
    answer: str
    took_s: float
    ago_s: float


@dataclass(frozen=True, kw_only=True)
class Health:
    """How a destination stands after a batch of answers; ``is_ok`` None: they say nothing about it."""

    destination_id: UUID
    is_ok: bool | None
    hold_s: float


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """A delivery with its receipt, as people read it."""

    source_id: int
    destination_id: UUID
    event: str
    trader_id: UUID | None
    state: str
    attempts: int
    next_attempt_at: datetime | None
    queued_at: datetime
    sent_at: datetime | None
    answered_at: datetime | None
    changed_at: datetime | None
    status: int | None
    answer: str | None
    expires_at: datetime


@dataclass(frozen=True, kw_only=True)
class ChangedDelivery(Delivery):
    user_id: UUID


class Ended(NamedTuple):
    """A receipt that was taken, and the state it led to."""

    source_id: int
    destination_id: UUID
    state: str


# -- taking ----------------------------------------------------------------------------------------------------------------


async def ready_destinations(
    connection: Connection,
    *,
    busy: Iterable[UUID],
    users_in_flight: Mapping[UUID, int],
    limit: int,
    count_max: int,
    now: datetime | None = None,
) -> list[ReadyRow]:
    """At most *limit* destinations with something due, by user turns, their queues locked; those in *busy* are passed over."""
    parameters = {
        "busy": list(busy),
        "users_in_flight": Jsonb({str(user): count for user, count in users_in_flight.items()}),
        "limit": limit,
        "count_max": count_max,
        "now": now,
    }
    async with connection.cursor(row_factory=rows_of(ReadyRow)) as cursor:
        await cursor.execute(_SQL["ready_destinations"], parameters)
        return await cursor.fetchall()


async def service_paces(connection: Connection, keys: Sequence[str]) -> dict[str, datetime]:
    """The shared limits of these services, locked."""
    if not keys:
        return {}
    parameters = {"service_keys": sorted(keys)}
    await connection.execute(_SQL["put_service_paces"], parameters)
    rows = await (await connection.execute(_SQL["service_paces"], parameters)).fetchall()
    return {row[0]: row[1] for row in rows}


async def move_service_paces(connection: Connection, paces: Mapping[str, datetime]) -> None:
    if paces:
        parameters = {"service_keys": list(paces), "paced_until": list(paces.values())}
        await connection.execute(_SQL["move_service_paces"], parameters)


async def move_queues(
    connection: Connection,
    paced: Mapping[UUID, datetime],
    held: Mapping[UUID, tuple[datetime, str]],
    rows: Sequence[ReadyRow],
) -> None:
    """New paces and holds of destinations among *rows*."""
    moved = [row for row in rows if row.destination_id in paced or row.destination_id in held]
    if not moved:
        return
    holds = [held.get(row.destination_id, (None, None)) for row in moved]
    parameters = {
        "destination_ids": [row.destination_id for row in moved],
        "paced_until": [paced.get(row.destination_id, row.paced_until) for row in moved],
        "held_until": [until for until, _ in holds],
        "reasons": [reason for _, reason in holds],
    }
    await connection.execute(_SQL["move_queues"], parameters)


async def postpone_signals(
    connection: Connection, until: Mapping[UUID, datetime], *, now: datetime | None = None
) -> None:
    """Signals that are due and wait for a digest."""
    if until:
        parameters = {"destination_ids": list(until), "until": list(until.values()), "now": now}
        await connection.execute(_SQL["postpone_signals"], parameters)


async def gather_digests(
    connection: Connection, gathers: Mapping[UUID, bool], *, now: datetime | None = None
) -> None:
    """A digest per destination; True: with its waiting signals, False: only with what expired untold."""
    if gathers:
        parameters = {"destination_ids": list(gathers), "waiting_too": list(gathers.values()), "now": now}
        await connection.execute(_SQL["gather_digests"], parameters)


async def take_due(
    connection: Connection,
    counts: Mapping[UUID, int],
    digesting: Iterable[UUID],
    *,
    now: datetime | None = None,
) -> list[Key]:
    """What is due, at most so many per destination, locked."""
    if not counts:
        return []
    without_signals = set(digesting)
    parameters = {
        "destination_ids": list(counts),
        "counts": list(counts.values()),
        "signals_too": [destination not in without_signals for destination in counts],
        "now": now,
    }
    return await (await connection.execute(_SQL["take_due"], parameters)).fetchall()


async def take_tests(connection: Connection, limit: int, *, now: datetime | None = None) -> list[Key]:
    """Tests that are due, whatever holds their destinations."""
    parameters = {"limit": limit, "now": now}
    return await (await connection.execute(_SQL["take_tests"], parameters)).fetchall()


async def lease(
    connection: Connection, keys: Sequence[Key], token: UUID, lease_s: float, *, now: datetime | None = None
) -> list[LeasedRow]:
    """Begin an attempt of each; what is too late expires and is left out."""
    if not keys:
        return []
    parameters = {
        "source_ids": [source for source, _ in keys],
        "destination_ids": [destination for _, destination in keys],
        "token": token,
        "lease_s": lease_s,
        "now": now,
    }
    async with connection.cursor(row_factory=rows_of(LeasedRow)) as cursor:
        await cursor.execute(_SQL["lease_deliveries"], parameters)
        return await cursor.fetchall()


async def digest_signals(connection: Connection, digest_ids: Sequence[int]) -> list[DigestRow]:
    """What these digests tell of, oldest first."""
    async with connection.cursor(row_factory=rows_of(DigestRow)) as cursor:
        await cursor.execute(_SQL["digest_signals"], {"digest_ids": list(digest_ids)})
        return await cursor.fetchall()


# -- receipts --------------------------------------------------------------------------------------------------------------


async def record_receipts(connection: Connection, receipts: Sequence[Receipt]) -> list[Ended]:
    """Write them; those whose lease has passed to another sender are left out of the answer."""
    parameters = {
        "source_ids": [r.source_id for r in receipts],
        "destination_ids": [r.destination_id for r in receipts],
        "tokens": [r.token for r in receipts],
        "states": [r.state for r in receipts],
        "delays_s": [r.delay_s for r in receipts],
        "statuses": [r.status for r in receipts],
        "answers": [r.answer for r in receipts],
        "took_s": [r.took_s for r in receipts],
        "ago_s": [r.ago_s for r in receipts],
    }
    rows = await (await connection.execute(_SQL["record_receipts"], parameters)).fetchall()
    return [Ended(*row) for row in rows]


async def record_health(
    connection: Connection,
    health: Sequence[Health],
    *,
    failing_holds_s: Sequence[float],
    failing_days_max: int,
) -> list[UUID]:
    """How destinations stand; returns those that have failed for more than *failing_days_max* days."""
    if not health:
        return []
    parameters = {
        "destination_ids": [h.destination_id for h in health],
        "are_ok": [h.is_ok for h in health],
        "holds_s": [h.hold_s for h in health],
        "failing_holds_s": list(failing_holds_s),
        "failing_days_max": failing_days_max,
    }
    rows = await (await connection.execute(_SQL["record_health"], parameters)).fetchall()
    return [row[0] for row in rows if row[1]]


async def disable(connection: Connection, destination_id: UUID, reason: str) -> bool:
    """No more is sent there, and the owner's other destinations are told; False when it was disabled already."""
    parameters = {"destination_id": destination_id, "reason": reason}
    return await (await connection.execute(_SQL["disable_destination"], parameters)).fetchone() is not None


async def may_expire(connection: Connection) -> bool:
    """Whether no other transaction is ending late deliveries; until this one ends, none will."""
    row = await (await connection.execute(_SQL["may_expire"])).fetchone()
    return row is not None and bool(row[0])


async def expire(connection: Connection, *, each: int, limit: int, now: datetime | None = None) -> int:
    """End at most *limit*, *each* of a destination, that can no longer arrive in time; returns how many."""
    parameters = {"each": each, "limit": limit, "now": now}
    return (await connection.execute(_SQL["expire_deliveries"], parameters)).rowcount


# -- for people ------------------------------------------------------------------------------------------------------------


async def queue_test(connection: Connection, destination_id: UUID) -> int:
    """A test message; returns its source id."""
    parameters = {"destination_id": destination_id, "notice": Jsonb({})}
    row = await (await connection.execute(_SQL["queue_test"], parameters)).fetchone()
    assert row is not None  # noqa: S101 the caller has just found the destination
    return int(row[0])


async def find(connection: Connection, source_id: int, destination_id: UUID) -> Delivery | None:
    async with connection.cursor(row_factory=rows_of(Delivery)) as cursor:
        await cursor.execute(
            _SQL["find_delivery"], {"source_id": source_id, "destination_id": destination_id}
        )
        return await cursor.fetchone()


async def list_deliveries(
    connection: Connection,
    user_id: UUID,
    *,
    signal_id: int | None,
    destination_id: UUID | None,
    state: str | None,
    before: tuple[datetime, int] | None,
    limit: int,
) -> list[Delivery]:
    """A user's deliveries, newest first, behind *before* (queued_at, source_id)."""
    parameters = {
        "user_id": user_id,
        "signal_id": signal_id,
        "destination_id": destination_id,
        "state": state,
        "before_at": before[0] if before else None,
        "before_id": before[1] if before else None,
        "limit": limit,
    }
    async with connection.cursor(row_factory=rows_of(Delivery)) as cursor:
        await cursor.execute(_SQL["list_deliveries"], parameters)
        return await cursor.fetchall()


async def changed(
    connection: Connection, user_ids: Iterable[UUID], *, since: datetime, limit: int
) -> list[ChangedDelivery]:
    """Deliveries of these users with a receipt or an end after *since*, oldest change first."""
    async with connection.cursor(row_factory=rows_of(ChangedDelivery)) as cursor:
        await cursor.execute(
            _SQL["changed_deliveries"], {"user_ids": list(user_ids), "since": since, "limit": limit}
        )
        return await cursor.fetchall()


async def redrive(
    connection: Connection,
    *,
    user_id: UUID | None,
    signal_id: int | None,
    destination_id: UUID | None,
    since: datetime | None,
    until: datetime | None,
    states: Sequence[str],
) -> int:
    """Make what ended without arriving due again; returns how many."""
    parameters = {
        "user_id": user_id,
        "signal_id": signal_id,
        "destination_id": destination_id,
        "since": since,
        "until": until,
        "states": list(states),
    }
    row = await (await connection.execute(_SQL["redrive_deliveries"], parameters)).fetchone()
    return int(row[0]) if row else 0


async def prune(connection: Connection, *, before: datetime, limit: int) -> int:
    """Drop at most *limit* receipts queued before an instant; returns how many."""
    return (await connection.execute(_SQL["prune_deliveries"], {"before": before, "limit": limit})).rowcount


async def queue_troubles(connection: Connection) -> int:
    """Tell users once of an outage of the market or of traders that lag, and once that it is over; returns how many deliveries."""
    row = await (await connection.execute(_SQL["queue_troubles"])).fetchone()
    return int(row[0]) if row else 0
