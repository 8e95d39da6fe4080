"""The screen's own operators against slow, plain references: shapes, periods, NaN, flat and extreme prices."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.plan.operators import OPERATORS
from sandbox.plan.operators.kind import Window

prices = st.one_of(
    st.floats(1e-9, 1e9, allow_nan=False),
    st.sampled_from([math.nan, 1.0, 2.0, 3.0, 1e-9, 1e9]),
)
LENGTH = 40


def rows_of(value):
    return st.lists(value, min_size=1, max_size=LENGTH)


def at(row, index):
    return row[index] if index >= 0 else math.nan


def window(row, bar, period):
    return [at(row, bar - ago) for ago in range(period)]


def plain_extreme(choose):
    def value(rows, bar, period):
        seen = window(rows[0], bar, period)
        return math.nan if any(map(math.isnan, seen)) else choose(seen)

    return value


def plain_cross(now, before):
    def value(rows, bar, _period):
        a, b = rows
        return bar > 0 and now(a[bar], b[bar]) and before(a[bar - 1], b[bar - 1])

    return value


def plain_no_cross(now, before):
    """False now, or not there to be crossed on the bar before: one of them suffices, each only where it is known."""

    def value(rows, bar, _period):
        a, b = rows
        return now(a[bar], b[bar]) or (bar > 0 and before(a[bar - 1], b[bar - 1]))

    return value


def plain_not(condition):
    """Known to be false: no value of the window is missing."""

    def value(rows, bar, period):
        known = not any(map(math.isnan, window(rows[0], bar, period + 1)))
        return known and not condition(rows, bar, period)

    return value


def plain_change(rows, bar, period):
    return rows[0][bar] - at(rows[0], bar - period)


def plain_rising(rows, bar, period):
    return all(rows[0][bar] > at(rows[0], bar - ago) for ago in range(1, period + 1))


def plain_falling(rows, bar, period):
    return all(rows[0][bar] < at(rows[0], bar - ago) for ago in range(1, period + 1))


def plain_percentrank(rows, bar, period):
    earlier = [at(rows[0], bar - ago) for ago in range(1, period + 1)]
    if math.isnan(rows[0][bar]) or any(map(math.isnan, earlier)):
        return math.nan
    return 100.0 * sum(value <= rows[0][bar] for value in earlier) / period


def plain_total(rows, bar, period):
    return sum(window(rows[0], bar, period))


WINDOWS = {
    "highest": (plain_extreme(max), 1),
    "lowest": (plain_extreme(min), 1),
    "crossover": (plain_cross(lambda a, b: a > b, lambda a, b: a <= b), 2),
    "crossunder": (plain_cross(lambda a, b: a < b, lambda a, b: a >= b), 2),
    "not crossover": (plain_no_cross(lambda a, b: a <= b, lambda a, b: a > b), 2),
    "not crossunder": (plain_no_cross(lambda a, b: a >= b, lambda a, b: a < b), 2),
    "change": (plain_change, 1),
    "rising": (plain_rising, 1),
    "falling": (plain_falling, 1),
    "not rising": (plain_not(plain_rising), 1),
    "not falling": (plain_not(plain_falling), 1),
    "percentrank": (plain_percentrank, 1),
    "total": (plain_total, 1),
}


@pytest.mark.parametrize("op", WINDOWS)
@given(data=st.data(), period=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_window_operators_equal_their_definition(op, data, period, series):
    reference, inputs = WINDOWS[op]
    length = data.draw(st.integers(1, LENGTH))
    rows = [data.draw(st.lists(prices, min_size=length, max_size=length)) for _ in range(inputs)]
    params = {"period": period} if OPERATORS[op].params else {}

    (got,) = series(op, rows, params)

    expected = [reference(rows, bar, period) for bar in range(length)]
    if op == "total":  # added up in another order
        np.testing.assert_allclose(got[0], expected, rtol=1e-14)
    else:
        np.testing.assert_array_equal(got[0], expected)


def test_the_references_above_run_the_operators_above():
    own = {name for name, o in OPERATORS.items() if isinstance(o.kind, Window)}

    assert own == {*WINDOWS, "barssince", "valuewhen", "pivot_high", "pivot_low"}


def last_times(condition, bar, wanted, search):
    """Bars ago of the *wanted* last true, if within *search*."""
    ago = [n for n in range(bar + 1) if condition[bar - n] == 1]
    return ago[wanted] if len(ago) > wanted and ago[wanted] <= search else None


@given(
    pairs=st.lists(st.tuples(st.integers(0, 1), prices), min_size=1, max_size=LENGTH),
    search=st.integers(1, 10),
    occurrence=st.integers(0, 3),
)
@settings(max_examples=150, deadline=None)
def test_barssince_and_valuewhen_equal_their_definition(pairs, search, occurrence, series):
    condition, values = ([pair[0] for pair in pairs], [pair[1] for pair in pairs])

    (since,) = series("barssince", [condition], {"window": search})
    (when,) = series("valuewhen", [condition, values], {"window": search, "occurrence": occurrence})

    for bar in range(len(pairs)):
        ago = last_times(condition, bar, 0, search)
        np.testing.assert_array_equal(since[0, bar], math.nan if ago is None else ago)
        ago = last_times(condition, bar, occurrence, search)
        np.testing.assert_array_equal(when[0, bar], math.nan if ago is None else values[bar - ago])


def test_several_symbols_do_not_mix_in_valuewhen(series):
    condition = [[1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1]]
    values = [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]

    (when,) = series("valuewhen", [condition, values], {"window": 3})

    np.testing.assert_array_equal(when, [[1, 1, 1, 1], [math.nan] * 4, [math.nan, 10, 10, 12]])


ARITHMETIC = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "mod": lambda a, b: a % b,
    "pow": lambda a, b: a**b,
    "min": lambda a, b: math.nan if math.isnan(a) or math.isnan(b) else min(a, b),
    "max": lambda a, b: math.nan if math.isnan(a) or math.isnan(b) else max(a, b),
    "neg": lambda a: -a,
    "abs": abs,
    "sign": lambda a: a if math.isnan(a) else float((a > 0) - (a < 0)),
    "floor": lambda a: a if math.isnan(a) else float(math.floor(a)),
    "ceil": lambda a: a if math.isnan(a) else float(math.ceil(a)),
}
numbers = st.one_of(st.floats(-1e9, 1e9), st.sampled_from([math.nan, 0.0, 1.0, -1.0, 1e200, -1e200]))


@pytest.mark.parametrize("op", ARITHMETIC)
@given(pair=st.lists(st.tuples(numbers, numbers), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_arithmetic_is_pythons_except_that_what_is_not_finite_is_nan(op, pair, series):
    def expected(*args):
        if any(map(math.isnan, args)):
            return math.nan
        try:
            value = ARITHMETIC[op](*args)
        except (ZeroDivisionError, OverflowError):
            return math.nan
        return math.nan if isinstance(value, complex) or math.isinf(value) else value

    count = len(OPERATORS[op].inputs)
    inputs = [list(column) for column in zip(*pair, strict=True)][:count]

    (got,) = series(op, inputs)

    np.testing.assert_allclose(got[0], [expected(*args) for args in zip(*inputs, strict=True)], rtol=1e-14)


COMPARISONS = {
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b and not math.isnan(a) and not math.isnan(b),
}


@pytest.mark.parametrize("op", COMPARISONS)
@given(pair=st.lists(st.tuples(prices, prices), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_a_comparison_with_nan_is_false(op, pair, series):
    inputs = [list(column) for column in zip(*pair, strict=True)]

    (got,) = series(op, inputs)

    assert got[0].tolist() == [COMPARISONS[op](*args) for args in zip(*inputs, strict=True)]


@given(
    triples=st.lists(st.tuples(st.integers(0, 1), prices, prices), min_size=1, max_size=8),
    replacement=st.floats(-5, 5),
)
@settings(max_examples=40, deadline=None)
def test_where_chooses_and_nz_replaces(triples, replacement, series):
    condition, yes, no = (list(column) for column in zip(*triples, strict=True))

    (chosen,) = series("where", [condition, yes, no])
    (filled,) = series("nz", [yes], {"replacement": replacement})

    np.testing.assert_array_equal(chosen[0], [y if c else n for c, y, n in triples])
    np.testing.assert_array_equal(filled[0], [replacement if math.isnan(y) else y for y in yes])


@given(row=st.lists(prices, min_size=1, max_size=LENGTH), n=st.integers(0, 12))
@settings(max_examples=60, deadline=None)
def test_shift_is_the_value_n_bars_ago(row, n, series):
    (got,) = series("shift", [row], {"n": n})

    np.testing.assert_array_equal(got[0], [at(row, bar - n) for bar in range(len(row))])


@pytest.mark.parametrize("op", ["ta.ema", "ta.sma", "ta.rsi", "ta.max"])
@given(row=st.lists(prices, min_size=1, max_size=LENGTH), period=st.integers(2, 6))
@settings(max_examples=40, deadline=None)
def test_a_gap_in_a_series_starts_the_function_again(op, row, period, series):
    """The value at a bar is the function's over the finite values since the last NaN, alone."""
    (got,) = series(op, [row], {"timeperiod": period})

    for bar in range(len(row)):
        since = bar
        while since >= 0 and not math.isnan(row[since]):
            since -= 1
        stretch = row[since + 1 : bar + 1]
        alone = series(op, [stretch], {"timeperiod": period})[0][0, -1] if stretch else math.nan
        np.testing.assert_array_equal(got[0, bar], alone)


def test_every_public_operator_is_described():
    for operator in OPERATORS.values():
        assert operator.doc.endswith(".")
        assert operator.category
        assert operator.variadic or len(operator.input_kinds) == len(operator.inputs)
