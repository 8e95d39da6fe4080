"""Previews: ``sql/queries/previews.sql``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from app.store import queries
from app.store.pool import Connection
from app.store.rows import rows_of

_SQL = queries.load("previews")

Ended = Literal["done", "failed", "timeout"]


@dataclass(frozen=True, kw_only=True)
class Requested:
    """
    What to run: a plan over its newest *bars*, or the audit of a trader from *since*.

    ``plan`` is JSON text as stored: untrusted, validate it.
    """

    preview_id: UUID
    plan: str | None
    bars: int | None
    symbols: list[str] | None
    trader_id: UUID | None
    since: datetime | None
    until: datetime


@dataclass(frozen=True, kw_only=True)
class PreviewState:
    """
    How a preview stands. ``result`` is JSON text once it is done, ``problem`` a sentence once it has failed.
    """

    state: Literal["waiting", "running"] | Ended
    result: str | None
    problem: str | None


async def insert(
    connection: Connection,
    user_id: UUID,
    *,
    plan: bytes,
    bars: int,
    symbols: Sequence[str] | None,
    until: datetime,
    waiting_max: int,
    wait_s: float,
) -> UUID | None:
    """
    A new question at the end of its user's line; None when *waiting_max* of theirs wait already.

    What has waited longer than *wait_s* is not counted: nobody waits for it any more.

    Raises:
        psycopg.errors.ForeignKeyViolation: there is no such user.
    """
    parameters = {
        "user_id": user_id,
        "plan": plan.decode(),
        "bars": bars,
        "symbols": None if symbols is None else list(symbols),
        "until": until,
        "waiting_max": waiting_max,
        "wait_s": wait_s,
    }
    row = await (await connection.execute(_SQL["insert_preview"], parameters)).fetchone()
    return None if row is None else UUID(str(row[0]))


async def insert_audit(
    connection: Connection,
    user_id: UUID,
    *,
    trader_id: UUID,
    since: datetime,
    until: datetime,
    waiting_max: int,
    wait_s: float,
) -> UUID | None:
    """A new question about a trader's signals after *since* and through *until*; None when the user's line is full."""
    parameters = {
        "user_id": user_id,
        "trader_id": trader_id,
        "since": since,
        "until": until,
        "waiting_max": waiting_max,
        "wait_s": wait_s,
    }
    row = await (await connection.execute(_SQL["insert_audit"], parameters)).fetchone()
    return None if row is None else UUID(str(row[0]))


async def claim(
    connection: Connection, *, wait_s: float, silent_s: float, in_flight_max: int
) -> Requested | None:
    """
    Begin to answer the preview whose turn it is, by user turns; None when nothing may begin.

    What has waited longer than *wait_s* is left alone. At most *in_flight_max* previews of one user are worked on
    at a time, by all machines; one whose machine has not got on for *silent_s* is not counted.
    """
    parameters = {"wait_s": wait_s, "silent_s": silent_s, "in_flight_max": in_flight_max}
    async with connection.cursor(row_factory=rows_of(Requested)) as cursor:
        await cursor.execute(_SQL["claim_preview"], parameters)
        return await cursor.fetchone()


async def advance(connection: Connection, preview_id: UUID, *, bars_done: int) -> None:
    """Say how far the answer has come, and that it still does."""
    await connection.execute(_SQL["advance_preview"], {"preview_id": preview_id, "bars_done": bars_done})


async def give_up(connection: Connection, preview_id: UUID, problem: str) -> None:
    """Take a preview out of its line because nobody waits for it any more; one that has begun goes on."""
    await connection.execute(_SQL["give_up_preview"], {"preview_id": preview_id, "problem": problem})


async def end(
    connection: Connection,
    preview_id: UUID,
    state: Ended,
    *,
    result: str | None = None,
    problem: str | None = None,
) -> bool:
    """Give the answer or the problem; False when it had ended before."""
    parameters = {"preview_id": preview_id, "state": state, "result": result, "problem": problem}
    return (await connection.execute(_SQL["end_preview"], parameters)).rowcount == 1


async def find(connection: Connection, preview_id: UUID) -> PreviewState | None:
    """How it stands; None when it was pruned."""
    async with connection.cursor(row_factory=rows_of(PreviewState)) as cursor:
        await cursor.execute(_SQL["find_preview"], {"preview_id": preview_id})
        return await cursor.fetchone()


async def prune(connection: Connection, *, before: datetime, limit: int) -> int:
    """Forget at most *limit* that were asked before an instant; returns how many."""
    return (await connection.execute(_SQL["prune_previews"], {"before": before, "limit": limit})).rowcount
