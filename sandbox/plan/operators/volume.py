"""
Prices weighted by volume: VWAP of the UTC day and of the last bars.

Decided here: the typical price (high + low + close) / 3, and that sums are taken over the window itself, not carried
on, so that a stretch without trades has a volume of exactly nothing and no price, not a rounding error's.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sandbox.plan.operators.kind import Array, Composed, Make, Params, Session, Window
from sandbox.plan.operators.model import Operator, Param
from sandbox.plan.operators.talib_functions import PERIOD_MAX


def _total(args: Sequence[Array], params: Params) -> tuple[Array, ...]:
    """
    Sum of the window by doubling: log2(period) passes, and the same additions in the same order at every bar.
    """
    values: Any = args[0]
    bars = values.shape[1] - int(params["period"]) + 1
    remaining, width, begin = int(params["period"]), 1, 0
    result = np.zeros((len(values), bars))
    while remaining:
        if remaining & 1:
            result += values[:, begin : begin + bars]
            begin += width
        remaining >>= 1
        if remaining:
            values = values[:, width:] + values[:, :-width]
            width *= 2
    return (result,)


def _session_vwap(high: Any, low: Any, close: Any, volume: Any) -> tuple[Any, ...]:
    traded = np.cumsum((high + low + close) / 3.0 * volume)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (traded / np.cumsum(volume),)


def _vwap(make: Make, inputs: Sequence[int], params: Params) -> tuple[int, ...]:
    high, low, close, volume = inputs
    period = params["period"]
    if not period:
        return (make("session_vwap", *inputs),)
    three = make("const", value=3.0)
    typical = make("div", make("add", make("add", high, low), close), three)
    traded = make("total", make("mul", typical, volume), period=period)
    return (make("div", traded, make("total", volume, period=period)),)


def volume_operators() -> list[Operator]:
    """vwap, and what it is made of."""
    prices = ("high", "low", "close", "volume")
    floats: Any = ("float",) * len(prices)
    return [
        Operator(
            "vwap",
            prices,
            (Param("period", "int", 0, 0, PERIOD_MAX, (), "Bars; 0: the day."),),
            ("value",),
            "float",
            "Volume",
            "Volume-weighted average price: the sum of (high + low + close) / 3 x volume over the sum of volume. By default"
            " of the session, which begins at 00:00 UTC; with a `period`, of the last so many bars. NaN while nothing was"
            " traded, and until `period` bars.",
            Composed(_vwap, lambda params: int(params["period"])),
            input_kinds=floats,
        ),
        Operator(
            "session_vwap",
            prices,
            (),
            ("value",),
            "float",
            "Volume",
            "VWAP since 00:00 UTC.",
            Session(_session_vwap),
            input_kinds=floats,
            internal=True,
        ),
        Operator(
            "total",
            ("series",),
            (Param("period", "int", None, 1, PERIOD_MAX, (), "Bars."),),
            ("value",),
            "float",
            "Volume",
            "Sum of the last `period` bars, this one included; NaN if any of them is.",
            Window(_total, lambda params: int(params["period"]) - 1),
            input_kinds=("float",),
            internal=True,
        ),
    ]
