"""
Kinds of operators: how each is computed, and everything else that anyone asks of an operator.

An operator has exactly one kind. Nothing recognises an operator by its name: what differs between two operators is a
field of their kinds, or the answer of a method. Each kind answers

* what lies behind one value: `lookback`, `behind`, `looks_back`
* from which bar on there can be one: `first_bar`
* whether it is certain: `decided` (of numbers: `Operator.bounds`)
* its canonical form: `rewritten`, `is_symmetric`
* where a condition is known to be false: `negation`
* what it costs: `total_ns`, `bytes_per_symbol`
* whether the symbol needs a candle of its own: `needs_own_bar`

Examples: `a + b` is Pointwise; `s[3]` is Shift; `highest(s, 20)` is Window and looks at 19 bars before the current one;
`ta.ema(s, 20)` is Run and looks at 19 bars, and at 207 more until its seed weighs less than 1e-9.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sandbox.plan.axis import Axis
from sandbox.plan.operators.base import (
    BLOCK_BARS,
    NEVER,
    STEP_NS,
    Array,
    Bars,
    Compute,
    Expand,
    FirstBars,
    Kind,
    Make,
    Params,
    ParamValue,
    Row,
    RunRow,
    earliest,
    later,
    latest,
    no_bars,
)
from sandbox.plan.operators.interval import Certain, Interval
from sandbox.plan.timeframes import TIMEFRAMES

__all__ = [
    "BLOCK_BARS", "NEVER", "STEP_NS", "AcrossMarket", "Array", "Average", "Bars", "Candles", "Change", "Choice", "Comparison",
    "Composed", "Compute", "Constant", "Crossing", "Each", "Event", "Expand", "Extreme", "Fill", "FirstBars", "Kind", "Leaf",
    "Logic", "Make", "ParamValue", "Params", "Pointwise", "Row", "Run", "RunRow", "Search", "Session", "Share", "Shift", "Window",
    "later", "no_bars",
]  # fmt: skip

STREAM_BYTES = 256
"""What one of TA-Lib's streams holds besides the bars of its window, roughly."""


class Leaf(Kind):
    """A node without inputs."""

    needs_series = False


class Constant(Leaf):
    """A number, the same on every bar."""


@dataclass(frozen=True, eq=False)
class Candles(Leaf):
    """
    A field of candles: of the closed ones, or (`forming`) of those and the forming bar.

    `closed` is the operator that reads the closed ones.
    """

    forming: bool
    closed: str

    def axis(self, params: Params, inputs: Iterable[Axis] = ()) -> Axis:
        return Axis(str(params["timeframe"]), forming=self.forming)

    def rewritten(self, make: Make, op: str, args: Sequence[int], params: Params, out: int) -> int | None:
        """Of the finest timeframe nothing is known before its close: it is read closed."""
        return make.node(self.closed, (), params) if self.forming and not self.axis(params).forming else None


@dataclass(frozen=True, eq=False)
class Pointwise(Kind):
    """From the values at the same bar."""

    needs_series = False

    compute: Compute
    is_symmetric: bool = False


@dataclass(frozen=True, eq=False)
class Fill(Pointwise):
    """A value at every bar, also where the input has none."""

    def first_bar(self, inputs: Sequence[FirstBars], params: Params) -> FirstBars:
        return np.zeros_like(inputs[0])


