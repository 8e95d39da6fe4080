"""
Slots of which a trader that floods stored a summary instead of signals: ``sql/queries/signal_digests.sql``.

A trader floods from the slot after the one that filled its tier's signals of the UTC day, until midnight. A slot has signals or a
digest, never both.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from uuid import UUID

from app.store import queries
from app.store.pool import Connection
from app.store.rows import rows_of
from app.store.signals import Match, Unjoined, in_key_order

_SQL = queries.load("signal_digests")
SYMBOLS_MAX = 20  # of a digest: its first pairs by name


@dataclass(frozen=True, kw_only=True)
class Digest:
    """How many pairs matched at a slot, and the first of them."""

    slot: datetime
    matches: int
    symbols: list[str]
    plan_hash: str


async def find_flooding(connection: Connection, slot: datetime, trader_ids: Iterable[UUID]) -> set[UUID]:
    """Those of *trader_ids* whose matches at the slot become a digest. Expects the fenced transaction that stores them."""
    parameters = {"slot": slot, "trader_ids": list(set(trader_ids))}
    return {
        row[0] for row in await (await connection.execute(_SQL["flooding_traders"], parameters)).fetchall()
    }


async def put(connection: Connection, boot_id: int, slot: datetime, matches: Sequence[Match]) -> None:
    """
    Store a digest per trader of *matches*; the first of a trader's day writes a trader event.

    Expects the fenced transaction of *boot_id*.

    Raises:
        Unjoined: a trader's lease is not as its machine believes; nothing may be committed.
    """
    by_trader = [list(own) for _, own in groupby(in_key_order(matches), key=lambda match: match.trader_id)]
    parameters = {
        "boot_id": boot_id,
        "slot": slot,
        "trader_ids": [own[0].trader_id for own in by_trader],
        "epochs": [own[0].epoch for own in by_trader],
        "matches": [len(own) for own in by_trader],
        "symbols": [json.dumps([match.symbol for match in own[:SYMBOLS_MAX]]) for own in by_trader],
        "plan_hashes": [own[0].plan_hash for own in by_trader],
    }
    row = await (await connection.execute(_SQL["put_digests"], parameters)).fetchone()
    assert row is not None  # noqa: S101 one row of counts
    if row[0] != len(by_trader):
        raise Unjoined(len(by_trader) - row[0])


async def list_between(
    connection: Connection, trader_id: UUID, after: datetime, through: datetime
) -> list[Digest]:
    """A trader's digests with *after* < slot ≤ *through*, oldest first."""
    parameters = {"trader_id": trader_id, "after": after, "through": through}
    async with connection.cursor(row_factory=rows_of(Digest)) as cursor:
        await cursor.execute(_SQL["digests_between"], parameters)
        return await cursor.fetchall()


async def list_at(connection: Connection, slot: datetime, trader_ids: Collection[UUID]) -> dict[UUID, Digest]:
    """The digests of *trader_ids* at the slot; traders without one are left out."""
    parameters = {"slot": slot, "trader_ids": list(trader_ids)}
    rows = await (await connection.execute(_SQL["digests_at"], parameters)).fetchall()
    return {row[0]: Digest(slot=slot, matches=row[1], symbols=row[2], plan_hash=row[3]) for row in rows}


async def prune(connection: Connection, *, before: datetime, limit: int) -> int:
    """Drop at most *limit* digests before an instant; returns how many."""
    return (await connection.execute(_SQL["prune_digests"], {"before": before, "limit": limit})).rowcount
