"""Canonical form, derived facts, and plans that somebody edited by hand."""

import json
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.plan.document import (
    COST_MAX,
    LOOKBACK_BARS_MAX,
    NODES_MAX,
    PlanError,
    build_plan,
    build_plan_and_map,
    load_plan,
)
from sandbox.plan.operators import OPERATORS
from tests.plans import const, node


def bars(timeframe="15m", field="close"):
    return {"op": "bars", "params": {"timeframe": timeframe, "field": field}}


RSI_LOW = [bars(), const(30), node("ta.rsi", 0), node("lt", 2, 1)]


def test_equal_meaning_gives_equal_bytes():
    """Order, defaults, mirrored comparisons, duplicates and unused nodes make no difference."""
    other = [
        const(30.0),
        bars("1h", "open"),
        {"op": "bars", "params": {"field": "close", "timeframe": "15m", "symbol": ""}},
        node("ta.rsi", 2, timeperiod=14),
        node("ta.rsi", 2),
        node("gt", 0, 3),
        node("and", 5, 5),
        node("not", 6),
        node("not", 7),
    ]

    assert build_plan(RSI_LOW, 3, {"rsi": 2}).encode() == build_plan(other, 8, {"rsi": 4}).encode()


@pytest.mark.parametrize(
    ("op", "is_symmetric"),
    [
        ("add", True),
        ("mul", True),
        ("min", True),
        ("max", True),
        ("sub", False),
        ("div", False),
        ("mod", False),
    ],
)
def test_the_order_of_operands_counts_only_where_it_means_something(op, is_symmetric):
    plans = [
        build_plan([bars(), bars("15m", "open"), const(1), node(op, a, b), node("gt", 3, 2)], 4, {})
        for a, b in ((0, 1), (1, 0))
    ]

    assert (plans[0].hash == plans[1].hash) is is_symmetric


def test_plans_share_the_parameters_of_equal_nodes():
    """A machine holds a hundred thousand plans of some ten thousand different nodes."""
    one, other = build_plan(RSI_LOW, 3, {}), load_plan(build_plan(RSI_LOW, 3, {"rsi": 2}).encode())

    assert all(a.params is b.params for a, b in zip(one.nodes, other.nodes, strict=True))


def test_a_whole_number_is_no_number_with_a_fraction_even_when_equal_ones_were_seen():
    build_plan(RSI_LOW, 3, {})
    build_plan([bars(), const(30), node("ta.rsi", 0, timeperiod=14), node("lt", 2, 1)], 3, {})

    for period in (14.0, "14"):
        with pytest.raises(PlanError) as refused:
            build_plan([bars(), const(30), node("ta.rsi", 0, timeperiod=period), node("lt", 2, 1)], 3, {})
        assert (refused.value.code, refused.value.node) == ("params", 2)


def test_different_meaning_gives_different_hashes():
    seen = {
        build_plan([bars(), const(value), node("ta.rsi", 0, timeperiod=period), node(op, 2, 1)], 3, {}).hash
        for value in (30, 31)
        for period in (14, 15)
        for op in ("lt", "le", "gt", "ge", "eq", "ne")
    }

    assert len(seen) == 24


def test_and_or_are_flat_sorted_sets():
    terms = [bars(), const(1), const(2), const(3), node("gt", 0, 1), node("gt", 0, 2), node("gt", 0, 3)]
    left = build_plan([*terms, node("and", 4, 5), node("and", 7, 6)], 8, {})
    right = build_plan([*terms, node("and", 6, 5), node("and", 4, 7), node("and", 8, 4)], 9, {})

    assert left.hash == right.hash
    assert len(left.nodes[left.signal].args) == 3


def test_shifts_add_up_and_constants_are_folded():
    plan = build_plan(
        [
            bars(),
            node("shift", 0, n=2),
            node("shift", 1, n=3),
            const(2),
            const(3),
            node("mul", 3, 4),
            node("gt", 2, 5),
        ],
        6,
        {},
    )

    assert sorted((n.op, tuple(n.params.values())) for n in plan.nodes if n.op in {"shift", "const"}) == [
        ("const", (6.0,)),
        ("shift", (5,)),
    ]


