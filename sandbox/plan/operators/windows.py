"""
Operators over the last few bars: extremes, crossings, changes, runs, ranks.

Each value depends on its own window only (`lookback` bars before the current one and the current one), never on where
the computation began, so these need no anchored runs.
"""

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import numpy as np

from sandbox.plan.operators.interval import of_first, within
from sandbox.plan.operators.kind import (
    STEP_NS,
    Array,
    Change,
    Crossing,
    Event,
    Extreme,
    Kind,
    Params,
    Search,
    Shift,
    Window,
)
from sandbox.plan.operators.model import Operator, Param
from sandbox.plan.operators.talib_functions import PERIOD_MAX

EVENT_WINDOW_BARS = 500
"""How far back `barssince` and `valuewhen` search by default: a value must not depend on how much history is loaded."""


def _period(params: Params) -> int:
    return int(params["period"])


def _before(params: Params) -> int:
    return int(params["period"]) - 1


def running_extreme(function: Any, values: Any, period: int) -> Any:
    """Extreme of every whole window by doubling: log2(period) passes over the array; NaN in a window gives NaN."""
    width = 1
    while width < period:
        step = min(width, period - width)
        values = function(values[:, step:], values[:, :-step])
        width += step
    return values


def _extreme(function: Any) -> Callable[[Sequence[Array], Params], tuple[Array, ...]]:
    return lambda args, params: (running_extreme(function, args[0], _period(params)),)


def _extreme_of(function: Any) -> Extreme:
    return Extreme(_extreme(function), _before, extreme=function)


def _one_bar(_params: Params) -> int:
    return 1


def _crossing(now: Any, before: Any, opposite: str, *, either: bool = False) -> Crossing:
    join = np.bitwise_or if either else np.bitwise_and

    def compute(args: Sequence[Array], _params: Params) -> tuple[Array, ...]:
        left, right = args
        return (join(now(left, right)[:, 1:], before(left, right)[:, :-1]),)

    return Crossing(compute, _one_bar, now=now, before=before, either=either, opposite=opposite)


def _change(args: Sequence[Array], params: Params) -> tuple[Array, ...]:
    values: Any = args[0]
    with np.errstate(invalid="ignore"):
        return (values[:, _period(params) :] - values[:, : -_period(params)],)


def _against_all(compare: Any, extreme: Any, opposite: str) -> Event:
    furthest = _extreme(extreme)

    def compute(args: Sequence[Array], params: Params) -> tuple[Array, ...]:
        values: Any = args[0]
        (before,) = furthest([values[:, :-1]], params)
        return (compare(values[:, _period(params) :], before),)

    return Event(compute, _period, opposite=opposite)


def _percentrank(args: Sequence[Array], params: Params) -> tuple[Array, ...]:
    values: Any = args[0]
    period = _period(params)
    bars = values.shape[1] - period
    current = values[:, period:]
    count = np.zeros((values.shape[0], bars))
    known = ~np.isnan(current)
    for ago in range(1, period + 1):
        earlier = values[:, period - ago : period - ago + bars]
        count += earlier <= current
        known &= ~np.isnan(earlier)
    return (np.where(known, 100.0 * count / period, np.nan),)


def _window(params: Params) -> int:
    return int(params["window"])


def _bars_since_nth(condition: Any, nth: int, params: Params) -> Any:
    """
    Distance from each bar to the *nth* last bar (0: the last) where the condition held; -1 when further than `window`.

    *condition* is bool, shape (symbols, window + bars); the result int64, shape (symbols, bars).
    """
    window = _window(params)
    rows, columns = np.nonzero(condition)
    seen = np.cumsum(condition, axis=1)
    first = np.searchsorted(rows, np.arange(len(condition)))  # each row's first entry in `columns`
    wanted = seen - 1 - nth
    at = np.append(columns, 0)[np.where(wanted >= 0, first[:, None] + wanted, -1)]
    ago = np.arange(condition.shape[1]) - at
    return np.where((wanted >= 0) & (ago <= window), ago, -1)[:, window:]


def _barssince(args: Sequence[Array], params: Params) -> tuple[Array, ...]:
    ago = _bars_since_nth(args[0], 0, params)
    return (np.where(ago >= 0, ago.astype(np.float64), np.nan),)


def _valuewhen(args: Sequence[Array], params: Params) -> tuple[Array, ...]:
    condition, values = np.broadcast_arrays(*args)
    ago = _bars_since_nth(condition, int(params["occurrence"]), params)
    at = np.arange(_window(params), values.shape[1]) - np.maximum(ago, 0)
    return (np.where(ago >= 0, np.take_along_axis(values, at, axis=1), np.nan),)


_PERIOD = Param("period", "int", None, 1, PERIOD_MAX, (), "Bars.")
_SEARCH = Param("window", "int", EVENT_WINDOW_BARS, 1, EVENT_WINDOW_BARS, (), "How many bars back to search.")


