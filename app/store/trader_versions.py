"""Saved versions of traders: ``sql/queries/trader_versions.sql``. A trigger on traders writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app.store import queries
from app.store.pool import Connection
from app.store.rows import batched, rows_of
from app.store.traders import Frequency

_SQL = queries.load("trader_versions")


@dataclass(frozen=True, kw_only=True)
class Version:
    """What a trader screened. ``number`` is its revision."""

    number: int
    filter: str
    symbols: list[str] | None
    frequency: Frequency
    saved_at: datetime
    plan_hash: str


@dataclass(frozen=True, kw_only=True)
class ScreenedVersion:
    """A version that screens the slots after ``screened_after``. ``plan`` is JSON text as stored: untrusted."""

    number: int
    screened_after: datetime
    plan: str
    plan_hash: str
    symbols: list[str] | None
    frequency: Frequency


@dataclass(frozen=True, kw_only=True)
class VersionPlan:
    """What a version screens. ``plan`` is JSON text as stored: untrusted."""

    trader_id: UUID
    plan: str
    plan_hash: str
    symbols: list[str] | None
    frequency: Frequency


async def list_versions(connection: Connection, trader_id: UUID, *, limit: int) -> list[Version]:
    """The newest *limit* versions, newest first."""
    async with connection.cursor(row_factory=rows_of(Version)) as cursor:
        await cursor.execute(_SQL["list_versions"], {"trader_id": trader_id, "limit": limit})
        return await cursor.fetchall()


async def find_version(connection: Connection, trader_id: UUID, number: int) -> Version | None:
    async with connection.cursor(row_factory=rows_of(Version)) as cursor:
        await cursor.execute(_SQL["find_version"], {"trader_id": trader_id, "number": number})
        return await cursor.fetchone()


async def begin(connection: Connection, loaded: Sequence[tuple[UUID, int]]) -> None:
    """
    These (trader, version) screen from the slot after the one through which each trader was screened.

    Expects the transaction of the machine that holds the traders, before it screens the next slot.
    """
    for batch in batched(loaded):
        parameters = {"trader_ids": [t for t, _ in batch], "numbers": [number for _, number in batch]}
        await connection.execute(_SQL["begin_versions"], parameters)


async def list_screened(connection: Connection, trader_id: UUID) -> list[ScreenedVersion]:
    """The versions that screened a trader, oldest first."""
    async with connection.cursor(row_factory=rows_of(ScreenedVersion)) as cursor:
        await cursor.execute(_SQL["screened_versions"], {"trader_id": trader_id})
        return await cursor.fetchall()


async def plans(connection: Connection, versions: Sequence[tuple[UUID, int]]) -> list[VersionPlan]:
    """Those of these (trader, version) that are still there."""
    parameters = {"trader_ids": [t for t, _ in versions], "numbers": [number for _, number in versions]}
    async with connection.cursor(row_factory=rows_of(VersionPlan)) as cursor:
        await cursor.execute(_SQL["versions_of"], parameters)
        return await cursor.fetchall()


async def prune(connection: Connection, *, before: datetime, limit: int) -> int:
    """Forget at most *limit* versions that were replaced before an instant; returns how many."""
    return (await connection.execute(_SQL["prune_versions"], {"before": before, "limit": limit})).rowcount


async def screened_traders(connection: Connection) -> list[UUID]:
    """Every trader that a machine has screened, by id."""
    return [row[0] for row in await (await connection.execute(_SQL["screened_traders"])).fetchall()]
