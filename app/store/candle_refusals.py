"""Candles that were set aside: ``sql/queries/candle_refusals.sql``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from app.store import queries
from app.store.pool import Connection

_SQL = queries.load("candle_refusals")
RAW_BYTES_MAX = 1000


@dataclass(frozen=True)
class Refusal:
    """A bar of a pair that was refused; *raw* is what came, cut to 1,000 bytes."""

    symbol_id: int
    open_time: datetime
    source: str
    what: str
    raw: str


async def put(connection: Connection, timeframe: str, refusals: Sequence[Refusal]) -> None:
    """Set candles aside; the newest text of a bar and source stays."""
    if not refusals:
        return
    parameters = {
        "timeframe": timeframe,
        "symbol_ids": [r.symbol_id for r in refusals],
        "open_times": [r.open_time for r in refusals],
        "sources": [r.source for r in refusals],
        "whats": [r.what for r in refusals],
        "raws": [_cut(r.raw) for r in refusals],
    }
    await connection.execute(_SQL["put_refusals"], parameters)


async def find(connection: Connection, symbol: str, timeframe: str, open_time: datetime) -> str | None:
    """Why the pair's bar was refused; None: it was not."""
    parameters = {"symbol": symbol, "timeframe": timeframe, "open_time": open_time}
    row = await (await connection.execute(_SQL["find_refusal"], parameters)).fetchone()
    return row[0] if row else None


def _cut(raw: str) -> str:
    """At most 1,000 bytes; a character that would be cut is left out, and so is NUL, which Postgres does not store."""
    return raw.replace("\0", "").encode()[:RAW_BYTES_MAX].decode(errors="ignore")


async def prune(connection: Connection, *, before: datetime, limit: int) -> int:
    """Drop at most *limit* refusals made before an instant; returns how many."""
    return (await connection.execute(_SQL["prune_refusals"], {"before": before, "limit": limit})).rowcount