@dataclass(frozen=True, eq=False)
class Choice(Pointwise):
    """
    One of two series, as a condition says; nothing where the condition is unknown.

    Inputs: the condition, the value where it is true, the one where it is false and, added here, its negation. A
    choice between two conditions is logic: (c and yes) or (not c and no).
    """

    def rewritten(self, make: Make, op: str, args: Sequence[int], params: Params, out: int) -> int | None:
        condition, yes, no, *denied = args
        if make.is_bool(yes) and make.is_bool(no):
            refused = denied[0] if denied else make.negated(condition)
            return make("or", make("and", condition, yes), make("and", refused, no))
        return None if denied else make.node(op, (*args, make.negated(condition)), params, out)

    def first_bar(self, inputs: Sequence[FirstBars], params: Params) -> FirstBars:
        condition, yes, no, denied = inputs
        return latest([earliest([condition, denied]), earliest([yes, no])])


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison(Pointwise):
    """
    Of two numbers; false where one is missing.

    `opposite` is the comparison that holds where this one is known to be false. `mirror` is the one that a plan holds
    instead, with the inputs exchanged (`a > b` is `b < a`). `certain` decides from intervals, `of_itself` says what
    comparing a series with itself gives.
    """

    opposite: str
    certain: Certain
    of_itself: bool
    mirror: str | None = None

    def rewritten(self, make: Make, op: str, args: Sequence[int], params: Params, out: int) -> int | None:
        """A condition that is compared counts as 1 or 0 and, where it is unknown, as nothing."""
        if any(map(make.is_bool, args)):
            one, zero = make("const", value=1.0), make("const", value=0.0)
            return make(op, *(make("where", arg, one, zero) if make.is_bool(arg) else arg for arg in args))
        return make(self.mirror, *args[::-1]) if self.mirror else None

    def decided(
        self, intervals: Sequence[Interval], truths: Sequence[bool | None], *, same: bool
    ) -> bool | None:
        return self.of_itself if same else self.certain(*intervals)

    def negation(self, make: Make, op: str, args: Sequence[int], params: Params) -> int:
        return make(self.opposite, *args)


@dataclass(frozen=True, eq=False, kw_only=True)
class Logic(Pointwise):
    """
    Of conditions at the same bar, 64 symbols at a time: `join` is a bitwise function of two words.

    `decisive` is the truth of one input that settles the whole: False for `and`, True for `or`. `opposite` is the
    operator that joins the negated inputs into the negation (De Morgan).
    """

    join: Callable[..., Any]
    decisive: bool
    opposite: str

    def first_bar(self, inputs: Sequence[FirstBars], params: Params) -> FirstBars:
        return earliest(inputs) if self.decisive else latest(inputs)

    def decided(
        self, intervals: Sequence[Interval], truths: Sequence[bool | None], *, same: bool
    ) -> bool | None:
        if self.decisive in truths:
            return self.decisive
        return None if None in truths else not self.decisive

    def negation(self, make: Make, op: str, args: Sequence[int], params: Params) -> int:
        return make(self.opposite, *map(make.negated, args))


@dataclass(frozen=True, eq=False)
class Shift(Kind):
    """The value some bars before: as many as the parameter named *bars* says."""

    needs_series = False

    bars: str = "n"

    def lookback(self, params: Params) -> int:
        return int(params[self.bars])

    def decided(
        self, intervals: Sequence[Interval], truths: Sequence[bool | None], *, same: bool
    ) -> bool | None:
        return truths[0]

    def negation(self, make: Make, op: str, args: Sequence[int], params: Params) -> int:
        return make.node(op, (make.negated(args[0]),), params)

    def bytes_per_symbol(self, params: Params, inputs: int, outputs: int) -> int:
        return 8 * max(1, self.lookback(params))


@dataclass(frozen=True, eq=False)
class Window(Kind):
    """From the current bar and the `window` bars before it, nothing else."""

    compute: Compute
    window: Bars

    def lookback(self, params: Params) -> int:
        return self.window(params)

    def bytes_per_symbol(self, params: Params, inputs: int, outputs: int) -> int:
        """A window of each input and room for as much again, so that values are moved rarely."""
        return 8 * (inputs * (2 * self.lookback(params) + 16) + outputs)


@dataclass(frozen=True, eq=False)
class Search(Window):
    """
    As Window, but `window` is how far it may look, not how far it must: it answers from the first bar on.

    It looks for bars where a condition is true: one where the condition is unknown is none of them.
    """

    def first_bar(self, inputs: Sequence[FirstBars], params: Params) -> FirstBars:
        return latest(inputs)


@dataclass(frozen=True, eq=False, kw_only=True)
class Event(Window):
    """A condition over a window. `opposite` is the operator that holds where this one is known to be false."""

    opposite: str

    def negation(self, make: Make, op: str, args: Sequence[int], params: Params) -> int:
        return make.node(self.opposite, args, params)


@dataclass(frozen=True, eq=False, kw_only=True)
class Crossing(Event):
    """
    A relation of two series at this bar, and (`either`: or) another one at the bar before.

    `now` and `before` compare two arrays: the value is now(a, b) and before(a[1], b[1]).
    """

    now: Callable[[Any, Any], Any]
    before: Callable[[Any, Any], Any]
    either: bool = False

    @property
    def join(self) -> Callable[..., Any]:
        """The bitwise function that joins both relations."""
        return np.bitwise_or if self.either else np.bitwise_and

    def first_bar(self, inputs: Sequence[FirstBars], params: Params) -> FirstBars:
        return later(latest(inputs), 0 if self.either else 1)

    def bytes_per_symbol(self, params: Params, inputs: int, outputs: int) -> int:
        return 8 * (1 + outputs)


