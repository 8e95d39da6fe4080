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
) -> UUID:
    """
    A new question.

    Raises:
        psycopg.errors.ForeignKeyViolation: there is no such user.
    """
    parameters = {
        "user_id": user_id,
        "plan": plan.decode(),
        "bars": bars,
        "symbols": None if symbols is None else list(symbols),
        "until": until,
    }
    row = await (await connection.execute(_SQL["insert_preview"], parameters)).fetchone()
    assert row is not None  # noqa: S101 insert … returning
    return UUID(str(row[0]))


async def insert_audit(
    connection: Connection, user_id: UUID, *, trader_id: UUID, since: datetime, until: datetime
) -> UUID:
    """A new question about a trader's signals after *since* and through *until*."""
    parameters = {"user_id": user_id, "trader_id": trader_id, "since": since, "until": until}
    row = await (await connection.execute(_SQL["insert_audit"], parameters)).fetchone()
    assert row is not None  # noqa: S101 insert … returning
    return UUID(str(row[0]))


async def take(connection: Connection, preview_id: UUID, *, wait_s: float) -> Requested | None:
    """Begin to answer; None when somebody else did, or it has waited longer than *wait_s*."""
    async with connection.cursor(row_factory=rows_of(Requested)) as cursor:
        await cursor.execute(_SQL["take_preview"], {"preview_id": preview_id, "wait_s": wait_s})
        return await cursor.fetchone()


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


async def prune(connection: Connection, *, keep_s: float) -> int:
    """Forget the older ones; returns how many."""
    return (await connection.execute(_SQL["prune_previews"], {"keep_s": keep_s})).rowcount
