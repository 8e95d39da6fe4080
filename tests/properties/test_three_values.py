"""
Conditions with missing values, against a three-valued interpreter of a few lines: true, false or unknown (None) at each bar.

A plan has no such values: it holds two conditions, one that is true where the filter's is, one where its negation is.
"""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.engine.calls import Calls
from sandbox.engine.candles.panel import Panel
from sandbox.engine.ranges import Computation
from sandbox.plan.axis import Axis
from sandbox.plan.document import build_plan, load_plan
from tests.plans import bars, const, node

BARS, MISSING, MINUTE = 12, -7.0, 60_000

numbers = st.lists(st.sampled_from([MISSING, 1.0, 2.0, 3.0]), min_size=BARS, max_size=BARS)


def grown(inner):
    return st.one_of(
        st.tuples(st.just("not"), inner),
        st.tuples(st.sampled_from(["and", "or"]), inner, inner),
        st.tuples(st.just("where"), inner, inner, inner),
        st.tuples(st.just("shift"), inner),
    )


leaves = st.one_of(
    st.sampled_from(["lt", "le", "gt", "ge", "eq", "ne", "crossover", "crossunder"]).map(lambda op: (op,)),
    st.sampled_from(["rising", "falling"]).map(lambda op: (op,)),
)
conditions = st.recursive(leaves, grown, max_leaves=8)


def compare(op, a, b):
    if math.isnan(a) or math.isnan(b):
        return None
    return {"lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b, "eq": a == b, "ne": a != b}[op]


def both(a, b):
    return False if a is False or b is False else (None if a is None or b is None else True)


def deny(a):
    return None if a is None else not a


def either(a, b):
    return deny(both(deny(a), deny(b)))


def leaf(op, bar, a, b):
    if op in ("crossover", "crossunder"):
        now, before = ("gt", "le") if op == "crossover" else ("lt", "ge")
        earlier = compare(before, a[bar - 1], b[bar - 1]) if bar else None
        return both(compare(now, a[bar], b[bar]), earlier)
    if op in ("rising", "falling"):
        window = [a[at] if at >= 0 else math.nan for at in (bar, bar - 1, bar - 2)]
        if any(map(math.isnan, window)):
            return None
        return all((window[0] > x) if op == "rising" else (window[0] < x) for x in window[1:])
    return compare(op, a[bar], b[bar])


def value(condition, bar, a, b):
    """True, False or None."""
    op, *parts = condition
    if bar < 0:
        return None
    if op == "shift":
        return value(parts[0], bar - 2, a, b)
    if not parts:
        return leaf(op, bar, a, b)
    values = [value(part, bar, a, b) for part in parts]
    return JOINED[op](*values)


JOINED = {
    "not": deny,
    "and": both,
    "or": either,
    "where": lambda chosen, yes, no: either(both(chosen, yes), both(deny(chosen), no)),
}


def added(nodes, condition):
    op, *parts = condition
    if not parts:
        params = {"period": 2} if op in ("rising", "falling") else {}
        nodes.append(node(op, 6, **params) if params else node(op, 6, 9))
    else:
        args = [added(nodes, part) for part in parts]
        nodes.append(node(op, *args, **({"n": 2} if op == "shift" else {})))
    return len(nodes) - 1


def plan_of(condition):
    nodes = [bars(), const(MISSING), node("sub", 0, 0), node("div", 2, 2)]  # 3: no value
    nodes += [bars("1m", "open"), node("eq", 4, 1), node("where", 5, 3, 4)]
    nodes += [bars("1m", "high"), node("eq", 7, 1), node("where", 8, 3, 7)]
    at = added(nodes, condition)
    nodes += [node("not", at), node("eq", 0, 0)]
    return build_plan(nodes, at + 2, {"yes": at, "no": at + 1})


@given(condition=conditions, a=numbers, b=numbers)
@settings(max_examples=400, deadline=None)
def test_a_condition_and_its_negation_hold_where_three_valued_logic_says(condition, a, b):
    panel = Panel(["A"])
    first = 1024 * 86_400_000
    times = first + MINUTE * np.arange(BARS)
    ones = np.ones(BARS)
    panel.load("1m", np.zeros(BARS, dtype=np.int64), times, np.array(a), np.array(b), ones, ones, ones)
    plan = plan_of(condition)
    refs = Calls().add(plan)
    computation = Computation(panel, 1 << 45)
    seen = {name: refs[plan.show[name]] for name in ("yes", "no")}
    for ref in seen.values():
        computation.want(ref.call, 0)
    computation.run()
    yes, no = (computation.values(seen[name], 0, Axis("1m"))[0].tolist() for name in ("yes", "no"))

    a, b = ([math.nan if x == MISSING else x for x in row] for row in (a, b))
    expected = [value(condition, bar, a, b) for bar in range(BARS)]

    assert yes == [x is True for x in expected]
    assert no == [x is False for x in expected]
    assert load_plan(plan.encode()).hash == plan.hash
