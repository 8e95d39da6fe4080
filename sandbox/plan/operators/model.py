"""
What an operator is: its name, inputs, parameters and outputs.

Decided here: the vocabulary shared by the language (prelude, stub, reference), the plan validator and the
engine. Not decided here: how an operator is computed (`sandbox.plan.operators.kind`), which operators exist (the
modules beside this one).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sandbox.plan.operators.interval import Bounds, anything
from sandbox.plan.operators.kind import STEP_NS, Kind, Params, ParamValue

InputKind = Literal["float", "bool", "any"]


def _one_step(_params: Params) -> int:
    return STEP_NS


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

    `kind` is how it is computed. `returns` says what: "float", "bool", or "same" (bool when all its value inputs are bool,
    else float). A bool given to a "float" input counts as 0 or 1; a float given to a "bool" input is refused.
    `bounds` is the interval of its values, from those of its inputs. `cost_ns(params)` is the time of one value for one
    symbol and bar, STEP_NS for a handful of machine operations. `check(params)` says why a combination of parameters,
    each in its range, is impossible. `internal` ones have no name in the language. `with_negation`: a node in a plan has
    one more input, the negation of the first, because the operator must know where that is unknown.
    """

    name: str
    inputs: tuple[str, ...]
    params: tuple[Param, ...]
    outputs: tuple[str, ...]
    returns: Literal["float", "bool", "same"]
    category: str
    doc: str
    kind: Kind
    input_kinds: tuple[InputKind, ...] = ()
    variadic: bool = False
    internal: bool = False
    check: Callable[[Params], str | None] = _accepts
    bounds: Bounds = anything
    cost_ns: Callable[[Params], int] = _one_step
    with_negation: bool = False

    def input_kind(self, index: int) -> InputKind:
        """The kind of the *index*-th input; a variadic operator repeats its last one."""
        if self.with_negation and index == len(self.inputs):
            return "bool"
        return self.input_kinds[min(index, len(self.input_kinds) - 1)]

    def bytes_per_symbol(self, params: Params) -> int:
        """What is kept live for one symbol, in bytes, by the one that carries its values from bar to bar."""
        return self.kind.bytes_per_symbol(params, len(self.inputs), len(self.outputs))
