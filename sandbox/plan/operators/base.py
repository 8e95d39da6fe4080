"""
What anyone asks of an operator, whatever its kind, and the types of what computes it.

The kinds themselves are in `sandbox.plan.operators.kind`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sandbox.plan.axis import Axis
from sandbox.plan.operators.interval import Interval

ParamValue = int | float | str
Params = Mapping[str, ParamValue]
Array = npt.NDArray[np.generic]
"""Float64 or bool, shape (symbols, bars); one row stands for every symbol (a constant, another symbol's series)."""
Row = npt.NDArray[np.float64]
"""Float64, shape (bars,), oldest first, every value finite."""
FirstBars = npt.NDArray[np.int64]
"""Of each symbol the first bar with a value, as a position on the node's axis; shape (symbols,), NEVER for none."""
Compute = Callable[[Sequence[Array], Params], tuple[Array, ...]]
"""`compute(inputs, params)`: one array for each output."""
RunRow = Callable[..., tuple[npt.NDArray[np.generic], ...]]
"""`run(*rows, **params)`: one stretch of one symbol's bars, one array for each output."""
Bars = Callable[[Params], int]
"""A number of bars that follows from the parameters."""

NEVER = 1 << 40
"""The first bar of a symbol that has no candle, or that the panel does not have."""
BLOCK_BARS = 128
"""Recursive functions share one run per block of this many bars of absolute time (see `Run`)."""
STEP_NS = 2
"""One machine operation for one symbol and bar, in nanoseconds: the unit of a plan's cost."""


class Make(Protocol):
    """Adds nodes to the graph that is being made canonical; nodes are numbers."""

    def __call__(self, op: str, *args: int, out: int = 0, **params: ParamValue) -> int:
        """The canonical node of `op(*args)`."""
        ...

    def node(self, op: str, args: Sequence[int], params: Params, out: int = 0) -> int:
        """The same, with the parameters as a mapping."""
        ...

    def negated(self, node: int) -> int:
        """The node that is true where the condition *node* is known to be false."""
        ...

    def is_bool(self, node: int) -> bool:
        """Whether *node* is a condition."""
        ...


Expand = Callable[[Make, Sequence[int], Params], tuple[int, ...]]
"""`expand(make, inputs, params)`: the nodes that are a composed operator's outputs."""


def no_bars(_params: Params) -> int:
    return 0


def later(first: FirstBars, bars: int) -> FirstBars:
    """*bars* after the first ones; NEVER stays NEVER."""
    return np.where(first >= NEVER, NEVER, first + bars)


def latest(inputs: Sequence[FirstBars]) -> FirstBars:
    """Where all inputs have a value."""
    first: FirstBars = np.maximum.reduce(inputs)
    return first


def earliest(inputs: Sequence[FirstBars]) -> FirstBars:
    """Where one of the inputs has a value."""
    first: FirstBars = np.minimum.reduce(inputs)
    return first


class Kind:
    """How an operator is computed. The methods answer for an operator that looks at one bar."""

    total: bool = False
    """Whether its values are running totals (see `Run`)."""
    is_symmetric: bool = False
    """Whether the order of its inputs makes no difference."""
    needs_own_bar: bool = False
    """Whether a symbol without a candle of its own at a bar has no value there."""
    needs_series: bool = True
    """Whether inputs that are all constant are refused."""

    def lookback(self, params: Params) -> int:
        """How many bars before the current one an exact value needs; of a run, without its warm-up."""
        return 0

    def axis(self, params: Params, inputs: Iterable[Axis]) -> Axis:
        """The axis of its values, from those of the inputs."""
        return Axis.joined(inputs)

    def behind(self, params: Params, axis: Axis) -> int:
        """How many bars before the first one wanted are read, warm-up and block included, on an axis with bars."""
        return self.lookback(params)

    def looks_back(self, params: Params) -> bool:
        """Whether it reads earlier bars, which a series without history does not have (V216)."""
        return self.lookback(params) > 0

    def first_bar(self, inputs: Sequence[FirstBars], params: Params) -> FirstBars:
        """The first bar with a value (of a condition: that can be true), from the first bars of the inputs."""
        return later(latest(inputs), self.lookback(params))

    def decided(
        self, intervals: Sequence[Interval], truths: Sequence[bool | None], *, same: bool
    ) -> bool | None:
        """
        A condition's value where that is certain for all candles, else None; missing values aside.

        *intervals* and *truths* are those of the inputs; *same* says that all inputs are one and the same node.
        """
        return None

    def rewritten(self, make: Make, op: str, args: Sequence[int], params: Params, out: int) -> int | None:
        """The node that stands for this one in a canonical plan; None: this one."""
        return None

    def negation(self, make: Make, op: str, args: Sequence[int], params: Params) -> int:
        """
        The node that is true where this condition is known to be false.

        It is false where the condition is true and where it is unknown, because a value it looks at is missing.
        """
        raise TypeError(f"{op} is no condition")

    def total_ns(self, bars: int, behind: int, cost_ns: int) -> int:
        """Time of *bars* values that read *behind* bars more, at *cost_ns* for each."""
        return (bars + behind) * cost_ns

    def bytes_per_symbol(self, params: Params, inputs: int, outputs: int) -> int:
        """What is kept live for one symbol, in bytes: the newest values, and what it takes to move on by one bar."""
        return 8 * outputs
