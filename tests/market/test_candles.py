import math

import numpy as np
import pytest

from app.market.candles import Candles, fault_of
from app.market.errors import CandleInvalid


def test_rows_come_back_as_they_went_in(candle):
    rows = [candle(), candle(symbol="币安人生USDT", open_time=120_000)]

    batch = Candles.from_rows(rows).checked()

    assert list(batch.rows()) == rows
    assert batch.symbols == ("BTCUSDT", "币安人生USDT")
    assert batch.close_time.tolist() == [120_000, 180_000]
    assert (batch.symbol.dtype, batch.open_time.dtype, batch.trades.dtype) == (np.int32, np.int64, np.int64)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"high": 8.0, "open": 8.5, "close": 8.5}, "high 8 is below low 9"),
        ({"open": 13.0}, "open 13 is outside low 9 … high 12"),
        ({"close": 8.0}, "close 8 is outside low 9 … high 12"),
        ({"low": 0.0}, "low is 0, which is not above 0"),
        ({"low": -1.0}, "low is -1, which is not above 0"),
        ({"open": math.nan}, "open is nan, which is not above 0"),
        ({"high": math.inf}, "high is inf, which is not above 0"),
        ({"volume": -1.0}, "volume is -1, which is not 0 or more"),
        ({"volume": math.nan}, "volume is nan, which is not 0 or more"),
        ({"quote_volume": math.inf}, "quote_volume is inf, which is not 0 or more"),
        ({"trades": -1}, "trades is -1, which is not 0 or more"),
        ({"open_time": 60_001}, "open time 60001 is not a multiple of 1m"),
        ({"open_time": 0}, "open time 0 is not a multiple of 1m"),
    ],
)
def test_an_impossible_candle_is_refused_by_name(candle, changes, reason):
    batch = Candles.from_rows([candle(symbol="ETHUSDT"), candle(**changes)])

    with pytest.raises(CandleInvalid) as refused:
        batch.checked()

    assert refused.value.symbol == "BTCUSDT"
    assert refused.value.row == 1
    assert refused.value.reason == reason
    assert "1m candle of BTCUSDT at 1970-01-01T00:0" in str(refused.value)


def test_one_candle_is_judged_as_in_a_batch(candle):
    good, bad = candle(), candle(high=8.0)

    assert fault_of(good) is None
    assert fault_of(bad) == "high 8 is below low 9"


def test_a_candle_must_stand_on_its_timeframe(candle):
    with pytest.raises(
        CandleInvalid, match="1970-01-01T00:01:00Z is invalid: open time 60000 is not a multiple of 5m"
    ):
        Candles.from_rows([candle()], "5m").checked()


def test_a_candle_without_trades_is_valid(candle):
    flat = candle(open=9.0, high=9.0, low=9.0, close=9.0, volume=0.0, quote_volume=0.0, trades=0)

    assert len(Candles.from_rows([flat]).checked()) == 1


def test_joining_batches_merges_symbols_by_name(candle):
    one = Candles.from_rows([candle(), candle(symbol="ETHUSDT")])
    other = Candles.from_rows([candle(symbol="ETHUSDT", open_time=120_000), candle(open_time=120_000)])

    both = Candles.concat([one, other])

    assert both.symbols == ("BTCUSDT", "ETHUSDT")
    assert [row.symbol for row in both.rows()] == ["BTCUSDT", "ETHUSDT", "ETHUSDT", "BTCUSDT"]


def test_batches_of_two_timeframes_do_not_join(candle):
    with pytest.raises(ValueError, match="cannot join"):
        Candles.concat([Candles.from_rows([candle()]), Candles.empty("5m")])


def test_order_is_by_symbol_then_time(candle):
    rows = [candle(open_time=120_000), candle(symbol="ETHUSDT"), candle()]

    ordered = list(Candles.from_rows(rows).in_order().rows())

    assert ordered == [rows[2], rows[0], rows[1]]


def test_columns_of_different_length_are_refused(candle):
    columns = {
        name: getattr(Candles.empty(), name)
        for name in Candles.__slots__
        if name not in ("timeframe", "symbols")
    }
    columns["close"] = np.ones(1)

    with pytest.raises(ValueError, match="differ in length"):
        Candles.of("1m", (), columns)