def test_trigger_is_the_finest_timeframe_and_need_covers_runs():
    plan = build_plan(
        [
            *RSI_LOW,
            bars("4h"),
            node("ta.ema", 4, timeperiod=50),
            node("lt", 4, 5),
            node("and", 3, 6),
        ],
        7,
        {},
    )

    rsi, ema = OPERATORS["ta.rsi"].kind, OPERATORS["ta.ema"].kind
    assert plan.trigger == "15m"
    assert plan.timeframes == ("15m", "4h")
    assert plan.operators == ("ta.ema", "ta.rsi")
    assert plan.need["15m"] == 2 + 127 + rsi.lookback({"timeperiod": 14}) + rsi.warmup({"timeperiod": 14})
    assert plan.need["4h"] >= 2 + 127 + ema.lookback({"timeperiod": 50}) + ema.warmup({"timeperiod": 50})
    assert plan.lookback_bars == max(plan.need.values())


def test_the_map_finds_the_plan_node_of_each_node_given():
    plan, where = build_plan_and_map([*RSI_LOW, node("gt", 1, 2), node("and", 3, 4)], 5, {"rsi": 2})

    assert where[3] == where[4] == where[5] == (plan.signal,)
    assert plan.nodes[where[2][0]].op == "ta.rsi"
    assert where[2] == (plan.show["rsi"],)


def test_the_map_finds_the_conjuncts_of_a_denied_or_and_nothing_where_a_node_is_not_used():
    more = [node("or", 3, 4), node("not", 5), bars("1m", "open"), node("lt", 7, 1), node("and", 6, 8)]
    plan, where = build_plan_and_map([*RSI_LOW, node("gt", 0, 2), *more], 9, {})

    assert sorted((*where[6], *where[8])) == sorted(plan.nodes[plan.signal].args)
    assert len(where[6]) == 2
    assert where[3] == where[5] == ()


def test_a_plan_survives_its_encoding():
    plan = build_plan(RSI_LOW, 3, {"rsi": 2})

    for source in (plan.encode(), plan.encode().decode(), json.loads(plan.encode())):
        assert load_plan(source) == plan