@dataclass(frozen=True, eq=False, kw_only=True)
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

    def behind(self, params: Params, axis: Axis) -> int:
        return BLOCK_BARS - 1 + self.window(params) + self.warmup(params)

    def looks_back(self, params: Params) -> bool:
        return True

    def bytes_per_symbol(self, params: Params, inputs: int, outputs: int) -> int:
        """TA-Lib's stream keeps the bars of its window."""
        return STREAM_BYTES + 8 * (inputs * self.lookback(params) + outputs)


@dataclass(frozen=True, eq=False)
class Average(Run):
    """A run that is a sum of the last bars over their number, so that the sum can be carried for all symbols at once."""


@dataclass(frozen=True, eq=False)
class Session(Kind):
    """By a run that starts at the UTC day's first bar."""

    run: RunRow

    def behind(self, params: Params, axis: Axis) -> int:
        return TIMEFRAMES["1d"] // axis.length_s - 1

    def looks_back(self, params: Params) -> bool:
        return True


@dataclass(frozen=True, eq=False)
class AcrossMarket(Kind):
    """
    From the values of all symbols at the same bar.

    `compute` is given which symbols have that bar, then the series, all of shape (symbols, bars).
    """

    needs_own_bar = True

    compute: Compute


@dataclass(frozen=True, eq=False)
class Share(AcrossMarket):
    """
    A share of those symbols for which a condition is known, the same for all symbols.

    Inputs: the condition and, added here, its negation.
    """

    def rewritten(self, make: Make, op: str, args: Sequence[int], params: Params, out: int) -> int | None:
        return None if len(args) > 1 else make.node(op, (*args, make.negated(args[0])), params, out)

    def first_bar(self, inputs: Sequence[FirstBars], params: Params) -> FirstBars:
        first = earliest(inputs)
        return np.full_like(first, first.min(initial=NEVER))


@dataclass(frozen=True, eq=False)
class Composed(Kind):
    """
    Of other operators. A plan holds those instead, so that equal parts of two filters are one node.

    `window` is the longest period: it tells a costly use from a cheap one where a message names it.
    """

    expand: Expand
    window: Bars = no_bars
    needs_series: bool = True

    def lookback(self, params: Params) -> int:
        return self.window(params)

    def looks_back(self, params: Params) -> bool:
        return False

    def rewritten(self, make: Make, op: str, args: Sequence[int], params: Params, out: int) -> int | None:
        return self.expand(make, args, params)[out]


@dataclass(frozen=True, eq=False)
class Each(Kind):
    """
    From a window, by the function that the plan carries (`sandbox.interpreter.functions`).

    Inputs: where it is called, then the series it is given. Only those reach back. It is not called where one of the
    values it is given is missing: of conditions that is added here to where it is called.
    """

    window: Bars

    def lookback(self, params: Params) -> int:
        return self.window(params)

    def rewritten(self, make: Make, op: str, args: Sequence[int], params: Params, out: int) -> int | None:
        when, *series = args
        known = [self._is_known(make, arg, 1 + self.window(params)) for arg in series if make.is_bool(arg)]
        asked = make("and", when, *known)
        return None if asked == when else make.node(op, (asked, *series), params, out)

    @staticmethod
    def _is_known(make: Make, condition: int, bars: int) -> int:
        """The node that is true where *condition* is known on the last *bars* bars."""
        zero = make("const", value=0.0)
        number = make("where", condition, make("const", value=1.0), zero)
        return make("le", zero, number if bars == 1 else make("lowest", number, period=bars))

    def first_bar(self, inputs: Sequence[FirstBars], params: Params) -> FirstBars:
        return latest([inputs[0], later(latest(inputs[1:]), self.lookback(params))])

    def total_ns(self, bars: int, behind: int, cost_ns: int) -> int:
        """What it is given besides the current bar is read, not computed."""
        return bars * cost_ns + behind * STEP_NS

    def bytes_per_symbol(self, params: Params, inputs: int, outputs: int) -> int:
        return 8 * (inputs * (1 + self.lookback(params)) + outputs)
