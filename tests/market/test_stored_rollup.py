"""The roll-up in SQL: bar for bar the exchange's own candles, and the same rule as app/market/simulated/rollup.py."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.domain import timeframes
from app.market.candles import Candle, Candles
from app.market.closing import ROLL_UP_FROM
from app.market.dumps import read_dumps
from app.market.simulated.rollup import roll_up
from app.store import candles as store
from app.store.pool import connect_direct
from tests import world

DAY = datetime(2021, 4, 24, tzinfo=UTC)  # no outage and no damaged bucket, see the data's README


@pytest.fixture
async def client(dsn):
    client = await connect_direct(dsn, name="vyx-test", statement_timeout_s=60)
    yield client
    await client.close()


def rows_of(minutes: Candles, ids: dict[str, int]) -> store.Rows:
    """The columns of the store."""
    numbers = np.array([ids[name] for name in minutes.symbols])
    columns = {
        name: getattr(minutes, name)
        for name in ("open_time", "open", "high", "low", "close", "volume", "quote_volume")
    }
    return {"symbol_id": numbers[minutes.symbol], "trade_count": minutes.trades, **columns}


async def put(client, connection, minutes):
    """Store minutes; returns their symbols' ids."""
    ids = world.put_symbols(connection, *minutes.symbols)
    async with client.transaction():
        await store.copy(client, "1m", rows_of(minutes, ids))
    return ids


async def roll_all_up(client, first: datetime, last: datetime):
    """Every timeframe, for every slot from *first* to *last*, each from the one that ingest takes."""
    minutes = int((last - first) / timedelta(minutes=1))
    slots = [first + timedelta(minutes=n + 1) for n in range(minutes)]
    for timeframe, source in ROLL_UP_FROM.items():
        due = [slot for slot in slots if timeframes.closes_at(world.ms(slot), timeframe)]
        await store.roll_up(client, timeframe, source, timeframes.TIMEFRAMES[timeframe], due)


async def stored(client, ids, timeframe):
    """What the table holds, by (symbol, open time): open, high, low, close, volume."""
    names = {number: name for name, number in ids.items()}
    rows = await store.read(
        client, timeframe, datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
    )
    return {
        (names[s], t): prices
        for s, t, *prices in zip(
            *(
                rows[name].tolist()
                for name in ("symbol_id", "open_time", "open", "high", "low", "close", "volume")
            ),
            strict=True,
        )
    }


async def test_5m_bars_are_the_exchanges_own(client, connection, shared_data):
    """
    8 pairs × 288 bars of a real day: open, high, low and close to the bit, volume to the last digits of its sum.
    """
    archive = np.load(shared_data / "week-91pairs-5m-exchange-built.npz")
    names = [str(name) for name in archive["symbols"][:8]]
    day = slice(*np.searchsorted(archive["open_time"], [world.ms(DAY), world.ms(DAY + timedelta(days=1))]))
    times = archive["open_time"][day].tolist()
    fields = [archive[field][:8, day] for field in ("open", "high", "low", "close", "volume")]
    folder = shared_data / "dumps" / "week-91pairs-two-outages"
    week = Candles.concat([read_dumps(folder / f"{name}-1m-2021-04.zip") for name in names])
    minutes = week.take((week.open_time >= world.ms(DAY)) & (week.open_time < world.ms(DAY) + 86_400_000))

    ids = await put(client, connection, minutes)
    await roll_all_up(client, DAY, DAY + timedelta(days=1))

    found = await stored(client, ids, "5m")
    expected = {
        (name, t): [field[row, column] for field in fields]
        for row, name in enumerate(names)
        for column, t in enumerate(times)
    }
    assert len(found) == 8 * 288
    assert {key: prices[:4] for key, prices in found.items()} == {k: p[:4] for k, p in expected.items()}
    assert all(np.isclose(prices[4], expected[key][4], rtol=1e-9) for key, prices in found.items())


minute = st.tuples(
    st.booleans(),  # is there
    st.booleans(),  # traded
    st.integers(1, 9),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(1, 9),
)


@given(st.lists(minute, min_size=1, max_size=40), st.integers(0, 20))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_sql_and_python_roll_up_alike(client, connection, drawn, shift):
    """
    Any minutes, traded or flat, with holes: each timeframe built bar from bar in SQL equals that built from minutes in Python.
    """
    connection.execute("truncate vyx.candles")
    first = world.T0 + timedelta(minutes=shift)
    rows, close = [], 5.0
    for n, (is_there, is_traded, opened, above, below, closed) in enumerate(drawn):
        if not is_there:
            continue
        at = world.ms(first) + n * 60_000
        if is_traded:
            close = float(closed)
            high, low = max(opened, closed) + above, max(0.5, min(opened, closed) - below)
            rows.append(Candle("AAAUSDT", at, float(opened), float(high), float(low), close, 2.0, 8.0, 3))
        else:
            rows.append(Candle("AAAUSDT", at, close, close, close, close, 0.0, 0.0, 0))
    minutes = Candles.from_rows(rows)

    ids = await put(client, connection, minutes) if rows else {}
    await roll_all_up(client, world.T0, world.T0 + timedelta(days=1))

    for timeframe in ROLL_UP_FROM:
        expected = roll_up(minutes, timeframe)
        assert await stored(client, ids, timeframe) == {
            (row.symbol, row.open_time): [row.open, row.high, row.low, row.close, row.volume]
            for row in expected.rows()
        }


async def test_a_minute_without_volume_that_moved_does_not_stop_the_roll_up(client, connection):
    """
    The exchange's own damaged candles exist: a bar still encloses its close, as the table demands.
    """
    start = world.ms(world.T0)
    traded = Candle("AAAUSDT", start, 5.0, 6.0, 4.0, 5.0, 1.0, 5.0, 1)
    moved = Candle("AAAUSDT", start + 60_000, 9.0, 9.0, 9.0, 9.0, 0.0, 0.0, 0)

    ids = await put(client, connection, Candles.from_rows([traded, moved]))
    await roll_all_up(client, world.T0, world.T0 + timedelta(minutes=5))

    assert (await stored(client, ids, "5m")) == {("AAAUSDT", start): [5.0, 9.0, 4.0, 9.0, 1.0]}


def test_each_timeframe_is_built_from_one_that_divides_it():
    """
    A bar made from bars that do not fit into it would be wrong without a sound.
    """
    for timeframe, source in ROLL_UP_FROM.items():
        assert timeframes.TIMEFRAMES[timeframe] % timeframes.TIMEFRAMES[source] == 0
    assert ["1m", *ROLL_UP_FROM] == list(timeframes.TIMEFRAMES)
