"""Channels, trends, VWAP and pivots: against tables nobody here computed, and against slow, plain definitions."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import talib
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.engine.calls import Calls
from sandbox.engine.ranges import Computation
from sandbox.plan.axis import Axis
from sandbox.plan.document import PlanError, build_plan, load_plan
from sandbox.plan.operators import OPERATORS
from sandbox.plan.operators.kind import Composed

LEAN = Path(__file__).resolve().parents[4] / "shared" / "data" / "indicators" / "lean"
MINUTE = 60_000
DAY_MS = 86_400_000
LENGTH = 40
prices = st.one_of(
    st.floats(1e-9, 1e9, allow_nan=False), st.sampled_from([math.nan, 1.0, 2.0, 3.0, 1e-9, 1e9])
)


def table(name):
    path = LEAN / name
    if not path.exists():
        pytest.skip("needs ../shared/data, which is not part of the repository")
    with path.open(encoding="utf-8-sig") as file:
        titles, *rows = [row for row in csv.reader(file) if row]
    return {
        title.strip(): np.array([float(row[at] or "nan") for row in rows])
        for at, title in enumerate(titles)
        if title != "Date"
    }


def candles_of(columns, *names):
    return [columns[name.capitalize()] for name in names]


def assert_close(got, expected, *, after=0, rtol=1e-5, at_least=100):
    later = (np.arange(len(expected)) >= after) & ~np.isnan(expected)
    assert later.sum() >= at_least
    np.testing.assert_allclose(got[0][later], expected[later], rtol=rtol)


def test_donchian_is_as_in_leans_table(series):
    columns = table("spy_with_don50.txt")
    upper, middle, lower = series(
        "donchian", candles_of(columns, "high", "low"), {"period": 50}, timeframe="1d"
    )

    assert_close(upper, columns["Donchian Channels 50 Top"], after=49)
    assert_close(middle, columns["Donchian Channels 50 Mean"], after=49)
    assert_close(lower, columns["Donchian Channels 50 Bottom"], after=49)


def test_ichimoku_is_as_in_leans_table_and_the_cloud_is_its_spans_26_bars_ago(series):
    columns = table("spy_with_ichimoku.csv")
    conversion, base, span_a, span_b = series("ichimoku", candles_of(columns, "high", "low"), timeframe="1h")
    ago = np.full((1, 26), math.nan)

    assert_close(conversion, columns["Tenkan"])
    assert_close(base, columns["Kijun"])
    assert_close(np.concatenate([ago, span_a[:, :-26]], axis=1), columns["Senkou A"], after=60)
    assert_close(np.concatenate([ago, span_b[:, :-26]], axis=1), columns["Senkou B"], after=80)


def test_the_two_parts_of_keltner_are_as_in_leans_tables(series):
    """LEAN's own Keltner table is another definition (SMA of typical price and range); its EMA and ATR are ours."""
    columns = table("spy_with_indicators.txt")
    _, middle, _ = series("keltner", [columns["Close"]] * 3, {"period": 14}, timeframe="1d")
    assert_close(middle, columns["EMA14"], after=200)

    columns = table("spy_atr_wilder.txt")
    params = {"multiplier": 1.5, "atr_period": 14}
    upper, middle, lower = series(
        "keltner", candles_of(columns, "high", "low", "close"), params, timeframe="1d"
    )
    average = columns["Average True Range 14"]
    assert_close((upper - middle) / 1.5, average, after=200, rtol=2e-3)
    assert_close((middle - lower) / 1.5, average, after=200, rtol=2e-3)


def test_stochrsi_is_as_in_leans_table(series):
    columns = table("spy_with_StochRSI.csv")
    k, d = series("stochrsi", [columns["Close"]], timeframe="1d")

    settled = 200
    np.testing.assert_allclose(k[0, settled:], columns["k"][settled:], atol=0.02)
    np.testing.assert_allclose(d[0, settled:], columns["d"][settled:], atol=0.02)


def test_supertrend_is_as_in_leans_table(series):
    columns = table("dwac_supertrend.txt")
    line, direction = series("supertrend", candles_of(columns, "high", "low", "close"), timeframe="1h")

    assert_close(line, columns["Super"], after=65, rtol=1e-3, at_least=13)
    close = columns["Close"]
    known = ~np.isnan(line[0])
    np.testing.assert_array_equal(direction[0, known] == 1, close[known] > line[0, known])
    assert {-1.0, 1.0} <= set(direction[0, known])


