"""
Kinds of operators: how each is computed, and what lies behind one value of it.

An operator has exactly one kind, which holds the functions that compute it. Nothing asks an operator for its name: what differs
between two operators is a field or a method of their kinds.

Examples: `a + b` is Pointwise; `s[3]` is Shift; `highest(s, 20)` is Window and looks at 19 bars before the current one;
`ta.ema(s, 20)` is Run and looks at 19 bars, and at 207 more until its seed weighs less than 1e-9.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

ParamValue = int | float | str
Params = Mapping[str, ParamValue]
Array = npt.NDArray[np.generic]
"""Float64 or bool, shape (symbols, bars); one row stands for every symbol (a constant, another symbol's series)."""
Row = npt.NDArray[np.float64]
"""Float64, shape (bars,), oldest first, every value finite."""
Compute = Callable[[Sequence[Array], Params], tuple[Array, ...]]
"""`compute(inputs, params)`: one array for each output."""
RunRow = Callable[..., tuple[npt.NDArray[np.generic], ...]]
"""`run(*rows, **params)`: one stretch of one symbol's bars, one array for each output."""
Make = Callable[..., int]
"""`make(operator, *nodes, out=0, **params)`: one more node, as its number."""
Expand = Callable[[Make, Sequence[int], Params], tuple[int, ...]]
"""`expand(make, inputs, params)`: the nodes that are a composed operator's outputs."""
Bars = Callable[[Params], int]
"""A number of bars that follows from the parameters."""

BLOCK_BARS = 128
"""Recursive functions share one run per block of this many bars of absolute time (see `Run`)."""


def no_bars(_params: Params) -> int:
    return 0


class Kind:
    """How an operator is computed."""

    total: bool = False
    """Whether its values are running totals (see `Run`)."""

    def lookback(self, params: Params) -> int:  # noqa: ARG002 - most kinds look at one bar, whatever the parameters
        """How many bars before the current one an exact value needs; of a run, without its warm-up."""
        return 0


class Leaf(Kind):
    """A node without inputs."""


class Constant(Leaf):
    """A number, the same on every bar."""


@dataclass(frozen=True, eq=False)
class Candles(Leaf):
    """A field of candles: of the closed ones, or (`forming`) of those and the forming bar."""

    forming: bool


@dataclass(frozen=True, eq=False)
class Pointwise(Kind):
    """From the values at the same bar."""

    compute: Compute


@dataclass(frozen=True, eq=False)
class Logic(Pointwise):
    """Of conditions at the same bar, 64 symbols at a time: `join` is a bitwise function of two words; None negates one."""

    join: Callable[..., Any] | None


@dataclass(frozen=True, eq=False)
class Shift(Kind):
    """The value some bars before. The parameter *bars* says how many."""

    bars: str = "n"

    def lookback(self, params: Params) -> int:
        return int(params[self.bars])


@dataclass(frozen=True, eq=False)
class Window(Kind):
    """From the current bar and the `window` bars before it, nothing else."""

    compute: Compute
    window: Bars

    def lookback(self, params: Params) -> int:
        return self.window(params)


@dataclass(frozen=True, eq=False)
class Search(Window):
    """As Window, but `window` is how far it may look, not how far it must: it answers from the first bar on."""


@dataclass(frozen=True, eq=False)
class Crossing(Window):
    """
    A relation of two series at this bar, joined with another one at the bar before.

    `now` and `before` compare two arrays, `join` is a bitwise function: the value is join(now(a, b), before(a[1], b[1])).
    """

    now: Callable[[Any, Any], Any]
    before: Callable[[Any, Any], Any]
    join: Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Extreme(Window):
    """The largest or smallest value of a window: `extreme` is NumPy's function of two values."""

    extreme: Any


@dataclass(frozen=True, eq=False)
class Change(Window):
    """The value minus the one `window` bars before."""


@dataclass(frozen=True, eq=False)
class Run(Kind):
    """
    By one left-to-right run over a stretch of bars.

    Bar *t* in block *b* = absolute bar number // BLOCK_BARS uses the run that starts `window + warmup` bars before the
    first bar of block *b*, whoever asks and however much history is loaded. A symbol whose history is shorter is run
    from its first candle. `warmup(params)` counts the bars after which the seed no longer matters. For a running total
    (`total`) it always does, so only values of one run can be compared: a screen sees the run of the newest bar's block,
    however far it looks back. `stream` is TA-Lib's class that carries a run on bar by bar, bit for bit; None where there is
    none.
    """

    run: RunRow
    window: Bars
    warmup: Bars = no_bars
    stream: Any = None
    total: bool = False

    def lookback(self, params: Params) -> int:
        return self.window(params)


@dataclass(frozen=True, eq=False)
class Average(Run):
    """A run that is a sum of the last bars over their number, so that the sum can be carried for all symbols at once."""


@dataclass(frozen=True, eq=False)
class Session(Kind):
    """By a run that starts at the UTC day's first bar."""

    run: RunRow


@dataclass(frozen=True, eq=False)
class AcrossMarket(Kind):
    """
    From the values of all symbols at the same bar.

    `compute` is given which symbols have that bar, then the series, all of shape (symbols, bars).
    """

    compute: Compute


@dataclass(frozen=True, eq=False)
class Composed(Kind):
    """
    Of other operators. A plan holds those instead, so that equal parts of two filters are one node.

    `window` is the longest period: it tells a costly use from a cheap one where a message names it.
    """

    expand: Expand
    window: Bars = no_bars

    def lookback(self, params: Params) -> int:
        return self.window(params)


@dataclass(frozen=True, eq=False)
class Each(Kind):
    """From a window, by the function that the plan carries (`sandbox.interpreter.functions`)."""

    window: Bars

    def lookback(self, params: Params) -> int:
        return self.window(params)
