"""
Signals: ``sql/queries/signals.sql``. Machines write them, inside :func:``app.store.machines.fenced``; their
owners read them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg

from app.store import queries
from app.store.pool import Connection
from app.store.rows import PAGE_BYTES_MAX, Page, page_of, rows_of, with_next

_SQL = queries.load("signals")
BATCH_ROWS_MAX = 1000  # one unnest: 95k rows/s; larger batches only lengthen the transaction
REFUSED_TRIES_MAX = (
    200  # pieces refused while halving: 15 single rows among 40,000, or all rows of a few hundred
)


@dataclass(frozen=True, kw_only=True)
class Signal:
    id: int
    trader_id: UUID
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
class Wanted:
    """Which signals; None: all. ``since`` compares with ``created_at``, ``first`` and ``last`` (inclusive) with ``triggered_at``."""

    trader_id: UUID | None = None
    symbol: str | None = None
    since: datetime | None = None
    first: datetime | None = None
    last: datetime | None = None


async def list_signals(
    connection: Connection,
    user_id: UUID,
    wanted: Wanted,
    *,
    is_newest_first: bool = False,
    after: tuple[datetime, int] | None = None,
    limit: int,
    bytes_max: int = PAGE_BYTES_MAX,
) -> Page[Signal]:
    """
    At most *limit* of the user's signals in order of creation, behind *after*: the ``(created_at, id)`` where
    the last page ended.
    """
    after_at, after_id = after or (None, 0)
    parameters = {
        "user_id": user_id,
        "trader_id": wanted.trader_id,
        "symbol": wanted.symbol,
        "since": wanted.since,
        "from": wanted.first,
        "until": wanted.last,
        "after_at": after_at,
        "after_id": after_id,
        "limit": limit,
        "bytes_max": bytes_max,
    }

    query = "list_newest_signals" if is_newest_first else "list_signals"
    async with connection.cursor(row_factory=rows_of(with_next(Signal))) as cursor:
        await cursor.execute(_SQL[query], parameters)
        return page_of(await cursor.fetchall())


async def export_signals(
    connection: Connection, user_id: UUID | None, wanted: Wanted, *, after_id: int, limit: int
) -> list[Signal]:
    """At most *limit* signals of a user, or (None) of all, in the order of their ids, behind *after_id*."""
    parameters = {
        "user_id": user_id,
        "trader_id": wanted.trader_id,
        "symbol": wanted.symbol,
        "since": wanted.since,
        "from": wanted.first,
        "until": wanted.last,
        "after_id": after_id,
        "limit": limit,
    }
    async with connection.cursor(row_factory=rows_of(Signal)) as cursor:
        await cursor.execute(_SQL["export_signals"], parameters)
        return await cursor.fetchall()


async def delete_signals(connection: Connection, user_id: UUID, *, limit: int) -> int:
    """Delete at most *limit* of the user's signals, the oldest first; returns how many."""
    return (await connection.execute(_SQL["delete_signals"], {"user_id": user_id, "limit": limit})).rowcount


@dataclass(frozen=True, slots=True)
class Match:
    """A symbol that matched at a slot, ready to become a signal. ``shown`` is JSON text."""

    trader_id: UUID
    epoch: int
    symbol: str
    timeframe: str
    price: float
    shown: str
    plan_hash: str
    forming: bool
    cooldown_s: float | None


@dataclass(frozen=True, slots=True)
class RefusedMatch:
    """A match that cannot become a signal, and what the database said."""

    match: Match
    reason: str


class Unjoined(Exception):
    """Some matches' leases are not as the machine believes: what it knows of its traders is out of date."""

    def __init__(self, count: int) -> None:
        super().__init__(f"{count} matches have no lease of this machine")
        self.count = count


async def keep_signal_partition(connection: Connection, slot: datetime) -> None:
    await connection.execute(_SQL["keep_signal_partition"], {"slot": slot})


async def insert_signals(
    connection: Connection, boot_id: int, slot: datetime, matches: Sequence[Match]
) -> int:
    """
    Insert what is new among *matches*, in batches of ``BATCH_ROWS_MAX``; returns how many signals are new.

    Expects the fenced transaction of *boot_id*.

    Raises:
        Unjoined: a match's lease is not as its machine believes; nothing may be committed.
        psycopg.DataError, psycopg.IntegrityError: a row is refused; see :func:`is_row_refused`.
    """
    ordered = in_key_order(matches)
    return sum(
        [
            await _insert_batch(connection, boot_id, slot, ordered[start : start + BATCH_ROWS_MAX])
            for start in range(0, len(ordered), BATCH_ROWS_MAX)
        ]
    )


