"""
Rows of the outbox into attempts, and answers into receipts: the transactions between the rules and the table.

Taking is one transaction: lock the queues of destinations that have something due, decide (``rules/taking.py``), move paces and holds,
lease the rows. After its commit the attempts begin; a process that dies then leaves leases that end by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from uuid import UUID, uuid4

from app.delivery.rules.answers import FAILING_DAYS_MAX, FAILING_HOLDS_S
from app.delivery.rules.messages import SignalRow
from app.delivery.rules.taking import PER_DESTINATION_MAX, Ready, Room, plan_taking
from app.delivery.sealing import Sealer, Unopenable
from app.store import deliveries as store
from app.store import destinations
from app.store.deliveries import DigestRow, Ended, Health, LeasedRow, Receipt
from app.store.destinations import Sealed
from app.store.pool import Connection, Pool

LEASE_S = 30.0  # an attempt takes at most 10 s; the rest is for a receipt that has to wait for the database
DESTINATIONS_MAX = 500
TESTS_MAX = 20
EXPIRED_AT_ONCE = 1000  # a round of the sender waits for it: small
LOOKED_AT_EACH = 1000
SEALED_AT_ONCE = 200


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One delivery to be sent now, under a lease; of a digest, what it tells of."""

    row: LeasedRow
    token: UUID
    told: Sequence[SignalRow] = ()
    told_late: Sequence[SignalRow] = ()


async def take(
    pool: Pool,
    room: Room,
    *,
    now: datetime | None = None,
    lease_s: float = LEASE_S,
) -> list[Attempt]:
    """Attempts to begin now, within *room*; [] when nothing is due."""
    token = uuid4()
    async with pool.connection() as connection, connection.transaction():
        keys = await store.take_tests(connection, TESTS_MAX, now=now)
        keys += await _take_due(connection, room, now)
        leased = await store.lease(connection, keys, token, lease_s, now=now)
        digests = [row.source_id for row in leased if row.event == "digest"]
        told = await store.digest_signals(connection, digests) if digests else []
    by_digest = {digest_id: list(rows) for digest_id, rows in groupby(told, key=lambda row: row.digest_id)}
    return [_attempt(row, token, by_digest) for row in leased]


async def _take_due(connection: Connection, room: Room, now: datetime | None) -> list[store.Key]:
    full = [d for d, count in room.of_destinations.items() if count >= PER_DESTINATION_MAX]
    rows = await store.ready_destinations(
        connection,
        busy=full,
        users_in_flight=room.of_users,
        limit=min(DESTINATIONS_MAX, room.total),
        count_max=PER_DESTINATION_MAX,
        now=now,
    )
    if not rows:
        return []
    services = await store.service_paces(connection, sorted({r.service_key for r in rows if r.service_key}))
    ready = [Ready(**{name: getattr(row, name) for name in _READY}) for row in rows]
    plan = plan_taking(ready, room, services)
    await store.move_service_paces(connection, plan.service_paced_until)
    await store.move_queues(connection, plan.paced_until, plan.held_until, rows)
    await store.postpone_signals(connection, plan.postponed, now=now)
    await store.gather_digests(connection, plan.gathers, now=now)
    return await store.take_due(connection, plan.counts, plan.digesting, now=now)


_READY = tuple(Ready.__dataclass_fields__)


def _attempt(row: LeasedRow, token: UUID, by_digest: Mapping[int, Sequence[DigestRow]]) -> Attempt:
    told = by_digest.get(row.source_id, ())
    return Attempt(
        row=row,
        token=token,
        told=[_signal_of(t) for t in told if not t.is_late],
        told_late=[_signal_of(t) for t in told if t.is_late],
    )


def _signal_of(row: DigestRow) -> SignalRow:
    return SignalRow(**{name: getattr(row, name) for name in SignalRow.__dataclass_fields__})


async def record(
    pool: Pool, receipts: Sequence[Receipt], health: Sequence[Health], disable: Mapping[UUID, str]
) -> list[Ended]:
    """
    Write what came of attempts, in one transaction; returns the receipts that were taken.

    A receipt whose lease has passed on is left out: the delivery is being sent again, with the same id.
    """
    async with pool.connection() as connection, connection.transaction():
        ended = await store.record_receipts(connection, receipts)
        hopeless = await store.record_health(
            connection, health, failing_holds_s=FAILING_HOLDS_S, failing_days_max=FAILING_DAYS_MAX
        )
        reasons = dict.fromkeys(hopeless, f"every attempt of the last {FAILING_DAYS_MAX} days failed") | dict(
            disable
        )
        for destination_id, reason in sorted(reasons.items()):
            await store.disable(connection, destination_id, reason)
    return ended


async def expire(pool: Pool, *, now: datetime | None = None) -> int:
    """End what can no longer arrive in time; returns how many, 0 while another sender does it."""
    async with pool.connection() as connection, connection.transaction():
        if not await store.may_expire(connection):
            return 0
        return await store.expire(connection, each=LOOKED_AT_EACH, limit=EXPIRED_AT_ONCE, now=now)


async def seal_again(pool: Pool, sealer: Sealer) -> tuple[int, int]:
    """
    Seal with the newest key what an older one has sealed; returns how many were, and how many no key of ours opens.
    """
    done, left, after = 0, 0, UUID(int=0)
    while True:
        async with pool.connection() as connection, connection.transaction():
            rows = await destinations.sealed_otherwise(
                connection, sealer.key_id, after=after, limit=SEALED_AT_ONCE
            )
            for row in rows:
                try:
                    secrets = sealer.open(row.destination_id, row.key_id, row.sealed)
                except Unopenable:
                    left += 1
                    continue
                again = Sealed(
                    destination_id=row.destination_id,
                    key_id=sealer.key_id,
                    sealed=sealer.seal(row.destination_id, secrets),
                )
                await destinations.change_secrets(connection, again)
                done += 1
        if not rows:
            return done, left
        after = rows[-1].destination_id
