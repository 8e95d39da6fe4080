"""
`not` of a condition that is unknown is unknown: whatever is missing, neither the condition nor its negation holds.

Every operator of the registry that gives conditions is asked, so that a new one cannot be forgotten.
"""

from __future__ import annotations

import numpy as np
import pytest

from sandbox.engine.calls import Calls
from sandbox.engine.explain import explain
from sandbox.engine.ranges import Computation
from sandbox.engine.replay import evaluate_range
from sandbox.engine.screen import Evaluator
from sandbox.interpreter.functions import EachRunner
from sandbox.plan.axis import Axis
from sandbox.plan.document import build_plan, load_plan
from sandbox.plan.operators import OPERATORS
from tests.plans import bars, const, node

MINUTE = 60_000
CONDITIONS = [name for name, operator in OPERATORS.items() if operator.returns != "float"]
OWN = [name for name in CONDITIONS if OPERATORS[name].category != "Across the market"]
"""Those that look at one symbol: of a place among all, who is not there yet is no part."""
YOUNG, BARS = 23, 60
"""The young symbol's first bar, and how many bars there are."""


def conditions_of(op, *, missing_below=None, average=None):
    """
    Nodes of a condition over candle fields, rounded so that some are equal; its index is the last.

    With *missing_below*, an input has no value where the volume is smaller. With *average*, inputs are averages.
    """
    operator = OPERATORS[op]
    nodes = [bars(), const(0), node("sub", 0, 0), node("div", 2, 2)]  # 3: no value

    def add(*more):
        nodes.append(node(*more[:-1], **more[-1]))
        return len(nodes) - 1

    args = []
    for at in range(len(operator.inputs) * (2 if operator.variadic else 1)):
        nodes.append(bars("1m", ("open", "close", "high")[at]))
        series = add("floor", len(nodes) - 1, {})
        if average:
            series = add("ta.sma", series, {"timeperiod": average})
        if missing_below is not None:
            nodes.append(bars("1m", "volume"))
            nodes.append(const(missing_below + 3 * at))
            gap = add("lt", len(nodes) - 2, len(nodes) - 1, {})
            series = add("where", gap, 3, series, {})
        if operator.input_kind(at) == "bool" or operator.returns == "same":
            before = add("shift", series, {"n": 1})
            series = add(("lt", "le", "lt")[at], before, series, {})
        args.append(series)
    params = {param.name: 2 for param in operator.params if param.default is None}
    add(op, *args, params)
    return nodes


def plan_of(op, **how):
    nodes = conditions_of(op, **how)
    at = len(nodes) - 1
    nodes += [node("not", at), node("eq", 0, 0)]
    return build_plan(nodes, at + 2, {"yes": at, "no": at + 1})


def held(panel, plan):
    """Where the condition is true, and where its negation is: bool, shape (symbols, bars)."""
    refs = Calls().add(plan)
    computation = Computation(panel, 1 << 45)
    for name in ("yes", "no"):
        computation.want(refs[plan.show[name]].call, 0)
    computation.run()
    shape = (len(panel.symbols), BARS)
    return [
        np.broadcast_to(computation.values(refs[plan.show[name]], 0, Axis("1m")), shape)
        for name in ("yes", "no")
    ]


@pytest.fixture
def whole(market):
    return market("1m", 3, BARS, seed=8)


@pytest.fixture
def young(market):
    """The same candles without the first ones of one symbol."""
    candles = market("1m", 3, BARS, seed=8)
    candles.present[1, :YOUNG] = False
    return candles


@pytest.mark.parametrize("op", CONDITIONS)
def test_a_condition_or_its_negation_holds_where_nothing_is_missing(op, whole, panel_of):
    yes, no = held(panel_of(whole), plan_of(op))

    assert (yes ^ no)[:, 8:].all()
    assert not (yes & no).any()
    assert yes[:, 8:].any()
    assert no[:, 8:].any()


@pytest.mark.parametrize("op", CONDITIONS)
def test_neither_holds_for_a_symbol_that_has_no_candle_yet(op, young, panel_of):
    yes, no = held(panel_of(young), plan_of(op))

    assert not (yes | no)[1, :YOUNG].any()


@pytest.mark.parametrize("op", OWN)
def test_what_is_known_of_a_young_symbol_is_what_a_longer_history_says(op, whole, young, panel_of):
    """Nothing that comes to be known later may turn an answer round."""
    for mine, longer in zip(
        held(panel_of(young), plan_of(op)), held(panel_of(whole), plan_of(op)), strict=True
    ):
        assert not (mine & ~longer).any()


@pytest.mark.parametrize("op", OWN)
def test_what_is_known_in_spite_of_gaps_is_what_holds_without_them(op, whole, panel_of):
    panel = panel_of(whole)
    volume = panel.frame("1m").field("volume")
    gapped = held(panel, plan_of(op, missing_below=float(np.quantile(volume, 0.3))))

    for mine, full in zip(gapped, held(panel, plan_of(op)), strict=True):
        assert not (mine & ~full).any()
    assert not (gapped[0] | gapped[1]).all()


