"""Operators that are computed as others give the same bits, and share calls."""

import numpy as np
import pytest

from sandbox.engine.calls import Calls
from sandbox.engine.lowering import RULES
from sandbox.engine.ranges import Computation
from sandbox.plan.axis import Axis
from sandbox.plan.document import build_plan
from sandbox.plan.operators import OPERATORS
from tests.plans import bars, const, node

FIELDS = ("high", "low", "close")


def plan_of(name, **params):
    """All outputs of an operator over candle fields, shown."""
    operator = OPERATORS[name]
    inputs = [bars("1m", field if field in FIELDS else "close") for field in operator.inputs]
    outputs = [
        {"op": name, "args": [*range(len(inputs))], "params": params, "out": out}
        for out in range(len(operator.outputs))
    ]
    at = len(inputs) + len(outputs)
    nodes = [*inputs, *outputs, const(0), node("gt", 0, at)]
    return build_plan(nodes, at + 1, {f"o{out}": len(inputs) + out for out in range(len(outputs))})


def computed(plan, panel, end_ms):
    refs = Calls().add(plan)
    computation = Computation(panel, end_ms)
    shown = [refs[node] for node in plan.show.values()]
    for ref in shown:
        computation.want(ref.call, 0)
    computation.run()
    return [computation.values(ref, 0, Axis("1m")) for ref in shown]


@pytest.mark.parametrize("name", [rule.operator for rule in RULES])
@pytest.mark.parametrize("period", [2, 14])
def test_what_is_lowered_equals_the_operator_itself(name, period, market, panel_of, monkeypatch):
    candles = market("1m", 5, 300, seed=11, missing=0.1)
    candles.present[4, :150] = False
    panel, end_ms = panel_of(candles), int(candles.open_time[-1]) + 60_000
    plan = plan_of(name, timeperiod=period)

    lowered = computed(plan, panel, end_ms)
    monkeypatch.setattr("sandbox.engine.calls.rule_for", lambda _node, fields: None)
    itself = computed(plan, panel, end_ms)

    for mine, other in zip(lowered, itself, strict=True):
        assert np.array_equal(mine, other, equal_nan=True)
        assert np.isfinite(mine).any()


def test_bands_of_two_widths_share_their_average_and_deviation():
    calls = Calls()
    for width in (2.0, 2.5):
        calls.add(plan_of("ta.bbands", timeperiod=20, nbdevup=width, nbdevdn=width))

    names = [call.operator.name for call in calls._calls.values()]
    assert names.count("ta.sma") == names.count("ta.stddev") == 1
    assert "ta.bbands" not in names


def test_extremes_of_computed_series_are_not_lowered():
    """
    They have gaps, where TA-Lib's run begins again.
    """
    calls = Calls()
    nodes = [bars("1m"), node("neg", 0), node("ta.max", 1, timeperiod=5), const(0), node("gt", 2, 3)]
    calls.add(build_plan(nodes, 4, {}))

    assert "ta.max" in {call.operator.name for call in calls._calls.values()}
