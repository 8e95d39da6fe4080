"""
Of which bars the exchange has been asked: ``sql/queries/candle_ranges.sql``.

Every known bar is a row of ``vyx.candles``, except those marked absent. Instants are whole milliseconds since the epoch, spans are
[from, until).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from app.domain import timeframes
from app.store import queries
from app.store.pool import Connection

_SQL = queries.load("candle_ranges")


class Span(NamedTuple):
    """Bars of a pair with from ≤ open time < until, in ms; the exchange has none of them when *is_absent*."""

    symbol_id: int
    first: int
    until: int
    is_absent: bool = False


@dataclass(frozen=True)
class Difference:
    """How many bars a range promises, and how many rows there are."""

    symbol: str
    timeframe: str
    promised: int
    stored: int


async def read(
    connection: Connection, symbol_ids: Collection[int]
) -> dict[tuple[int, str], list[tuple[int, int]]]:
    """What is known of these pairs, as ordered pieces [from, until) in ms by (symbol_id, timeframe)."""
    rows = await (await connection.execute(_SQL["read_ranges"], {"symbol_ids": list(symbol_ids)})).fetchall()
    known: dict[tuple[int, str], list[tuple[int, int]]] = {}
    for symbol_id, timeframe, first, until in rows:
        pieces = known.setdefault((symbol_id, timeframe), [])
        pieces.append((timeframes.epoch_ms(first), timeframes.epoch_ms(until)))
    return known


async def know(connection: Connection, timeframe: str, spans: Sequence[Span]) -> None:
    """Record what has been asked for; in the transaction that stores the rows, or a range would promise what is not there."""
    if not spans:
        return
    parameters = {
        "timeframe": timeframe,
        "symbol_ids": [span.symbol_id for span in spans],
        "firsts": [timeframes.instant(span.first) for span in spans],
        "untils": [timeframes.instant(span.until) for span in spans],
        "absent": [span.is_absent for span in spans],
    }
    await connection.execute(_SQL["know_ranges"], parameters)


async def know_rolled(
    connection: Connection, timeframe: str, source: str, seconds: int, slots: Sequence[datetime]
) -> None:
    """Record the bars of *timeframe* that were rolled up at *slots* from whole buckets of *source*."""
    parameters = {"timeframe": timeframe, "source": source, "seconds": seconds, "slots": list(slots)}
    await connection.execute(_SQL["know_rolled"], parameters)


async def compare(
    connection: Connection, timeframe: str, symbol_ids: Sequence[int]
) -> tuple[int, int, list[Difference]]:
    """How many ranges and promised bars these pairs have in *timeframe*, and those whose rows differ from them."""
    parameters = {
        "timeframe": timeframe,
        "seconds": timeframes.TIMEFRAMES[timeframe],
        "symbol_ids": list(symbol_ids),
    }
    rows = await (await connection.execute(_SQL["compare_with_rows"], parameters)).fetchall()
    compared = [Difference(row[0], timeframe, int(row[1]), int(row[2])) for row in rows]
    differences = [difference for difference in compared if difference.promised != difference.stored]
    return len(compared), sum(difference.promised for difference in compared), differences


async def forget(connection: Connection, timeframe: str, symbols: Sequence[str]) -> None:
    """Nothing is known any more of these pairs' bars of *timeframe*."""
    await connection.execute(_SQL["forget_ranges"], {"timeframe": timeframe, "symbols": list(symbols)})


async def put_check(
    connection: Connection, *, ranges: int, bars: int, differences: Sequence[Difference]
) -> None:
    """Put on record what a comparison found."""
    wrong = [
        {"symbol": d.symbol, "timeframe": d.timeframe, "promised": d.promised, "stored": d.stored}
        for d in differences
    ]
    await connection.execute(_SQL["put_check"], {"ranges": ranges, "bars": bars, "wrong": json.dumps(wrong)})
