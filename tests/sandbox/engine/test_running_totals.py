"""
Running totals (OBV, A/D …) never forget where they began: conditions that compare them over time have to see one run.

The oracle is TA-Lib over the whole history, where every comparison is within one run by nature.
"""

import numpy as np
import pytest
import talib

from sandbox.engine.explain import explain
from sandbox.engine.replay import evaluate_range, node_values
from sandbox.engine.screen import Evaluator
from sandbox.plan.document import build_plan
from sandbox.plan.operators import OPERATORS
from sandbox.plan.operators.kind import Run
from tests.plans import bars, node

MINUTE = 60_000
BLOCK = 1024 * 86_400_000 * 16
BARS = 3400


def obv_and(*more, timeframe="1m"):
    """Nodes 0 close, 1 volume, 2 obv; a condition is the last of *more*."""
    nodes = [bars(timeframe), bars(timeframe, "volume"), node("ta.obv", 0, 1), *more]
    return build_plan(nodes, len(nodes) - 1, {})


def previous(values):
    return np.concatenate([[np.nan], values[:-1]])


CONDITIONS = {
    "average": (
        obv_and(node("ta.sma", 2, timeperiod=50), node("gt", 2, 3)),
        lambda obv: obv > talib.SMA(obv, 50),
    ),
    "highest": (
        obv_and(node("highest", 2, period=100), node("shift", 3, n=1), node("gt", 2, 4)),
        lambda obv: obv > previous(talib.MAX(obv, 100)),
    ),
    "change": (
        obv_and(node("shift", 2, n=300), node("gt", 2, 3)),
        lambda obv: obv > np.concatenate([np.full(300, np.nan), obv[:-300]]),
    ),
    "cross": (
        obv_and(node("ta.ema", 2, timeperiod=21), node("crossover", 2, 3)),
        lambda obv: (obv > talib.EMA(obv, 21)) & (previous(obv) <= previous(talib.EMA(obv, 21))),
    ),
    "momentum": (
        obv_and(node("ta.linearreg_slope", 2, timeperiod=30), node("const", value=0), node("gt", 3, 4)),
        lambda obv: talib.LINEARREG_SLOPE(obv, 30) > 0,
    ),
}


@pytest.fixture(scope="module")
def long(market):
    """Whole volumes, so that a total is the same number whatever it is added up from."""
    made = market("1m", 3, BARS, 17, first_ms=BLOCK - 3000 * MINUTE)
    made.fields["volume"] = np.ceil(made.fields["volume"])
    return made


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_condition_on_a_running_total_is_what_the_whole_history_says(name, long, panel_of):
    """400 bars with three block boundaries; a jump at one would show in the bars behind it."""
    plan, by_hand = CONDITIONS[name]
    panel = panel_of(long)
    first = BARS - 400
    found = evaluate_range(panel, plan, int(long.open_time[first]) + MINUTE, int(long.open_time[-1]) + MINUTE)

    got = {(s, at) for s, at in zip(found.symbols, found.triggered_at_ms.tolist(), strict=True)}
    expected = set()
    for row in range(3):
        obv = talib.OBV(long.fields["close"][row], long.fields["volume"][row])
        for at in np.flatnonzero(by_hand(obv)[first:]):
            expected.add((f"S{row}", int(long.open_time[first + at]) + MINUTE))
    assert got == expected
    assert len(got) > 20


def deep_plan(coarse="5m"):
    """Windows, delays, crossings and recursive functions over totals of two timeframes, on both axes."""
    return build_plan(
        [
            bars(),
            bars(field="volume"),
            node("ta.obv", 0, 1),
            bars(coarse),
            bars(coarse, "volume"),
            node("ta.obv", 3, 4),
            node("ta.sma", 2, timeperiod=9),
            node("shift", 6, n=2),
            node("ta.ema", 5, timeperiod=5),
            node("crossover", 5, 8),
            node("add", 0, 5),
            node("ta.sma", 10, timeperiod=4),  # on 1m, over a total of 5m
            node("shift", 11, n=3),
            node("highest", 5, period=6),
            node("gt", 2, 7),
            node("gt", 10, 12),
            node("or", 14, 9),
            node("and", 16, 15),
        ],
        17,
        {"mean": 6, "mixed": 11, "top": 13},
    )


