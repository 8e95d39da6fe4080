"""The roll-up against the exchange's own 5m candles, and its rule against a slow, obvious second writing of it."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain import timeframes
from app.market.candles import Candle, Candles
from app.market.dumps import read_dumps
from app.market.simulated.rollup import roll_up
from tests.real_market import of_symbol


def at(day, hour, minute):
    return timeframes.epoch_ms(datetime(2021, 4, day, hour, minute, tzinfo=UTC))


# The exchange's own 1m and 5m disagree here (an incident of 2021), so no roll-up can be right.
DAMAGED = [at(22, 2, m) for m in (10, 15, 20)] + [
    at(23, 1, 40) + i * 300_000 for i in (*range(10), 11, 12, 13)
]
VOLUME_ONLY = at(21, 8, 5)
INCOMPLETE = at(25, 4, 0)


@pytest.fixture(scope="module")
def week(data):
    return read_dumps(data / "dumps" / "week-91pairs-two-outages")


def test_the_roll_up_equals_the_exchanges_own_candles(week, data):
    own = np.load(data / "week-91pairs-5m-exchange-built.npz")
    built = roll_up(week, "5m")
    minutes_in_bar = roll_up_minute_counts(week)
    rows = np.searchsorted(own["symbols"], np.array(built.symbols))[built.symbol]
    columns = np.searchsorted(own["open_time"], built.open_time)
    assert (own["open_time"][columns] == built.open_time).all()
    complete = (minutes_in_bar == 5) & ~np.isin(built.open_time, [*DAMAGED, INCOMPLETE])

    for name in ("open", "high", "low", "close"):
        assert (getattr(built, name)[complete] == own[name][rows, columns][complete]).all(), name
    volumes = complete & (built.open_time != VOLUME_ONLY)
    np.testing.assert_allclose(
        built.volume[volumes], own["volume"][rows, columns][volumes], rtol=1e-12, atol=1e-8
    )
    assert complete.sum() > 174_000


def roll_up_minute_counts(week):
    """Minutes per 5m bar, in the order of the roll-up."""
    key = week.symbol.astype(np.int64) * 10**12 + week.open_time // 300_000
    return np.unique(key, return_counts=True)[1]


def test_a_bar_exists_exactly_where_one_of_its_minutes_does(week):
    hours = of_symbol(roll_up(week, "1h"), "BTCUSDT")

    # 02:00 … 04:29 is absent: no bar at 02:00 and 03:00, half a bar at 04:00.
    assert at(20, 1, 0) in hours.open_time
    assert at(20, 2, 0) not in hours.open_time
    assert at(20, 3, 0) not in hours.open_time
    assert at(20, 4, 0) in hours.open_time


def test_minutes_without_trades_do_not_move_open_high_low(candle):
    quiet = candle(open=20.0, high=20.0, low=20.0, close=20.0, volume=0.0, quote_volume=0.0, trades=0)
    traded = candle(open_time=120_000)

    bar = next(
        roll_up(
            Candles.from_rows([quiet._replace(open_time=300_000), traded._replace(open_time=360_000)]), "5m"
        ).rows()
    )

    assert bar == Candle("BTCUSDT", 300_000, 10.0, 12.0, 9.0, 11.0, 5.0, 55.0, 3)


def test_a_bar_without_any_trade_is_flat_at_its_close(candle):
    quiet = candle(
        open_time=300_000, open=20.0, high=20.0, low=20.0, close=20.0, volume=0.0, quote_volume=0.0, trades=0
    )

    bar = next(roll_up(Candles.from_rows([quiet, quiet._replace(open_time=360_000)]), "5m").rows())

    assert bar == Candle("BTCUSDT", 300_000, 20.0, 20.0, 20.0, 20.0, 0.0, 0.0, 0)


def test_one_minute_rolls_up_to_itself(candle):
    batch = Candles.from_rows([candle(open_time=120_000), candle()])

    assert [row.open_time for row in roll_up(batch, "1m").rows()] == [60_000, 120_000]


def test_nothing_rolls_up_to_nothing():
    assert len(roll_up(Candles.empty("1m", ("BTCUSDT",)), "4h")) == 0


@pytest.mark.parametrize(("own", "timeframe"), [("5m", "1m"), ("1h", "30m"), ("3m", "5m")])
def test_only_whole_bars_roll_up(own, timeframe):
    with pytest.raises(ValueError, match=f"{own} candles do not make up {timeframe} bars"):
        roll_up(Candles.empty(own), timeframe)


@st.composite
def minutes(draw):
    rows = []
    for symbol in ("AUSDT", "BUSDT"):
        close = 100.0
        for minute in draw(st.lists(st.integers(1, 40), unique=True, max_size=25).map(sorted)):
            volume = draw(st.sampled_from([0.0, 0.0, 1.5, 2.25]))
            prices = (
                [close] * 4 if volume == 0 else draw(st.lists(st.integers(1, 99), min_size=2, max_size=2))
            )
            start, end = float(prices[0]), float(prices[-1])
            spread = 0.0 if volume == 0 else float(draw(st.integers(0, 5)))
            low, high = max(0.5, min(start, end) - spread), max(start, end) + spread
            rows.append(
                Candle(symbol, minute * 60_000, start, high, low, end, volume, volume * end, int(volume))
            )
            close = end
    return draw(st.permutations(rows))


def slow_roll_up(rows, timeframe):
    length = timeframes.length_ms(timeframe)
    bars = {}
    for row in sorted(rows, key=lambda row: (row.symbol, row.open_time)):
        bars.setdefault((row.symbol, row.open_time // length * length), []).append(row)
    result = set()
    for (symbol, open_time), members in bars.items():
        close = members[-1].close
        traded = [row for row in members if row.volume > 0]
        first = traded[0].open if traded else close
        high = max([row.high for row in traded] + [close])
        low = min([row.low for row in traded] + [close])
        sums = [sum(getattr(row, name) for row in members) for name in ("volume", "quote_volume", "trades")]
        result.add(Candle(symbol, open_time, first, high, low, close, *sums))
    return result


@given(minutes(), st.sampled_from(["3m", "5m", "15m", "30m"]))
@settings(max_examples=150, deadline=None)
def test_the_roll_up_equals_its_rule_written_plainly(rows, timeframe):
    assert set(roll_up(Candles.from_rows(rows), timeframe).rows()) == slow_roll_up(rows, timeframe)


@given(minutes(), st.sampled_from(["3m", "5m", "15m"]))
@settings(max_examples=150, deadline=None)
def test_a_roll_up_in_two_steps_equals_one_step(rows, between):
    """The volumes drawn are multiples of a quarter, so that even the sums are exact."""
    candles = Candles.from_rows(rows)

    assert list(roll_up(roll_up(candles, between), "30m").rows()) == list(roll_up(candles, "30m").rows())


def test_real_candles_roll_up_in_two_steps_to_the_same_prices(week):
    straight, stepped = roll_up(week, "4h"), roll_up(roll_up(week, "5m"), "4h")

    for name in ("symbol", "open_time", "open", "high", "low", "close", "trades"):
        assert (getattr(stepped, name) == getattr(straight, name)).all(), name
    np.testing.assert_allclose(stepped.volume, straight.volume, rtol=1e-12)
