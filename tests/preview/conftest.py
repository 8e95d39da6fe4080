"""A database with an hour and a half of candles: four pairs, one with holes, an outage, a late candle."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import psycopg
import pytest

from app.store.pool import make_pool

SYMBOLS = ["AAAUSDT", "BBBUSDT", "CCCUSDT", "DDDUSDT"]
FIRST = datetime(2024, 5, 1, 10, tzinfo=UTC)
MINUTES = 300
LAST = FIRST + timedelta(minutes=MINUTES)  # the close of the newest bar
OUTAGE = range(202, 207)  # minutes without a candle of anybody; a 5m bar closes in the middle of them
HOLES = (120, 121, 250)  # minutes in which BBBUSDT has none
LATE = 260  # the minute whose candle of CCCUSDT came after its slot had closed


def seed_candles(connection: psycopg.Connection) -> None:
    rng = np.random.default_rng(7)
    connection.execute("insert into vyx.markets (source, anchor_market_at) values ('test', %s)", (LAST,))
    for number, symbol in enumerate(SYMBOLS):
        connection.execute(
            "insert into vyx.symbols (symbol, base, quote) values (%s, %s, 'USDT')", (symbol, symbol[:3])
        )
        close = 100 * np.cumprod(1 + rng.normal(0, 3e-3, MINUTES))
        opened = np.concatenate([[100], close[:-1]])
        rows = [
            (
                number + 1,
                FIRST + timedelta(minutes=m),
                opened[m],
                max(opened[m], close[m]) * 1.001,
                min(opened[m], close[m]) * 0.999,
                close[m],
                float(rng.lognormal(3, 1)),
            )
            for m in range(MINUTES)
            if m not in OUTAGE and not (symbol == "BBBUSDT" and m in HOLES)
        ]
        with connection.cursor() as cursor:
            cursor.executemany(
                "insert into vyx.candles (symbol_id, timeframe, open_time, open, high, low, close, volume)"
                " values (%s, '1m', %s, %s, %s, %s, %s, %s)",
                rows,
            )
    for timeframe, minutes in (("5m", 5), ("15m", 15)):
        connection.execute(
            """insert into vyx.candles (symbol_id, timeframe, open_time, open, high, low, close, volume)
               select symbol_id, %(timeframe)s::vyx.timeframe, date_bin(%(length)s, open_time, timestamptz '2000-01-01T00:00:00Z') as bucket,
                      (array_agg(open order by open_time))[1], max(high), min(low), (array_agg(close order by open_time desc))[1], sum(volume)
                 from vyx.candles where timeframe = '1m' group by symbol_id, bucket""",
            {"timeframe": timeframe, "length": timedelta(minutes=minutes)},
        )
    connection.execute(
        """insert into vyx.slots (slot, state, reason, closed_at)
           select slot, (case when outage then 'outage' else 'complete' end)::vyx.slot_state, case when outage then 'no candles: test' end, slot
             from (select slot, slot > %(first)s::timestamptz + interval '1 min' * 202 and slot <= %(first)s::timestamptz + interval '1 min' * 207 as outage
                     from generate_series(%(first)s::timestamptz + interval '1 min', %(last)s, interval '1 min') slot) s""",
        {"first": FIRST, "last": LAST},
    )
    connection.execute(
        "insert into vyx.candle_corrections (symbol_id, timeframe, open_time, became, reason) values (3, '1m', %s, '{}', 'late')",
        (FIRST + timedelta(minutes=LATE),),
    )


@pytest.fixture
def candles(connection):
    """The stored candles; the connection they were written by."""
    seed_candles(connection)
    return connection


@pytest.fixture
async def pool(dsn):
    pool = make_pool(dsn, max_size=4, name="test")
    await pool.open(wait=True)
    yield pool
    await pool.close()
