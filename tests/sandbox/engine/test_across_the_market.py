"""rank, top and breadth: who counts, ties, gaps, and that a trader's own symbols do not narrow the market."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.engine.replay import evaluate_range, node_values
from sandbox.engine.screen import Evaluator
from sandbox.plan.document import PlanError, build_plan
from tests.plans import bars, node

MINUTE = 60_000
values = st.one_of(st.sampled_from([math.nan, 0.0, -0.0, 1.0, 2.0, 3.0]), st.floats(-1e9, 1e9))


@given(
    table=st.integers(1, 12).flatmap(
        lambda bars: st.lists(st.lists(values, min_size=bars, max_size=bars), min_size=1, max_size=9)
    ),
    n=st.integers(1, 9),
)
@settings(max_examples=150, deadline=None)
def test_rank_and_top_equal_their_definition(table, n, series):
    (rank,) = series("rank", [table])
    (top,) = series("top", [table], {"n": n})

    for bar, column in enumerate(zip(*table, strict=True)):
        for row, value in enumerate(column):
            place = math.nan if math.isnan(value) else 1 + sum(other > value for other in column)
            np.testing.assert_array_equal(rank[row, bar], place)
            assert top[row, bar] == (place <= n)


def test_equal_values_share_the_better_place(series):
    (rank,) = series("rank", [[[5.0], [7.0], [5.0], [1.0], [math.nan]]])

    np.testing.assert_array_equal(rank[:, 0], [2, 1, 2, 4, math.nan])


@given(
    table=st.integers(1, 12).flatmap(
        lambda bars: st.lists(
            st.lists(st.integers(0, 1), min_size=bars, max_size=bars), min_size=1, max_size=9
        )
    )
)
@settings(max_examples=80, deadline=None)
def test_breadth_is_the_share_of_symbols_that_meet_the_condition(table, series):
    (share,) = series("breadth", [table])

    expected = np.mean(np.array(table, dtype=float), axis=0)
    np.testing.assert_allclose(share, np.broadcast_to(expected, share.shape), rtol=1e-15)


def market_plan(timeframe="1m"):
    """Shown: place and share of the symbols that rose, on *timeframe*; matches on every 1m bar."""
    nodes = [
        bars("1m"),
        bars(timeframe),
        node("shift", 1, n=1),
        node("sub", 1, 2),
        node("rank", 3),
        node("gt", 1, 2),
        node("breadth", 5),
        node("eq", 0, 0),
    ]
    return build_plan(nodes, 7, {"place": 4, "share": 6})


def test_who_lacks_the_bar_does_not_count(market, panel_of):
    candles = market("1m", 6, 40, seed=4, missing=0.3)
    panel = panel_of(candles)
    plan = market_plan()
    evaluator = Evaluator(panel)
    evaluator.put("t", plan, None, "every_bar")
    frame = panel.frame("1m")
    close = frame.field("close")
    checked = 0
    for bar in range(10, len(frame)):
        (hits,) = evaluator.evaluate(int(frame.open_time[bar]) + MINUTE).hits
        here = np.flatnonzero(frame.present[:, bar])
        rise = close[:, bar] - close[:, bar - 1]
        known = [row for row in here if not math.isnan(rise[row])]
        assert hits.symbols == [f"S{row}" for row in here]
        for at, row in enumerate(here):
            place = 1 + sum(rise[other] > rise[row] for other in known) if row in known else None
            assert hits.values["place"][at] == place
            assert hits.values["share"][at] == sum(rise[other] > 0 for other in known) / len(here)
        checked += len(here) < 6
    assert checked > 10


@pytest.mark.parametrize("timeframe", ["1m", "5m"])
def test_live_preview_and_explain_agree_whoever_asks(timeframe, market, panel_of):
    """Symbol limits of a trader leave the market it looks at whole."""
    candles = [market(t, 6, 400, seed, missing=0.1) for seed, t in enumerate(("1m", "5m"))]
    panel = panel_of(*candles)
    plan = market_plan(timeframe)
    evaluator = Evaluator(panel)
    evaluator.put("all", plan, None, "every_bar")
    evaluator.put("one", plan, frozenset({"S2"}), "every_bar")
    slots = [int(candles[0].open_time[-1]) - ago * MINUTE for ago in range(20, -1, -1)]
    ranged = evaluate_range(panel, plan, slots[0], slots[-1], ["S2"])
    found = dict(zip(ranged.triggered_at_ms.tolist(), ranged.values["place"], strict=True))
    seen = 0
    for slot in slots:
        hits = {h.key: h for h in evaluator.evaluate(slot).hits}
        if "one" not in hits:
            assert slot not in found
            continue
        at = hits["all"].symbols.index("S2")
        assert hits["one"].symbols == ["S2"]
        for name in ("place", "share"):
            (told,) = hits["one"].values[name]
            assert told == hits["all"].values[name][at]
            assert told == node_values(panel, plan, slot, "S2")[plan.show[name]]
        assert found[slot] == hits["one"].values["place"][0]
        seen += 1
    assert seen > 12


def test_the_market_of_a_constant_is_refused():
    for op in ("rank", "top"):
        nodes = [node("const", value=1.0), node(op, 0, **({"n": 3} if op == "top" else {})), bars("1m")]
        with pytest.raises(PlanError, match="needs a series"):
            build_plan([*nodes, node("lt", 1, 2)], 3, {})


def test_another_symbols_series_gives_everyone_the_same_place(market, panel_of):
    panel = panel_of(market("1m", 4, 30, seed=2))
    plan = build_plan(
        [bars("1m"), bars("1m", symbol="S1"), node("rank", 1), node("eq", 0, 0)], 3, {"place": 2}
    )
    evaluator = Evaluator(panel)
    evaluator.put("t", plan, None, "every_bar")
    end = int(panel.frame("1m").open_time[-1]) + MINUTE

    (hits,) = evaluator.evaluate(end).hits

    assert hits.values["place"] == [1.0] * 4
