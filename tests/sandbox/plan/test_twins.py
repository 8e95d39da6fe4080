"""
Nothing recognises an operator by its name: registered under another one, each has the same properties and values.

A twin is `dataclasses.replace(OPERATORS[name], name=other)`. What differs between an operator and its twin is decided
somewhere by a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sandbox.engine.calls import Calls
from sandbox.engine.ranges import Computation
from sandbox.engine.screen import Evaluator
from sandbox.engine.warm_up import readiness
from sandbox.interpreter.functions import EachRunner
from sandbox.language.bounds import certain_truth
from sandbox.plan.axis import Axis
from sandbox.plan.document import PlanError, build_plan
from sandbox.plan.graph import facts_of
from sandbox.plan.operators import FIELDS, OPERATORS
from sandbox.plan.operators.kind import Candles, Constant, Leaf, Session
from tests.plans import bars, const, node

NAMES = sorted(OPERATORS)
ROOT = Path(__file__).parents[3]
MINUTE = 60_000
SUFFIX = "_twin"


@pytest.fixture(autouse=True)
def twins(monkeypatch) -> Iterator[None]:
    for name in NAMES:
        monkeypatch.setitem(OPERATORS, name + SUFFIX, replace(OPERATORS[name], name=name + SUFFIX))
    yield
    facts_cache_clear()


def facts_cache_clear():
    from sandbox.plan import graph

    graph._facts.cache_clear()


def leaf_of(operator):
    if isinstance(operator.kind, Constant):
        return {"value": 3.5}
    return {"timeframe": "5m", "field": "close"}


def params_of(operator):
    if isinstance(operator.kind, Leaf):
        return leaf_of(operator)
    given = {"name": "f", "source": "def f(*lists):\n    return lists[0][-1] > lists[-1][-1]"}
    return {p.name: given.get(p.name, 7) for p in operator.params if p.default is None}


def nodes_of(name, of, *, order=1):
    """A use of the operator *name* over candle fields, in both orders of its inputs; *of* is the operator it is like."""
    operator = OPERATORS[of]
    nodes, args = [], []
    for at in range(len(operator.inputs) * (2 if operator.variadic else 1)):
        field = operator.inputs[min(at, len(operator.inputs) - 1)]
        nodes.append(bars("5m", field if field in FIELDS else ("high", "low", "close")[at % 3]))
        if operator.input_kind(at) == "bool":
            nodes += [node("shift", len(nodes) - 1, n=1), node("lt", len(nodes), len(nodes) - 1)]
        args.append(len(nodes) - 1)
    nodes.append(node(name, *args[::order], **params_of(operator)))
    return nodes


def plan_of(name, of, *, order=1, negated=False):
    nodes = nodes_of(name, of, order=order)
    at = len(nodes) - 1
    if negated:
        nodes.append(node("not", at))
        at += 1
    nodes += [bars("5m", "volume"), const(-1), node("lt", len(nodes) + 1, len(nodes))]
    return build_plan(nodes, len(nodes) - 1, {"x": at})


def plain(text):
    return text.replace(SUFFIX, "")


def shape(plan):
    """All of a plan but the names of twins; the order of nodes may follow the digests of their inputs."""
    return sorted(
        (
            plain(n.op),
            tuple(sorted(plain(plan.nodes[arg].op) for arg in n.args)),
            tuple(n.params.items()),
            n.out,
        )
        for n in plan.nodes
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_twin_has_the_same_canonical_form(name):
    for order in (1, -1):
        mine, twins_ = (outcome(given, name, order=order) for given in (name, name + SUFFIX))
        assert mine == twins_
    assert same_hash(name, name) == same_hash(name + SUFFIX, name)


def outcome(given, of, **how):
    """The shape of the plan, or why there is none."""
    try:
        plan = plan_of(given, of, **how)
    except PlanError as error:
        return plain(error.message)
    return shape(plan), plan.need, plan.cost, plan.trigger, plan.calls_each, plan.node_bools


def same_hash(given, of):
    """Whether the order of the inputs makes a difference."""
    try:
        return plan_of(given, of).hash == plan_of(given, of, order=-1).hash
    except PlanError as error:
        return plain(error.message)


@pytest.mark.parametrize("name", [n for n in NAMES if OPERATORS[n].returns != "float"])
def test_the_negation_of_a_twin_is_the_negation_of_the_operator(name):
    assert outcome(name + SUFFIX, name, negated=True) == outcome(name, name, negated=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_twin_reaches_back_as_far_and_costs_as_much(name):
    mine, other = (facts_of(0, given, 0, params_of(OPERATORS[name])) for given in (name, name + SUFFIX))

    assert mine.cost_ns == other.cost_ns > 0
    assert mine.operator.bytes_per_symbol(mine.params) == other.operator.bytes_per_symbol(other.params) > 0
    for axis in (Axis("1m"), Axis("1h"), Axis("1h", forming=True)):
        assert mine.bars_behind(axis) == other.bars_behind(axis) >= 0
    assert mine.operator.kind.looks_back(mine.params) == other.operator.kind.looks_back(other.params)


@pytest.mark.parametrize("name", NAMES)
def test_a_twin_has_its_first_value_on_the_same_bar(name, market, panel_of):
    candles = market("5m", 2, 30, seed=5)
    candles.present[1, :11] = False
    panel = panel_of(candles)
    mine, other = (
        readiness(plan, panel, 1 << 45) for plan in (plan_of(name, name), plan_of(name + SUFFIX, name))
    )

    np.testing.assert_array_equal(mine.first[mine.plan.show["x"]], other.first[other.plan.show["x"]])


@pytest.mark.parametrize("name", NAMES)
def test_of_a_twin_the_same_is_certain(name):
    """Its values, compared with numbers far and near, or its truth."""
    for op in (name, name + SUFFIX):
        assert certain(op, name) == certain(name, name)


def certain(op, of):
    nodes = nodes_of(op, of)
    at = len(nodes) - 1
    found = []
    for limit in (-150.0, -50.0, -0.5, 0.0, 0.5, 50.0, 150.0, 1e9):
        compared = [] if OPERATORS[of].returns == "bool" else [const(limit), node("lt", at, at + 1)]
        more = [*nodes, *compared, bars("5m", "volume"), const(-2)]
        more.append(node("lt", len(more) - 2, len(more) - 1))
        try:
            plan = build_plan(more, len(more) - 1, {"x": at + len(compared)})
        except PlanError as error:
            return plain(error.message)
        found.append(certain_truth(plan)[plan.show["x"]])
    return found


@pytest.fixture(scope="module")
def each():
    with EachRunner(node_seconds=60, slot_seconds=120) as each:
        yield each


@pytest.mark.parametrize("name", NAMES)
def test_a_twin_has_the_same_values_over_a_range_and_by_step(name, market, panel_of, each):
    candles = market("5m", 3, 300, seed=6)
    candles.present[1, :250] = False
    minutes = market("1m", 3, 1500, seed=6)
    panel = panel_of(minutes, candles)
    plans = [plan_of(name, name), plan_of(name + SUFFIX, name)]
    ranged, stepped = [], []
    for plan in plans:
        each.begin()
        refs = Calls().add(plan)
        computation = Computation(panel, 1 << 45, each=each)
        seen = refs[plan.show["x"]]
        if seen.call.axis is not Axis.CONSTANT:
            computation.want(seen.call, 240)
            computation.run()
            ranged.append(computation.values(seen, 240, Axis("5m")))
        evaluator = Evaluator(panel, each)
        evaluator.put("t", plan, None, "every_bar")
        first = int(candles.open_time[-6]) + 5 * MINUTE
        slots = [evaluator.evaluate(first + 5 * MINUTE * n) for n in range(6)]
        stepped.append(
            [
                (plain(str(slot.failed)), hits.symbols, hits.values, hits.prices.tolist())
                for slot in slots
                for hits in slot.hits
            ]
        )

    assert len(ranged) in {0, 2}
    if ranged:
        np.testing.assert_array_equal(*ranged)
    assert stepped[0] == stepped[1]
    assert len(stepped[0]) == 6


def test_every_kind_of_leaf_and_run_is_among_the_twins():
    kinds = {type(OPERATORS[name].kind) for name in NAMES}

    assert {Candles, Constant, Session} <= kinds


def test_no_code_compares_an_operators_name():
    """The graph alone compares the operators of two nodes with each other, to take nested ones together."""
    compared = re.compile(
        r"\.form ==|(operator\.name|\.op) (==|!=|in|not in) |OPERATORS\[.*\]\.name|match .*\.(op|operator\.name):"
    )
    allowed = {ROOT / "sandbox/plan/graph.py", *(ROOT / "sandbox/plan/operators").rglob("*.py")}
    found = [
        f"{path.name}:{number}: {line.strip()}"
        for folder in ("sandbox", "app", "bench")
        for path in sorted({*(ROOT / folder).rglob("*.py")} - allowed)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if compared.search(line)
    ]

    assert found == []
