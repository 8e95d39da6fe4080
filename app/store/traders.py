"""
What users want screened (``public.traders``) and how it stands (``public.trader_state``).

Everything here answers for one trader or one user; what machines do with trader_state is ``app/store/machines.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from psycopg.types.json import Jsonb

from app.domain.health import MarketFacts
from app.domain.lifecycle import PASSING, TraderState
from app.errors import Kind, Refused
from app.store import queries
from app.store.pool import Connection
from app.store.refusals import refusal_of, translated
from app.store.rows import PAGE_BYTES_MAX, Page, page_of, rows_of, with_next

_TRADERS = queries.load("traders")
_STATE = queries.load("trader_state")

T = TypeVar("T")
Frequency = str | dict[str, int]
FIRST_ID = UUID(int=0)


@dataclass(frozen=True, kw_only=True)
class PlanColumns:
    """A compiled filter as it is stored: canonical JSON, its hash, and what people are told about it."""

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


_FACTS = tuple(field.name for field in fields(MarketFacts))


def _with_facts(make: Callable[..., T]) -> Callable[..., T]:
    """Takes the market's columns out of a row: they belong to the same snapshot, not to the trader."""

    def row(**columns: Any) -> T:
        return make(facts=MarketFacts(**{name: columns.pop(name) for name in _FACTS}), **columns)

    return row


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
            await connection.execute(_TRADERS["check_stored"], {"user_id": user_id})
        row = await (await connection.execute(_TRADERS["insert_trader"], parameters)).fetchone()
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
    """Change what is not None (symbols: what *set_symbols* says), in one statement; False when the user has no such trader."""
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
    return (await connection.execute(_TRADERS["update_trader"], parameters)).rowcount == 1


def _plan_parameters(compiled: PlanColumns | None) -> dict[str, object]:
    return {
        "plan": None if compiled is None else compiled.plan.decode(),
        "plan_hash": None if compiled is None else compiled.plan_hash,
        "plan_summary": None if compiled is None else Jsonb(compiled.plan_summary),
    }


async def delete_trader(connection: Connection, user_id: UUID, trader_id: UUID) -> bool:
    """Remove a trader in any state, with its signals; False when the user has no such trader."""
    parameters = {"user_id": user_id, "trader_id": trader_id}
    return (await connection.execute(_TRADERS["delete_trader"], parameters)).rowcount == 1


async def find_trader(connection: Connection, trader_id: UUID) -> Trader | None:
    """The trader, whoever owns it."""
    async with connection.cursor(row_factory=rows_of(_with_facts(Trader))) as cursor:
        await cursor.execute(_TRADERS["find_trader"], {"trader_id": trader_id})
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
    async with connection.cursor(row_factory=rows_of(with_next(_with_facts(Trader)))) as cursor:
        await cursor.execute(
            _TRADERS["list_traders"],
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
    """Ask for several of the user's traders to run, None: for all that do not. An id that is none of the user's is NOT_FOUND."""
    parameters = {
        "user_id": user_id,
        "trader_ids": None if trader_ids is None else list(trader_ids),
        "active_traders_max": active_traders_max,
    }
    cursor = await connection.execute(_STATE["start_traders"], parameters)
    refusals = {
        trader: None if code is None else refusal_of(code, message, detail)
        for trader, code, message, detail in await cursor.fetchall()
    }
    return await _outcomes(connection, user_id, trader_ids, refusals)


async def stop_traders(
    connection: Connection, user_id: UUID, trader_ids: Sequence[UUID] | None
) -> list[Outcome]:
    """Ask for several of the user's traders to stop, None: for all that run. An id that is none of the user's is NOT_FOUND."""
    parameters = {"user_id": user_id, "trader_ids": None if trader_ids is None else list(trader_ids)}
    cursor = await connection.execute(_STATE["stop_traders"], parameters)
    return await _outcomes(connection, user_id, trader_ids, {row[0]: None for row in await cursor.fetchall()})


async def _outcomes(
    connection: Connection,
    user_id: UUID,
    asked: Sequence[UUID] | None,
    refusals: Mapping[UUID, Refused | None],
) -> list[Outcome]:
    ids = list(refusals) if asked is None else list(dict.fromkeys(asked))
    async with connection.cursor(row_factory=rows_of(_with_facts(TraderStatus))) as cursor:
        await cursor.execute(_STATE["list_statuses"], {"user_id": user_id, "trader_ids": ids})
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
    async with connection.cursor(row_factory=rows_of(_with_facts(TraderStatus))) as cursor:
        with translated():
            await cursor.execute(_STATE[query], parameters)
        status = await cursor.fetchone()
    assert status is not None  # noqa: S101 the functions return a row or raise
    return status


async def find_status(connection: Connection, trader_id: UUID) -> TraderStatus | None:
    """The run state of a trader, whoever owns it."""
    async with connection.cursor(row_factory=rows_of(_with_facts(TraderStatus))) as cursor:
        await cursor.execute(_STATE["find_status"], {"trader_id": trader_id})
        return await cursor.fetchone()


async def list_active(
    connection: Connection, user_id: UUID, *, after_id: UUID = FIRST_ID, limit: int
) -> list[TraderStatus]:
    """At most *limit* of the user's starting and running traders with an id above *after_id*, by id."""
    async with connection.cursor(row_factory=rows_of(_with_facts(TraderStatus))) as cursor:
        await cursor.execute(
            _STATE["list_active"], {"user_id": user_id, "after_id": after_id, "limit": limit}
        )
        return await cursor.fetchall()
