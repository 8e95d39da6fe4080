"""
Where users want their signals sent (``public.destinations``) and what is sealed of it: ``sql/queries/destinations.sql``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from app.store import queries
from app.store.pool import Connection
from app.store.rows import rows_of

_SQL = queries.load("destinations")


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a person chooses about a destination, beside its address."""

    name: str
    hint: str
    events: list[str]
    trader_ids: list[UUID] | None
    preset: str | None
    template: str | None
    quiet_hours: dict[str, str] | None
    digest: dict[str, Any] | None
    rate: dict[str, Any] | None
    expires_after_s: int | None

    def columns(self) -> dict[str, Any]:
        """As parameters of a statement."""
        given = asdict(self)
        for name in ("quiet_hours", "digest", "rate"):
            given[name] = None if given[name] is None else Jsonb(given[name])
        return given


@dataclass(frozen=True, kw_only=True)
class Destination(Rules):
    id: UUID
    user_id: UUID
    kind: str
    enabled: bool
    disabled_reason: str | None
    created_at: datetime
    updated_at: datetime
    failing_since: datetime | None
    held_until: datetime
    hold_reason: str | None


@dataclass(frozen=True, kw_only=True)
class Figures:
    """A destination's newest 10,000 deliveries; times from queued to answered, of those that were sent."""

    sent: int
    failed: int
    expired: int
    pending: int
    p50_ms: float | None
    p99_ms: float | None
    last_failure_at: datetime | None
    last_failure: str | None


@dataclass(frozen=True, kw_only=True)
class Sealed:
    destination_id: UUID
    key_id: str
    sealed: bytes


async def insert(
    connection: Connection,
    rules: Rules,
    secrets: Sealed,
    *,
    user_id: UUID,
    kind: str,
    service_key: str | None,
) -> None:
    """
    A new destination with its queue and its sealed secrets.

    Raises:
        psycopg.errors.CheckViolation: the constraint's name says what is wrong.
    """
    parameters = {
        **rules.columns(),
        "id": secrets.destination_id,
        "user_id": user_id,
        "kind": kind,
        "key_id": secrets.key_id,
        "sealed": secrets.sealed,
    }
    await connection.execute(_SQL["insert_destination"], parameters)
    await connection.execute(
        _SQL["set_service_key"], {"id": secrets.destination_id, "service_key": service_key}
    )


async def count(connection: Connection, user_id: UUID) -> int:
    row = await (await connection.execute(_SQL["count_destinations"], {"user_id": user_id})).fetchone()
    return int(row[0]) if row else 0


async def list_destinations(
    connection: Connection, user_id: UUID, *, before: tuple[datetime, UUID] | None, limit: int
) -> list[Destination]:
    """A user's destinations, newest first, behind *before* (created_at, id)."""
    parameters = {
        "user_id": user_id,
        "before_at": before[0] if before else None,
        "before_id": before[1] if before else None,
        "limit": limit,
    }
    async with connection.cursor(row_factory=rows_of(Destination)) as cursor:
        await cursor.execute(_SQL["list_destinations"], parameters)
        return await cursor.fetchall()


async def find(connection: Connection, destination_id: UUID) -> Destination | None:
    async with connection.cursor(row_factory=rows_of(Destination)) as cursor:
        await cursor.execute(_SQL["find_destination"], {"id": destination_id})
        return await cursor.fetchone()


async def figures(connection: Connection, destination_id: UUID) -> Figures:
    async with connection.cursor(row_factory=rows_of(Figures)) as cursor:
        await cursor.execute(_SQL["delivery_figures"], {"id": destination_id})
        found = await cursor.fetchone()
    assert found is not None  # noqa: S101 an aggregate without group by returns one row
    return found


async def find_secrets(connection: Connection, destination_id: UUID) -> Sealed | None:
    """What is sealed of a destination, locked until the transaction ends."""
    row = await (await connection.execute(_SQL["find_secrets"], {"id": destination_id})).fetchone()
    return None if row is None else Sealed(destination_id=destination_id, key_id=row[0], sealed=bytes(row[1]))


async def change(connection: Connection, destination_id: UUID, rules: Rules, *, enabled: bool) -> None:
    parameters = {**rules.columns(), "id": destination_id, "enabled": enabled}
    await connection.execute(_SQL["change_destination"], parameters)


async def change_secrets(connection: Connection, secrets: Sealed) -> None:
    parameters = {"id": secrets.destination_id, "key_id": secrets.key_id, "sealed": secrets.sealed}
    await connection.execute(_SQL["change_secrets"], parameters)


async def set_service_key(connection: Connection, destination_id: UUID, service_key: str | None) -> None:
    await connection.execute(_SQL["set_service_key"], {"id": destination_id, "service_key": service_key})


async def delete(connection: Connection, destination_id: UUID) -> None:
    """With its deliveries and its secrets."""
    await connection.execute(_SQL["delete_destination"], {"id": destination_id})


async def sealed_otherwise(connection: Connection, key_id: str, *, after: UUID, limit: int) -> list[Sealed]:
    """Secrets sealed by another key than *key_id*, of destinations behind *after*, locked."""
    async with connection.cursor(row_factory=rows_of(Sealed)) as cursor:
        await cursor.execute(_SQL["sealed_otherwise"], {"key_id": key_id, "after": after, "limit": limit})
        return await cursor.fetchall()


async def own_traders(connection: Connection, user_id: UUID, trader_ids: Sequence[UUID]) -> set[UUID]:
    """Which of these traders are the user's."""
    parameters = {"user_id": user_id, "trader_ids": list(trader_ids)}
    rows = await (await connection.execute(_SQL["own_traders"], parameters)).fetchall()
    return {row[0] for row in rows}
