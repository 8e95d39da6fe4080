"""Signals that the database refused: ``sql/queries/signals_failed.sql``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import psycopg

from app.store import queries
from app.store.pool import Connection
from app.store.signals import RefusedMatch, is_row_refused

_SQL = queries.load("signals_failed")


async def put(connection: Connection, slot: datetime, refused: Sequence[RefusedMatch]) -> None:
    """Set refused matches aside, and say so in each trader's status and in an event. Expects a transaction."""
    reasons: dict[UUID, list[RefusedMatch]] = {}
    for one in refused:
        match = one.match
        reasons.setdefault(match.trader_id, []).append(one)
        parameters = {
            "trader_id": match.trader_id,
            "symbol": match.symbol,
            "timeframe": match.timeframe,
            "slot": slot,
            "price": match.price,
            "shown": match.shown,
            "plan_hash": match.plan_hash,
            "epoch": match.epoch,
            "forming": match.forming,
            "cooldown_s": match.cooldown_s,
            "reason": one.reason,
        }
        await connection.execute(_SQL["put_failed_signal"], parameters)
    for trader_id in sorted(reasons):
        own = reasons[trader_id]
        pairs = ", ".join(sorted(one.match.symbol for one in own)[:5]) + (" …" if len(own) > 5 else "")
        message = (
            f"The database refused {len(own)} signals at {slot:%Y-%m-%d %H:%M} ({pairs}): {own[0].reason}"
        )
        await connection.execute(_SQL["state_failed_signals"], {"trader_id": trader_id, "message": message})


async def redeliver(
    connection: Connection,
    *,
    first: datetime | None = None,
    last: datetime | None = None,
    failed_id: int | None = None,
) -> tuple[int, int]:
    """
    Try refused signals again, each in a transaction of its own: those of a span of market time, or one by its id.

    Returns:
        How many are signals now (or would be a second one for their bar, or lie within a cooldown), and how many were
        refused again.
    """
    parameters = {"first": first, "last": last, "failed_id": failed_id}
    rows = await (await connection.execute(_SQL["list_failed_signals"], parameters)).fetchall()
    done, left = 0, 0
    for number, trader_id in rows:
        try:
            async with connection.transaction():
                await connection.execute(_SQL["begin_redelivery"])
                await connection.execute(_SQL["redeliver_failed_signal"], {"failed_id": number})
                await connection.execute(_SQL["clear_failed_signals"], {"trader_id": trader_id})
            done += 1
        except psycopg.Error as error:
            if not is_row_refused(error):
                raise
            left += 1
            reason = (error.diag.message_primary or str(error))[:500]
            await connection.execute(_SQL["restate_failed_signal"], {"failed_id": number, "reason": reason})
    return done, left


async def list_between(
    connection: Connection, trader_id: UUID, after: datetime, through: datetime
) -> set[tuple[str, datetime]]:
    """(symbol, triggered_at) of a trader's refused signals, after one slot and through another."""
    parameters = {"trader_id": trader_id, "after": after, "through": through}
    rows = await (await connection.execute(_SQL["failed_signals_between"], parameters)).fetchall()
    return {(row[0], row[1]) for row in rows}


async def symbols_of(connection: Connection, trader_ids: Sequence[UUID]) -> set[tuple[UUID, str]]:
    """(trader, symbol) of which a signal is refused."""
    rows = await (
        await connection.execute(_SQL["failed_symbols_of"], {"trader_ids": list(trader_ids)})
    ).fetchall()
    return {(row[0], row[1]) for row in rows}


async def prune(connection: Connection, *, before: datetime, limit: int) -> int:
    """Drop at most *limit* signals refused before an instant; returns how many."""
    return (
        await connection.execute(_SQL["prune_failed_signals"], {"before": before, "limit": limit})
    ).rowcount