@pytest.mark.parametrize("op", CONDITIONS)
def test_live_and_over_a_range_the_same_is_unknown(op, young, panel_of):
    panel, plan = panel_of(young), plan_of(op, missing_below=5.0)
    frame = panel.frame("1m")
    slots = (frame.open_time[YOUNG - 3 :] + MINUTE).tolist()
    found = evaluate_range(panel, plan, slots[0], slots[-1])
    ranged = list(
        zip(
            found.triggered_at_ms.tolist(),
            found.symbols,
            found.values["yes"],
            found.values["no"],
            strict=True,
        )
    )
    evaluator = Evaluator(panel)
    evaluator.put("t", plan, None, "every_bar")

    live = [
        (slot, symbol, yes, no)
        for slot in slots
        for hits in evaluator.evaluate(slot).hits
        for symbol, yes, no in zip(hits.symbols, hits.values["yes"], hits.values["no"], strict=True)
    ]

    assert live == ranged


@pytest.mark.parametrize("op", CONDITIONS)
def test_explain_says_that_the_history_is_too_short_for_the_negation(op, young, panel_of):
    nodes = conditions_of(op, average=40)
    plan = build_plan([*nodes, node("not", len(nodes) - 1)], len(nodes), {})
    panel = panel_of(young)
    end = int(panel.frame("1m").open_time[-1]) + MINUTE

    told = explain(plan, [], panel, end, "S1")

    assert not told.matched
    assert told.blame.startswith("not enough history"), told.blame


@pytest.mark.parametrize("op", CONDITIONS)
def test_a_negated_negation_is_the_condition(op):
    nodes = conditions_of(op)
    at = len(nodes) - 1
    twice = [*nodes, node("not", at), node("not", at + 1)]

    assert build_plan(twice, at + 2, {}).hash == build_plan(nodes, at, {}).hash


@pytest.mark.parametrize("op", CONDITIONS)
def test_a_plan_with_a_negation_is_read_back_as_it_is(op):
    plan = plan_of(op, missing_below=5.0)

    assert load_plan(plan.encode()) == plan


def test_a_condition_nested_a_thousand_deep_can_be_denied():
    nodes = [bars(), const(0), node("lt", 0, 1)]
    for depth in range(450):
        nodes += [const(depth + 1), node("lt", 0, len(nodes))]
        nodes.append(node("or" if depth % 2 else "and", len(nodes) - 3, len(nodes) - 1))
    at = len(nodes) - 1

    plan = build_plan([*nodes, node("not", at)], at + 1, {})

    assert len(plan.nodes) < 1400


def test_a_choice_by_an_unknown_condition_has_no_value(young, panel_of):
    nodes = [bars(), node("ta.sma", 0, timeperiod=5), node("lt", 0, 1), const(1), const(2)]
    plan = build_plan([*nodes, node("where", 2, 3, 4), node("eq", 0, 0)], 6, {"x": 5})
    panel = panel_of(young)
    refs = Calls().add(plan)
    computation = Computation(panel, 1 << 45)
    computation.want(refs[plan.show["x"]].call, 0)
    computation.run()

    values = computation.values(refs[plan.show["x"]], 0, Axis("1m"))

    assert np.isnan(values[1, : YOUNG + 4]).all()
    assert set(values[1, YOUNG + 4 :].tolist()) == {1.0, 2.0}


def test_a_condition_that_is_compared_is_unknown_where_it_is_unknown(young, panel_of):
    """`(sma < close) == 0` is no way round the rule for `not`."""
    nodes = [bars(), node("ta.sma", 0, timeperiod=5), node("lt", 1, 0), const(0), node("eq", 2, 3)]
    plan = build_plan([*nodes, node("eq", 0, 0)], 5, {"yes": 2, "no": 4})

    yes, no = held(panel_of(young), plan)

    assert not (yes | no)[1, : YOUNG + 4].any()
    assert (yes ^ no)[:, YOUNG + 4 :].all()


def test_a_share_and_the_share_of_the_opposite_make_a_whole(young, panel_of):
    nodes = [bars(), node("ta.sma", 0, timeperiod=5), node("lt", 1, 0), node("not", 2)]
    nodes += [node("breadth", 2), node("breadth", 3), node("eq", 0, 0)]
    plan = build_plan(nodes, 6, {"above": 4, "below": 5})
    panel = panel_of(young)
    found = evaluate_range(panel, plan, 0, 1 << 45)

    shares = np.array([found.values["above"], found.values["below"]], dtype=float)

    assert np.isnan(shares[:, found.triggered_at_ms <= found.triggered_at_ms[0] + 3 * MINUTE]).all()
    late = shares[:, found.triggered_at_ms > found.triggered_at_ms[0] + 3 * MINUTE]
    np.testing.assert_allclose(late.sum(axis=0), 1.0)


def test_a_function_is_not_given_a_condition_that_is_unknown(young, panel_of):
    nodes = [bars(), node("ta.sma", 0, timeperiod=5), node("lt", 1, 0), node("eq", 0, 0)]
    source = "def f(above):\n    return not above[0]"
    nodes += [node("each", 3, 2, bars=3, name="f", source=source)]
    plan = build_plan(nodes, 3, {"x": 4})
    with EachRunner(node_seconds=60, slot_seconds=120) as each:
        found = evaluate_range(panel_of(young), plan, 0, 1 << 45, each=each)

    told = [x for x, symbol in zip(found.values["x"], found.symbols, strict=True) if symbol == "S1"]
    assert [x is None for x in told] == [at < 4 + 2 for at in range(len(told))]
    assert load_plan(plan.encode()) == plan
