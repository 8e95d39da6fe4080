"""What users want screened: ``sql/queries/traders.sql``. How it stands is ``app/store/trader_state.py``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from psycopg.types.json import Jsonb

from app.domain.health import MarketFacts
from app.store import queries
from app.store.markets import with_facts
from app.store.pool import Connection
from app.store.refusals import translated
from app.store.rows import PAGE_BYTES_MAX, Page, page_of, rows_of, with_next

_SQL = queries.load("traders")

Frequency = str | dict[str, int]


@dataclass(frozen=True, kw_only=True)
class PlanColumns:
    """A compiled filter as it is stored: canonical JSON, its hash, and its summary for people."""

    plan: bytes
    plan_hash: str
    plan_summary: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Trader:
    id: UUID
    user_id: UUID
    name: str
    description: str
    filter: str
    symbols: list[str] | None
    frequency: Frequency
    plan_summary: dict[str, Any]
    revision: int
    created_at: datetime
    updated_at: datetime
    state: str
    version: int
    last_error: str | None
    is_owned: bool
    screened_through: datetime | None
    facts: MarketFacts


async def insert_trader(
    connection: Connection,
    user_id: UUID,
    *,
    name: str,
    description: str,
    filter: str,  # noqa: A002 the column's, and the user's, word
    symbols: list[str] | None,
    frequency: Frequency,
    compiled: PlanColumns,
) -> UUID:
    """
    Save a new trader; it is born stopped. In a transaction of its own, which holds the user's account.

    Raises:
        Refused: QUOTA_EXCEEDED, the user's tier keeps no more.
        psycopg.errors.ForeignKeyViolation: there is no such user.
    """
    parameters = {
        "user_id": user_id,
        "name": name,
        "description": description,
        "filter": filter,
        "symbols": symbols,
        "frequency": Jsonb(frequency),
        **_plan_parameters(compiled),
    }
    async with connection.transaction():
        with translated():
            await connection.execute(_SQL["check_stored"], {"user_id": user_id})
        row = await (await connection.execute(_SQL["insert_trader"], parameters)).fetchone()
    assert row is not None  # noqa: S101 insert … returning
    return UUID(str(row[0]))


async def update_trader(
    connection: Connection,
    user_id: UUID,
    trader_id: UUID,
    *,
    name: str | None = None,
    description: str | None = None,
    filter: str | None = None,  # noqa: A002 the column's, and the user's, word
    compiled: PlanColumns | None = None,
    frequency: Frequency | None = None,
    set_symbols: bool = False,
    symbols: list[str] | None = None,
) -> bool:
    """
    Change what is not None (symbols: what *set_symbols* says), in one statement; False when the user has no
    such trader.
    """
    parameters = {
        "user_id": user_id,
        "trader_id": trader_id,
        "name": name,
        "description": description,
        "filter": filter,
        "frequency": None if frequency is None else Jsonb(frequency),
        "set_symbols": set_symbols,
        "symbols": symbols,
        **_plan_parameters(compiled),
    }
    return (await connection.execute(_SQL["update_trader"], parameters)).rowcount == 1


def _plan_parameters(compiled: PlanColumns | None) -> dict[str, object]:
    return {
        "plan": None if compiled is None else compiled.plan.decode(),
        "plan_hash": None if compiled is None else compiled.plan_hash,
        "plan_summary": None if compiled is None else Jsonb(compiled.plan_summary),
    }


async def delete_trader(connection: Connection, user_id: UUID, trader_id: UUID) -> bool:
    """Remove a trader in any state, with its signals; False when the user has no such trader."""
    parameters = {"user_id": user_id, "trader_id": trader_id}
    return (await connection.execute(_SQL["delete_trader"], parameters)).rowcount == 1


async def find_trader(connection: Connection, trader_id: UUID) -> Trader | None:
    """The trader, whoever owns it."""
    async with connection.cursor(row_factory=rows_of(with_facts(Trader))) as cursor:
        await cursor.execute(_SQL["find_trader"], {"trader_id": trader_id})
        return await cursor.fetchone()


async def list_traders(
    connection: Connection,
    user_id: UUID,
    *,
    after: tuple[datetime, UUID] | None,
    limit: int,
    with_filter: bool,
    bytes_max: int = PAGE_BYTES_MAX,
) -> Page[Trader]:
    """At most *limit* of the user's traders, newest first, after the one created at *after*; without its source a filter is ''."""
    before_at, before_id = after or (None, None)
    async with connection.cursor(row_factory=rows_of(with_next(with_facts(Trader)))) as cursor:
        await cursor.execute(
            _SQL["list_traders"],
            {
                "user_id": user_id,
                "before_at": before_at,
                "before_id": before_id,
                "limit": limit,
                "with_filter": with_filter,
                "bytes_max": bytes_max,
            },
        )
        return page_of(await cursor.fetchall())


@dataclass(frozen=True, kw_only=True)
class ExplainedTrader:
    """``plan`` is JSON text as stored: untrusted, validate it."""

    user_id: UUID
    filter: str
    plan: str
    plan_hash: str
    symbols: list[str] | None
    frequency: Any
    state: str
    last_error: str | None
    screened_through: datetime | None

    @property
    def cooldown_s(self) -> float | None:
        return float(self.frequency["cooldown_s"]) if isinstance(self.frequency, dict) else None


async def find_explained(connection: Connection, trader_id: UUID) -> ExplainedTrader | None:
    """The trader, whoever owns it."""
    async with connection.cursor(row_factory=rows_of(ExplainedTrader)) as cursor:
        await cursor.execute(_SQL["explained_trader"], {"trader_id": trader_id})
        return await cursor.fetchone()


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """
    What to screen. ``plan`` is JSON text as stored: untrusted, validate it and hold its content against ``plan_hash``.

    ``is_new``: no machine has screened this revision yet.
    """

    trader_id: UUID
    user_id: UUID
    plan: str
    plan_hash: str
    symbols: list[str] | None
    frequency: Literal["every_bar", "on_enter"] | dict[str, float]
    filter: str
    revision: int
    is_new: bool


async def plans(connection: Connection, trader_ids: Sequence[UUID]) -> list[StoredPlan]:
    rows = await (await connection.execute(_SQL["plans"], {"trader_ids": list(trader_ids)})).fetchall()
    return [StoredPlan(*row) for row in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recompiled:
    """A plan compiled again from the filter of a trader's *revision*."""

    trader_id: UUID
    revision: int
    plan: bytes
    plan_hash: str
    plan_summary: dict[str, Any]


async def store_recompiled(connection: Connection, recompiled: Recompiled) -> bool:
    """
    Put a recompiled plan in place of the old one; False when another filter was saved meanwhile. The revision
    rises.
    """
    parameters = {
        "trader_id": recompiled.trader_id,
        "revision": recompiled.revision,
        "plan": recompiled.plan.decode(),
        "plan_hash": recompiled.plan_hash,
        "plan_summary": Jsonb(recompiled.plan_summary),
    }
    return (await connection.execute(_SQL["store_recompiled"], parameters)).rowcount == 1


async def any_exist(connection: Connection) -> bool:
    """Whether any user has a trader."""
    row = await (await connection.execute(_SQL["has_traders"])).fetchone()
    return row is not None and bool(row[0])