@pytest.mark.parametrize("frequency", ["every_bar", "on_enter"])
def test_live_equals_a_range_across_the_blocks_of_two_totals(frequency, market, panel_of):
    """5m blocks begin every 640 minutes, 1m ones every 128; minutes are missing in between."""
    minute = market("1m", 3, 2900, 3, first_ms=BLOCK - 2800 * MINUTE, missing=0.02)
    five = market("5m", 3, 2520, 4, first_ms=BLOCK - 2500 * 5 * MINUTE, missing=0.02)
    minute.present[:, 2805] = False
    minute.present[:, 2674:2676] = False
    plan = deep_plan()
    first, last = int(minute.open_time[2650]) + MINUTE, int(minute.open_time[2830]) + MINUTE
    panel = panel_of(minute, five, until_ms=first - MINUTE)
    live = Evaluator(panel)
    live.put("x", plan, None, frequency)
    rows = []
    for slot in range(first, last + MINUTE, MINUTE):
        panel.append("1m", *minute.columns((minute.open_time + MINUTE == slot)[None, :]))
        panel.append("5m", *five.columns((five.open_time + 5 * MINUTE == slot)[None, :]))
        result = live.evaluate(slot)
        anew = live.evaluate(slot, ["x"])
        assert not result.failed
        assert repr(result.hits) == repr(anew.hits)
        for hits in result.hits:
            values = zip(*hits.values.values(), strict=True)
            rows += [(slot, *row) for row in zip(hits.symbols, values, strict=True)]

    ranged = evaluate_range(panel, plan, first, last, frequency=frequency)

    values = zip(*(ranged.values[name] for name in sorted(ranged.values)), strict=True)
    expected = zip(ranged.triggered_at_ms.tolist(), ranged.symbols, values, strict=True)
    assert list(map(repr, rows)) == list(map(repr, expected))
    assert len(rows) > 20


def test_how_far_one_looks_back_on_a_total_asks_for_no_more_history():
    near = obv_and(node("shift", 2, n=1), node("gt", 2, 3))
    far = obv_and(node("shift", 2, n=900), node("gt", 2, 3))
    assert near.need == far.need
    kind = OPERATORS["ta.obv"].kind
    assert isinstance(kind, Run)
    assert near.need["1m"] == 128 + kind.lookback({}) + kind.warmup({})


def test_before_the_run_of_a_total_there_is_nothing(long, panel_of):
    """A window that reaches back further than the total has no value, rather than a mix of two."""
    plan = obv_and(*(node("highest", 2 + at, period=500) for at in range(5)), node("le", 2, 7))
    slot = int(long.open_time[-1]) + MINUTE
    values = node_values(panel_of(long), plan, slot, "S0")
    assert values[plan.signal] is False
    assert [value is None for value in values[-6:-1]] == [False, False, False, False, True]


def test_totals_are_those_that_talib_never_forgets():
    totals = {name for name, operator in OPERATORS.items() if operator.kind.total}
    assert totals == {f"ta.{name}" for name in ("ad", "cumsum", "nvi", "obv", "pvi", "pvt", "vwap", "wad")}


def test_explain_and_on_enter_agree_where_a_total_begins_anew(long, panel_of):
    """A condition on the level itself, which changes with the run: before and after are told of the same run."""
    panel = panel_of(long)
    total = build_plan([bars(), bars(field="volume"), node("ta.obv", 0, 1), node("gt", 2, 0)], 3, {"obv": 2})
    level = node_values(panel, total, BLOCK, "S0")[total.show["obv"]]
    plan = obv_and(node("const", value=level), node("gt", 2, 3))
    live = Evaluator(panel)
    live.put("x", plan, None, "on_enter")
    agreed = 0
    for slot in range(BLOCK - 30 * MINUTE, BLOCK + 30 * MINUTE, MINUTE):
        entered = {symbol for hits in live.evaluate(slot).hits for symbol in hits.symbols}
        for symbol in panel.symbols:
            told = explain(plan, [], panel, slot, symbol)
            assert (told.matched and not told.matched_before) == (symbol in entered)
            agreed += told.matched
    assert 0 < agreed < 180
