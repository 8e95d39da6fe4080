"""
Operators that look across the market: the place of a symbol among all, and the share of symbols in a state.

Decided here: who counts. A symbol counts at a bar when it has that bar's candle (no trade in it is still a candle)
and, for a place, a value. All symbols of the market count, whatever symbols a trader is limited to. On a coarser
timeframe the bar is that timeframe's.
"""

from collections.abc import Sequence
from math import inf
from typing import Any

import numpy as np

from sandbox.plan.operators.interval import within
from sandbox.plan.operators.kind import AcrossMarket, Array, Composed, Make, Params, Share
from sandbox.plan.operators.model import Operator, Param

SYMBOLS_MAX = 5000
"""More than any exchange lists against one quote asset."""


def _rank(args: Sequence[Array], _params: Params) -> tuple[Array, ...]:
    """Bar by bar: sort downwards, and give equal values the place of the first of them."""
    present, values = args
    known: Any = np.where(present, values, np.nan).T
    order = np.argsort(-known, axis=1, kind="stable")  # NaN comes last
    ordered = np.take_along_axis(known, order, axis=1)
    place = np.broadcast_to(np.arange(1.0, known.shape[1] + 1), known.shape).copy()
    place[:, 1:][ordered[:, 1:] == ordered[:, :-1]] = 0.0
    place = np.maximum.accumulate(place, axis=1)
    place[np.isnan(ordered)] = np.nan
    ranks = np.empty_like(place)
    np.put_along_axis(ranks, order, place, axis=1)
    return (ranks.T,)


def _breadth(args: Sequence[Array], _params: Params) -> tuple[Array, ...]:
    present, condition, negation = (np.asarray(arg, dtype=np.bool_) for arg in args)
    met = (present & condition).sum(axis=0, keepdims=True)
    not_met = (present & negation).sum(axis=0, keepdims=True)
    with np.errstate(invalid="ignore"):  # 0 of 0 symbols is NaN
        return (met / (met + not_met),)


def _top(make: Make, inputs: Sequence[int], params: Params) -> tuple[int, ...]:
    return (make("le", make("rank", *inputs), make("const", value=params["n"])),)


def market_operators() -> list[Operator]:
    """rank, top, breadth."""
    return [
        Operator(
            "rank",
            ("series",),
            (),
            ("value",),
            "float",
            "Across the market",
            "The symbol's place among all symbols of the market at this bar: 1 for the greatest value. Equal values share"
            " the better place (1, 2, 2, 4). A symbol without a candle at this bar, or whose value is NaN, has no place"
            " (NaN) and does not count; the trader's own choice of symbols does not narrow the market. For the smallest"
            " first write rank(-s).",
            AcrossMarket(_rank),
            input_kinds=("float",),
            bounds=within(1.0, inf),
        ),
        Operator(
            "top",
            ("series",),
            (Param("n", "int", None, 1, SYMBOLS_MAX, (), "Symbols."),),
            ("value",),
            "bool",
            "Across the market",
            "True where the symbol is among the n with the greatest values at this bar: rank(series) <= n. Who is equal to"
            " the n-th is in too. False where it has no place.",
            Composed(_top),
            input_kinds=("float",),
        ),
        Operator(
            "breadth",
            ("condition",),
            (),
            ("value",),
            "float",
            "Across the market",
            "The share of the market's symbols, 0 to 1, for which the condition is true at this bar, the same for all"
            " symbols. Those count that have a candle at this bar and for which the condition is known: one whose"
            " history is too short for it counts on neither side. NaN where none counts.",
            Share(_breadth),
            input_kinds=("bool",),
            bounds=within(0.0, 1.0),
            with_negation=True,
        ),
    ]