async def insert_signals_bisecting(
    connection: Connection, boot_id: int, slot: datetime, matches: Sequence[Match]
) -> tuple[int, list[RefusedMatch]]:
    """
    As :func:`insert_signals`, but rows that the database refuses are found by halving and returned.

    Each try has a savepoint. After ``REFUSED_TRIES_MAX`` refused tries what is left of a refused piece is returned whole.
    """
    pieces, inserted, refused, tries = [in_key_order(matches)], 0, list[RefusedMatch](), 0
    while pieces:
        piece = pieces.pop()
        if len(piece) > BATCH_ROWS_MAX:
            pieces += [piece[BATCH_ROWS_MAX:], piece[:BATCH_ROWS_MAX]]
            continue
        try:
            async with connection.transaction():
                inserted += await _insert_batch(connection, boot_id, slot, piece)
        except psycopg.Error as error:
            if not is_row_refused(error):
                raise
            tries += 1
            if len(piece) == 1 or tries > REFUSED_TRIES_MAX:
                refused += [RefusedMatch(match, _reason(error)) for match in piece]
            else:
                half = len(piece) // 2
                pieces += [piece[half:], piece[:half]]
    return inserted, refused


async def _insert_batch(connection: Connection, boot_id: int, slot: datetime, batch: Sequence[Match]) -> int:
    parameters: dict[str, Any] = {
        "boot_id": boot_id,
        "slot": slot,
        "trader_ids": [m.trader_id for m in batch],
        "epochs": [m.epoch for m in batch],
        "symbols": [m.symbol for m in batch],
        "timeframes": [m.timeframe for m in batch],
        "prices": [m.price for m in batch],
        "shown": [m.shown for m in batch],
        "plan_hashes": [m.plan_hash for m in batch],
        "forming": [m.forming for m in batch],
        "cooldowns_s": [m.cooldown_s for m in batch],
    }
    row = await (await connection.execute(_SQL["insert_signals"], parameters)).fetchone()
    assert row is not None  # noqa: S101 one row of counts
    joined, inserted = row
    if joined != len(batch):
        raise Unjoined(len(batch) - joined)
    return int(inserted)


def in_key_order(matches: Sequence[Match]) -> list[Match]:
    """Sorted by the table's key within a slot, or two writers could deadlock."""
    return sorted(matches, key=lambda match: (match.trader_id, match.symbol))


def is_row_refused(error: psycopg.Error) -> bool:
    """Whether the content of a row is to blame: a type, a constraint or a trigger (classes 22, 23, P0)."""
    if error.sqlstate is None:
        return isinstance(error, psycopg.DataError)  # refused before it was sent, such as a NUL in a text
    return error.sqlstate[:2] in ("22", "23", "P0")


def _reason(error: psycopg.Error) -> str:
    return (error.diag.message_primary or str(error))[:500]


@dataclass(frozen=True, kw_only=True)
class StoredSignal:
    """When a signal was, and the version of the filter it is of."""

    triggered_at: datetime
    plan_hash: str


async def list_around(
    connection: Connection, trader_id: UUID, symbol: str, slot: datetime, *, reach_s: float
) -> list[StoredSignal]:
    """The signal at the slot, if any, and the newest one within *reach_s* before it; newest first."""
    parameters = {"trader_id": trader_id, "symbol": symbol, "slot": slot, "reach_s": reach_s}
    async with connection.cursor(row_factory=rows_of(StoredSignal)) as cursor:
        await cursor.execute(_SQL["signals_around"], parameters)
        return await cursor.fetchall()


@dataclass(frozen=True, kw_only=True)
class CommittedSignal:
    """A signal as it was committed, for a recomputation."""

    trader_id: UUID
    symbol: str
    timeframe: str
    triggered_at: datetime
    price: float
    shown: dict[str, float | bool | None]
    plan_hash: str


async def list_at(
    connection: Connection, slot: datetime, reaches_s: Mapping[UUID, float]
) -> list[CommittedSignal]:
    """The signals of each trader of *reaches_s* at the slot and within its reach before it, oldest first."""
    parameters = {
        "slot": slot,
        "trader_ids": list(reaches_s),
        "reaches_s": list(reaches_s.values()),
        "reach_max_s": max(reaches_s.values(), default=0.0),
    }
    async with connection.cursor(row_factory=rows_of(CommittedSignal)) as cursor:
        await cursor.execute(_SQL["signals_at"], parameters)
        return await cursor.fetchall()


async def list_between(
    connection: Connection, trader_id: UUID, after: datetime, through: datetime
) -> list[CommittedSignal]:
    """A trader's signals with *after* < triggered_at ≤ *through*, oldest first."""
    parameters = {"trader_id": trader_id, "after": after, "through": through}
    async with connection.cursor(row_factory=rows_of(CommittedSignal)) as cursor:
        await cursor.execute(_SQL["signals_between"], parameters)
        return await cursor.fetchall()


async def drop_partition(connection: Connection, *, before: datetime) -> int | None:
    """
    Drop the oldest month of signals when all of it lies before an instant; returns about how many rows it had.

    None: there is no such month, or the table was busy for 200 ms. The feed's floor rises with it.
    """
    row = await (await connection.execute(_SQL["drop_signal_partition"], {"before": before})).fetchone()
    return row[0] if row else None


async def prune(connection: Connection, *, before: datetime, limit: int) -> int:
    """Drop at most *limit* signals before an instant, and raise the feed's floor to the newest of them; returns how many."""
    row = await (
        await connection.execute(_SQL["prune_signals"], {"before": before, "limit": limit})
    ).fetchone()
    return int(row[0]) if row else 0
