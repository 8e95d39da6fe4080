"""
What an operator is: its name, inputs, parameters, outputs, and how far back it looks.

Decided here: the vocabulary shared by the language (prelude, stub, reference), the plan validator and the
evaluator. Not decided here: which operators exist (the modules beside this one) and when they are computed
(`sandbox.engine.screen`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

ParamValue = int | float | str
Params = Mapping[str, ParamValue]
Array = npt.NDArray[np.generic]
"""Float64 or bool, shape (symbols, bars); one row stands for every symbol (a constant, another symbol's series)."""
Row = npt.NDArray[np.float64]
"""Float64, shape (bars,), oldest first, every value finite."""
Compute = Callable[[Sequence[Array], Params], tuple[Array, ...]]
Run = Callable[..., tuple[npt.NDArray[np.generic], ...]]

BLOCK_BARS = 128
"""Recursive functions share one run per block of this many bars of absolute time (see `Operator.form`)."""

InputKind = Literal["float", "bool", "any"]
Form = Literal[
    "const", "bars", "pointwise", "shift", "window", "run", "session", "market", "composed", "each"
]
"""
How an operator is computed.

* const, bars: leaves.
* pointwise: from the values at the same bar.
* shift: the value *n* bars before.
* window: from the current bar and the `lookback` bars before it, nothing else.
* run: by one left-to-right run over a stretch of bars. Bar *t* in block *b* = absolute bar number // BLOCK_BARS uses
  the run that starts `lookback + warmup` bars before the first bar of block *b*, whoever asks and however much
  history is loaded; a symbol whose history is shorter is run from its first candle. Of a running total (`total`) a
  screen sees one run however far it looks back: that of the block of the newest bar.
* session: a run that starts at the UTC day's first bar.
* market: from the values of all symbols at the same bar; `compute` is given which symbols have that bar, then the
  series, all of shape (symbols, bars).
* composed: of other operators. A plan holds those instead (`expand`), so what two filters have in common is one node
  whatever they call it.
* each: from a window, by the function that the plan carries (`sandbox.interpreter.functions`).
"""
Make = Callable[..., int]
"""`make(operator, *nodes, out=0, **params)`: one more node, as its number."""
Expand = Callable[[Make, Sequence[int], Params], tuple[int, ...]]
"""`expand(make, inputs, params)`: the nodes that are a composed operator's outputs."""


def _no_bars(_params: Params) -> int:
    return 0


def _one_step(_params: Params) -> int:
    return 1


def _accepts(_params: Params) -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class Param:
    """
    One parameter of an operator: a constant known when the filter is compiled.

    `default` None means required. `low` and `high` are inclusive. `choices`, when given, lists every value allowed.
    """

    name: str
    kind: Literal["int", "float", "str"]
    default: ParamValue | None = None
    low: float | None = None
    high: float | None = None
    choices: tuple[ParamValue, ...] = ()
    doc: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Operator:
    """
    A function of series.

    `kind` is the kind of its outputs: "float", "bool", or "same" (bool when all its value inputs are bool, else
    float). A bool given to a "float" input counts as 0 or 1; a float given to a "bool" input is refused.
    `lookback(params)` counts the bars before the current one that an exact value needs; `warmup(params)` the further
    bars a recursive function is given so that its seed no longer matters; `total` says that it always does, so that
    only values of one run can be compared. `stream` is TA-Lib's class that carries such a run on bar by bar, bit for bit.
    `steps(params)` is the work for one symbol and bar, 1 for a handful of machine operations. `check(params)` says
    why a combination of parameters, each in its range, is impossible. `internal` ones have no name in the language.
    """

    name: str
    inputs: tuple[str, ...]
    params: tuple[Param, ...]
    outputs: tuple[str, ...]
    kind: Literal["float", "bool", "same"]
    category: str
    doc: str
    form: Form
    compute: Compute | None = None
    run: Run | None = None
    expand: Expand | None = None
    stream: Any = None
    input_kinds: tuple[InputKind, ...] = ()
    variadic: bool = False
    internal: bool = False
    lookback: Callable[[Params], int] = _no_bars
    warmup: Callable[[Params], int] = _no_bars
    check: Callable[[Params], str | None] = _accepts
    total: bool = False
    steps: Callable[[Params], int] = _one_step

    def input_kind(self, index: int) -> InputKind:
        """The kind of the *index*-th input; a variadic operator repeats its last one."""
        return self.input_kinds[min(index, len(self.input_kinds) - 1)]
