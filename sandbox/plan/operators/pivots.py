"""
Swing highs and lows, given on the bar that confirms them: `right` bars after the extreme, never earlier, never changed.

Decided here: what counts as an extreme when values are equal (the last of them).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sandbox.plan.operators.interval import of_first
from sandbox.plan.operators.kind import Array, Params, Window
from sandbox.plan.operators.model import Operator, Param
from sandbox.plan.operators.windows import running_extreme

SIDE_BARS_MAX = 250
"""Two sides are at most as long as the longest period of any other operator."""


def _sides(params: Params) -> tuple[int, int]:
    return int(params["left"]), int(params["right"])


def _pivot(extreme: Any, reaches: Any, beyond: Any) -> Callable[[Sequence[Array], Params], tuple[Array, ...]]:
    def compute(args: Sequence[Array], params: Params) -> tuple[Array, ...]:
        values: Any = args[0]
        left, right = _sides(params)
        bars = values.shape[1] - left - right
        candidate = values[:, left : left + bars]
        before = running_extreme(extreme, values, left)[:, :bars]
        after = running_extreme(extreme, values, right)[:, left + 1 :]
        return (np.where(reaches(candidate, before) & beyond(candidate, after), candidate, np.nan),)

    return compute


def _operator(name: str, source: str, compute: Any, doc: str) -> Operator:
    return Operator(
        name,
        (source,),
        tuple(
            Param(side, "int", 5, 1, SIDE_BARS_MAX, (), f"Bars to the {side}.") for side in ("left", "right")
        ),
        ("value",),
        "float",
        "Pivots",
        doc,
        Window(compute, lambda params: sum(_sides(params))),
        input_kinds=("float",),
        bounds=of_first,
    )


def pivot_operators() -> list[Operator]:
    """pivot_high and pivot_low."""
    confirmed = (
        " The value is given on the bar that confirms it, `right` bars after the extreme, and NaN on all others, so it"
        " never repaints; the latest price is valuewhen(p > 0, p). NaN also where one of the bars is missing."
    )
    return [
        _operator(
            "pivot_high",
            "high",
            _pivot(np.maximum, np.greater_equal, np.greater),
            "A swing high: a value no lower than the `left` before it and higher than the `right` after it."
            + confirmed,
        ),
        _operator(
            "pivot_low",
            "low",
            _pivot(np.minimum, np.less_equal, np.less),
            "A swing low: a value no higher than the `left` before it and lower than the `right` after it."
            + confirmed,
        ),
    ]