HOSTILE = [
    ("operator", [*RSI_LOW, node("ta.nonsense", 0)], 3, "there is no operator"),
    ("operator", [*RSI_LOW, node("__import__", 0)], 3, "there is no operator"),
    ("arity", [bars(), node("ta.rsi")], 1, "takes 1 inputs"),
    ("arity", [bars(), node("lt", 0, 0, 0)], 1, "takes 2 inputs"),
    ("arity", [bars(), node("and")], 1, "at least 1"),
    ("arity", [bars(), node("ta.rsi", 0, out=1), node("lt", 0, 1)], 2, "1 outputs"),
    ("arity", [bars(), node("ta.rsi", 0, out=-1), node("lt", 0, 1)], 2, "1 outputs"),
    ("params", [bars(), node("ta.rsi", 0, timeperiod=0), node("lt", 0, 1)], 2, "must be 2 to 500"),
    ("params", [bars(), node("ta.rsi", 0, timeperiod=501), node("lt", 0, 1)], 2, "must be 2 to 500"),
    ("params", [bars(), node("ta.rsi", 0, timeperiod=14.0), node("lt", 0, 1)], 2, "must be int"),
    ("params", [bars(), node("ta.rsi", 0, timeperiod="14"), node("lt", 0, 1)], 2, "must be int"),
    ("format", [bars(), node("ta.rsi", 0, timeperiod=True), node("lt", 0, 1)], 2, "not a node"),
    ("params", [bars(), node("ta.rsi", 0, period=14), node("lt", 0, 1)], 2, "no parameter 'period'"),
    ("params", [bars(), node("highest", 0), node("lt", 0, 1)], 2, "needs period"),
    ("params", [bars(), node("ta.ma", 0, matype=99), node("lt", 0, 1)], 2, "must be one of"),
    ("params", [bars("7m"), const(1), node("lt", 0, 1)], 2, "must be one of"),
    ("params", [bars("15m", "__class__"), const(1), node("lt", 0, 1)], 2, "must be one of"),
    ("params", [bars(), node("shift", 0, n=-1), node("lt", 0, 1)], 2, "must be 0 to"),
    ("params", [bars(), bars("15m", "volume"), node("ta.mavp", 0, 1, minperiod=30, maxperiod=20), node("lt", 0, 2)], 3, "TA-Lib refuses"),
    ("order", [bars(), node("lt", 0, 1)], 1, "does not come before"),
    ("order", [bars(), node("lt", 0, 2), const(1)], 1, "does not come before"),
    ("order", [bars(), node("lt", 0, -1)], 1, "does not come before"),
    ("order", RSI_LOW, 9, "there is no node 9"),
    ("order", RSI_LOW, -1, "there is no node -1"),
    ("order", [], 0, "there is no node 0"),
    ("kind", [bars(), bars("1h"), node("and", 0, 1)], 2, "conditions"),
    ("kind", RSI_LOW, 2, "the condition is a number"),
    ("constant", [const(1), const(2), node("lt", 0, 1)], 2, "constant"),
    ("constant", [const(1), node("ta.rsi", 0), node("lt", 0, 1)], 2, "needs a series"),
    ("constant", [const(1), const(0), node("div", 0, 1), bars(), node("lt", 2, 3)], 4, "not a finite number"),
    ("constant", [bars(), const(10**400), node("lt", 0, 1)], 2, "finite"),
    ("constant", [bars(), const(float("inf")), node("lt", 0, 1)], 2, "finite"),
    ("constant", [bars(), const(float("nan")), node("lt", 0, 1)], 2, "finite"),
    ("format", [{"op": "bars", "surprise": 1}], 0, "not a node"),
    ("format", [{"op": 7}], 0, "not a node"),
    ("format", [{"op": "const", "params": {"value": [1]}}], 0, "not a node"),
    ("lookback", [bars(), node("ta.tema", 0, timeperiod=500), node("ta.tema", 1, timeperiod=500), node("lt", 0, 2)], 3, f"at most {LOOKBACK_BARS_MAX}"),
    ("nodes", [bars()] * (NODES_MAX + 1), 0, "at most"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "nodes", "signal", "text"), HOSTILE, ids=[f"{at}-{row[0]}" for at, row in enumerate(HOSTILE)]
)
def test_a_plan_edited_by_hand_is_refused_with_the_reason(code, nodes, signal, text):
    with pytest.raises(PlanError) as refused:
        build_plan(nodes, signal, {})

    assert refused.value.code == code
    assert text in refused.value.message


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"version":1,"nodes":[],"signal":0,"show":{}}',
        b'{"version":4,"nodes":[],"signal":0,"show":{}}',
        b'{"version":3,"nodes":[],"signal":0,"show":{},"extra":1}',
        b'{"version":3,"nodes":[],"signal":true,"show":{}}',
        b'{"version":3,"nodes":[{"op":"bars","args":[1e99]}],"signal":0,"show":{}}',
        b'{"version":3,"nodes":' + b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_what_is_no_plan_is_refused(text):
    with pytest.raises(PlanError) as refused:
        load_plan(text)

    assert refused.value.code == "format"


def test_a_plan_of_a_megabyte_is_refused_unread():
    with pytest.raises(PlanError, match="bytes"):
        load_plan(b" " * (1 << 20) + b"{}")


def test_shown_values_have_names():
    for name in ("", "1a", "a b", "x" * 65, "a\x00"):
        with pytest.raises(PlanError, match="no name"):
            build_plan(RSI_LOW, 3, {name: 2})


def test_a_plan_that_costs_too_much_is_refused():
    many = [bars(), *(node("ta.trix", 0, timeperiod=period) for period in range(2, 300))]
    terms = [node("gt", 0, index) for index in range(1, len(many))]
    nodes = [*many, *terms, node("and", *range(len(many), len(many) + len(terms)))]

    with pytest.raises(PlanError, match=str(COST_MAX)):
        build_plan(nodes, len(nodes) - 1, {})


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["version", "nodes", "signal", "show", "op", "args", "params", "out", "x"]),
                inner,
                max_size=5,
            )
        ),
        max_leaves=20,
    )
)
def test_any_json_is_a_plan_or_a_plan_error(document):
    with suppress(PlanError):
        load_plan(msgspec.json.encode(document))