def test_rolling_vwap_is_as_in_leans_table(series):
    """The table weighs the mean of all four prices, which is what it gets here for high, low and close."""
    columns = table("spy_with_vwap.txt")
    price = sum(candles_of(columns, "open", "high", "low", "close")) / 4

    (got,) = series("vwap", [price, price, price, columns["Volume"]], {"period": 50}, timeframe="1d")

    assert_close(got, columns["Moving VWAP 50"], after=50, rtol=1e-6)


def test_stochrsi_averages_the_place_of_rsi_in_its_range(market, series):
    close = market("1m", 1, 400, seed=6).fields["close"][0]
    k, d = series("stochrsi", [close], {"rsi_period": 7, "stoch_period": 9, "k": 4, "d": 2})

    rsi = talib.RSI(close, 7)
    place = np.full(400, math.nan)
    for bar in range(15, 400):
        seen = rsi[bar - 8 : bar + 1]
        place[bar] = 100 * (rsi[bar] - seen.min()) / (seen.max() - seen.min())
    for bar in range(30, 400):
        np.testing.assert_allclose(k[0, bar], place[bar - 3 : bar + 1].mean(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(d[0, bar], k[0, bar - 1 : bar + 1].mean(), rtol=1e-9, atol=1e-9)


def plain_supertrend(high, low, close, period, multiplier):
    """The definition as charting sites publish it, over TA-Lib's ATR."""
    atr = talib.ATR(high, low, close, period)
    line, direction = np.full(len(close), math.nan), np.full(len(close), math.nan)
    upper = lower = math.nan
    up = True
    for bar in range(period, len(close)):
        middle, away = (high[bar] + low[bar]) / 2, multiplier * atr[bar]
        over, under = middle + away, middle - away
        first = math.isnan(upper)
        previous = close[bar - 1]
        if not first:
            over = over if over < upper or previous > upper else upper
            under = under if under > lower or previous < lower else lower
            up = close[bar] >= under if up else close[bar] > over
        upper, lower = over, under
        line[bar], direction[bar] = (under, 1) if up else (over, -1)
    return line, direction


@pytest.mark.parametrize(("period", "multiplier"), [(10, 3.0), (7, 2.0), (14, 1.0), (3, 0.5)])
def test_supertrend_equals_its_published_definition(period, multiplier, market, series):
    candles = market("1m", 1, 1000, seed=period)
    high, low, close = (candles.fields[name][0] for name in ("high", "low", "close"))

    line, direction = series("supertrend", [high, low, close], {"period": period, "multiplier": multiplier})

    expected_line, expected_direction = plain_supertrend(high, low, close, period, multiplier)
    np.testing.assert_allclose(line[0, 300:], expected_line[300:], rtol=1e-9)
    np.testing.assert_array_equal(direction[0, 300:], expected_direction[300:])
    assert (np.diff(direction[0, 300:]) != 0).sum() > 5


def test_heikin_ashi_equals_its_definition(market, series):
    candles = market("1m", 1, 300, seed=3)
    opened, high, low, close = (candles.fields[name][0] for name in ("open", "high", "low", "close"))

    got = series("heikin_ashi", [opened, high, low, close])

    mean = (opened + high + low + close) / 4
    start = (opened[0] + close[0]) / 2
    for bar in range(300):
        start = (start + mean[bar - 1]) / 2 if bar else start
        expected = [start, max(high[bar], start, mean[bar]), min(low[bar], start, mean[bar]), mean[bar]]
        # From the second block on the run begins 30 bars before it: the first open's weight is 2 ** -30.
        np.testing.assert_allclose([output[0, bar] for output in got], expected, rtol=1e-9)


def last(row, bar, period):
    """The window's values, or None when one is missing."""
    seen = row[max(0, bar - period + 1) : bar + 1]
    return None if len(seen) < period or any(map(math.isnan, seen)) else seen


def plain_channel(high, low, bar, period):
    above, below = last(high, bar, period), last(low, bar, period)
    return (
        math.nan if above is None else max(above),
        math.nan if above is None or below is None else (max(above) + min(below)) / 2,
        math.nan if below is None else min(below),
    )


@given(data=st.data(), period=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_donchian_equals_its_definition(data, period, series):
    length = data.draw(st.integers(1, LENGTH))
    high, low = (data.draw(st.lists(prices, min_size=length, max_size=length)) for _ in range(2))

    got = series("donchian", [high, low], {"period": period})

    expected = [plain_channel(high, low, bar, period) for bar in range(length)]
    for at, output in enumerate(got):
        np.testing.assert_allclose(output[0], [row[at] for row in expected], rtol=1e-14)


@given(data=st.data(), periods=st.tuples(*[st.integers(1, 12)] * 3))
@settings(max_examples=60, deadline=None)
def test_ichimoku_equals_its_definition(data, periods, series):
    length = data.draw(st.integers(1, LENGTH))
    high, low = (data.draw(st.lists(prices, min_size=length, max_size=length)) for _ in range(2))

    got = series("ichimoku", [high, low], dict(zip(("conversion", "base", "span_b"), periods, strict=True)))

    for bar in range(length):
        conversion, base, span_b = (plain_channel(high, low, bar, period)[1] for period in periods)
        expected = [conversion, base, (conversion + base) / 2, span_b]
        np.testing.assert_allclose([output[0, bar] for output in got], expected, rtol=1e-14)


@given(data=st.data(), left=st.integers(1, 5), right=st.integers(1, 5))
@settings(max_examples=120, deadline=None)
def test_pivots_equal_their_definition(data, left, right, series):
    few = st.one_of(st.sampled_from([1.0, 2.0, 3.0, 4.0]), prices)
    row = data.draw(st.lists(few, min_size=1, max_size=LENGTH))

    (high,) = series("pivot_high", [row], {"left": left, "right": right})
    (low,) = series("pivot_low", [row], {"left": left, "right": right})

    for bar in range(len(row)):
        at = bar - right
        before, after = row[max(0, at - left) : max(at, 0)], row[at + 1 : bar + 1]
        whole = at >= left
        is_high = whole and all(row[at] >= v for v in before) and all(row[at] > v for v in after)
        is_low = whole and all(row[at] <= v for v in before) and all(row[at] < v for v in after)
        np.testing.assert_array_equal(high[0, bar], row[at] if is_high else math.nan)
        np.testing.assert_array_equal(low[0, bar], row[at] if is_low else math.nan)


volumes = st.one_of(st.just(0.0), st.floats(1e-6, 1e9))


@given(
    rows=st.lists(st.tuples(prices, prices, prices, volumes), min_size=1, max_size=LENGTH),
    period=st.integers(1, 12),
)
@settings(max_examples=80, deadline=None)
def test_rolling_vwap_equals_its_definition(rows, period, series):
    (got,) = series("vwap", [list(column) for column in zip(*rows, strict=True)], {"period": period})

    for bar in range(len(rows)):
        seen = rows[max(0, bar - period + 1) : bar + 1]
        volume = sum(v for *_, v in seen)
        traded = sum((h + low + c) / 3 * v for h, low, c, v in seen)
        known = len(seen) == period and volume > 0
        expected = traded / volume if known else math.nan
        np.testing.assert_allclose(got[0, bar], expected, rtol=1e-12)


def test_a_window_without_trades_has_no_vwap(series):
    volume = np.array([1e9, 0.1, 3e-7] * 20 + [0.0] * 30)
    price = np.linspace(1, 2, 90)

    (got,) = series("vwap", [price, price, price, volume], {"period": 20})

    assert np.isnan(got[0, 79:]).all()
    assert not np.isnan(got[0, 19:79]).any()


@pytest.mark.parametrize("timeframe", ["1m", "15m", "4h", "1d"])
def test_session_vwap_begins_at_midnight_utc(timeframe, market, series):
    seconds = {"1m": 60, "15m": 900, "4h": 14_400, "1d": 86_400}[timeframe]
    bars = {"1m": 3000, "15m": 300, "4h": 40, "1d": 10}[timeframe]
    first_ms = DAY_MS * 20_000 + seconds * 1000 * (7 if seconds < 14_400 else 0)
    candles = market(timeframe, 2, bars, seed=1, first_ms=first_ms)
    inputs = [candles.fields[name] for name in ("high", "low", "close", "volume")]

    (got,) = series("vwap", inputs, timeframe=timeframe, first_ms=first_ms)

    typical, volume = (inputs[0] + inputs[1] + inputs[2]) / 3, inputs[3]
    for row in range(2):
        day, traded, total = None, 0.0, 0.0
        for bar, time in enumerate(candles.open_time.tolist()):
            if time // DAY_MS != day:
                day, traded, total = time // DAY_MS, 0.0, 0.0
            traded += typical[row, bar] * volume[row, bar]
            total += volume[row, bar]
            np.testing.assert_allclose(got[row, bar], traded / total, rtol=1e-13)


def test_session_vwap_depends_on_the_day_alone(market, panel_of):
    """From any history that holds the day, and at any bar of it, the same bits; before the first trade NaN."""
    first_ms = DAY_MS * 20_000 - 300 * MINUTE
    candles = market("1m", 3, 900, seed=9, first_ms=first_ms)
    candles.fields["volume"][1, 300:340] = 0.0
    nodes = [
        {"op": "bars", "params": {"timeframe": "1m", "field": f}} for f in ("high", "low", "close", "volume")
    ]
    nodes += [{"op": "vwap", "args": [0, 1, 2, 3]}, {"op": "lt", "args": [2, 4]}]
    plan = build_plan(nodes, 5, {"v": 4})

    def newest(end, keep):
        panel = panel_of(candles, until_ms=end)
        panel.trim("1m", keep)
        ref = Calls().add(plan)[plan.show["v"]]
        computation = Computation(panel, end)
        computation.want(ref.call, computation.end(Axis("1m")) - 1)
        computation.run()
        return computation.values(ref, computation.end(Axis("1m")) - 1, Axis("1m"))[:, 0]

    for minute in (1, 20, 40, 41, 599):
        end = DAY_MS * 20_000 + minute * MINUTE
        whole = newest(end, 900)
        np.testing.assert_array_equal(whole, newest(end, minute))
        assert np.isnan(whole).tolist() == [False, minute <= 40, False]
    assert plan.need["1m"] >= 1440


COMPOSED = [
    operator
    for operator in OPERATORS.values()
    if isinstance(operator.kind, Composed) and not operator.internal
]


@pytest.mark.parametrize("operator", COMPOSED, ids=lambda operator: operator.name)
def test_a_composed_operator_is_its_parts_in_the_plan_and_bad_parameters_are_its_own(operator):
    count = len(operator.inputs)
    nodes = [{"op": "bars", "params": {"timeframe": "1h", "field": "close"}}] * count
    params = {p.name: 5 for p in operator.params if p.default is None}
    for out in range(len(operator.outputs)):
        nodes.append({"op": operator.name, "args": list(range(count)), "params": params, "out": out})
    last_node = len(nodes) - 1
    if operator.returns == "float":
        nodes.append({"op": "lt", "args": [last_node, 0]})
    plan = build_plan(nodes, len(nodes) - 1, {})

    assert all(not isinstance(OPERATORS[node.op].kind, Composed) for node in plan.nodes)
    assert load_plan(plan.encode()) == plan
    for param in operator.params:
        nodes[count] |= {"params": params | {param.name: int(param.high) + 1}}
        with pytest.raises(PlanError, match=rf"^{operator.name}: {param.name} must be"):
            build_plan(nodes, len(nodes) - 1, {})


def test_what_two_filters_have_in_common_is_one_node_whatever_they_call_it():
    high = {"op": "bars", "params": {"timeframe": "1h", "field": "high"}}
    low = {"op": "bars", "params": {"timeframe": "1h", "field": "low"}}
    close = {"op": "bars", "params": {"timeframe": "1h", "field": "close"}}
    by_name = [high, low, close, {"op": "donchian", "args": [0, 1]}, {"op": "lt", "args": [3, 2]}]
    by_hand = [
        high,
        close,
        {"op": "highest", "args": [0], "params": {"period": 20}},
        {"op": "lt", "args": [2, 1]},
    ]

    assert build_plan(by_name, 4, {}).hash == build_plan(by_hand, 3, {}).hash


def test_expansion_counts_towards_the_limit_of_nodes():
    fields = [{"op": "bars", "params": {"timeframe": "1h", "field": f}} for f in ("high", "low")]
    spans = [{"op": "ichimoku", "args": [0, 1], "params": {"conversion": n}, "out": 2} for n in range(1, 481)]
    below = [{"op": "lt", "args": [0, 2 + at]} for at in range(480)]
    nodes = [*fields, *spans, *below, {"op": "or", "args": list(range(482, 962))}]

    with pytest.raises(PlanError, match="takes 3364 parts; at most 2000"):
        build_plan(nodes, len(nodes) - 1, {})
