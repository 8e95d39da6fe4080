"""When a node can first have a value, against the values themselves, on real candles with a young symbol and one with holes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sandbox.engine.calls import Calls
from sandbox.engine.ranges import Computation
from sandbox.engine.warm_up import NEVER, readiness
from sandbox.interpreter.functions import EachRunner
from sandbox.language.compiler import FilterCompiler
from sandbox.plan.axis import Axis
from sandbox.plan.document import build_plan
from tests import real_market
from tests.real_market import ACROSS, GONE, YOUNG

EXAMPLES = sorted((Path(__file__).parents[3] / "docs" / "filters").glob("*.py"))


@pytest.fixture(scope="module")
def compiler():
    with FilterCompiler(processes=1) as compiler:
        yield compiler


@pytest.fixture(scope="module")
def each():
    with EachRunner(node_seconds=60, slot_seconds=120) as each:
        yield each


@pytest.fixture(scope="module")
def panel(shared_data):
    return real_market.panel(real_market.frames(real_market.read(shared_data)))


def node_values(panel, plan, each):
    """The values of all nodes that depend on candles, each on its own timeframe: {node: (symbols, bars)}."""
    each.begin()
    refs = Calls().add(plan)
    computation = Computation(panel, 1 << 45, each=each)
    timed = [at for at, axis in enumerate(plan.node_axes) if axis is not Axis.CONSTANT]
    for at in timed:
        computation.want(refs[at].call, 0)
    computation.run()
    shape = len(panel.symbols)
    tables = {at: computation.values(refs[at], 0, plan.node_axes[at]) for at in timed}
    return {at: np.broadcast_to(table, (shape, table.shape[1])) for at, table in tables.items()}


def first_known(table):
    """The first bar of each symbol with a value (true, for conditions); NEVER without any."""
    known = table if table.dtype == np.bool_ else ~np.isnan(table)
    return np.where(known.any(axis=1), known.argmax(axis=1) if known.shape[1] else 0, NEVER)


SOURCES = {path.stem: path.read_text(encoding="utf-8") for path in EXAMPLES} | {
    name: real_market.source(name) for name in ACROSS
}


def test_a_share_of_the_market_counts_from_the_first_symbol_that_can_meet_it(compiler, panel):
    plan = compiler.compile('b = bars("5m")\nsignal(breadth(b.close > ta.sma(b.close, 20)) > 0.5)\n').plan

    ready = readiness(plan, panel, 1 << 45)

    assert set(ready.first[plan.signal]) == {19}


@pytest.mark.parametrize("name", SOURCES)
def test_no_node_has_a_value_before_it_can(compiler, panel, each, name):
    plan = compiler.compile(SOURCES[name]).plan
    ready = readiness(plan, panel, 1 << 45)
    for at, table in node_values(panel, plan, each).items():
        assert (first_known(table) >= ready.first[at]).all(), plan.nodes[at]


@pytest.mark.parametrize(
    "number",
    [
        "b.close",
        "b.close[7]",
        "ta.sma(b.close, 9)",
        "ta.rsi(b.close, 14)",
        "ta.macd(b.close)[2]",
        "ta.adx(b.high, b.low, b.close)",
        "highest(b.high - ta.ema(b.close, 5), 8)[1]",
        "percentrank(b.volume, 20)",
        "ta.sma(h.close, 3)",
        "ta.sma(b.close - ta.sma(h.close, 3), 6)",
        "b.close / btc.close",
        "ta.rocp(young.close, 4) + b.close",
        "nz(ta.sma(b.close, 30), 0) + ta.sma(b.close, 4)",
        "where(b.close > 0, ta.sma(b.close, 5), ta.sma(b.close, 9))",
    ],
)
def test_it_has_one_as_soon_as_it_can(compiler, panel, each, number):
    source = (
        f'b, h, btc, young = bars("5m"), bars("1h"), symbol("BTCUSDT").bars("15m"), symbol("{YOUNG}").bars("5m")\n'
        f"x = {number}\nshow(x=x)\nsignal(b.close > 0)\n"
    )
    plan = compiler.compile(source).plan
    at = plan.show["x"]

    ready = readiness(plan, panel, 1 << 45).first[at]

    np.testing.assert_array_equal(ready, first_known(node_values(panel, plan, each)[at]))
    assert ready[panel.index["BTCUSDT"]] < NEVER


def test_what_the_market_does_not_have_never_has_a_value(panel):
    nodes = [
        {"op": "bars", "params": {"timeframe": "5m", "field": "close"}},
        {"op": "bars", "params": {"timeframe": "5m", "field": "close", "symbol": "NOPEUSDT"}},
        {"op": "lt", "args": [0, 1]},
    ]
    plan = build_plan(nodes, 2, {})

    ready = readiness(plan, panel, 1 << 45)

    assert (ready.first[plan.signal] == NEVER).all()
    assert ready.first[0][panel.index[GONE]] == NEVER


def test_an_empty_panel_is_ready_for_nothing(compiler):
    plan = compiler.compile('a, b = bars("1m"), bars("1h")\nsignal(a.close > ta.sma(b.close, 3))\n').plan
    empty = real_market.Panel(["A"])

    ready = readiness(plan, empty, 1 << 45)

    assert ready.is_short(plan.signal, 0)