def _operator(
    name: str,
    inputs: tuple[str, ...],
    params: tuple[Param, ...],
    kind: Kind,
    doc: str,
    **rest: Any,
) -> Operator:
    return Operator(
        name,
        inputs,
        params,
        ("value",),
        rest.pop("returns", "float"),
        "Series",
        doc,
        kind,
        input_kinds=rest.pop("input_kinds", ("float",) * len(inputs)),
        **rest,
    )


def window_operators() -> list[Operator]:
    """Operators over a window, `shift`, and where the conditions among them are known to be false."""
    return [_shift(), *_extremes(), *_crossings(), *_changes(), *_searches()]


def _shift() -> Operator:
    return Operator(
        "shift",
        ("series",),
        (Param("n", "int", None, 0, 1000, (), "Bars back."),),
        ("value",),
        "same",
        "Series",
        "The value n bars ago, written s[n]; before the first bar NaN, or unknown.",
        Shift(),
        input_kinds=("any",),
        bounds=of_first,
        internal=True,
    )


def _extremes() -> list[Operator]:
    return [
        _operator(
            "highest",
            ("series",),
            (_PERIOD,),
            _extreme_of(np.maximum),
            "Largest value of the last `period` bars, this one included; NaN if any of them is.",
            bounds=of_first,
        ),
        _operator(
            "lowest",
            ("series",),
            (_PERIOD,),
            _extreme_of(np.minimum),
            "Smallest value of the last `period` bars, this one included; NaN if any of them is.",
            bounds=of_first,
        ),
    ]


def _crossings() -> list[Operator]:
    def crossing(name: str, kind: Crossing, doc: str, *, internal: bool = False) -> Operator:
        return _operator(name, ("a", "b"), (), kind, doc, returns="bool", internal=internal)

    return [
        crossing(
            "crossover",
            _crossing(np.greater, np.less_equal, "not crossover"),
            "True on the bar where a is above b after being at or below it on the bar before.",
        ),
        crossing(
            "not crossover",
            _crossing(np.less_equal, np.greater, "crossover", either=True),
            "True where a is at or below b, or was above it on the bar before.",
            internal=True,
        ),
        crossing(
            "crossunder",
            _crossing(np.less, np.greater_equal, "not crossunder"),
            "True on the bar where a is below b after being at or above it on the bar before.",
        ),
        crossing(
            "not crossunder",
            _crossing(np.greater_equal, np.less, "crossunder", either=True),
            "True where a is at or above b, or was below it on the bar before.",
            internal=True,
        ),
    ]


def _changes() -> list[Operator]:
    def trend(name: str, kind: Event, doc: str, *, internal: bool = False) -> Operator:
        return _operator(name, ("series",), (_PERIOD,), kind, doc, returns="bool", internal=internal)

    return [
        _operator(
            "change",
            ("series",),
            (Param("period", "int", 1, 1, PERIOD_MAX, (), "Bars."),),
            Change(_change, _period),
            "The value minus the value `period` bars ago.",
        ),
        trend(
            "rising",
            _against_all(np.greater, np.maximum, "not rising"),
            "True where the value is above each of the `period` values before it (as charting sites define it).",
        ),
        trend(
            "not rising",
            _against_all(np.less_equal, np.maximum, "rising"),
            "True where the value is at or below one of the `period` values before it, and all are known.",
            internal=True,
        ),
        trend(
            "falling",
            _against_all(np.less, np.minimum, "not falling"),
            "True where the value is below each of the `period` values before it.",
        ),
        trend(
            "not falling",
            _against_all(np.greater_equal, np.minimum, "falling"),
            "True where the value is at or above one of the `period` values before it, and all are known.",
            internal=True,
        ),
        _operator(
            "percentrank",
            ("series",),
            (_PERIOD,),
            Window(_percentrank, _period),
            "Percentage, 0 to 100, of the `period` values before that are at or below the current one; NaN if any is.",
            bounds=within(0.0, 100.0),
            cost_ns=lambda params: STEP_NS * (1 + _period(params) // 4),
        ),
    ]


def _searches() -> list[Operator]:
    return [
        _operator(
            "barssince",
            ("condition",),
            (_SEARCH,),
            Search(_barssince, _window),
            "Bars since the condition was last true, 0 on a bar where it is; NaN when not within `window` bars.",
            input_kinds=("bool",),
            bounds=within(0.0, inf),
        ),
        _operator(
            "valuewhen",
            ("condition", "series"),
            (Param("occurrence", "int", 0, 0, 100, (), "0: the last time."), _SEARCH),
            Search(_valuewhen, _window),
            "The series' value on the bar where the condition was last true (`occurrence` times before that); NaN when"
            " not within `window` bars.",
            input_kinds=("bool", "float"),
        ),
    ]
